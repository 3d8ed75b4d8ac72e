"""Finds a range for a value to cycle in: short runs on a grid of values, several seeds each.

python -m experiments.range_test --config=configs/digits.py --knob=optimizer.weight_decay \\
    --low=1e-5 --high=1 --duration="10 epochs" --workdir=runs/range_test

This is L. N. Smith's learning-rate range test (1506.01186) for any key that may cycle. Each value
has runs of its own, so that no value profits from those before it. The command suggests the values
around the best one whose mean validation loss lies within one standard error of the best, and draws
the validation loss and the score that the task judges by; their means are printed. In the paper's
reading the lower end is easy; for the batch size and bits it is the higher one. The test split is
not read.

Several keys, joined by commas, move together: --knob=precision.weights,precision.activations. A key
of whole numbers has a grid of whole numbers. For bits the command also gives the range of the
published rule (2101.09868): its lower end is the first width whose training accuracy, in the last
row of the log, rises by more than --rise over that of the width below, and its upper end is --high.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from cyclical_jax.catalogue import parse
from cyclical_jax.training import files
from cyclical_jax.training.fields import Field, RecipeError, problem
from cyclical_jax.training.population import Outcome
from cyclical_jax.training.recipe import instead_of
from cyclical_jax.training.structure import Catalogue, Recipe
from experiments import command_line, grids, paths, plugins, runs
from experiments.arms import changed
from experiments.class_scores import aligned
from experiments.score import ACCURACY, Score, number
from experiments.statistics import Scores, is_finite

_CONFIG = command_line.define_config()
_KNOB = flags.DEFINE_list(
    "knob",
    None,
    "Key to test, such as optimizer.weight_decay; keys joined by commas move together.",
)
_LOW = flags.DEFINE_float("low", None, "Lowest value of the grid.")
_HIGH = flags.DEFINE_float("high", None, "Highest value of the grid.")
_NUM = flags.DEFINE_integer(
    "num", None, "Number of values in the grid; by default 13, or all whole numbers."
)
_SCALE = flags.DEFINE_enum(
    "scale", None, grids.SCALES, "Spacing of the values; by default log, or linear if whole."
)
_RISE = flags.DEFINE_float(
    "rise",
    0.2,
    "Relative rise of training accuracy, of the published rule for bits.",
    lower_bound=0,
)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "Number of runs per value.", lower_bound=2)
_DURATION = flags.DEFINE_string(
    "duration", None, "Length of a run, such as '10 epochs'; by default the config's."
)
_WORKDIR = paths.define("workdir", "runs/range_test", "Folder for the runs and the results.")
_MIX = flags.DEFINE_bool("mix_versions", False, "Also use runs of another version of the code.")

Keys = Mapping[str, Field]

_SPLITS = ("validation",)
_TRAINED = "train_accuracy"


def grid_of(
    config: ConfigDict,
    knobs: Sequence[str],
    ends: tuple[float, float],
    num: int | None = None,
    scale: str | None = None,
) -> tuple[Sequence[float], str]:
    """Returns the values, which are whole if those of a knob are, and their scale.

    Raises:
      RecipeError: There is no such grid, or the knobs are not different keys that may cycle.
    """
    keys = _keys(config).keys
    allowed = [key for key, field in keys.items() if field.may_cycle]
    for knob in knobs:
        if knob not in allowed:
            raise RecipeError(_not_a_knob(_keys(config), knob, allowed))
    if len({*knobs}) != max(1, len(knobs)):
        raise RecipeError(f"--knob must be one or several different keys, got {','.join(knobs)!r}.")
    if any(keys[knob].is_whole for knob in knobs):
        return grids.whole_grid(*ends, num, scale or "linear"), scale or "linear"
    return grids.grid(*ends, 13 if num is None else num, scale or "log"), scale or "log"


def _keys(config: ConfigDict) -> Catalogue:
    return plugins.catalogue().of(config.to_dict())


def recipes_of(
    config: ConfigDict, knobs: Sequence[str], values: Sequence[float], num_seeds: int
) -> list[list[Recipe]]:
    """Returns [values][seeds] recipes; each run validates at its end.

    It logs there alone, except for bits: their rule reads the last row.

    Raises:
      RecipeError: The config cannot be run with these values.
    """
    catalogue = _keys(config)
    for end in (values[0], values[-1]):
        for knob in knobs:
            for line in problem(catalogue.keys[knob].check, knob, end):
                raise RecipeError(line.replace("`", ""))
    is_ruled = is_of_bits(catalogue.keys, knobs)
    at_end = ["validate_every"] if is_ruled else ["log_every", "validate_every"]
    ends = dict.fromkeys(at_end, config.duration)
    recipes = [
        [
            parse(
                changed(config, ends | dict.fromkeys(knobs, value) | {"seed": seed}),
                catalogue=catalogue,
            )
            for seed in range(num_seeds)
        ]
        for value in values
    ]
    if recipes[0][0].train_on != "train":
        raise RecipeError("train_on must be 'train': the validation split judges the values.")
    return recipes


def _not_a_knob(catalogue: Catalogue, knob: str, knobs: Sequence[str]) -> str:
    """Returns a line with the key that may be meant, or else with all keys that may cycle."""
    meant = instead_of(catalogue, knob)
    if knob not in (*catalogue.keys, *catalogue.sections) and any(
        meant.endswith(f" {key}") for key in knobs
    ):
        return f"--knob {knob} is not a key that may cycle; {meant}."
    return f"--knob {knob} is not a key that may cycle: {', '.join(knobs)}."


def is_of_bits(keys: Keys, knobs: Sequence[str]) -> bool:
    """Returns whether all knobs are numbers of bits."""
    return all(keys[knob].is_bits for knob in knobs)


def scores_of(
    recipes: Sequence[Sequence[Recipe]], lab: runs.Lab, *, trained: bool = False
) -> dict[str, list[list]]:
    """Returns the loss and the judged score on validation, by the names of the record.

    Each is [values][seeds], with None where a run is not finite. If `trained`, the training
    accuracy in the last row of the log is there too.
    """
    flat = [recipe for of_value in recipes for recipe in of_value]
    outcomes = iter(lab.complete(flat, _SPLITS))
    judged = Score.of_recipe(recipes[0][0]).name
    by_value = [[_scores(next(outcomes), judged, trained) for _ in of] for of in recipes]
    return {name: [[run[name] for run in of] for of in by_value] for name in by_value[0][0]}


def _scores(outcome: Outcome, judged: str, trained: bool) -> dict[str, float | None]:
    ended = outcome.scores["validation"] if outcome.scores else {}
    scores = {f"val_{name}": ended.get(name) for name in ("loss", judged)}
    if trained:
        scores[_TRAINED] = outcome.rows[-1][ACCURACY.name] if ended else None
    return scores


def as_table(record: Mapping[str, Any], judged: Score) -> str:
    """Returns a row of mean scores for each value, as text."""
    columns = {f"validation {of.label}": (f"val_{of.name}", of) for of in grids.panels(judged)}
    if _TRAINED in record:
        columns[f"training {ACCURACY.label}"] = _TRAINED, ACCURACY
    cells = [[f"mean of {len(record['seeds'])} seeds", *columns]]
    for index, value in enumerate(record["values"]):
        means = (_mean(record[name][index], of) for name, of in columns.values())
        cells.append([_shown(value), *means])
    return "\n".join(aligned(cells))


def _mean(scores: Scores, score: Score) -> str:
    if not all(map(is_finite, scores)):
        return "not finite"
    return number(sum(scores) / len(scores), score.percent)


def advice(record: Mapping[str, Any], keys: Keys) -> str:
    """Returns the options to paste, and what to know about them, as text."""
    low, high, best = (_shown(record["suggestion"][end]) for end in ("low", "high", "best"))
    lines = [f"best value: {best}; values within a standard error of the best: {low} to {high}"]
    lines += _beyond(record, keys)
    lines.append(_options(record["knob"], low, high, keys))
    return "\n".join([*lines, *_published(record, keys)])


def _shown(end: float) -> str:
    return str(end if isinstance(end, int) else float(f"{end:.3g}"))


def _options(knob: str, low: str, high: str, keys: Keys) -> str:
    """Returns the options that set the knobs."""
    knobs = knob.split(",")
    if low == high:
        same = " ".join(f"--config.{one}={low}" for one in knobs)
        return f"no other value does as well: {same}"
    ends = {one: (high, low) if keys[one].high_is_easy else (low, high) for one in knobs}
    return " ".join(
        f"'--config.{one}=cyclical({easy}, {hard})'" for one, (easy, hard) in ends.items()
    )


def _published(record: Mapping[str, Any], keys: Keys) -> list[str]:
    """Returns what the published rule for bits says, as lines."""
    if "published" not in record:
        return []
    low, high, rise = (record["published"][name] for name in ("low", "high", "rise"))
    if low is None:
        return [
            f"published rule: no training accuracy is more than {rise:.0%} above that of the width "
            "below; all learn, or none"
        ]
    return [
        f"published rule: {low} to {high}, since at {low} bits the training accuracy is first more "
        f"than {rise:.0%} above that of the width below",
        _options(record["knob"], str(low), str(high), keys),
    ]


def _beyond(record: Mapping[str, Any], keys: Keys) -> Iterator[str]:
    """Yields what to do where the range reaches an end of the grid."""
    values, suggestion = record["values"], record["suggestion"]
    knobs, wider = record["knob"].split(","), []
    for end, near, sign, option, compared in (
        (values[0], values[1], -1, "lower --low", "lower"),
        (values[-1], values[-2], 1, "raise --high", "higher"),
    ):
        if suggestion["low" if sign < 0 else "high"] != end:
            continue
        step = 1 if isinstance(end, int) else 1e-6 * abs(near - end)
        limited = [knob for knob in knobs if [*problem(keys[knob].check, knob, end + sign * step)]]
        if limited:
            yield f"the range reaches {_shown(end)}, and {limited[0]} cannot be {compared}"
        else:
            wider.append(option)
    if wider:
        yield (
            "the range reaches the end of the grid, and good values may lie beyond: "
            f"{' and '.join(wider)} to see"
        )


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Runs the test that the flags ask for, and writes range_test.json and range_test.png.

    Returns:
      The record that is in range_test.json.
    """
    knobs = _KNOB.value
    values, scale = grid_of(config, knobs, (_LOW.value, _HIGH.value), _NUM.value, _SCALE.value)
    recipes = recipes_of(config, knobs, values, _NUM_SEEDS.value)
    trained = (
        is_of_bits(_keys(config).keys, knobs) and ACCURACY.name in recipes[0][0].structure.measures
    )
    with runs.Store(workdir, mix=_MIX.value) as store:
        scores = scores_of(recipes, runs.Lab(store), trained=trained)
        suggestion = grids.suggest(values, scores["val_loss"])
        record = {"knob": ",".join(knobs), "scale": scale, "values": values}
        record |= {"seeds": [*range(_NUM_SEEDS.value)]} | scores
        record |= {"suggestion": suggestion._asdict(), "version": runs.version()}
        if trained:
            low = grids.first_rise(values, scores[_TRAINED], _RISE.value)
            record["published"] = {"low": low, "high": values[-1], "rise": _RISE.value}
        store.check_place()
        _write(record, suggestion, Score.of_recipe(recipes[0][0]), workdir)
    return record


def _write(
    record: Mapping[str, Any], suggestion: grids.Suggestion, score: Score, workdir: Path
) -> None:
    files.write(workdir / "range_test.json", record)
    with files.whole(workdir / "range_test.png") as temporary:
        grids.picture(
            record["values"],
            {of: record[f"val_{of.name}"] for of in grids.panels(score)},
            (suggestion.low, suggestion.high),
            record["knob"],
            record["scale"],
            temporary,
        )


def main():
    config = command_line.config_of(_CONFIG)
    if _DURATION.value:
        config.duration = _DURATION.value
    recipe = parse(config, catalogue=plugins.catalogue())
    record = run(config, _WORKDIR.value)
    print(as_table(record, Score.of_recipe(recipe)))
    print(advice(record, _keys(config).keys))
    print(f"written to {_WORKDIR.value}: range_test.json, range_test.png")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "knob", "low", "high"])
    command_line.run(main, device_a_core=True)
