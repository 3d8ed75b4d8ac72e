"""Draws every value of a config that changes over the run, before anything is trained.

python -m experiments.preview --config=configs/digits.py:all

The command writes preview.png and prints small plots, within seconds. It needs only the config, not
the data.
"""

import math
import shutil
import textwrap
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import plotext
from absl import flags
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from ml_collections import ConfigDict

from cyclical_jax import data
from cyclical_jax._files import whole
from cyclical_jax._words import counted
from cyclical_jax.accumulation import windows_schedule
from cyclical_jax.catalogue import parse
from cyclical_jax.schedules import as_pair
from cyclical_jax.techniques import learning_rate
from cyclical_jax.training import assembly
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.structure import Recipe
from experiments import clocks, command_line, drawing, paths, plugins
from experiments.drawing import Theme
from experiments.waiting import Waiting

_MOST_POINTS = 20_000  # every update of most runs, and of the others evenly spaced ones
_ACROSS = 2  # axes of the picture beside each other
_PANEL_COLUMNS, _PANEL_LINES = 38, 8  # of a terminal


class Line(NamedTuple):
    """A knob over the run."""

    title: str  # with its easy and hard values
    values: np.ndarray  # [points]
    is_log: bool  # whether its axis should be
    ends: tuple[float, ...] = ()  # where it turns, which may lie between two updates

    @property
    def extremes(self) -> list[float]:
        """Its least and its greatest value, or the one value that it keeps."""
        return sorted({*(self.ends or (float(self.values.min()), float(self.values.max())))})


class Preview(NamedTuple):
    """All knobs of a run that are on."""

    title: str  # with the number of updates
    counts: np.ndarray  # [points], int32 updates; the first is 0
    updates_per_epoch: float
    lines: dict[str, Line]  # by the name of the knob
    peaks: list[str]  # a line for each clock

    @property
    def changing(self) -> list[Line]:
        """The lines that are drawn."""
        return [line for line in self.lines.values() if len(line.extremes) > 1]

    @property
    def constant(self) -> str:
        """The lines that are not drawn, in words."""
        titles = [line.title for line in self.lines.values() if len(line.extremes) == 1]
        unbroken = ", ".join(title.replace(" ", "\N{NO-BREAK SPACE}") for title in titles)
        return f"constant: {unbroken}" if titles else ""


def preview(recipe: Recipe) -> Preview:
    """Returns the values of the schedules that training would make.

    Raises:
      RecipeError: The recipe does not fit the size of its dataset.
    """
    options = {name: getattr(recipe, name) for name in ("train_on", "subset", "data_dir")}
    examples = data.num_train(recipe.dataset, **options)
    timetable = recipe.timetable(examples)
    last = timetable.total_steps - 1
    counts = np.linspace(0, last, min(last + 1, _MOST_POINTS)).round().astype(np.int32)
    lines = {
        recipe.structure.columns[key]: Line(
            _told(recipe, key), values, _is_log(recipe, key), _ends(recipe, key)
        )
        for key, values in _values(recipe, timetable, counts).items()
    }
    every = recipe.structure.accumulate
    if not every.is_constant:
        values = np.asarray(windows_schedule(timetable.windows)(counts))
        title = f"accumulate {every.knob.easy:g} → {every.knob.hard:g}"
        lines["accumulate"] = Line(title, values, is_log=False)
    epochs = timetable.epoch(timetable.micro_steps)
    return Preview(
        f"{recipe.dataset}: {counted(last + 1, 'update')}, {counted(epochs, 'epoch')} of "
        f"{counted(examples, 'example')}",
        counts,
        timetable.micro_steps_per_epoch * timetable.total_steps / timetable.micro_steps,
        lines,
        clocks.told(recipe, timetable),
    )


