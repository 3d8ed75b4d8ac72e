"""The log of a run and its workdir: metrics.jsonl, further loggers, a bar or lines."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from cyclical_jax._files import as_line
from cyclical_jax.data import Normalisation
from cyclical_jax.training import files
from cyclical_jax.training.devices import is_first_process
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.files import (
    CHECKPOINTS,
    CONFIG,
    DATASET,
    INPUTS,
    LOCK,
    METRICS,
    RESULT,
    WorkdirError,
    plain,
    writing,
)
from cyclical_jax.training.loggers import LOGGERS, Logger
from cyclical_jax.training.run import Row
from cyclical_jax.training.structure import Catalogue, Structure

_NOT_COMPARED = ("data_dir", *Normalisation._fields)

_logger = logging.getLogger(__name__)


class RunLog:
    """Takes the rows of a run. It is a context, which closes its files.

    Every row goes to `metrics.jsonl` in the workdir, to each of `loggers`, which are names of
    `loggers.LOGGERS`, and is printed as a line; on a terminal a bar below the lines shows what is
    still to come. The run goes on at the micro step `start`: rows after it are dropped, and so is
    the row at it, if that `is_to_come`. The rows before it are `rows`.

    Raises:
      WorkdirError: `metrics.jsonl` cannot be written, or does not hold the rows before `start`.
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
    ):
        self._path, self._structure = workdir / METRICS, structure
        self.rows = _keep_rows(self._path, timetable.num_rows(start) - is_to_come)
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

    def __exit__(self, *error):
        self._bar.stop()
        with contextlib.suppress(OSError):  # the error of a row was raised already
            self._metrics.close()
        with contextlib.ExitStack() as all_of_them:  # each is closed, whatever another raises
            for logger in self._loggers:
                all_of_them.callback(logger.close)

    def sync(self) -> None:
        """Returns when the rows are on the disk, where a power failure leaves them."""
        with writing(self._path):
            os.fsync(self._metrics.fileno())

    def progress(self, micro_step: int) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=micro_step)

    def row(self, row: Row) -> None:
        """Writes and prints a row; raises WorkdirError if it cannot be written."""
        self.rows.append(row)
        with writing(self._path):
            self._metrics.write(as_line(row))
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


@contextlib.contextmanager
def opened_workdir(
    workdir: Path,
    config: dict[str, Any],
    catalogue: Catalogue,
    inputs: dict[str, str] | None = None,
    facts: dict[str, Any] | None = None,
    *,
    advice: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Makes `workdir`, with `config.json` in it, or checks that the run there has this config.

    It does the same with the `inputs` that `inputs.identities` returns, in `inputs.json`, and with
    the `facts` of `Facts.as_json`, in `dataset.json`. As long as the context lasts, no other
    process can open the workdir. Where a key of `advice` differs, its text ends the message.

    Raises:
      WorkdirError: It holds a run of another config, of other inputs or data, or one without
        checkpoints; another process writes to it; or it cannot be written to.
    """
    now = plain(config)
    is_taken = _is_taken(workdir)
    if is_taken:
        defaults = as_defaults(catalogue)
        _check_same(workdir / CONFIG, now, "of another config", defaults, advice or {})
        what = "of other inputs, which have changed since"
        _check_same(workdir / INPUTS, inputs or {}, what, {}, {})
        if facts and (workdir / DATASET).exists():  # which runs of earlier versions lack
            _check_same(workdir / DATASET, facts, "of other data", {}, {})
    if not is_first_process():
        yield
        return
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with _locked(workdir):
        if not is_taken:
            files.write(workdir / CONFIG, now)
        for path, content in ((workdir / INPUTS, inputs), (workdir / DATASET, facts)):
            if not is_taken:
                with writing(path):
                    path.unlink(missing_ok=True)  # of a run that never began
            if content and not path.exists():
                files.write(path, content)
        yield


def as_defaults(catalogue: Catalogue) -> dict[str, Any]:
    """Returns {key: default} of every key, as JSON has them."""
    return plain({key: field.default for key, field in catalogue.keys.items()})


def config_differences(
    old: dict[str, Any], new: dict[str, Any], defaults: dict[str, Any], prefix: str = ""
) -> list[str]:
    """Returns a line for each difference of two configs.

    Where the data lies is none; nor are its statistics, which depend on the machine's rounding. A
    key that `old` lacks, because an earlier version wrote it, has its default.
    """
    lines = []
    for name in sorted(old.keys() | new.keys()):
        there, here = (config.get(name, defaults.get(f"{prefix}{name}")) for config in (old, new))
        there = {} if there is None and isinstance(here, dict) else there
        if isinstance(there, dict) and isinstance(here, dict):
            lines += config_differences(there, here, defaults, f"{prefix}{name}.")
        elif there != here and name not in _NOT_COMPARED:
            lines.append(f"{prefix}{name}: {there!r} there, {here!r} here")
    return lines


def read_result(workdir: Path) -> dict[str, Any] | None:
    """Returns what `write_result` wrote; None if the run has not ended."""
    path = workdir / RESULT
    return files.read(path) if path.exists() else None


def write_result(workdir: Path, result: dict[str, Any]) -> None:
    """Writes `result.json` when training has ended, in the first process."""
    if not is_first_process():
        return
    files.write(workdir / RESULT, result)


def _is_taken(workdir: Path) -> bool:
    """Returns whether there is a run to go on with."""
    checkpoints, metrics = workdir / CHECKPOINTS, workdir / METRICS
    with writing(checkpoints):
        if checkpoints.exists() and any(checkpoints.iterdir()):
            return True
    if metrics.exists() and metrics.stat().st_size:
        raise WorkdirError(f"{workdir} holds a run without checkpoints; choose another --workdir.")
    return False


def _check_same(
    path: Path,
    now: dict[str, Any],
    what: str,
    defaults: dict[str, Any],
    advice: Mapping[str, str],
) -> None:
    """Raises WorkdirError, with the differences, unless the run began with what is given `now`."""
    try:  # a run without inputs has no file of them
        there = files.read(path) if path.exists() or path.name != INPUTS else {}
        lines = config_differences(there, now, defaults)
    except (OSError, ValueError, AttributeError) as error:
        raise WorkdirError(f"{path} cannot be read: {error}. Choose another --workdir.") from error
    if lines:
        keys = [line.partition(":")[0] for line in lines]
        listed = "\n  ".join([*lines, *(advice[key] for key in keys if key in advice)])
        raise WorkdirError(
            f"{path.parent} holds a run {what}; choose another --workdir:\n  {listed}"
        )


def _keep_rows(path: Path, number: int) -> list[Row]:
    """Returns the first rows of the log, and deletes the rows after them from the file."""
    content = path.read_bytes() if path.exists() else b""
    lines = content.splitlines(keepends=True)
    kept, dropped = lines[:number], lines[number:]
    if len(kept) < number:
        raise WorkdirError(f"{path} has {len(kept)} of the {number} rows before the checkpoint.")
    if dropped:
        with writing(path), path.open("r+b") as file:
            file.truncate(sum(map(len, kept)))
    return files.rows_of(path, kept)


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    with writing(workdir / LOCK):
        file = (workdir / LOCK).open("a")  # NFS locks nothing but a file that may be written
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkdirError(f"another process trains in {workdir}; wait for it.") from error
        except OSError as error:
            _logger.warning("%s cannot be locked (%s): see to it yourself", workdir, error.strerror)
        yield


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
    """Returns a row as a line for people."""
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
