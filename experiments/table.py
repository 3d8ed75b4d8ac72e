"""Compares the arms of a table on its datasets: one JSON, one Markdown table, one picture.

python -m experiments.table --table=weight_decay --datasets=digits --workdir=runs/tables

Every arm is tuned on validation with as many trials (`experiments.tune`), then trained with the
same seeds, hence the same initial weights and order of the data; test is read once, after the last
update. Runs are kept in the workdir as they end, and shared by its tables: a table that was stopped
goes on where it was.
"""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.population import Outcome
from cyclical_jax.training.run import Row
from cyclical_jax.training.structure import Recipe
from experiments import arms, command_line, presentation, runs, tune
from experiments.environment import hardware
from experiments.statistics import summary, with_comparisons
from experiments.tune import Trials

_SPLITS = ("test",)
_NO_CURVES = ("step", "epoch", "skipped")
_MEASURED = ("loss", "accuracy", "grad_norm", "val_loss", "val_accuracy")
_MEASURED_BY_SOME = ("confident",)


def recipes_of(trials: Trials, values: arms.Changes) -> list[Recipe]:
    """The runs of an arm with the `values` chosen for it, one a seed."""
    seeds = range(trials.budget.num_seeds)
    return [arms.recipe_of(trials.base, trials.arm, values, seed) for seed in seeds]


def compare(name: str, table: arms.Table, trials: Mapping[Any, Trials], lab: runs.Lab) -> dict:
    """The record of a table: everything is trained that is not there yet.

    Args:
      name: Of the table.
      table: Its question.
      trials: {(dataset, arm): the arm's trials there}.
      lab: Where runs are made and kept.
    """
    _tell_time(trials, lab)
    tunings = tune.tune(trials, lab)
    recipes = {key: recipes_of(these, tune.chosen(tunings[key])) for key, these in trials.items()}
    outcomes = iter(lab.complete([r for own in recipes.values() for r in own], _SPLITS))
    record: dict[str, Any] = {
        "table": name,
        "about": table.about,
        "command": _command(),
        "version": runs.version(),
        "hardware": hardware(),
        "datasets": {},
    }
    for (dataset, arm), own in recipes.items():
        entry = record["datasets"].setdefault(dataset, _sizes(own[0]) | {"arms": {}})
        of_arm = [next(outcomes) for _ in own]
        entry["arms"][arm] = arm_record(trials[dataset, arm], tunings[dataset, arm], of_arm)
    return with_comparisons(record)


def arm_record(trials: Trials, tuning: dict | None, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What a table keeps of an arm."""
    finite = [outcome.rows for outcome in outcomes if outcome.error is None]
    names = ("accuracy", "loss", "calibration_error")
    return {
        "control": trials.arm.control,
        "changes": arms.plain({**trials.arm.changes, **tune.chosen(tuning)}),
        "tuning": tuning,
        "seeds": list(range(len(outcomes))),
        "test": {
            name: [o.scores["test"][name] if o.scores else None for o in outcomes] for name in names
        },
        "curves": _curves(finite),
        "knobs": _knobs(finite),
    }


def write(record: Mapping[str, Any], workdir: Path) -> list[Path]:
    """Writes the record as JSON, Markdown and PNG."""
    paths = [workdir / f"{record['table']}.{suffix}" for suffix in ("json", "md", "png")]
    paths[0].write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    paths[1].write_text(presentation.markdown(record))
    presentation.picture(record, paths[2])
    return paths


def _curves(finite: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Means and deviations over the seeds, at each row of the log."""
    if not finite:
        return {"step": [], "epoch": []}
    at = {name: [row[name] for row in finite[0]] for name in ("step", "epoch")}
    of_rows = list(zip(*finite, strict=True))
    names = (*_MEASURED, *(name for name in _MEASURED_BY_SOME if name in finite[0][0]))
    curves = {
        name: [summary([row.get(name) for row in rows]) for rows in of_rows] for name in names
    }
    return at | {
        name: {"mean": [s.mean for s in curve], "std": [s.std for s in curve]}
        for name, curve in curves.items()
    }


def _knobs(finite: Sequence[Sequence[Row]]) -> dict[str, list[float]]:
    """In force at each row of the log; the same in all runs of an arm."""
    rows = finite[0] if finite else []
    no_knobs = (*_MEASURED, *_MEASURED_BY_SOME, *_NO_CURVES)
    names = [name for name in (rows[0] if rows else {}) if name not in no_knobs]
    return {name: [row[name] for row in rows] for name in names}


def _sizes(recipe: Recipe) -> dict[str, int]:
    dataset = runs.load(recipe)
    splits = ("train", "validation", "test")
    return {f"num_{split}": len(getattr(dataset, split)["label"]) for split in splits}


def _tell_time(trials: Mapping[Any, Trials], lab: runs.Lab) -> None:
    """Before tuning has ended the first trial stands for the runs of its arm."""
    searching = [recipe for these in trials.values() for recipe in these.recipes()]
    is_tuned = lab.has(searching, tune.SPLITS)
    tunings = tune.tune(trials, lab) if is_tuned else {}
    final = [
        recipe
        for key, these in trials.items()
        for recipe in recipes_of(these, tune.chosen(tunings[key]) if is_tuned else these.values[0])
    ]
    seconds = lab.seconds_left(searching, tune.SPLITS) + lab.seconds_left(final, _SPLITS)
    print(
        f"{len(final)} runs, after {len(searching)} to tune them; about {runs.duration(seconds)} "
        "for what is not there yet",
        flush=True,
    )


def _command() -> str:
    return shlex.join(["python", "-m", "experiments.table", *sys.argv[1:]])


def main():
    table, trials = tune.planned()
    if not any(arm.control for arm in table.arms.values()):
        raise RecipeError(f"--table {tune.TABLE.value} has no arm with a control to compare.")
    workdir = Path(tune.WORKDIR.value)
    with tune.open_lab() as lab:
        record = compare(Path(tune.TABLE.value).stem, table, trials, lab)
    paths = write(record, workdir)
    print(presentation.markdown(record))
    print("\n".join(map(str, paths)))


if __name__ == "__main__":
    flags.mark_flags_as_required(["table"])
    command_line.run(main, device_a_core=True)
