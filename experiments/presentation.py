"""Shows a finished table as Markdown and as a picture.

All functions take records of `statistics.with_comparisons`; they read the comparisons there, and
compute none of their own. The score of a table is the one that its record is judged by.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cyclical_jax._words import counted
from cyclical_jax.training.fields import RecipeError
from experiments import drawing
from experiments.score import Score, fractions_of_record, in_order, number, words
from experiments.statistics import Scores, paired_differences, summary

Record = Mapping[str, Any]

NOTHING = "–"

_LEGEND = """\
n: seeds whose runs stayed finite; the same seed gives every arm the same initial weights and data \
order. ±: sample standard deviation over the seeds. Difference: mean of arm minus control, paired \
by seed, {unit}, with the 95 % interval of Student's t, each on its own; it speaks \
of other seeds, not of other test images, and not of the luck of tuning (see `tuning_noise`). p: \
paired t test, two-sided, corrected by Holm for all comparisons of the table; –: no answer, from \
fewer than two pairs or where all differences are equal."""
_LOWER = "Where lower is better, a difference below 0 speaks for the arm."
_POINTS = "in percentage points"
_LIKELIHOOD = """\
Loss: negative log likelihood of the test images, at temperature 1 whatever the arm was trained \
at."""
_OF_RUN = "a number about the whole run, which follows from its recipe; –: the arm has none."
_CALIBRATION = "calibration_error"  # only probabilities of classes have one
_ROW_HEIGHT = 0.4  # inches of an arm
_ACROSS = 3  # datasets beside each other: more would not be legible
_KEY = "dot: a seed; diamond: mean; line: 95 % interval"


# ---- Markdown


def markdown(record: Record) -> str:
    """Returns the whole record: its origin, and for each dataset a table with a row an arm."""
    origin = [f"{key}: {record[key]}" for key in ("hardware", "version")]
    head = [f"## {record['table']}", record["about"], f"```\n{record['command']}\n```", *origin]
    tables = [_section(name, dataset) for name, dataset in record["datasets"].items()]
    return "\n\n".join([*head, *tables, legend(record)]) + "\n"


def legend(record: Record) -> str:
    """Returns what the columns of a record mean."""
    datasets = record["datasets"].values()
    scores = [Score.of_record(dataset) for dataset in datasets]
    units = {score.percent for score in scores}
    unit = {True: _POINTS, False: "in the unit of the score"}
    told = unit[units.pop()] if len(units) == 1 else f"{_POINTS} where the score is in %"
    parts = [_LEGEND.format(unit=told)]
    parts += [_LOWER] if any(score.best == "min" for score in scores) else []
    further = dict.fromkeys(name for dataset in datasets for name in _further(dataset))
    shown = {name for dataset in datasets for name in fractions_of_record(dataset)}
    parts += [_LIKELIHOOD] if _CALIBRATION in further else []
    parts += [f"{words(name).capitalize()} {_POINTS}." for name in further if name in shown]
    numbers = dict.fromkeys(name for dataset in datasets for name in _summary(dataset))
    parts += [f"{words(name).capitalize()}: {_OF_RUN}" for name in numbers]
    return " ".join(parts)


def columns(dataset: Mapping[str, Any]) -> list[str]:
    """Returns the heads of the columns of a dataset's table."""
    judged = f"test {Score.of_record(dataset).title}"
    further = map(words, _further(dataset))
    numbers = map(words, _summary(dataset))
    return ["arm", "control", "n", judged, "difference [95 %]", "p (Holm)", *further, *numbers]


def _further(dataset: Mapping[str, Any]) -> list[str]:
    """Returns the names of the scores beside the one that the dataset is judged by."""
    judged = Score.of_record(dataset).name
    there = dict.fromkeys(name for arm in dataset["arms"].values() for name in arm["test"])
    return [name for name in in_order(judged, there) if name != judged]


def _summary(dataset: Mapping[str, Any]) -> list[str]:
    """Returns the names of the numbers about a run that an arm of the dataset has."""
    arms = dataset["arms"].values()
    return list(dict.fromkeys(name for arm in arms for name in arm.get("summary", ())))


def _numbers(dataset: Mapping[str, Any], arm: Mapping[str, Any]) -> list[str]:
    """Returns the cells of an arm with the numbers about its runs."""
    there = arm.get("summary", {})
    return [f"{there[name]:.3f}" if name in there else NOTHING for name in _summary(dataset)]


