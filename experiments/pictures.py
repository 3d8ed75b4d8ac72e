"""Draws the pictures of README.md and docs: the idea, tables, range tests, trade-off curves.

python -m experiments.pictures

The pictures of the idea show the package's own schedules and losses. Each is drawn for a light and
for a dark page, as docs/pictures/cycle-light.svg and cycle-dark.svg. The others are drawn from the
JSON files beside them in docs/results.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import cyclical_jax as cj
from cyclical_jax.training.files import whole
from experiments import drawing, front_page, grids, presentation, scatter, tradeoff_presentation
from experiments.drawing import Theme
from experiments.score import ACCURACY

FOLDER = front_page.DOCS / "pictures"
_LARGE = 15.0  # points: still legible where a phone shows the picture 360 pixels wide
_LEFT, _WIDE = 0.31, 0.66  # where the clock begins in the picture of the cycle, and its width


def cycle(theme: Theme) -> Figure:
    """Returns one cycle easy -> hard -> easy, and under it four knobs that move on its clock."""
    clock = np.arange(41)
    hardness = cj.hardness_schedule(len(clock), factor=4)  # as in README.md
    knobs = {
        "weight decay": ("0.001 → 0.01 → 0.001", cj.between(1e-3, 1e-2, hardness)),
        "clipping threshold": ("0.1 → 0.4 → 0.1", cj.between(0.1, 0.4, hardness)),
        "temperature": ("0.5 → 2 → 0.5, log", cj.between(0.5, 2, hardness, scale="log")),
        "focal part of loss": ("0 → 1 → 0", hardness),
    }
    figure = Figure(figsize=(drawing.WIDTH, 5.0))
    behind = figure.add_axes((_LEFT, 0.02, _WIDE, 0.9), xlim=clock[[0, -1]], ylim=(0, 1))
    top = figure.add_axes((_LEFT, 0.58, _WIDE, 0.34))
    _draw_row(top, clock, _at(hardness, clock), ("hardness", "0 → 1 → 0"), theme.ink, theme)
    _name_parts(top, clock, theme)
    for row, (name, (words, schedule)) in enumerate(knobs.items()):
        axes = figure.add_axes((_LEFT, 0.385 - 0.12 * row, _WIDE, 0.085))
        _draw_row(axes, clock, _at(schedule, clock), (name, words), theme.lines[row], theme)
    _draw_clock(behind, clock, theme)
    return figure


def _at(schedule: Callable, counts: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(schedule)(counts))


def _draw_clock(axes: Axes, clock: np.ndarray, theme: Theme) -> None:
    """Draws the first update, the peak and the last update, which all rows share."""
    _make_bare(axes)
    for x, height in ((clock[0], 0.56), (clock[-1] / 4, 1), (clock[-1], 0.56)):
        dotted = {"linestyle": (0, (1, 3)), "linewidth": 1, "clip_on": False}
        axes.axvline(x, ymax=height, color=theme.muted, **dotted)


def _name_parts(axes: Axes, clock: np.ndarray, theme: Theme) -> None:
    last, bold = clock[-1], {"weight": "bold"}
    near = {"textcoords": "offset points"}
    below = near | {"va": "top"}
    axes.annotate("hard", (last / 4, 1), xytext=(0, 8), ha="center", **near, **bold)
    axes.annotate("easy", (0, 0), xytext=(6, -6), **below, **bold)
    axes.annotate("easy", (last, 0), xytext=(-6, -6), ha="right", **below, **bold)
    where = {"xytext": (0, -6), "ha": "center", "color": theme.muted}
    axes.annotate("training →", (last / 2, 0), **where, **below)


def _draw_row(axes, clock, values, words: tuple[str, str], color: str, theme: Theme) -> None:
    axes.fill_between(clock, values, values.min(), color=color, alpha=0.14, linewidth=0)
    axes.plot(clock, values, color=color, linewidth=2.5, clip_on=False)
    axes.set(xlim=clock[[0, -1]], ylim=(values.min(), values.max()))
    _make_bare(axes)
    at = {"xycoords": ("figure fraction", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(words[0], (0.01, 0.5), xytext=(0, 2), va="bottom", **at)
    axes.annotate(words[1], (0.01, 0.5), xytext=(0, -2), va="top", color=theme.muted, size=13, **at)


def _make_bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


# ---- docs/idea.md


def factors(theme: Theme) -> Figure:
    """Returns the hardness for several factors."""
    return _panels({f"factor {factor}": _hardness(factor=factor) for factor in (1, 2, 4, 8)}, theme)


def shapes(theme: Theme) -> Figure:
    """Returns the hardness in every shape that looks unlike the others, and in two pairs."""
    words = ("linear", "cosine", "exponential", "rex", "late_exponential", "early_rex")
    pairs = (("exponential", "late_exponential"), ("rex", "early_rex"))
    panels = {word: _hardness(shape=word) for word in words}
    panels |= {",\n".join(pair): _hardness(shape=pair) for pair in pairs}
    return _panels(panels, theme, rows=2)


def cycles(theme: Theme) -> Figure:
    """Returns the hardness of one and of several cycles."""
    panels = {f"num_cycles {number}": _hardness(num_cycles=number) for number in (1, 2, 3)}
    return _panels(panels, theme)


def scales(theme: Theme) -> Figure:
    """Returns a knob from 1e-5 to 1e-3 on both scales of `between`."""
    hardness = cj.hardness_schedule(len(_UPDATES), factor=4)
    panels = {
        f'scale="{scale}"': _at(cj.between(1e-5, 1e-3, hardness, scale=scale), _UPDATES)
        for scale in cj.schedules.SCALES
    }
    figure = _panels(panels, theme)
    for axes in figure.axes:
        axes.set_yticks([1e-5, 1e-3], ["1e-5", "1e-3"])
    return figure


_UPDATES = np.arange(97)  # 2, 3, 4 and 8 divide the last: peaks are exact


def _hardness(**options) -> np.ndarray:
    return _at(cj.hardness_schedule(len(_UPDATES), **options), _UPDATES)


def _panels(values: Mapping[str, np.ndarray], theme: Theme, *, rows: int = 1) -> Figure:
    """Returns small axes side by side, each with its name above it."""
    figure = Figure(figsize=(drawing.WIDTH, 2.0 * rows), layout="constrained")
    figure.get_layout_engine().set(wspace=0.08, hspace=0.08)
    grid = figure.subplots(rows, len(values) // rows, sharey=True)
    for axes, (name, of_panel) in zip(grid.flat, values.items(), strict=True):
        axes.fill_between(_UPDATES, of_panel, of_panel.min(), color=theme.lines[0], alpha=0.14)
        axes.plot(_UPDATES, of_panel, color=theme.lines[0], linewidth=2.5, clip_on=False)
        axes.set(xticks=[], yticks=[0, 1], xlim=_UPDATES[[0, -1]], title=name)
        axes.set_ylim(of_panel.min(), of_panel.max())
        axes.spines[:].set_visible(False)
    return figure


def focal(theme: Theme) -> Figure:
    """Returns the weight of the label in the cyclical focal loss, at three hardnesses."""
    figure = Figure(figsize=(drawing.WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    p = np.linspace(0.01, 0.99, 50)
    for at, (hardness, name) in enumerate({0.0: "easy", 0.5: "half", 1.0: "hard"}.items()):
        weights = _focal_weights(p, hardness)
        color, dash = theme.lines[at], drawing.DASHES[at]
        axes.plot(p, weights, color=color, linestyle=dash, linewidth=2.5)
        end = f"{name} (h = {hardness:g})"
        drawing.label_end(axes, end, p[-1], weights[-1], theme.ink, va="bottom")
    axes.set(xlim=(0, 1), ylim=(0, 8), xlabel="probability p of the label")
    axes.set(xticks=[0.25, 0.5, 0.75, 1], yticks=[0, 1, 4, 8])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title("weight of the example in the loss")
    return figure


@jax.jit
def _focal_weights(p: np.ndarray, hardness: float) -> jax.Array:
    logits, labels = jnp.log(jnp.stack([p, 1 - p], -1)), jnp.zeros(len(p), int)
    loss = cj.cyclical_focal_loss(logits, labels, hardness, label_smoothing=0.0)
    return loss / cj.softmax_cross_entropy(logits, labels)


DRAWN = (cycle, factors, shapes, cycles, scales, focal)
PICTURES: dict[str, Callable[[Theme], Figure]] = {draw.__name__: draw for draw in DRAWN}


def draw(name: str, theme: str, path: Path) -> None:
    """Draws a picture of `PICTURES` in a theme of `drawing.THEMES` as an SVG."""
    with drawing.style(drawing.THEMES[theme], size=_LARGE) as colours:
        figure = PICTURES[name](colours)
        drawing.save(figure, path, format="svg", transparent=True)


# ---- docs/results.md


def draw_range_test(record: Mapping[str, Any], path: Path) -> None:
    """Draws a record of `experiments.range_test` that is judged by accuracy."""
    scores = {grids.LOSS: record["val_loss"], ACCURACY: record["val_accuracy"]}
    interval = tuple(record["suggestion"][end] for end in ("low", "high"))
    grids.picture(record["values"], scores, interval, record["knob"], record["scale"], path)


def files() -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """Yields each file, and the function that writes it to a path."""
    for name in PICTURES:
        for theme in drawing.THEMES:
            yield FOLDER / f"{name}-{theme}.svg", functools.partial(draw, name, theme)
    for name, record in front_page.records().items():
        yield front_page.RESULTS / f"{name}.png", functools.partial(presentation.picture, record)
        if scatter.has_one(record):
            path = front_page.RESULTS / f"{scatter.name_of(record)}.png"
            yield path, functools.partial(scatter.picture, record)
    for path in sorted((front_page.RESULTS / "range_test").glob("*.json")):
        record = json.loads(path.read_text())
        yield path.with_suffix(".png"), functools.partial(draw_range_test, record)
    for name, record in front_page.tradeoffs().items():
        drawn = functools.partial(tradeoff_presentation.picture, record)
        yield front_page.TRADEOFFS / f"{name}.png", drawn


def main():
    FOLDER.mkdir(exist_ok=True)
    for path, write in files():
        with whole(path) as temporary:
            write(temporary)
        print(path.relative_to(front_page.ROOT))


if __name__ == "__main__":
    main()
