"""Compares the arms of a table on its datasets, and writes JSON, a Markdown table and pictures.

python -m experiments.table --table=weight_decay --datasets=digits --workdir=runs/tables

An arm is one way to train. Every arm is tuned on validation with equally many trials
(`experiments.tune`), then trained with the same seeds, hence the same initial weights and order of
the data. The score that the task judges by compares the arms; the test split is read once, after
the last update. The workdir keeps each run when it ends, for all tables in it: the same command
continues a table that was stopped.
"""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from cyclical_jax._words import counted
from cyclical_jax.data import num_examples
from cyclical_jax.training import files
from cyclical_jax.training.assembly import summary_of
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.population import Outcome
from cyclical_jax.training.run import Row
from cyclical_jax.training.step import MEASURED
from cyclical_jax.training.structure import Recipe
from experiments import arms, command_line, presentation, records, runs, scatter, tune
from experiments.environment import hardware
from experiments.score import Score, in_order
from experiments.statistics import summary, with_comparisons
from experiments.tune import Trials

_SPLITS = ("test",)
_NO_CURVES = ("step", "epoch", "skipped")


def recipes_of(trials: Trials, values: arms.Changes) -> list[Recipe]:
    """Returns the runs of an arm with the `values` chosen for it, one a seed."""
    seeds = range(trials.budget.num_seeds)
    return [arms.recipe_of(trials.base, trials.arm, values, seed) for seed in seeds]


def compare(name: str, table: arms.Table, trials: Mapping[Any, Trials], lab: runs.Lab) -> dict:
    """Returns the record of a table, and trains the runs that are not there yet.

    Args:
      name: The name of the table.
      table: Its question.
      trials: {(dataset, arm): the arm's trials there}.
      lab: The place that makes and keeps runs.
    """
    _check_against(table.against, trials)
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
    } | ({} if table.against is None else {"against": table.against})
    for (dataset, arm), own in recipes.items():
        alike = [of_arm[0] for (name, _), of_arm in recipes.items() if name == dataset]
        entry = record["datasets"].setdefault(dataset, dataset_record(alike))
        of_arm = [next(outcomes) for _ in own]
        part = arm_record(trials[dataset, arm], own[0], tunings[dataset, arm], of_arm)
        entry["arms"][arm] = part
    return with_comparisons(record)


