"""The parts of a table: its arms, the values searched for each arm, and the numbers of runs."""

import contextlib
import importlib
import runpy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from scipy.stats import qmc

from cyclical_jax import data
from cyclical_jax.catalogue import parse
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.own_files import path_of
from cyclical_jax.training.structure import Recipe
from experiments import plugins
from experiments.score import Score

Changes = Mapping[str, Any]  # {"section.key": value} of a config

_CHANGES = "a dict of config keys and their values"
FIRST_TUNING_SEED = 1_000_000  # no run of a table has the seed of a trial


class Range(NamedTuple):
    """Numbers from `low` to `high`, evenly spread on the log scale."""

    low: float
    high: float

    def at(self, fraction: float) -> float:
        """Returns the value at a fraction of the range, to four digits."""
        return float(f"{self.low * (self.high / self.low) ** fraction:.4g}")


class Choice(NamedTuple):
    """One of the values, each of which may be a cycle."""

    values: tuple[Any, ...]

    def at(self, fraction: float) -> Any:
        return self.values[min(int(fraction * len(self.values)), len(self.values) - 1)]


@dataclass(frozen=True)
class Arm:
    """A way to train: changes to a dataset's config, and the values to search on validation."""

    changes: Changes = field(default_factory=dict)
    search: Mapping[str, Range | Choice] = field(default_factory=dict)
    control: str | None = None  # the arm that it is compared with
    points: int = 0  # seed of the points that are tried; with another the same arm is tuned again

    def trials(self, number: int) -> list[dict[str, Any]]:
        """Returns the values to try: `number` points of a Halton sequence, always the same."""
        if not self.search:
            return [{}]
        points = qmc.Halton(len(self.search), rng=self.points).random(number)
        return [self._at(point) for point in points.tolist()]

    def corners(self) -> list[dict[str, Any]]:
        """Returns the first and the last value of everything that is searched."""
        return [self._at([end] * len(self.search)) for end in (0.0, 1.0)]

    def _at(self, point: Sequence[float]) -> dict[str, Any]:
        searched = zip(self.search.items(), point, strict=True)
        return {key: values.at(fraction) for (key, values), fraction in searched}


@dataclass(frozen=True)
class Budget:
    """The number of runs for a dataset; every arm gets the same."""

    num_seeds: int
    num_trials: int = 16
    seeds_a_trial: int = 1


@dataclass(frozen=True)
class Table:
    """One question, asked of several arms on several datasets.

    The name of a dataset is that of its config: "fashion_mnist_4k:cnn" is the variant cnn of
    configs/fashion_mnist_4k.py.
    """

    about: str
    arms: Mapping[str, Arm]
    budgets: Mapping[str, Budget]
    common: Changes = field(default_factory=dict)  # that all arms share
    against: str | None = None  # a number of `assembly.summary_of`, to draw the scores against


def load_table(name: str) -> Table:
    """Returns the table of experiments/tables/`name`.py, or of the file at the path `name`.

    Raises:
      RecipeError: There is none, or something is wrong with it; a line for each problem.
    """
    folder = Path(__file__).parent / "tables"
    path = path_of("--table", name) if name.endswith(".py") else folder / f"{name}.py"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in folder.glob("[a-z]*.py")))
        raise RecipeError(
            f"--table {name!r} does not exist; there are {there}, or give a .py file."
        )
    table = _executed(path)
    _raise_all(_wrong_types(table, path))
    _raise_all(_problems(table, path))
    return table


def _executed(path: Path) -> Table:
    """Returns the TABLE of a file; whatever its code raises becomes a line."""
    try:
        table = runpy.run_path(str(path)).get("TABLE")
    except Exception as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: {type(error).__name__}: {reason}") from error
    if not isinstance(table, Table):
        raise RecipeError(f"{path} must define TABLE = Table(...), a Table of experiments/arms.py.")
    return table


def with_budget(table: Table, **numbers: int | None) -> Table:
    """Returns the table with other numbers of runs; None leaves one as it is."""
    given = {name: number for name, number in numbers.items() if number is not None}
    for name, number in given.items():
        if number < 1:
            raise RecipeError(f"--{name} must be at least 1, got {number}.")
    budgets = {name: replace(budget, **given) for name, budget in table.budgets.items()}
    return replace(table, budgets=budgets)