def front_table(dataset: Mapping[str, Any], names: Sequence[str] | None = None) -> str:
    """Returns the test scores of a dataset as a table that fits the width of a telephone.

    An arm is a row. Where all arms have one control, the head of a column names it; where they have
    several, each row names its own.

    Args:
      dataset: The record of a dataset in a table.
      names: The arms to show, in this order; None shows all.

    Raises:
      ValueError: The record has no arm of such a name.
    """
    arms, names = dataset["arms"], list(dataset["arms"]) if names is None else names
    for name in names:
        if name not in arms:
            raise ValueError(f"{name!r} is no arm of this record; it has {', '.join(arms)}.")
    controls = {arms[name]["control"] for name in names} - {None}
    judged = f"test {Score.of_record(dataset).title}"
    if len(controls) == 1:
        to = f" to `{controls.pop()}`"
        labels = [f"`{name}`" for name in names]
    else:
        to = ""
        labels = [_against(name, arms[name]["control"]) for name in names]
    head = ["arm", judged, f"difference{to} [95 %], p", *map(words, _summary(dataset))]
    cells = [_front_cells(dataset, arms[name]) for name in names]
    return _table(head, [[label, *own] for label, own in zip(labels, cells, strict=True)])


def sizes(name: str, dataset: Mapping[str, Any]) -> str:
    """Returns a line with the images of a dataset, the seeds of its arms, and their tuning."""
    splits = ("training", "validation", "test")
    numbers = [dataset[f"num_{split}"] for split in ("train", "validation", "test")]
    images = ", ".join(f"{size:,} {split}" for size, split in zip(numbers, splits, strict=True))
    tunings = [arm["tuning"] for arm in dataset["arms"].values()]
    told = dict.fromkeys(_tuning(tuning) for tuning in tunings)
    return f"**{name}**: {images} images; {_num_seeds(dataset['arms'])} seeds; {' or '.join(told)}."


def _tuning(tuning):
    if tuning is None:
        return "nothing tuned"
    trials, seeds = counted(len(tuning["trials"]), "trial"), counted(len(tuning["seeds"]), "seed")
    return f"{trials} of {seeds}"


def _front_cells(dataset, arm):
    score = Score.of_record(dataset)
    values, comparison = arm["test"][score.name], arm["comparison"]
    failed = _failed(values)
    told = _spread(values, score.percent) + (f", {failed} failed" if failed else "")
    numbers = _numbers(dataset, arm)
    if not comparison:
        return [told, "", *numbers]
    p = _p(comparison["p_holm"])
    sign = "" if p.startswith("<") else "= "
    return [told, _difference(score, arm) + ("" if p == NOTHING else f", p {sign}{p}"), *numbers]


def _section(name, dataset):
    arms = dataset["arms"]
    splits = ("training", "validation", "test")
    sizes = [dataset[key] for key in ("num_train", "num_validation", "num_test")]
    told = ", ".join(f"{size:,} {split}" for size, split in zip(sizes, splits, strict=True))
    heading = f"### {name}: {told} images, n = {_num_seeds(arms)}"
    table = _table(columns(dataset), [row(dataset, arm_name) for arm_name in arms])
    return "\n\n".join(filter(None, [heading, table, _power(dataset)]))


def row(dataset: Mapping[str, Any], name: str) -> list[str]:
    """Returns the cells of an arm in the table of a dataset, as `columns` names them."""
    score, percent = Score.of_record(dataset), fractions_of_record(dataset)
    arm = dataset["arms"][name]
    test, comparison = arm["test"], arm["comparison"]
    return [
        name,
        arm["control"] or "",
        _runs(test[score.name]),
        _spread(test[score.name], score.percent),
        _difference(score, arm) if comparison else "",
        _p(comparison["p_holm"]) if comparison else "",
        *(_spread(test.get(other, ()), other in percent) for other in _further(dataset)),
        *_numbers(dataset, arm),
    ]


def _against(name, control):
    return f"`{name}`" if control is None else f"`{name}` vs `{control}`"


def _power(dataset):
    """Returns how large a difference must be to be told from 0 here, more often than not."""
    score, arms = Score.of_record(dataset), dataset["arms"].values()
    intervals = [arm["comparison"]["interval"] for arm in arms if arm["comparison"]]
    halves = [(high - low) / 2 for low, high in filter(None, intervals)]
    if not halves:
        return ""
    ends = dict.fromkeys(number(half, score.percent) for half in (min(halves), max(halves)))
    told = " to ".join(ends) + (" points" if score.percent else "")
    return (
        f"Half the width of the intervals: {told}; most smaller effects would be missed, "
        "even without Holm's correction."
    )


