"""The log of a run: metrics.jsonl, further loggers, a bar or lines."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from cyclical_jax import _files
from cyclical_jax.training import files
from cyclical_jax.training.devices import is_first_process
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.files import METRICS, WorkdirError, writing
from cyclical_jax.training.loggers import LOGGERS, Logger
from cyclical_jax.training.run import Row
from cyclical_jax.training.structure import Structure
from cyclical_jax.training.workdirs import Folder


class RunLog:
    """Takes the rows of a run. It is a context, which closes its files.

    Every row goes to `metrics.jsonl` in the workdir and to each of `loggers`, which are names of
    `loggers.LOGGERS`, and is printed as a line. On a terminal a bar below the lines shows how much
    is left. The run goes on at the micro step `start`: later rows are dropped, and so is the row at
    `start` if it `is_to_come`. The rows before it are `rows`.

    Raises:
      WorkdirError: `metrics.jsonl` cannot be written, or does not hold the rows before `start`; or
        the workdir was moved or deleted.
    """

    def __init__(
        self,
        workdir: Path,
        timetable: Timetable,
        structure: Structure,
        *,
        loggers: Sequence[str] = (),
        start: int = 0,
        is_to_come: bool = False,
        folder: Folder | None = None,
    ):
        self._path, self._structure = workdir / METRICS, structure
        self._folder = folder or Folder(workdir)
        number = timetable.num_rows(start) - is_to_come
        self.rows = files.keep_rows(self._path, number, timetable.epoch(start))
        self._loggers: list[Logger] = [
            LOGGERS[name](workdir, structure, self.rows) for name in loggers
        ]
        with writing(self._path):
            self._metrics = self._path.open("a", buffering=1)
        self._num_epochs = timetable.epoch(timetable.micro_steps)
        self._bar = _bar(Console(), structure.batch_size)
        self._task = self._bar.add_task("training", total=timetable.micro_steps, completed=start)

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, error_type, *_):
        self._bar.stop()
        with contextlib.suppress(OSError):  # the error of a row was raised already
            self._metrics.close()
        with contextlib.ExitStack() as all_of_them:  # each is closed, whatever another raises
            if error_type is not None:  # which an error of theirs would hide
                all_of_them.enter_context(contextlib.suppress(WorkdirError))
            for logger in self._loggers:
                all_of_them.callback(logger.close)

    def sync(self) -> None:
        """Returns when the rows are on the disk and survive a power failure.

        Raises:
          WorkdirError: They cannot be written; a line.
        """
        self._folder.check()
        with writing(self._path):
            os.fsync(self._metrics.fileno())
            _files.sync(self._path.parent)

    def progress(self, micro_step: int) -> None:
        """Moves the bar to a micro step."""
        self._bar.update(self._task, completed=micro_step)

    def row(self, row: Row) -> None:
        """Writes and prints a row; raises WorkdirError if it cannot be written."""
        self._folder.check()
        written = _files.as_line(row, self.rows[-1] if self.rows else None)
        self.rows.append(row)
        with writing(self._path):
            self._metrics.write(written)
        for logger in self._loggers:
            logger.row(row)
        line = _line(row, self._num_epochs, self._structure)
        if self._bar.disable:
            print(line, flush=True)
        else:
            self._bar.console.print(line, highlight=False, soft_wrap=True)


class SilentLog:
    """The log of the other processes: it writes and shows nothing."""

    def __init__(self):
        self.rows: list[Row] = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def sync(self) -> None:
        """Does nothing."""

    def progress(self, micro_step: int) -> None:
        """Does nothing."""

    def row(self, row: Row) -> None:
        """Keeps the row in `rows`."""
        self.rows.append(row)


def run_log(*arguments: Any, **options: Any) -> RunLog | SilentLog:
    """Returns a `RunLog` in the first process, a `SilentLog` in others."""
    return RunLog(*arguments, **options) if is_first_process() else SilentLog()


class _ImagesPerSecond(ProgressColumn):
    def __init__(self, batch_size: int):
        super().__init__()
        self._batch_size = batch_size

    def render(self, task):
        return Text(f"{(task.speed or 0) * self._batch_size:,.0f} images/s")


def _bar(console: Console, batch_size: int) -> Progress:
    """Returns a bar that shows the time left; it is disabled where there is no terminal."""
    return Progress(
        TextColumn("{task.percentage:>3.0f} %"),
        BarColumn(),
        _ImagesPerSecond(batch_size),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def _epoch(number: float) -> str:
    return f"{number:.4g}" if number < 1e4 else f"{number:,.0f}"


def _line(row: Row, num_epochs: float, structure: Structure) -> str:
    """Returns a row as a line of text."""
    parts = [f"epoch {_epoch(row['epoch']):>5}/{_epoch(num_epochs)}", f"step {row['step']:>6,}"]
    score, _ = structure.task[0].judged_by
    for name in ("loss", *structure.measures):
        if row.get(name) is not None:
            parts.append(f"{name} {structure.shown(name, row[name])}")
    for name in dict.fromkeys(("loss", score)):
        if f"val_{name}" in row:
            parts.append(f"val_{name} {structure.shown(name, row[f'val_{name}'])}")
    if row.get("skipped"):
        parts.append(f"skipped {row['skipped']:,}")
    if row["images_per_second"] is not None:
        parts.append(f"{row['images_per_second']:,.0f} images/s")
    return "  ".join(parts)