def choose_datasets(table: Table, names: Sequence[str] | None, data_dir: str | None) -> list[str]:
    """Returns `names`, or else the table's datasets on this machine; prints those it leaves out.

    Raises:
      RecipeError: A name is none of the table's, or none of these is on this machine.
      DatasetNotFoundError: One of `names` is not on this machine.
    """
    if names is None:
        _refuse_unused(table, list(table.budgets), data_dir)
        here = [name for name in table.budgets if _is_here(name, data_dir, table.common)]
        if not here:
            raise RecipeError("None of the datasets of the table is on this machine.")
        return here
    for name in names:
        if name not in table.budgets:
            raise RecipeError(f"--datasets must be among {', '.join(table.budgets)}, got {name!r}.")
        _find(name, data_dir, table.common)
    if not names:
        raise RecipeError(f"--datasets must name at least one of {', '.join(table.budgets)}.")
    _refuse_unused(table, names, data_dir)
    return list(dict.fromkeys(names))


def _refuse_unused(table: Table, names: Sequence[str], data_dir: str | None) -> None:
    configs = (base_config(name, common=table.common) for name in names)
    if data_dir and not any(data.uses_data_dir(config.dataset) for config in configs):
        raise RecipeError(
            f"--data_dir must be left out: none of {', '.join(names)} is a dataset of TFDS."
        )


def _find(name: str, data_dir: str | None, common: Changes) -> None:
    config = base_config(name, data_dir=data_dir, common=common)
    with contextlib.suppress(ValueError):  # a wrong `dataset` is told with all that is wrong
        data.require(config.dataset, data_dir=config.data_dir)


def _is_here(name: str, data_dir: str | None, common: Changes) -> bool:
    try:
        _find(name, data_dir, common)
    except data.DatasetNotFoundError as error:
        print(f"leaving out {name}: {str(error).splitlines()[0]}")
        return False
    return True


def base_config(
    dataset: str, *, data_dir: str | None = None, common: Changes | None = None
) -> ConfigDict:
    """Returns the config of a dataset of a table, with the changes that all arms share."""
    name, _, variant = dataset.partition(":")
    try:
        module = importlib.import_module(f"configs.{name}")
        config = module.get_config(variant) if variant else module.get_config()
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise RecipeError(f"dataset {dataset!r} of a table must name a config: {error}.") from error
    config = changed(plugins.with_their_keys(config), common or {})
    if data_dir and data.uses_data_dir(config.dataset):
        config.data_dir = str(data_dir)
    return config


def title_of(dataset: str, base: ConfigDict) -> str:
    """Returns the name of a dataset of a table, as its results have it.

    Where the changes that all arms share name other data than the config, such as
    "npz:runs/mine.npz" on "digits", it is "npz:mine.npz (config digits)".
    """
    if base.dataset == base_config(dataset).dataset:
        return dataset
    kind, colon, place = base.dataset.partition(":")
    own = Path(place).name if kind in ("npz", "csv", "folder") else place
    return f"{kind}{colon}{own or place} (config {dataset})"


def changed(config: ConfigDict, changes: Changes) -> ConfigDict:
    """Returns a copy of the config with the changes made."""
    return plugins.change(config.copy_and_resolve_references(), changes)


def recipe_of(base: ConfigDict, arm: Arm, values: Changes, seed: int) -> Recipe:
    """Returns the recipe of an arm with the searched `values`."""
    config = changed(base, {**arm.changes, **values, "seed": seed})
    return parse(config, catalogue=plugins.catalogue())


def check_arms(arms: Mapping[str, Arm], base: ConfigDict, num_trials: int) -> None:
    """Checks that all arms can be run, that no two are the same, and that one score judges them.

    Raises:
      RecipeError: Something is wrong with them; a line for each problem.
    """
    lines: dict[str, None] = {}
    seen: dict[str, str] = {}
    judged: dict[Score, str] = {}
    for name, arm in arms.items():
        try:
            tried = [*arm.corners(), *arm.trials(num_trials)]
            recipes = [recipe_of(base, arm, values, seed=0) for values in tried]
        except RecipeError as error:
            lines |= dict.fromkeys(f"arm {name}: {line}" for line in str(error).splitlines())
            continue
        if recipes[0].train_on != "train":
            lines[f"arm {name}: train_on must be 'train': trials are judged on validation."] = None
        for score in dict.fromkeys(map(Score.of_recipe, recipes)):
            judged.setdefault(score, name)
        twin = seen.setdefault(repr(recipes), name)
        if twin != name:
            lines[f"arms {twin} and {name} are the same."] = None
    if len(judged) > 1:
        told = ", ".join(f"arm {name} by {score.title}" for score, name in judged.items())
        lines[f"arms of a table must be judged by one score, got {told}."] = None
    _raise_all(lines)


