"""Trains digits, plain and with each technique: a table and a picture in about a minute.

python -m experiments.demo --workdir=runs/demo

The same seed gives every variant the same initial weights and the same order of the examples.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from absl import flags

from configs import digits
from cyclical_jax import data
from cyclical_jax.catalogue import parse
from cyclical_jax.training import assembly, evaluation, files, loop
from cyclical_jax.training.earlier import prepare
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.run import Row
from cyclical_jax.training.structure import Recipe
from cyclical_jax.training.technique import spec_of
from experiments import command_line, paths, plugins
from experiments.waiting import Waiting

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

_WORKDIR = paths.define("workdir", "runs/demo", "Where results.json and demo.png go.")
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "Runs of each variant.", lower_bound=2)

# The knobs that are drawn above the accuracies, and the variant in which each cycles.
KNOBS = {
    "optimizer.weight_decay": "weight_decay",
    "optimizer.max_norm": "clipping",
    "loss.temperature": "temperature",
    "loss.hardness": "focal",
}


class Runs(NamedTuple):
    """The runs of one variant, one a seed. The task of digits is judged by accuracy."""

    rows: list[list[Row]]  # [seeds][epochs]
    test_accuracy: list[float]  # [seeds], of the last epoch


def recipe_of(variant: str) -> Recipe:
    """Returns the recipe of a variant of configs/digits.py, with the keys of plugins."""
    config = plugins.with_their_keys(digits.get_config(variant))
    return parse(config, catalogue=plugins.catalogue())


def run_variant(variant: str, dataset: data.Dataset, seeds: Sequence[int]) -> Runs:
    """Trains the variant of configs/digits.py once a seed."""
    runs = Runs([], [])
    for seed in seeds:
        recipe = dataclasses.replace(recipe_of(variant), seed=seed)
        rows: list[Row] = []
        examples, earlier = prepare(recipe, dataset)
        with Waiting(f"training {variant}"):
            state = loop.train(recipe, examples, report=rows.append, earlier=earlier)
            arguments = recipe.structure, spec_of(examples), state.evaluated, examples.test
            test = evaluation.evaluate(*arguments)
        runs.rows.append(rows)
        runs.test_accuracy.append(test["accuracy"])
        print(f"{variant:<13} seed {seed}: test accuracy {test['accuracy']:.2%}", flush=True)
    return runs


def table(results: dict[str, Runs]) -> str:
    """Returns Markdown: mean ± standard deviation over the seeds, after the last epoch."""
    lines = ["| variant | test accuracy, % | n |", "|---|---|---|"]
    for variant, runs in results.items():
        percent = 100 * np.array(runs.test_accuracy)
        spread = f"{percent.mean():.2f} ± {percent.std(ddof=1):.2f}"
        lines.append(f"| {variant} | {spread} | {len(percent)} |")
    return "\n".join(lines)


def picture(results: dict[str, Runs], path: Path) -> None:
    """Draws the cycles of the knobs over the accuracies."""
    figure = plt.figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplot_mosaic(
        [list(KNOBS), ["validation"] * 2 + ["test"] * 2], height_ratios=[1, 2]
    )
    for knob, variant in KNOBS.items():
        _draw_knob(axes[knob], knob, variant)
    _draw_validation(axes["validation"], results)
    _draw_test(axes["test"], results)
    figure.savefig(path, format="png", dpi=120)
    plt.close(figure)


def _draw_knob(axes, knob, variant):
    recipe = recipe_of(variant)
    timetable = recipe.timetable(data.num_train(recipe.dataset))
    counts = np.arange(timetable.total_steps)
    schedules = assembly.make_schedules(recipe.structure, recipe.numbers, timetable)
    axes.plot(counts, schedules[knob](counts), color="black")
    axes.set(title=recipe.structure.columns[knob], xlabel="update")


def _draw_validation(axes, results):
    for variant, runs in results.items():
        accuracy = 100 * np.array([[row["val_accuracy"] for row in rows] for rows in runs.rows])
        steps = [row["step"] for row in runs.rows[0]]
        axes.plot(steps, accuracy.mean(0), label=variant)
    axes.set(title="validation accuracy, %, mean over seeds", xlabel="update", ylim=(80, 100))
    axes.legend(loc="lower right")


def _draw_test(axes, results):
    for row, runs in enumerate(results.values()):
        percent = 100 * np.array(runs.test_accuracy)
        axes.plot(percent, np.full(len(percent), row), "o", alpha=0.5)
        axes.errorbar(percent.mean(), row, xerr=percent.std(ddof=1), fmt="k|", capsize=4)
    axes.set_yticks(range(len(results)), results)
    axes.invert_yaxis()
    axes.set(title="test accuracy, %, one dot a seed, mean ± standard deviation")


def run(workdir: Path, num_seeds: int) -> dict[str, Runs]:
    """Trains all variants, and writes `results.json` and `demo.png` into `workdir`."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"--workdir {workdir} cannot be written: {error.strerror}.") from error
    dataset = data.load("digits")
    results = {
        variant: run_variant(variant, dataset, range(num_seeds)) for variant in digits.VARIANTS
    }
    record: dict[str, Any] = {name: runs._asdict() for name, runs in results.items()}
    files.write(workdir / "results.json", record)
    with files.whole(workdir / "demo.png") as temporary:
        picture(results, temporary)
    return results


def main():
    workdir = _WORKDIR.value
    results = run(workdir, _NUM_SEEDS.value)
    print(
        "\nThis shows the commands at work, and compares nothing: no variant is tuned, and plain's "
        "labels are\nnot smoothed, as focal's are. docs/results.md has fair comparisons.\n\n"
        f"{table(results)}\n\npicture: {workdir / 'demo.png'}"
    )


if __name__ == "__main__":
    command_line.run(main)
