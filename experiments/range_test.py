"""Finds the range of a knob to cycle in: short runs over a grid of its values, several seeds each.

python -m experiments.range_test --config=configs/digits.py --knob=optimizer.weight_decay \\
    --low=1e-5 --high=1 --duration="10 epochs" --workdir=runs/range_test

This is L. N. Smith's learning-rate range test (1506.01186) for any knob. Each value has runs of its
own, so that no value profits from those before it. The script suggests the values around the best
whose mean validation loss lies within one standard error of the best one's, and draws the score
that the task judges by beside the loss. By the paper's reading the lower end is easy. Test is not
read.
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
_KNOB = flags.DEFINE_string("knob", None, "A key that may cycle, e.g. optimizer.weight_decay.")
_LOW = flags.DEFINE_float("low", None, "Lowest value.")
_HIGH = flags.DEFINE_float("high", None, "Highest value.")
_NUM = flags.DEFINE_integer("num", 13, "Number of values.")
_SCALE = flags.DEFINE_enum("scale", "log", grids.SCALES, "How they are spaced.")
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "Runs of each value.", lower_bound=2)
_DURATION = flags.DEFINE_string(
    "duration", None, "Length of a run, e.g. '10 epochs'; the config's if not given."
)
_WORKDIR = paths.define("workdir", "runs/range_test", "Where runs are kept and results go.")
_MIX = flags.DEFINE_bool("mix_versions", False, "Take runs of another version of the code too.")

_SPLITS = ("validation",)


def recipes_of(
    config: ConfigDict, knob: str, values: Sequence[float], num_seeds: int
) -> list[list[Recipe]]:
    """Returns [values][seeds] recipes; each run logs once, at its end.

    Raises:
      RecipeError: The config cannot be run with these values, or `knob` is no key that may cycle.
    """
    catalogue = plugins.catalogue().of(config.to_dict())
    knobs = [key for key, field in catalogue.keys.items() if "cyclical(" in field.type]
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
        raise RecipeError("train_on must be 'train': the values are judged on validation.")
    return recipes


def _not_a_knob(catalogue: Catalogue, knob: str, knobs: Sequence[str]) -> str:
    """Returns a line with what may be meant, or else with all that may cycle."""
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
    """Returns what to paste, and what to know about it."""
    low, high = (float(f"{end:.3g}") for end in (suggestion.low, suggestion.high))
    lines = [f"best: {suggestion.best:.3g}; within a standard error of it: {low} to {high}"]
    if suggestion.low == values[0] or suggestion.high == values[-1]:
        lines.append(
            "this range ends where the grid ends, and may go on beyond it: "
            f"widen {_widened(values, suggestion)} to see"
        )
    if low == high:
        return "\n".join([*lines, f"no other value is as good: --config.{knob}={low}"])
    return "\n".join([*lines, f"'--config.{knob}=cyclical({low}, {high})'"])


def _widened(values: Sequence[float], suggestion: grids.Suggestion) -> str:
    """Returns the flags of the ends that were reached."""
    low = ["--low"] if suggestion.low == values[0] else []
    return " and ".join([*low, *(["--high"] if suggestion.high == values[-1] else [])])


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Makes the test that the flags ask for; writes range_test.json and .png.

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
    print(f"{_WORKDIR.value}: range_test.json, range_test.png")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "knob", "low", "high"])
    command_line.run(main, device_a_core=True)