def _wrong_types(table: Table, path: Path) -> Iterator[str]:
    """Yields a line for each part of a table that has the wrong type."""
    parts = [
        ("about", table.about, isinstance(table.about, str), "text"),
        ("common", table.common, _is_dict_of(table.common, object), _CHANGES),
        ("against", table.against, isinstance(table.against, str | None), "a word, or None"),
        ("arms", table.arms, _is_dict_of(table.arms, Arm), "a dict of names and Arms"),
        (
            "budgets",
            table.budgets,
            _is_dict_of(table.budgets, Budget),
            "a dict of configs and Budgets",
        ),
    ]
    if all(fits for _, _, fits, _ in parts):
        parts = [
            *(part for item in table.arms.items() for part in _parts_of_arm(*item)),
            *(part for item in table.budgets.items() for part in _parts_of_budget(*item)),
        ]
    for name, value, fits, words in parts:
        if not fits:
            shown = " ".join(repr(value).split())
            yield f"{path}: {name} must be {words}, got {shown:.80}."


def _parts_of_arm(name: str, arm: Arm) -> Iterator[tuple[str, Any, bool, str]]:
    """Yields (name, value, whether its type is right, the right type in words)."""
    told, control = f"of arm {name}", arm.control
    yield f"changes {told}", arm.changes, _is_dict_of(arm.changes, object), _CHANGES
    searched = _is_dict_of(arm.search, object)
    yield f"search {told}", arm.search, searched, "a dict of keys and Ranges or Choices"
    yield f"control {told}", control, isinstance(control, str | None), "the name of an arm, or None"
    yield f"points {told}", arm.points, _is_count(arm.points), "a whole number"
    for key, values in arm.search.items() if searched else ():
        if isinstance(values, Range):
            fits = all(isinstance(end, int | float) for end in values)
            yield f"the range of {key} {told}", tuple(values), fits, "two numbers"
        elif isinstance(values, Choice):
            fits = isinstance(values.values, list | tuple)
            yield f"the choice of {key} {told}", values.values, fits, "a tuple of values"


def _parts_of_budget(name: str, budget: Budget) -> Iterator[tuple[str, Any, bool, str]]:
    for of, number in vars(budget).items():
        yield f"{of} of {name}", number, _is_count(number), "a whole number"


def _is_dict_of(value: Any, kind: type) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(one, kind) for key, one in value.items()
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _problems(table: Table, path: Path) -> Iterator[str]:
    arms = table.arms
    if not arms:
        yield f"{path} has no arms."
    for name, arm in arms.items():
        if arm.control is not None and arm.control not in arms:
            yield f"arm {name}: control {arm.control!r} is not an arm; there are {', '.join(arms)}."
        if arm.control == name:
            yield f"arm {name} is its own control."
        for key, values in arm.search.items():
            if not isinstance(values, Range | Choice):
                yield f"arm {name}: {key} must be searched over a Range or Choice, got {values!r}."
            if isinstance(values, Range) and not 0 < values.low < values.high:
                yield f"arm {name}: {key} must be searched over a Range with 0 < low < high."
            if isinstance(values, Choice) and not values.values:
                yield f"arm {name}: {key} has no values to choose from."
    for dataset, budget in table.budgets.items():
        if min(budget.num_seeds, budget.num_trials, budget.seeds_a_trial) < 1:
            yield f"dataset {dataset} must have at least 1 seed and 1 trial, got {budget}."


def plain(changes: Changes) -> dict[str, Any]:
    """Returns the changes as JSON has them: a cycle is {"easy", "hard", ...}."""
    return {
        key: value.to_dict() if isinstance(value, ConfigDict) else value
        for key, value in changes.items()
    }


def _raise_all(problems) -> None:
    lines = list(problems)
    if lines:
        raise RecipeError("\n".join(lines))