def _num_seeds(arms):
    return " or ".join(map(str, sorted({len(arm["seeds"]) for arm in arms.values()})))


def _failed(scores):
    return len(scores) - summary(scores).n


def _runs(scores):
    failed = _failed(scores)
    return f"{summary(scores).n}, {failed} failed" if failed else str(len(scores))


def _spread(scores: Scores, percent: bool) -> str:
    """Returns mean ± standard deviation."""
    _, mean, std = summary(scores)
    if mean is None:
        return NOTHING
    told = number(mean, percent)
    return told if std is None else f"{told} ± {number(std, percent)}"


def _difference(score, arm):
    comparison = arm["comparison"]
    if comparison["difference"] is None:
        return NOTHING
    told = score.difference(comparison["difference"])
    if comparison["interval"]:
        told += f" [{', '.join(map(score.difference, comparison['interval']))}]"
    # Fewer pairs than the arm has runs: it is the control that failed.
    is_whole = comparison["n"] == summary(arm["test"][score.name]).n
    return told if is_whole else f"{told}, {comparison['n']} pairs"


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
    with drawing.style() as theme:
        drawing.save(_drawn(datasets, rows, theme), path)


def _drawn(datasets, rows, theme):
    across = min(_ACROSS, len(datasets))
    down = math.ceil(len(datasets) / across)
    figure = Figure(figsize=(drawing.WIDTH, 0.8 + down * _height(rows)), layout="constrained")
    figure.get_layout_engine().set(wspace=0.04, hspace=0.06)
    grid = figure.subplots(down, across, sharey=True, squeeze=False).flat
    captions = [_caption(dataset) for dataset in datasets.values()]
    for axes, (name, dataset), caption in zip(grid, datasets.items(), captions, strict=False):
        _draw_differences(axes, dataset, rows, theme)
        axes.set_title(f"{name}\nn = {_num_seeds(dataset['arms'])}", fontsize=drawing.SMALL)
        axes.set_xlabel(caption if len(set(captions)) > 1 else "", fontsize=drawing.SMALL)
    for axes in grid[len(datasets) :]:
        axes.set_axis_off()
    labels = [f"{name}\nminus {control}" for name, control in rows]
    grid[0].set_yticks(range(len(rows)), labels, color=theme.ink)
    grid[0].set_ylim(len(rows) - 0.5, -0.5)
    same = captions[:1] if len(set(captions)) == 1 else []
    figure.supxlabel("\n".join([*same, _KEY]), fontsize=drawing.SIZE)
    return figure


def _height(rows):
    return 0.7 + _ROW_HEIGHT * len(rows)  # inches of an axes and its title


def _compared(dataset):
    arms = dataset["arms"].items()
    return [(name, arm["control"]) for name, arm in arms if arm["comparison"]]


def _caption(dataset):
    score = Score.of_record(dataset)
    unit = " in points" if score.percent else ""
    return f"test {score.words}, difference{unit}" + score.hint


def _draw_differences(axes, dataset, rows, theme):
    axes.axvline(0, color=theme.ink, linewidth=0.8)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter("{x:g}")
    arms = dataset["arms"]
    for row, (name, control) in enumerate(rows):
        if name in arms and arms[name]["control"] == control:
            _draw_arm(axes, row, dataset, name, theme)


def _draw_arm(axes, row, dataset, name, theme):
    arm, unit = dataset["arms"][name], 100 if Score.of_record(dataset).percent else 1
    comparison = arm["comparison"]
    points = unit * np.array(paired_differences(dataset, name))
    below = np.full(len(points), row + 0.22)
    dots = {"markersize": 5, "markeredgewidth": 0, "alpha": 0.5}
    axes.plot(points, below, "o", color=theme.lines[0], **dots)
    if comparison["difference"] is not None:
        axes.plot(unit * comparison["difference"], row, "D", color=theme.ink, markersize=4.5)
    if comparison["interval"]:
        axes.plot(unit * np.array(comparison["interval"]), [row, row], color=theme.ink)
    if comparison["n"] < len(arm["seeds"]):
        place = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": "small"}
        axes.text(1.02, row, f"n = {comparison['n']}", **place)
