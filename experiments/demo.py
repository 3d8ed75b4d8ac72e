"""Trains on digits, plain and with each technique: a table and a picture in about half a minute.

python -m experiments.demo --workdir=runs/demo

The same seed gives every variant the same initial weights and the same order of the examples. No
variant is tuned: the demo shows the commands at work, and no more.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from configs import default, digits
from cyclical_jax import data
from cyclical_jax.catalogue import parse
from cyclical_jax.training import assembly, evaluation, files, loop
from cyclical_jax.training.earlier import prepare
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.run import Row
from cyclical_jax.training.structure import Recipe
from cyclical_jax.training.technique import spec_of
from experiments import command_line, drawing, paths, plugins
from experiments.drawing import Theme
from experiments.waiting import Waiting

_WORKDIR = paths.define("workdir", "runs/demo", "Where results.json and demo.png go.")
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "Runs of each variant.", lower_bound=2)

# The four techniques of configs/digits.py, and the control of the two that smooth their labels.
VARIANTS = {
    "plain": {},
    "smoothed": {"loss.label_smoothing": default.CYCLICAL_FOCAL["loss.label_smoothing"]},
    **digits.FOUR,
}

# Each variant that cycles one technique, and the knob that moves in it.
KNOBS = {
    "weight_decay": "optimizer.weight_decay",
    "clipping": "optimizer.max_norm",
    "temperature": "loss.temperature",
    "focal": "loss.hardness",
}

CAVEAT = """\
This shows the commands at work. It proves nothing: no variant is tuned, and each has few seeds.
focal and all smooth their labels, too; smoothed is plain with the same labels.
docs/results.md has the fair comparisons; there, no cycle clearly raised the test accuracy.
"""


class Runs(NamedTuple):
    """The runs of one variant, one a seed. The task of digits is judged by accuracy."""

    rows: list[list[Row]]  # [seeds][epochs]
    test_accuracy: list[float]  # [seeds], of the last epoch


def recipe_of(variant: str) -> Recipe:
    """Returns the recipe of a variant of `VARIANTS`, with the keys of plugins."""
    config = plugins.with_their_keys(default.vary(digits.get_config(), VARIANTS, variant))
    return parse(config, catalogue=plugins.catalogue())


def run_variant(variant: str, dataset: data.Dataset, seeds: Sequence[int]) -> Runs:
    """Trains a variant of `VARIANTS` once a seed."""
    runs = Runs([], [])
    with Waiting(f"training {variant}"):
        for seed in seeds:
            recipe = dataclasses.replace(recipe_of(variant), seed=seed)
            rows: list[Row] = []
            examples, earlier = prepare(recipe, dataset)
            state = loop.train(recipe, examples, report=rows.append, earlier=earlier)
            arguments = recipe.structure, spec_of(examples), state.evaluated, examples.test
            runs.rows.append(rows)
            runs.test_accuracy.append(evaluation.evaluate(*arguments)["accuracy"])
    told = " ".join(f"{100 * accuracy:.2f}" for accuracy in runs.test_accuracy)
    print(f"{variant:<13} test accuracy of each seed, %: {told}", flush=True)
    return runs


def table(results: dict[str, Runs]) -> str:
    """Returns Markdown: mean ± standard deviation over the seeds, after the last epoch."""
    lines = ["| variant | test accuracy, %, not tuned | seeds |", "|---|---|---|"]
    for variant, runs in results.items():
        percent = 100 * np.array(runs.test_accuracy)
        spread = f"{percent.mean():.2f} ± {percent.std(ddof=1):.2f}"
        lines.append(f"| {variant} | {spread} | {len(percent)} |")
    return "\n".join(lines)


def picture(results: dict[str, Runs], theme: Theme) -> Figure:
    """Returns the cycle of each knob over the accuracies with it, and below all test accuracies."""
    figure = Figure(figsize=(drawing.WIDTH, 7), layout="constrained")
    figure.suptitle("Not tuned: this picture compares nothing.", fontsize=drawing.SIZE)
    rows = [[f"knob of {variant}" for variant in KNOBS], list(KNOBS), ["test"] * len(KNOBS)]
    axes = figure.subplot_mosaic(rows, height_ratios=[1, 1.6, 2.4])
    for at, (variant, knob) in enumerate(KNOBS.items()):
        _draw_knob(axes[f"knob of {variant}"], variant, knob, theme.lines[at])
        _draw_validation(axes[variant], results, variant, theme.lines[at], theme)
    axes["weight_decay"].set_ylabel("validation accuracy, %")
    _draw_test(axes["test"], results, theme)
    return figure


def _draw_knob(axes, variant, knob, color):
    recipe = recipe_of(variant)
    timetable = recipe.timetable(data.num_train(recipe.dataset))
    counts = np.arange(timetable.total_steps)
    values = assembly.make_schedules(recipe.structure, recipe.numbers, timetable)[knob](counts)
    axes.plot(counts, values, color=color)
    axes.set(title=recipe.structure.columns[knob], xticks=[], xlim=(0, counts[-1]))
    axes.set_yticks(recipe.numbers[knob][:2])  # easy and hard
    axes.yaxis.set_major_formatter("{x:.3g}")


def _draw_validation(axes, results, variant, color, theme):
    for name, look in (("plain", {"linestyle": "dashed", "color": theme.muted}), (variant, {})):
        rows = results[name].rows
        accuracy = 100 * np.array([[row["val_accuracy"] for row in of_seed] for of_seed in rows])
        steps = [row["step"] for row in rows[0]]
        axes.plot(steps, accuracy.mean(0), **{"color": color, "linewidth": 1.5} | look)
    at = {"transform": axes.transAxes, "ha": "right"}
    axes.text(0.98, 0.16, variant, weight="bold", **at)
    axes.text(0.98, 0.04, "plain (dashed)", color=theme.muted, **at)
    axes.set(xlabel="update", xlim=(0, steps[-1]), ylim=(88, 100))
    axes.tick_params(labelleft=variant == next(iter(KNOBS)))


def _draw_test(axes, results, theme):
    for row, runs in enumerate(results.values()):
        percent = 100 * np.array(runs.test_accuracy)
        below = np.full(len(percent), row + 0.2)
        axes.plot(percent, below, "o", color=theme.lines[0], alpha=0.5, markeredgewidth=0)
        mean, std = percent.mean(), percent.std(ddof=1)
        axes.plot([mean - std, mean + std], [row, row], color=theme.ink)
        axes.plot(mean, row, "D", color=theme.ink, markersize=4.5)
    axes.set_yticks(range(len(results)), results, color=theme.ink)
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_title("test accuracy, %")
    axes.set_xlabel("dot: a seed; diamond: mean; line: ± standard deviation")


def run(workdir: Path, num_seeds: int) -> dict[str, Runs]:
    """Trains all variants, and writes `results.json` and `demo.png` into `workdir`."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"--workdir {workdir} cannot be written: {error.strerror}.") from error
    dataset = data.load("digits")
    results = {variant: run_variant(variant, dataset, range(num_seeds)) for variant in VARIANTS}
    record: dict[str, Any] = {name: runs._asdict() for name, runs in results.items()}
    files.write(workdir / "results.json", record)
    with drawing.style() as theme, files.whole(workdir / "demo.png") as temporary:
        drawing.save(picture(results, theme), temporary)
    return results


def next_command() -> str:
    """Returns what to type now, with the Python that runs this."""
    here, python = Path.cwd(), Path(sys.executable)
    python = python.relative_to(here) if python.is_relative_to(here) else python
    return f"{python} -m experiments.train --config=configs/digits.py:all --workdir=runs/digits_all"


def main():
    workdir = _WORKDIR.value
    print(CAVEAT, flush=True)
    results = run(workdir, _NUM_SEEDS.value)
    print(f"\n{table(results)}\n\n{CAVEAT}")
    print(f"picture: {workdir / 'demo.png'}\nnext: {next_command()}")


if __name__ == "__main__":
    command_line.run(main)
