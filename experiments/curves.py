"""Figures of curves for a page in a browser: panels below each other on the same epochs."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from experiments import drawing

VALIDATION = "val_"  # the columns of the log that begin with it are scores on validation

# Arms that follow each other differ in colour and in dashes, for a print in black and white too.
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_TALL, _FLAT, _GAP = 320, 150, 50  # pixels of the first panel, of the others and between them


class Curve(NamedTuple):
    """Its values, one for each row of the log; None where a row has none."""

    mean: Sequence[float | None]
    std: Sequence[float | None] = ()  # of a sample of seeds; () for a single run


class Arm(NamedTuple):
    """An arm of a table, or a run."""

    name: str
    epoch: Sequence[float]
    curves: Mapping[str, Curve]


def figure(arms: Sequence[Arm], titles: Mapping[str, str], percent: Sequence[str] = ()) -> Figure:
    """Returns a panel for each title, one below the other on the same epochs; an arm is a colour.

    Args:
      arms: The arms of one dataset, or a single run.
      titles: {name of a curve: title of its panel}; a curve that no arm has is left out.
      percent: Names of scores and measures that have an axis in percent.
    """
    names = [name for name in titles if any(name in arm.curves for arm in arms)]
    heights = [_TALL, *[_FLAT] * (len(names) - 1)]
    inner = sum(heights) + _GAP * (len(names) - 1)
    drawn = make_subplots(
        rows=len(names),
        shared_xaxes=True,
        row_heights=heights,
        vertical_spacing=_GAP / inner,
        subplot_titles=[titles[name] for name in names],
    )
    traces = [trace for at, arm in enumerate(arms) for trace in _traces(arm, at, names)]
    for trace in sorted(traces, key=lambda trace: "fill" not in trace):  # no band covers a line
        drawn.add_scatter(**trace, col=1)
    shares = [row for row, name in enumerate(names, 1) if name.removeprefix(VALIDATION) in percent]
    return _laid_out(drawn, len(names), shares, inner, has_legend=len(arms) > 1)


def _traces(arm: Arm, at: int, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields a line for each curve, and the band of a standard deviation on either side."""
    colours = drawing.LIGHT.lines
    number = at % len(colours)
    colour, dash = colours[number], _DASHES[(number + at // len(colours)) % len(_DASHES)]
    name = html.escape(arm.name)
    rows = {row: arm.curves[key] for row, key in enumerate(names, 1) if key in arm.curves}
    for row, curve in rows.items():
        # The group is what a click on its one entry in the legend hides.
        of_arm = {"name": name, "legendgroup": name, "showlegend": row == min(rows), "row": row}
        of_arm["meta"] = number  # of its colour, for another theme
        yield of_arm | _line(arm.epoch, curve) | {"line": {"color": colour, "dash": dash}}
        if any(curve.std):
            filled = {"fillcolor": colour, "opacity": 0.12, "showlegend": False}
            yield of_arm | _band(arm.epoch, curve) | filled


def _line(epoch: Sequence[float], curve: Curve) -> dict[str, Any]:
    points = [(x, y) for x, y in zip(epoch, curve.mean, strict=True) if y is not None]
    mode = "lines" if len(points) > 1 else "markers"
    return {"x": [x for x, _ in points], "y": [y for _, y in points], "mode": mode}


def _band(epoch: Sequence[float], curve: Curve) -> dict[str, Any]:
    """Returns the polygon that goes there along mean + std and back along mean - std."""
    points = [
        point for point in zip(epoch, curve.mean, curve.std, strict=True) if None not in point
    ]
    there = [(x, mean + std) for x, mean, std in points]
    back = [(x, mean - std) for x, mean, std in reversed(points)]
    x, y = ([corner[axis] for corner in (*there, *back)] for axis in (0, 1))
    return {"x": x, "y": y, "mode": "none", "fill": "toself", "hoverinfo": "skip"}


def _laid_out(
    drawn: Figure, num_panels: int, shares: Sequence[int], inner: int, *, has_legend: bool
) -> Figure:
    """Returns the figure with its axes; the rows of `shares` have theirs in percent."""
    drawn.update_layout(
        template=drawing.template(drawing.LIGHT),
        height=inner + 140,
        margin={"l": 56, "r": 12, "t": 60, "b": 60},
        hovermode="x unified",
        legend_title={"text": " ", "side": "top"},  # an empty line, beside which the buttons are
        showlegend=has_legend,
        legend={"orientation": "h", "y": 1 + 30 / inner, "yanchor": "bottom", "x": 0},
    )
    drawn.update_annotations(x=0, xanchor="left", font={"size": 15})
    drawn.update_xaxes(
        showticklabels=True, hoverformat=".4~g", unifiedhovertitle={"text": "epoch %{x}"}
    )
    drawn.update_xaxes(title="epoch", row=num_panels)
    drawn.update_yaxes(hoverformat=".4g")
    for row in shares:
        drawn.update_yaxes(tickformat=".0%", hoverformat=".2%", row=row)
    return drawn
