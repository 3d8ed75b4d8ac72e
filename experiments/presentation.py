"""A finished table as Markdown and as a picture.

All of it takes records of `statistics.with_comparisons`; it reads their comparisons, and computes
none of its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cyclical_jax.training.fields import RecipeError
from experiments.statistics import Scores, paired_differences, summary

Record = Mapping[str, Any]

NOTHING = "–"

LEGEND = """\
n: seeds whose runs stayed finite; the same seed gives every arm the same initial weights and data \
order. ±: sample standard deviation over the seeds. Difference: mean of arm minus control, paired \
by seed, in percentage points, with the 95 % interval of Student's t, each on its own; it speaks \
of other seeds, not of other test images, and not of the luck of tuning (see `tuning_noise`). p: \
paired t test, two-sided, corrected by Holm for all comparisons of the table; –: no answer, from \
fewer than two pairs or where all differences are equal. Loss: negative log likelihood of the test \
images, at temperature 1 whatever the arm was trained at. Calibration error in percentage \
points."""

COLUMNS = (
    "arm",
    "control",
    "n",
    "test accuracy, %",
    "difference [95 %]",
    "p (Holm)",
    "loss",
    "calibration error",
)
_WIDTH, _ROW_HEIGHT = 3.0, 0.5  # inches of an axes and of an arm


# ---- Markdown


def markdown(record: Record) -> str:
    """The whole record: where it comes from, and for each dataset a table with a row an arm."""
    origin = [f"{key}: {record[key]}" for key in ("hardware", "version")]
    head = [f"## {record['table']}", record["about"], f"```\n{record['command']}\n```", *origin]
    tables = [_section(name, dataset) for name, dataset in record["datasets"].items()]
    return "\n\n".join([*head, *tables, LEGEND]) + "\n"


def front_table(records: Sequence[Record]) -> str:
    """Test accuracies in a row an arm and a column a dataset of a table, for a front page.

    A cell is "mean ± std (difference to the control [95 % interval], p)", see `LEGEND`. A column
    is named by its dataset, and by its table too where there are several records.
    """
    columns = {
        f"{record['table']}: {name}" if len(records) > 1 else name: dataset["arms"]
        for record in records
        for name, dataset in record["datasets"].items()
    }
    # A dictionary is a set that keeps its order.
    rows = {(name, arms[name]["control"]): None for arms in columns.values() for name in arms}
    head = ["arm"] + [f"{name}, n = {_num_seeds(arms)}" for name, arms in columns.items()]
    return _table(
        head,
        [[_against(*row), *(_front_cell(arms, *row) for arms in columns.values())] for row in rows],
    )


