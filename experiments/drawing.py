"""The one style of all pictures: colours, fonts and sizes, light and dark.

    with drawing.style():
        figure = Figure(...)
        ...
        drawing.save(figure, path)

There are few colours, and colour-blind eyes tell them apart. Lines that share an axes also have
dashes of their own, so that a print in black and white can be read.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure


class Theme(NamedTuple):
    """The colours of a picture."""

    ground: str  # behind it, where it is not transparent
    ink: str  # text, and what matters most
    muted: str  # axes and notes
    grid: str
    lines: tuple[str, ...]


LIGHT = Theme(
    ground="#ffffff",
    ink="#1f2328",
    muted="#59636e",
    grid="#d9dfe5",
    lines=("#0B4F8A", "#C2500A", "#21967A", "#C277AF", "#1f2328"),
)
DARK = Theme(
    ground="#0d1117",
    ink="#e6edf3",
    muted="#9da7b1",
    grid="#343b43",
    lines=("#4C9FE0", "#FFC078", "#38D9A9", "#D98CC4", "#e6edf3"),
)
THEMES = {"light": LIGHT, "dark": DARK}
DASHES = ("solid", "dashed", "dotted", "dashdot", (0, (6, 2)))

WIDTH = 8.0  # inches of a picture, which a page shows 800 pixels wide
SIZE = 10.0  # points of text
SMALL = 8.5  # of notes and numbers

# What a browser writes an SVG in; Matplotlib lays it out in the widest of them.
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


@contextmanager
def style(theme: Theme = LIGHT, *, size: float = SIZE) -> Iterator[Theme]:
    """Draws figures in the style; they are also to be saved within it."""
    with matplotlib.rc_context(_settings(theme, size)):
        yield theme


def _settings(theme: Theme, size: float) -> dict[str, Any]:
    texts = ("text.color", "axes.labelcolor", "axes.titlecolor")
    quiet = ("axes.edgecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(texts, theme.ink),
        **dict.fromkeys(quiet, theme.grid),
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "figure.facecolor": theme.ground,
        "axes.facecolor": "none",
        "axes.prop_cycle": matplotlib.cycler(color=theme.lines),
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": size,
        "axes.labelsize": size,
        "axes.titlesize": size,
        "axes.titlelocation": "left",
        "xtick.labelsize": SMALL / SIZE * size,
        "ytick.labelsize": SMALL / SIZE * size,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.8,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "svg.fonttype": "none",
    }


def template(theme: Theme) -> dict[str, Any]:
    """Returns the style as a template of Plotly."""
    axis = {"gridcolor": theme.grid, "linecolor": theme.grid, "showgrid": True, "zeroline": False}
    axis |= {"showline": True, "ticks": "", "tickfont": {"color": theme.muted, "size": 12}}
    layout = {
        "paper_bgcolor": theme.ground,
        "plot_bgcolor": theme.ground,
        "font": {"family": _FONTS, "size": 14, "color": theme.ink},
        "xaxis": axis,
        "yaxis": axis,
        "hoverlabel": {"bgcolor": theme.ground, "bordercolor": theme.grid},
        "modebar": {"color": theme.muted, "activecolor": theme.ink, "bgcolor": "rgba(0,0,0,0)"},
    }
    return {"layout": layout}


def label_end(axes: Axes, text: str, x: float, y: float, color: str, **options: Any) -> None:
    """Writes the name of a line to the right of its end (x, y), in place of a legend."""
    place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(text, (x, y), color=color, annotation_clip=False, **place | options)


def save(
    figure: Figure, path: Path, *, format: str = "png", dpi: int = 200, transparent: bool = False
) -> None:
    """Writes the figure; equal figures give equal bytes, whenever they are written.

    Args:
      figure: What is drawn.
      path: The file, whose suffix does not matter.
      format: Such as "png", "svg" or "jpg".
      dpi: Pixels an inch; 100 as wide as the page shows them.
      transparent: Whether the page's own background is behind it.
    """
    of_writer = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    options = {"dpi": dpi, "transparent": transparent, "metadata": of_writer.get(format)}
    figure.savefig(path, format=format, **options)
    if format == "svg":
        path.write_text(_lean(path.read_text("utf-8")), "utf-8")


def _lean(svg: str) -> str:
    """Returns the SVG with the fonts of the reader's system, and bytes that never change."""
    svg = svg.replace("'DejaVu Sans', sans-serif", _FONTS)
    svg = re.sub(r" <metadata>.*?</metadata>\n|<!DOCTYPE.*?>\n", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)
    names: dict[str, str] = {}  # of parts: Matplotlib makes them from all digits of the numbers
    return re.sub(
        r"\b[mp][0-9a-f]{10}\b", lambda name: names.setdefault(name[0], f"part_{len(names)}"), svg
    )
