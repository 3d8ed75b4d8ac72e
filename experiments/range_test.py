"""Finds a range for a value to cycle in: short runs on a grid of values, several seeds each.

python -m experiments.range_test --config=configs/digits.py --knob=optimizer.weight_decay \\
    --low=1e-5 --high=1 --duration="10 epochs" --workdir=runs/range_test

This is L. N. Smith's learning-rate range test (1506.01186) for any key that may cycle. Each value
has runs of its own, so that no value profits from those before it. The command suggests the values
around the best one whose mean validation loss lies within one standard error of the best, and draws
the validation loss and the score that the task judges by. In the paper's reading the lower end is
easy. The test split is not read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from cyclical_jax.catalogue import parse
from cyclical_jax.training import files
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.population import Outcome
from cyclical_jax.training.recipe import instead_of
from cyclical_jax.training.structure import Catalogue, Recipe
from experiments import command_line, grids, paths, plugins, runs
from experiments.arms import changed
from experiments.score import Score

_CONFIG = command_line.define_config()
_KNOB = flags.DEFINE_string("knob", None, "Key to test, such as optimizer.weight_decay.")
_LOW = flags.DEFINE_float("low", None, "Lowest value of the grid.")
_HIGH = flags.DEFINE_float("high", None, "Highest value of the grid.")
_NUM = flags.DEFINE_integer("num", 13, "Number of values in the grid.")
_SCALE = flags.DEFINE_enum("scale", "log", grids.SCALES, "Spacing of the values.")
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "Number of runs per value.", lower_bound=2)
_DURATION = flags.DEFINE_string(
    "duration", None, "Length of a run, such as '10 epochs'; by default the config's."
)
_WORKDIR = paths.define("workdir", "runs/range_test", "Folder for the runs and the results.")
_MIX = flags.DEFINE_bool("mix_versions", False, "Also use runs of another version of the code.")

_SPLITS = ("validation",)


def recipes_of(
    config: ConfigDict, knob: str, values: Sequence[float], num_seeds: int
) -> list[list[Recipe]]:
    """Returns [values][seeds] recipes; each run logs once, at its end.

    Raises:
      RecipeError: The config cannot be run with these values, or `knob` is no key that may cycle.
    """
    catalogue = plugins.catalogue().of(config.to_dict())
    knobs = [key for key, field in catalogue.keys.items() if field.may_cycle]
    if knob not in knobs:
        raise RecipeError(_not_a_knob(catalogue, knob, knobs))
    ends = {"log_every": config.duration, "validate_every": config.duration}
    recipes = [
        [
            parse(changed(config, ends | {knob: value, "seed": seed}), catalogue=catalogue)
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


def scores_of(recipes: Sequence[Sequence[Recipe]], lab: runs.Lab) -> dict[str, list[list]]:
    """Returns the loss and the judged score on validation, by their names.

    Each is [values][seeds], with None where a run is not finite.
    """
    flat = [recipe for of_value in recipes for recipe in of_value]
    outcomes = iter(lab.complete(flat, _SPLITS))
    by_value = [[next(outcomes) for _ in of_value] for of_value in recipes]
    return {
        name: [[_score(outcome, name) for outcome in of_value] for of_value in by_value]
        for name in dict.fromkeys(("loss", Score.of_recipe(recipes[0][0]).name))
    }


def _score(outcome: Outcome, name: str) -> float | None:
    return outcome.scores["validation"][name] if outcome.scores else None


def advice(knob: str, values: Sequence[float], suggestion: grids.Suggestion) -> str:
    """Returns the option to paste, and what to know about it, as text."""
    low, high = (float(f"{end:.3g}") for end in (suggestion.low, suggestion.high))
    best = f"{suggestion.best:.3g}"
    lines = [f"best value: {best}; values within a standard error of the best: {low} to {high}"]
    if suggestion.low == values[0] or suggestion.high == values[-1]:
        lines.append(
            "the range reaches the end of the grid, and good values may lie beyond: "
            f"{_widened(values, suggestion)} to see"
        )
    if low == high:
        return "\n".join([*lines, f"no other value does as well: --config.{knob}={low}"])
    return "\n".join([*lines, f"'--config.{knob}=cyclical({low}, {high})'"])


def _widened(values: Sequence[float], suggestion: grids.Suggestion) -> str:
    """Returns what to do with the flags of the ends that were reached."""
    low = ["lower --low"] if suggestion.low == values[0] else []
    high = ["raise --high"] if suggestion.high == values[-1] else []
    return " and ".join(low + high)


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Runs the test that the flags ask for, and writes range_test.json and range_test.png.

    Returns:
      The record that is in range_test.json.
    """
    knob, scale = _KNOB.value, _SCALE.value
    values = grids.grid(_LOW.value, _HIGH.value, _NUM.value, scale)
    recipes = recipes_of(config, knob, values, _NUM_SEEDS.value)
    with runs.Store(workdir, mix=_MIX.value) as store:
        scores = scores_of(recipes, runs.Lab(store))
        suggestion = grids.suggest(values, scores["loss"])
        record = {"knob": knob, "scale": scale, "values": values}
        record |= {"seeds": [*range(_NUM_SEEDS.value)]}
        record |= {f"val_{name}": of_values for name, of_values in scores.items()}
        record |= {"suggestion": suggestion._asdict(), "version": runs.version()}
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
    parse(config, catalogue=plugins.catalogue())
    record = run(config, _WORKDIR.value)
    print(advice(record["knob"], record["values"], grids.Suggestion(**record["suggestion"])))
    print(f"written to {_WORKDIR.value}: range_test.json, range_test.png")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "knob", "low", "high"])
    command_line.run(main, device_a_core=True)
