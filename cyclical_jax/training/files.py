"""The files of a workdir: what each holds, and what to do when one is damaged.

docs/files.md lists them all. If a file cannot be read or written, the error is a `WorkdirError` of
one line.
"""

import contextlib
import fcntl
import itertools
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from cyclical_jax import _files
from cyclical_jax._files import NUMBER, DamagedError, Pattern

CONFIG = "config.json"
INPUTS = "inputs.json"
DATASET = "dataset.json"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
WANDB = "wandb.json"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"

ROW = {"step": int, "epoch": float, ...: NUMBER}

_logger = logging.getLogger(__name__)


class WorkdirError(OSError):
    """A file of a workdir, or one that a script writes, cannot be read or written; a line."""


class Kind(NamedTuple):
    """Says what a JSON file holds, and what to do when it is damaged."""

    pattern: Pattern
    remedy: str


_RESTORE = "Restore it from a copy, or choose another --workdir."
_DATASET = {
    "source": str,
    "num_classes": int,
    "class_names": [str],
    "shape": [int],
    "dtype": str,
    "normalisation": ({"mean": [float], "std": [float]}, None),
    "num_examples": {"train": int, ...: int},
}
_RESULT = {
    **dict.fromkeys(("steps", "test_num_examples"), int),
    **dict.fromkeys(("seconds", "training_seconds", "test_loss"), float),
}
KINDS = {
    CONFIG: Kind({}, _RESTORE),
    INPUTS: Kind({...: str}, _RESTORE),
    DATASET: Kind(_DATASET, _RESTORE),
    ENVIRONMENT: Kind([{"step": int}], "It is a record, and no run needs it."),
    METRICS: Kind(ROW, _RESTORE),
    RESULT: Kind(
        {**_RESULT, ...: NUMBER},
        "Delete it, and give the same command again: it scores the run anew.",
    ),
    WANDB: Kind({"id": str, "step": int}, "Delete it: the rows go to a new run of W&B then."),
}


def is_there(path: Path) -> bool:
    """Returns whether there is something at a path, even if it cannot be read."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # such as a folder of another user
        return True
    return True


def read(path: Path, **entries: Pattern) -> Any:
    """Returns the content of one of the `KINDS`.

    Args:
      path: The file.
      **entries: Patterns of entries that it must have besides those of its kind.

    Raises:
      WorkdirError: It is damaged, or cannot be read; a line with the remedy.
    """
    kind = KINDS[path.name]
    with reading(path, kind.remedy):
        return _files.read_json(path, kind.pattern | entries if entries else kind.pattern)


def write(path: Path, content: Any) -> None:
    """Writes JSON, such as one of the `KINDS`, with its checksum; the whole file or none.

    Raises:
      WorkdirError: It cannot be written; a line.
    """
    with writing(path):
        _files.write_json(path, content)


def remove(path: Path) -> None:
    """Removes a file, if it is there, and returns when its name is gone from the disk.

    Raises:
      WorkdirError: It cannot be removed; a line.
    """
    with writing(path):
        path.unlink(missing_ok=True)
        _files.sync(path.parent)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of `metrics.jsonl`.

    Raises:
      WorkdirError: It cannot be read, or a row is damaged; a line that has its number.
    """
    with reading(path, _RESTORE):
        return _rows_of(path, _files.lines_of(path))


def keep_rows(path: Path, number: int, last_epoch: float) -> list[dict[str, Any]]:
    """Returns the first rows of `metrics.jsonl`, and deletes what comes after them.

    Args:
      path: The file, which may be missing.
      number: The number of rows before the checkpoint.
      last_epoch: The epoch of the checkpoint.

    Raises:
      WorkdirError: There are fewer, or one of them is damaged; a line.
    """
    if number == 0 and not is_there(path):
        return []
    with reading(path, _RESTORE):
        lines = _files.lines_of(path, number)
        if len(lines) < number:
            raise DamagedError(
                f"{path} has {len(lines)} of the {number} rows before the checkpoint."
            )
        if lines and not lines[-1].endswith(b"\n"):  # the next row would be a part of this one
            raise DamagedError(f"{path} is damaged: line {number} has no end.")
        rows = _rows_of(path, lines)
        if rows and rows[-1]["epoch"] > last_epoch:
            raise DamagedError(f"{path} is damaged: it lacks rows before the checkpoint.")
    with writing(path):
        os.truncate(path, sum(map(len, lines)))
    return rows


def _rows_of(path: Path, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    places = (f"{path}, line {number}," for number in range(1, len(lines) + 1))
    rows: list[dict[str, Any]] = []
    for line, place in zip(lines, places, strict=True):
        rows.append(_files.of_line(line, ROW, place, rows[-1] if rows else None))
    for number, (one, two) in enumerate(itertools.pairwise(rows), 2):
        if two["epoch"] < one["epoch"] or two == one:
            raise DamagedError(
                f"{path} is damaged: line {number} does not follow the row before it."
            )
    return rows


@contextlib.contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Turns the errors of its body, which reads `path`, into WorkdirErrors."""
    try:
        yield
    except WorkdirError:
        raise
    except DamagedError as error:
        raise WorkdirError(f"{error} {remedy}") from error
    except OSError as error:
        what = f" {remedy}" if isinstance(error, FileNotFoundError) else ""
        raise WorkdirError(f"{path} cannot be read: {error.strerror or error}.{what}") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the errors of its body, which writes `path`, into WorkdirErrors."""
    try:
        yield
    except WorkdirError:
        raise
    except OSError as error:
        raise WorkdirError(f"{path} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a new path beside `path`, whose file takes its place when it is complete.

    Raises:
      WorkdirError: It cannot be written.
    """
    with writing(path), _files.whole(path) as temporary:
        yield temporary


def lock(file: IO[Any], place: Path, taken: str) -> None:
    """Locks an open file for this process, or warns that its file system cannot lock.

    Args:
      file: The file, open for writing, because NFS locks no other.
      place: What is locked, for the warning.
      taken: The line of the error.

    Raises:
      WorkdirError: Another process has locked it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise WorkdirError(taken) from error
    except OSError as error:
        _logger.warning(
            "%s cannot be locked (%s): do not start two processes there", place, error.strerror
        )


def finite(content: Any) -> Any:
    """Returns JSON with None in place of each number that is not finite."""
    if isinstance(content, dict):
        return {key: finite(one) for key, one in content.items()}
    if isinstance(content, list | tuple):
        return [finite(one) for one in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def plain(content: Any) -> Any:
    """Returns a content as JSON has it; NumPy's numbers become numbers."""
    return json.loads(json.dumps(content, default=lambda number: number.item()))