def _values(recipe: Recipe, timetable: Timetable, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the values that training computes: compiled, of float32 numbers as arguments."""

    @jax.jit
    def values_at(numbers, counts):
        schedules = assembly.make_schedules(recipe.structure, numbers, timetable)
        return {key: value_at(counts) for key, value_at in schedules.items()}

    values = jax.device_get(values_at(jax.tree.map(jnp.float32, recipe.numbers), counts))
    return {key: values[key] for key in recipe.numbers}  # jit sorts them


def _told(recipe: Recipe, key: str) -> str:
    """Returns the title of a knob, with its ends."""
    (easy, hard, _), name = recipe.numbers[key], recipe.structure.columns[key]
    words = f"{name} {easy:g}" if easy == hard else f"{name} {easy:.3g} → {hard:.3g}"
    words += " log" if easy != hard and _scale(recipe, key) == "log" else ""
    schedule = _schedule(recipe, key)
    return f"{words} × {schedule}" if schedule else words


def _is_log(recipe: Recipe, key: str) -> bool:
    """Returns whether a knob needs a log axis: it spans a decade and never comes near 0."""
    easy, hard, _ = recipe.numbers[key]
    spans_a_decade = _scale(recipe, key) == "log" and max(easy, hard) >= 10 * min(easy, hard)
    return spans_a_decade and not _schedule(recipe, key)


def _ends(recipe: Recipe, key: str) -> tuple[float, ...]:
    """Returns the values at which a knob turns; none where it may not reach them.

    A schedule multiplies it, or its shape is a published exponential.
    """
    easy, hard, _ = recipe.numbers[key]
    ways = as_pair(dict(recipe.structure.curves)[key].shape)
    return () if _schedule(recipe, key) or any("published" in way for way in ways) else (easy, hard)


def _scale(recipe: Recipe, key: str) -> str:
    return dict(recipe.structure.curves)[key].scale


def _schedule(recipe: Recipe, key: str) -> str | None:
    """Returns the schedule that a knob is multiplied by; only the learning rate has one."""
    own = {name: value for _, pairs in recipe.structure.entries for name, value in pairs}
    return own.get(learning_rate.SCHEDULE) if key == learning_rate.RATE else None


def picture(drawn: Preview, theme: Theme = drawing.LIGHT) -> Figure:
    """Returns a figure with small axes for each knob that changes, over updates and epochs."""
    rows = max(1, math.ceil(len(drawn.changing) / _ACROSS))
    figure = Figure(figsize=(drawing.WIDTH, 1 + 1.7 * rows), layout="constrained")
    figure.suptitle(f"{drawn.title}; easy → hard", fontsize=drawing.SIZE)
    label = ["optimizer update (above: epoch)", *_wrapped(drawn.constant, 95)]
    figure.supxlabel("\n".join(label), fontsize=drawing.SIZE)
    grid = figure.subplots(rows, _ACROSS, squeeze=False).flat
    for axes, line in zip(grid, drawn.changing, strict=False):
        axes.plot(drawn.counts, line.values, color=theme.lines[0])
        axes.set_title(line.title, loc="left")
        axes.set_yscale("log" if line.is_log else "linear")
        axes.set_yticks(line.extremes, _numbers(line))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    for axes in grid[: min(_ACROSS, len(drawn.changing))]:
        above = axes.secondary_xaxis("top", functions=_epochs(drawn.updates_per_epoch))
        above.spines[:].set_visible(False)
    for axes in grid[len(drawn.changing) :]:
        axes.set_axis_off()
    return figure


def _epochs(updates_per_epoch: float):
    return (lambda count: count / updates_per_epoch, lambda epoch: epoch * updates_per_epoch)


def text(drawn: Preview, *, width: int) -> str:
    """Returns the same as text without colours, in lines of `width` characters, at least 38."""
    width = max(width, _PANEL_COLUMNS)
    columns = width // _PANEL_COLUMNS
    rows = math.ceil(len(drawn.changing) / columns)
    head = [f"{drawn.title}; easy → hard", *drawn.peaks, *_wrapped(drawn.constant, width)]
    if not rows:
        return "\n".join(head)
    plotext.terminal.limit(False, False)
    grid = plotext.figure.plot_size(width, rows * _PANEL_LINES).subplots(rows, columns)
    places = [(row + 1, column + 1) for row in range(rows) for column in range(columns)]
    panels = iter([grid] if len(places) == 1 else [grid.subplot(*place) for place in places])
    for line, panel in zip(drawn.changing, panels, strict=False):
        panel.title(textwrap.shorten(line.title, width // columns, placeholder=" …"))
        _draw(panel, drawn.counts, line)
    for panel in panels:
        panel.axes(False)
    body = grid.build().string(colorless=True)
    return "\n".join([*head, "", body])


def _wrapped(text: str, width: int) -> list[str]:
    """Returns lines that are broken between two knobs."""
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _draw(panel, counts: np.ndarray, line: Line) -> None:
    height_of = np.log10 if line.is_log else np.asarray
    panel.draw(panel.signal(counts.tolist(), height_of(line.values).tolist()).lines())
    ends = [int(counts[0]), int(counts[-1])]
    panel.ruler("x").ticks(ends, [f"{count:,}" for count in ends])
    panel.ruler("y").ticks(height_of(line.extremes).tolist(), _numbers(line))


def _numbers(line: Line) -> list[str]:
    """Returns the extremes of a line in words; what its axis does not tell from 0 is 0."""
    least = 0 if line.is_log else 1e-4 * max(map(abs, line.extremes))
    return [f"{value:.3g}" if abs(value) >= least else "0" for value in line.extremes]


def main(config: ConfigDict, workdir: Path) -> None:
    options = {"num_devices": jax.device_count(), "catalogue": plugins.catalogue()}
    with Waiting("computing the schedules"):
        drawn = preview(parse(config, **options))
    path = workdir / "preview.png"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with drawing.style() as theme, whole(path) as temporary:
            drawing.save(picture(drawn, theme), temporary)
    except OSError as error:
        raise WorkdirError(f"--workdir {workdir} cannot be written: {error.strerror}.") from error
    print(f"{text(drawn, width=shutil.get_terminal_size().columns)}\npicture: {path}")


if __name__ == "__main__":
    config_flag = command_line.define_config()
    workdir_flag = paths.define("workdir", "runs/preview", "Folder for preview.png.")
    flags.mark_flags_as_required(["config"])
    command_line.run(lambda: main(command_line.config_of(config_flag), workdir_flag.value))
