"""The log of a run and its workdir: metrics.jsonl, TensorBoard's files, a bar or lines."""

import contextlib
import fcntl
import importlib
import json
import logging
import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from cyclical_jax.data import Normalisation
from cyclical_jax.training.checkpoints import CHECKPOINTS, CONFIG, DATASET, INPUTS
from cyclical_jax.training.devices import is_first_process
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.run import Row
from cyclical_jax.training.step import MEASURED
from cyclical_jax.training.structure import Catalogue, Structure

METRICS = "metrics.jsonl"
RESULT = "result.json"
LOCK = ".lock"
_NOT_COMPARED = ("data_dir", *Normalisation._fields)

_logger = logging.getLogger(__name__)
TENSORBOARD = "tensorboard"


class WorkdirError(OSError):
    """The workdir cannot take the run."""


class RunLog:
    """Takes the rows of a run. It is a context, which closes its files.

    Every row goes to `metrics.jsonl` in the workdir, to TensorBoard's files there if `tensorboard`,
    and is printed as a line; on a terminal a bar below the lines shows what is still to come. The
    run goes on at the micro step `start`: rows after it are dropped, and so is the row at it, if
    that `is_to_come`. The rows before it are `rows`.

    Raises:
      WorkdirError: `metrics.jsonl` cannot be written, or does not hold the rows before `start`.
    """

    def __init__(
        self,
        workdir: Path,
        timetable: Timetable,
        structure: Structure,
        *,
        tensorboard: bool = False,
        start: int = 0,
        is_to_come: bool = False,
    ):
        self._path, self._structure = workdir / METRICS, structure
        self.rows = _keep_rows(self._path, timetable.num_rows(start) - is_to_come)
        purged = self.rows[-1]["step"] + 1 if self.rows else 0
        self._writer = (
            _tensorboard().SummaryWriter(workdir / TENSORBOARD, purge_step=purged)
            if tensorboard
            else None
        )
        with _writing(self._path):
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
        if self._writer:
            self._writer.close()

    def sync(self) -> None:
        """Returns when the rows are on the disk, where a power failure leaves them."""
        with _writing(self._path):
            os.fsync(self._metrics.fileno())

    def progress(self, micro_step: int) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=micro_step)

    def row(self, row: Row) -> None:
        """Writes and prints a row; raises WorkdirError if it cannot be written."""
        self.rows.append(row)
        with _writing(self._path):
            self._metrics.write(json.dumps(row, allow_nan=False) + "\n")
        if self._writer:
            _check_writer(self._writer, self._path.parent / TENSORBOARD)
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._writer.add_scalar(
                        _tag(name, self._structure.measures), value, row["step"]
                    )
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


def require_tensorboard() -> None:
    """Raises WorkdirError where TensorBoard's files cannot be written."""
    _tensorboard()


@contextlib.contextmanager
def opened_workdir(
    workdir: Path,
    config: dict[str, Any],
    catalogue: Catalogue,
    inputs: dict[str, str] | None = None,
    facts: dict[str, Any] | None = None,
) -> Iterator[None]:
    """Makes `workdir`, with `config.json` in it, or checks that the run there has this config.

    It does the same with the `inputs` that `inputs.identities` returns, in `inputs.json`, and with
    the `facts` of `Facts.as_json`, in `dataset.json`. As long as the context lasts, no other
    process can open the workdir.

    Raises:
      WorkdirError: It holds a run of another config, of other inputs or data, or one without
        checkpoints; another process writes to it; or it cannot be written to.
    """
    text = as_json(config)
    is_taken = _is_taken(workdir)
    if is_taken:
        defaults = as_defaults(catalogue)
        _check_same(workdir / CONFIG, json.loads(text), "of another config", defaults)
        what = "of other inputs, which have changed since"
        _check_same(workdir / INPUTS, inputs or {}, what, {})
        if facts and (workdir / DATASET).exists():  # which runs of earlier versions lack
            _check_same(workdir / DATASET, facts, "of other data", {})
    if not is_first_process():
        yield
        return
    with _writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with _locked(workdir):
        if not is_taken:
            write_whole(workdir / CONFIG, text)
        for path, content in ((workdir / INPUTS, inputs), (workdir / DATASET, facts)):
            if not is_taken:
                with _writing(path):
                    path.unlink(missing_ok=True)  # of a run that never began
            if content and not path.exists():
                write_whole(path, json.dumps(content, indent=2))
        yield


def as_json(config: dict[str, Any]) -> str:
    """Returns a config as text; NumPy's numbers are written as numbers."""
    return json.dumps(config, indent=2, default=lambda number: number.item())