def dataset_record(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """Returns the entries of a dataset beside its arms: sizes, and how scores are shown.

    Args:
      recipes: A run of each arm; all are judged by one score, which `arms.check_arms` has checked.
    """
    judged_by = Score.of_recipe(recipes[0]).in_record()
    percent = list(dict.fromkeys(name for recipe in recipes for name in recipe.structure.percent))
    return _sizes(recipes[0]) | {"judged_by": judged_by, "percent": percent, "arms": {}}


def arm_record(
    trials: Trials, recipe: Recipe, tuning: dict | None, outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """Returns the entries of an arm.

    Args:
      trials: The trials of the arm.
      recipe: One of its runs.
      tuning: The record of the trials.
      outcomes: Those of its runs.
    """
    finite = [outcome.rows for outcome in outcomes if outcome.error is None]
    score = Score.of_recipe(recipe)
    measured = _measured(recipe)
    names = in_order(score.name, _names_of_scores(score, outcomes))
    return {
        "control": trials.arm.control,
        "changes": arms.plain({**trials.arm.changes, **tune.chosen(tuning)}),
        "tuning": tuning,
        "seeds": list(range(len(outcomes))),
        "test": {
            name: [o.scores["test"][name] if o.scores else None for o in outcomes] for name in names
        },
        "curves": _curves(finite, measured),
        "knobs": _knobs(finite, measured),
        "summary": _summary(recipe),
    }


def _check_against(name: str | None, trials: Mapping[Any, Trials]) -> None:
    """Raises RecipeError if the scores are to be drawn against what no arm has."""
    if name is None:
        return
    there: dict[str, list[str]] = {}
    for (dataset, _), these in trials.items():
        own = arms.recipe_of(these.base, these.arm, these.values[0], seed=0)
        there.setdefault(dataset, []).extend(_summary(own))
    for dataset, names in there.items():
        if name not in names:
            raise RecipeError(
                f"against must be a number about the runs of an arm on {dataset}, such as "
                f"relative_cost; got {name!r}, and there are {', '.join(names) or 'none'}."
            )


def _summary(recipe: Recipe) -> dict[str, float]:
    return summary_of(recipe, num_examples(runs.load(recipe).train))


def _names_of_scores(score: Score, outcomes: Sequence[Outcome]) -> Sequence[str]:
    """Returns the names of all scores, or of two of them where no run stayed finite."""
    return next((list(o.scores["test"]) for o in outcomes if o.scores), [score.name, "loss"])


def _measured(recipe: Recipe) -> tuple[str, ...]:
    """Returns the columns of a run's log that are measured, not set by a schedule."""
    validation = (f"val_{name}" for name in ("loss", Score.of_recipe(recipe).name))
    return tuple(dict.fromkeys((*MEASURED, *recipe.structure.measures, *validation)))


def write(record: Mapping[str, Any], workdir: Path) -> list[Path]:
    """Writes the record as JSON, Markdown and PNG, and its other picture if it has one."""
    paths = [workdir / f"{record['table']}.{suffix}" for suffix in ("json", "md", "png")]
    if scatter.has_one(record):
        paths.append(workdir / f"{scatter.name_of(record)}.png")
        with files.whole(paths[3]) as temporary:
            scatter.picture(record, temporary)
    shown = {"markdown": presentation.markdown, "picture": presentation.picture}
    records.write(record, paths[:3], **shown)
    return paths


def _curves(finite: Sequence[Sequence[Row]], measured: Sequence[str]) -> dict[str, Any]:
    """Returns means and deviations over the seeds, at each row of the log."""
    if not finite:
        return {"step": [], "epoch": []}
    at = {name: [row[name] for row in finite[0]] for name in ("step", "epoch")}
    of_rows = list(zip(*finite, strict=True))
    curves = {
        name: [summary([row.get(name) for row in rows]) for rows in of_rows] for name in measured
    }
    return at | {
        name: {"mean": [s.mean for s in curve], "std": [s.std for s in curve]}
        for name, curve in curves.items()
    }


def _knobs(finite: Sequence[Sequence[Row]], measured: Sequence[str]) -> dict[str, list[float]]:
    """Returns the knobs' values at each row of the log, which all runs of an arm share."""
    rows = finite[0] if finite else []
    names = [name for name in (rows[0] if rows else {}) if name not in (*measured, *_NO_CURVES)]
    return {name: [row[name] for row in rows] for name in names}


def _sizes(recipe: Recipe) -> dict[str, int]:
    dataset = runs.load(recipe)
    splits = ("train", "validation", "test")
    return {f"num_{split}": num_examples(getattr(dataset, split)) for split in splits}


def _tell_time(trials: Mapping[Any, Trials], lab: runs.Lab) -> None:
    """Prints the time left. Until tuning has ended, the first trial stands for an arm's runs."""
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
        f"{counted(len(final), 'run')}, after {counted(len(searching), 'run')} to tune them; about "
        f"{runs.duration(seconds)} for those that are not there yet",
        flush=True,
    )


def _chosen(record: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for each arm whose values were searched, with those that were chosen."""
    for dataset, entry in record["datasets"].items():
        for name, arm in entry["arms"].items():
            if arm["tuning"]:
                told = tune.told(dataset, name, arm["tuning"], Score.of_record(entry))
                yield f"chosen for {told}"


def _command() -> str:
    return shlex.join(["python", "-m", "experiments.table", *sys.argv[1:]])


def main():
    table, trials = tune.planned()
    if not any(arm.control for arm in table.arms.values()):
        raise RecipeError(
            f"--table {tune.TABLE.value} has no arm with a control, so there is nothing to compare."
        )
    workdir = tune.WORKDIR.value
    with tune.open_lab() as lab:  # no other table writes to the workdir meanwhile
        record = compare(Path(tune.TABLE.value).stem, table, trials, lab)
        lab.check_place()
        paths = write(record, workdir)
    print(presentation.markdown(record))
    print("\n".join(_chosen(record)))
    print("\n".join(map(str, paths)))


if __name__ == "__main__":
    flags.adopt_module_key_flags(tune)
    flags.mark_flags_as_required(["table"])
    command_line.run(main, device_a_core=True)
