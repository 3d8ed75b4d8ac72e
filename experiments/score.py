"""The score by which a task judges a model: its name, its better direction, and how it is shown.

All commands take it from here, by the recipe of a run or by the record of a dataset in a table. A
record without a score comes from an earlier version, whose only score was accuracy.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cyclical_jax.training import technique
from cyclical_jax.training.structure import Recipe

_COUNT = "num_examples"  # the one score that measures no model
_PERCENT = ("accuracy", "calibration_error")


class Score(NamedTuple):
    """A score of a split.

    Attributes:
      name: Its key among the scores of the task.
      best: "max" or "min": whether more or less is better.
      percent: Whether it is a fraction that is shown in percent.
    """

    name: str
    best: str
    percent: bool

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> "Score":
        """Returns the score that the task of a run judges by."""
        return cls.of(recipe.task.judged_by, recipe.structure.percent)

    @classmethod
    def of_record(cls, dataset: Mapping[str, Any]) -> "Score":
        """Returns the score that the record of a dataset in a table is judged by."""
        judged_by = dataset.get("judged_by", ACCURACY.in_record())
        return cls.of((judged_by["name"], judged_by["best"]), fractions_of_record(dataset))

    @classmethod
    def of(cls, judged_by: tuple[str, str], percent: Iterable[str]) -> "Score":
        """Returns the score of a name and a direction, where `percent` are all fractions."""
        name, best = judged_by
        return cls(name, best, name in percent)

    def in_record(self) -> dict[str, str]:
        """Returns what a record keeps of the score, beside its list of fractions."""
        return {"name": self.name, "best": self.best}

    def worth(self, value: float) -> float:
        """Returns a value as a number of which more is better."""
        return technique.worth(value, self.best)

    @property
    def words(self) -> str:
        """The name, as it stands in a sentence."""
        return words(self.name)

    @property
    def label(self) -> str:
        """The name with its unit."""
        return f"{self.words}, %" if self.percent else self.words

    @property
    def title(self) -> str:
        """The name with its unit, and with its direction where less is better."""
        return self.label + self.hint

    @property
    def hint(self) -> str:
        """The words that follow the name of a score where less is better."""
        return "" if self.best == "max" else " (lower is better)"

    def shown(self, value: float) -> str:
        """Returns a value by itself, as `Structure.shown` does."""
        return technique.shown(value, self.percent)

    def difference(self, value: float) -> str:
        """Returns a difference of two values, in points where they are in percent."""
        if self.percent:
            return f"{100 * value:+z.2f}"  # z: no minus before 0.00
        return f"{value:+z.4f}" if abs(value) < 1e4 else f"{value:+.3g}"


ACCURACY = Score("accuracy", "max", True)


def fractions_of_record(dataset: Mapping[str, Any]) -> Sequence[str]:
    """Returns the names of the scores that the record of a dataset shows in percent."""
    return dataset.get("percent", _PERCENT)


def fractions_of_log() -> Sequence[str]:
    """Returns the names that a page shows in percent where it has the log of a run alone."""
    return _PERCENT


def in_order(judged: str, names: Iterable[str]) -> list[str]:
    """Returns the names of scores as they are shown: what a task judges by, its loss, the others.

    The number of examples is left out: it measures no model.
    """
    there = list(names)
    ordered = dict.fromkeys((judged, "loss", *there))
    return [name for name in ordered if name in there and name != _COUNT]


def words(name: str) -> str:
    """Returns the name of a score as it stands in a sentence."""
    return name.replace("_", " ")


def number(value: float, percent: bool) -> str:
    """Returns a value without its unit, as a cell of a table has it."""
    return f"{100 * value:.2f}" if percent else technique.shown(value, False)
