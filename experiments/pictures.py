"""Draws the pictures of the idea for README.md and docs, from the schedules and losses themselves.

python -m experiments.pictures

Each is drawn for a light and for a dark page: docs/pictures/cycle-light.svg and cycle-dark.svg.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import cyclical_jax as cj
from cyclical_jax.training.files import whole
from experiments import drawing
from experiments.drawing import Theme

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
THEMES = {"light": drawing.LIGHT, "dark": drawing.DARK}
_LARGE = 15.0  # points: still legible where a phone shows the picture 360 pixels wide
_LEFT, _WIDE = 0.31, 0.66  # where the clock begins in the picture of the cycle, and its width

Schedule = Callable[[np.ndarray], np.ndarray]


def cycle(theme: Theme) -> Figure:
    """Returns one cycle easy -> hard -> easy, and under it four knobs that move on its clock."""
    clock = np.arange(41)
    hardness = cj.hardness_schedule(len(clock))
    knobs = {
        "weight decay": ("1e-5 → 8e-5 → 1e-5", cj.between(1e-5, 8e-5, hardness)),
        "clipping threshold": ("0.5 → 2 → 0.5", cj.between(0.5, 2, hardness)),
        "temperature": ("0.5 → 2 → 0.5, log", cj.between(0.5, 2, hardness, scale="log")),
        "focal part of loss": ("0 → 1 → 0", hardness),
    }
    figure = Figure(figsize=(drawing.WIDTH, 5.0))
    behind = figure.add_axes((_LEFT, 0.02, _WIDE, 0.9), xlim=clock[[0, -1]], ylim=(0, 1))
    top = figure.add_axes((_LEFT, 0.58, _WIDE, 0.34))
    _draw_row(top, clock, hardness(clock), ("hardness", "0 → 1 → 0"), theme.ink, theme)
    _name_parts(top, clock, theme)
    for row, (name, (words, schedule)) in enumerate(knobs.items()):
        axes = figure.add_axes((_LEFT, 0.385 - 0.12 * row, _WIDE, 0.085))
        _draw_row(axes, clock, schedule(clock), (name, words), theme.lines[row], theme)
    _draw_clock(behind, clock, theme)
    return figure


def _draw_clock(axes: Axes, clock: np.ndarray, theme: Theme) -> None:
    """Draws the first update, the peak and the last update, which all rows share."""
    _make_bare(axes)
    for x, height in ((clock[0], 0.56), (clock[-1] / 2, 1), (clock[-1], 0.56)):
        dotted = {"linestyle": (0, (1, 3)), "linewidth": 1, "clip_on": False}
        axes.axvline(x, ymax=height, color=theme.muted, **dotted)


def _name_parts(axes: Axes, clock: np.ndarray, theme: Theme) -> None:
    last, bold = clock[-1], {"weight": "bold"}
    near = {"textcoords": "offset points"}
    below = near | {"va": "top"}
    axes.annotate("hard", (last / 2, 1), xytext=(0, 8), ha="center", **near, **bold)
    axes.annotate("easy", (0, 0), xytext=(6, -6), **below, **bold)
    axes.annotate("easy", (last, 0), xytext=(-6, -6), ha="right", **below, **bold)
    where = {"xytext": (-10, -6), "ha": "right", "color": theme.muted}
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


PICTURES: dict[str, Callable[[Theme], Figure]] = {"cycle": cycle}


def draw(name: str, theme: str, path: Path) -> None:
    """Draws a picture of `PICTURES` in a theme of `THEMES` as an SVG."""
    with drawing.style(THEMES[theme], size=_LARGE) as colours:
        figure = PICTURES[name](colours)
        drawing.save(figure, path, format="svg", transparent=True)


def main():
    FOLDER.mkdir(exist_ok=True)
    for name in PICTURES:
        for theme in THEMES:
            path = FOLDER / f"{name}-{theme}.svg"
            with whole(path) as temporary:
                draw(name, theme, temporary)
            print(path.relative_to(FOLDER.parents[1]))


if __name__ == "__main__":
    main()