def as_defaults(catalogue: Catalogue) -> dict[str, Any]:
    """Returns {key: default} of every key, as JSON has them."""
    return json.loads(json.dumps({key: field.default for key, field in catalogue.keys.items()}))


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
    return json.loads(path.read_text()) if path.exists() else None


def write_result(workdir: Path, result: dict[str, Any]) -> None:
    """Writes `result.json` when training has ended, in the first process."""
    if not is_first_process():
        return
    write_whole(workdir / RESULT, json.dumps(result, indent=2, allow_nan=False))


def write_whole(path: Path, text: str) -> None:
    """Writes the whole file or none; raises WorkdirError if it cannot be written."""
    temporary = path.with_name(f".{path.name}.new")
    with _writing(path):
        temporary.write_text(text + "\n")
        temporary.replace(path)


def _is_taken(workdir: Path) -> bool:
    """Returns whether there is a run to go on with."""
    checkpoints, metrics = workdir / CHECKPOINTS, workdir / METRICS
    with _writing(checkpoints):
        if checkpoints.exists() and any(checkpoints.iterdir()):
            return True
    if metrics.exists() and metrics.stat().st_size:
        raise WorkdirError(f"{workdir} holds a run without checkpoints; choose another --workdir.")
    return False


def _check_same(path: Path, now: dict[str, Any], what: str, defaults: dict[str, Any]) -> None:
    """Raises WorkdirError, with the differences, unless the run began with what is given `now`."""
    try:  # a run without inputs has no file of them
        there = json.loads(path.read_text()) if path.exists() or path.name != INPUTS else {}
        lines = config_differences(there, now, defaults)
    except (OSError, ValueError, AttributeError) as error:
        raise WorkdirError(f"{path} cannot be read: {error}. Choose another --workdir.") from error
    if lines:
        listed = "\n  ".join(lines)
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
        with _writing(path), path.open("r+b") as file:
            file.truncate(sum(map(len, kept)))
    try:
        return [json.loads(line) for line in kept]
    except ValueError as error:  # after a power failure, say
        raise WorkdirError(f"{path} is damaged before the checkpoint: {error}.") from error


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    with _writing(workdir / LOCK):
        file = (workdir / LOCK).open("a")  # NFS locks nothing but a file that may be written
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkdirError(f"another process trains in {workdir}; wait for it.") from error
        except OSError as error:
            _logger.warning("%s cannot be locked (%s): see to it yourself", workdir, error.strerror)
        yield


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except WorkdirError:
        raise
    except OSError as error:
        raise WorkdirError(f"{path} cannot be written: {error.strerror or error}.") from error


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


def _tensorboard() -> Any:
    try:
        return importlib.import_module("tensorboardX")
    except ImportError as error:
        raise WorkdirError(
            f"TensorBoard's files need tensorboardX ({error}): "
            "pip install 'cyclical-jax[tensorboard]'."
        ) from error


def _check_writer(writer: Any, path: Path) -> None:
    """Raises WorkdirError if the writer's thread has ended: at a full disk it does so silently."""
    try:
        thread = operator.attrgetter("file_writer.event_writer._worker")(writer)
    except AttributeError:  # of a version that has it elsewhere
        return
    if not thread.is_alive():
        raise WorkdirError(f"{path} cannot be written: TensorBoard's writer has ended.")


def _tag(name: str, measures: Sequence[str]) -> str:
    """Returns the name for TensorBoard, which shows what stands before the "/" as one group."""
    if name in (*MEASURED, *measures):
        return f"train/{name}"
    if name.startswith("val_"):
        return f"validation/{name.removeprefix('val_')}"
    of_the_run = ("epoch", "images_per_second", "seconds", "skipped")
    return f"run/{name}" if name in of_the_run else f"knobs/{name}"


def _line(row: Row, num_epochs: float, structure: Structure) -> str:
    """Returns a row as a line for people."""
    parts = [f"epoch {row['epoch']:>5.4g}/{num_epochs:.4g}", f"step {row['step']:>6,}"]
    score, _ = structure.task[0].judged_by
    for name in ("loss", *structure.measures):
        if row.get(name) is not None:
            parts.append(f"{name} {structure.shown(name, row[name])}")
    if f"val_{score}" in row:
        parts.append(f"val {structure.shown(score, row[f'val_{score}'])}")
    if row.get("skipped"):
        parts.append(f"skipped {row['skipped']:,}")
    if row["images_per_second"] is not None:
        parts.append(f"{row['images_per_second']:,.0f} images/s")
    return "  ".join(parts)