def rewrite(text: str, name: str, table: str) -> str:
    """`text` with `table` in place of what stands between its markers for `name`.

    The markers are `<!-- name -->` and `<!-- /name -->`, and stay.

    Raises:
      ValueError: A marker is missing, there twice, or the second comes first.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    for marker in (start, end):
        if text.count(marker) != 1:
            raise ValueError(f"{marker} must be in the document once, not {text.count(marker)} x.")
    before, after = text.split(start)[0], text.split(end)[1]
    if end in before:
        raise ValueError(f"{start} must come before {end}.")
    # Markdown would take a comment that touches a table for a row of it.
    return f"{before}{start}\n\n{table.strip()}\n\n{end}{after}"


def _section(name, dataset):
    arms = dataset["arms"]
    splits = ("training", "validation", "test")
    sizes = [dataset[key] for key in ("num_train", "num_validation", "num_test")]
    told = ", ".join(f"{size:,} {split}" for size, split in zip(sizes, splits, strict=True))
    heading = f"### {name}: {told} images, n = {_num_seeds(arms)}"
    table = _table(COLUMNS, [row(arm_name, arm) for arm_name, arm in arms.items()])
    return "\n\n".join(filter(None, [heading, table, _power(arms)]))


def row(name, arm):
    test, comparison = arm["test"], arm["comparison"]
    return [
        name,
        arm["control"] or "",
        _runs(test["accuracy"]),
        _spread(test["accuracy"], 100, 2),
        _difference(comparison, arm) if comparison else "",
        _p(comparison["p_holm"]) if comparison else "",
        _spread(test["loss"], 1, 4),
        _spread(test["calibration_error"], 100, 2),
    ]


def _front_cell(arms, name, control):
    arm = arms.get(name)
    if arm is None or arm["control"] != control:
        return ""
    cell, accuracy, comparison = "", arm["test"]["accuracy"], arm["comparison"]
    if comparison:
        p = _p(comparison["p_holm"])
        sign = "" if p.startswith("<") or p == NOTHING else "= "
        cell = f" ({_difference(comparison, arm)}, p {sign}{p})"
    failed = _failed(accuracy)
    return _spread(accuracy, 100, 2) + (f", {failed} failed" if failed else "") + cell


def _against(name, control):
    return f"`{name}`" if control is None else f"`{name}` against `{control}`"


def _power(arms):
    """How large a difference must be to be told from 0 here, more often than not."""
    intervals = [arm["comparison"]["interval"] for arm in arms.values() if arm["comparison"]]
    halves = [50 * (high - low) for low, high in filter(None, intervals)]
    if not halves:
        return ""
    told = " to ".join(dict.fromkeys(f"{half:.2f}" for half in (min(halves), max(halves))))
    return (
        f"Half the width of the intervals: {told} points; most smaller effects would be missed, "
        "even without Holm's correction."
    )


def _num_seeds(arms):
    return " or ".join(map(str, sorted({len(arm["seeds"]) for arm in arms.values()})))


def _failed(scores):
    return len(scores) - summary(scores).n


def _runs(scores):
    failed = _failed(scores)
    return f"{summary(scores).n}, {failed} failed" if failed else str(len(scores))


def _spread(scores: Scores, unit: float, digits: int) -> str:
    """Mean ± standard deviation, multiplied by `unit`."""
    _, mean, std = summary(scores)
    if mean is None:
        return NOTHING
    told = f"{unit * mean:.{digits}f}"
    return told if std is None else f"{told} ± {unit * std:.{digits}f}"


def _difference(comparison, arm):
    if comparison["difference"] is None:
        return NOTHING
    told = _points(comparison["difference"])
    if comparison["interval"]:
        told += f" [{', '.join(map(_points, comparison['interval']))}]"
    # Fewer pairs than the arm has runs: it is the control that failed.
    is_whole = comparison["n"] == summary(arm["test"]["accuracy"]).n
    return told if is_whole else f"{told}, {comparison['n']} pairs"


def _points(fraction):
    return f"{100 * fraction:+z.2f}"  # z: no minus before 0.00


def _p(p):
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _table(head, rows):
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


# ---- the picture


def picture(record: Record, path: Path) -> None:
    """Draws each arm's differences to its control as a PNG: an axes a dataset, a row an arm.

    Equal records give equal bytes.

    Raises:
      RecipeError: No arm has a control.
    """
    datasets = record["datasets"]
    rows = list(dict.fromkeys(row for dataset in datasets.values() for row in _compared(dataset)))
    if not rows:
        raise RecipeError(f"{record['table']} has no arm with a control: there is nothing to draw.")
    size = (1.8 + _WIDTH * len(datasets), 1.4 + _ROW_HEIGHT * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(datasets), sharey=True, squeeze=False)[0]
    for one, (name, dataset) in zip(axes, datasets.items(), strict=True):
        _draw_differences(one, dataset["arms"], rows)
        one.set_title(f"{name}\nn = {_num_seeds(dataset['arms'])}", fontsize="medium")
    labels = [f"{name}\nminus {control}" for name, control in rows]
    axes[0].set_yticks(range(len(rows)), labels, fontsize="small")
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    caption = "test accuracy, difference in points\n(a dot a seed; mean and 95 % interval)"
    figure.supxlabel(caption, fontsize="medium")
    # The name and version of what drew it would change the bytes.
    figure.savefig(path, format="png", dpi=150, metadata={"Software": None})


def _compared(dataset):
    arms = dataset["arms"].items()
    return [(name, arm["control"]) for name, arm in arms if arm["comparison"]]


def _draw_differences(axes, arms, rows):
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    for row, (name, control) in enumerate(rows):
        if name in arms and arms[name]["control"] == control:
            _draw_arm(axes, row, arms, name)


def _draw_arm(axes, row, arms, name):
    comparison = arms[name]["comparison"]
    points = 100 * np.array(paired_differences(arms, name))
    below = np.full(len(points), row + 0.2)
    axes.plot(points, below, "o", color="C0", alpha=0.5, markersize=5, markeredgewidth=0)
    if comparison["difference"] is not None:
        axes.plot(100 * comparison["difference"], row, "D", color="black", markersize=5)
    if comparison["interval"]:
        axes.plot(100 * np.array(comparison["interval"]), [row, row], color="black")
    if comparison["n"] < len(arms[name]["seeds"]):
        place = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": "small"}
        axes.text(1.02, row, f"n = {comparison['n']}", **place)
