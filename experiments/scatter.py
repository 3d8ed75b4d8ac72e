"""Draws the scores of a table against a number of its runs, such as their cost, as a picture.

A `Table` names the number as `against=`; the record has it as `summary` of each arm.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from experiments import drawing
from experiments.drawing import Theme
from experiments.score import Score, words
from experiments.statistics import interval, summary

Record = Mapping[str, Any]

_HEIGHT = 3.6  # inches of an axes
_NEAR = 0.035  # of the axes' width: points so near share a column of labels
_LINE = 0.062  # of the axes' height: a line of a label
_MARKERS = ("o", "s", "^", "D", "v")
_KEY = "mark: mean over the seeds; line: its 95 % interval"
_OTHERS = "; dashed: an arm without {}"


class _Point(NamedTuple):
    name: str
    x: float | None  # None: the arm has no such number
    mean: float
    ends: tuple[float, float]  # of its interval; both the mean where there is none
    control: str | None


def name_of(record: Record) -> str:
    """Returns the name of the picture's file, without a suffix."""
    return f"{record['table']}_{record['against']}"


def picture(record: Record, path: Path) -> None:
    """Draws the test scores against `record["against"]` as a PNG: an axes a dataset.

    Equal records give equal bytes.
    """
    with drawing.style() as theme:
        drawing.save(_drawn(record, theme), path)


def _drawn(record: Record, theme: Theme) -> Figure:
    against, datasets = record["against"], record["datasets"]
    figure = Figure(figsize=(drawing.WIDTH, 0.6 + _HEIGHT * len(datasets)), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06)
    rows = figure.subplots(len(datasets), 1, squeeze=False, sharex=True).flat
    for axes, (name, dataset) in zip(rows, datasets.items(), strict=True):
        score, points = Score.of_record(dataset), _points(dataset, against)
        seeds = " or ".join(map(str, sorted({len(a["seeds"]) for a in dataset["arms"].values()})))
        axes.set_title(f"{name}, n = {seeds}: test {score.title}")
        axes.grid(axis="x", visible=False)
        _draw(axes, points, theme)
    arms = [arm for dataset in datasets.values() for arm in dataset["arms"].values()]
    without = any(against not in arm.get("summary", {}) for arm in arms)
    key = _KEY + (_OTHERS.format(words(against)) if without else "")
    figure.supxlabel(f"{words(against)}\n{key}", fontsize=drawing.SIZE)
    return figure


def _points(dataset: Mapping[str, Any], against: str) -> list[_Point]:
    """Returns the arms of which a run stayed finite; an accuracy is in percent."""
    score = Score.of_record(dataset)
    found = []
    for name, arm in dataset["arms"].items():
        unit, scores = 100 if score.percent else 1, arm["test"][score.name]
        mean, ends = summary(scores).mean, interval(scores)
        if mean is not None:
            low, high = ends or (mean, mean)
            x = arm.get("summary", {}).get(against)
            found.append(_Point(name, x, unit * mean, (unit * low, unit * high), arm["control"]))
    return found


def _draw(axes: Axes, points: Sequence[_Point], theme: Theme) -> None:
    placed = [point for point in points if point.x is not None]
    for point in points:
        if point.x is None:
            _draw_level(axes, point, theme)
    controls = list(dict.fromkeys(point.control for point in placed))
    for at, control in enumerate(controls):
        of_control = [point for point in placed if point.control == control]
        _draw_marks(axes, of_control, theme.lines[at % 4], _MARKERS[at % 5], control)
    axes.margins(x=0.09, y=0.08)
    axes.autoscale_view()
    axes.set_ylim(axes.get_ylim())
    axes.set_xlim(axes.get_xlim())
    for place, point in _labels(placed, axes):
        _write(axes, point, place, theme)
    if len(controls) > 1:
        axes.legend(loc="lower right", fontsize=drawing.SMALL)


def _draw_level(axes: Axes, point: _Point, theme: Theme) -> None:
    axes.axhspan(*point.ends, color=theme.ink, alpha=0.08, linewidth=0)
    axes.axhline(point.mean, color=theme.ink, linestyle="dashed", linewidth=1)
    place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    axes.annotate(point.name, (0, point.mean), xytext=(4, 3), fontsize=drawing.SMALL, **place)


def _draw_marks(axes, points: Sequence[_Point], color: str, marker: str, control) -> None:
    x, y = [point.x for point in points], np.array([point.mean for point in points])
    sizes = np.abs(np.array([point.ends for point in points]).T - y)
    label = f"compared with {control}" if control else "compared with none"
    look = {"fmt": marker, "color": color, "markersize": 5, "elinewidth": 1.4, "zorder": 3}
    axes.errorbar(x, y, sizes, label=label, **look)


def _labels(points: Sequence[_Point], axes: Axes) -> Iterator[tuple[tuple[float, float], _Point]]:
    """Yields the place of each name: points near each other have theirs in one column."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    columns: list[list[_Point]] = []
    for point in sorted(points, key=lambda point: point.x):
        if columns and point.x - columns[-1][-1].x < _NEAR * (right - left):
            columns[-1].append(point)
        else:
            columns.append([point])
    for column in columns:
        column.sort(key=lambda point: point.mean)
        heights = _apart([point.mean for point in column], _LINE * (top - bottom), bottom, top)
        x = max(point.x for point in column) + 0.012 * (right - left)
        yield from (((x, y), point) for y, point in zip(heights, column, strict=True))


def _apart(heights: Sequence[float], gap: float, bottom: float, top: float) -> np.ndarray:
    """Returns the ascending heights, moved so that a gap is between any two of them."""
    moved = np.array(heights)
    for at in range(1, len(moved)):
        moved[at] = max(moved[at], moved[at - 1] + gap)
    moved -= np.mean(moved - heights)  # those in between stay, as a whole, where they were
    moved += max(bottom + gap - moved[0], 0)
    return moved - max(moved[-1] - (top - gap), 0)


def _write(axes: Axes, point: _Point, place: tuple[float, float], theme: Theme) -> None:
    line = {"arrowstyle": "-", "color": theme.muted, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}
    look = {"fontsize": drawing.SMALL, "va": "center", "annotation_clip": False, "zorder": 4}
    text = axes.annotate(point.name, (point.x, point.mean), xytext=place, arrowprops=line, **look)
    text.set_path_effects([withStroke(linewidth=3, foreground=theme.ground)])  # over other lines


def has_one(record: Record) -> bool:
    """Returns whether the record of a table has such a picture."""
    return record.get("against") is not None
