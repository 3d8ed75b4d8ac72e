"""The files of a workdir: what each holds, and what to do when one is damaged.

docs/files.md lists them all. What cannot be read or written ends in one line, a `WorkdirError`.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

ROW = {"step": int, "epoch": float}  # and the columns of the run


class WorkdirError(OSError):
    """The workdir cannot take the run."""


class Kind(NamedTuple):
    """What a JSON file holds, and what to do when it is damaged."""

    pattern: Pattern
    remedy: str


_RESTORE = "Restore it from a copy, or choose another --workdir."
KINDS = {
    CONFIG: Kind({}, _RESTORE),
    INPUTS: Kind({...: str}, _RESTORE),
    DATASET: Kind({"source": str, "num_classes": int, "shape": [int], "dtype": str}, _RESTORE),
    ENVIRONMENT: Kind([{"step": int}], "Move it away: it is a record, and no run needs it."),
    RESULT: Kind(
        {"steps": int, "seconds": float, "training_seconds": NUMBER, "test_loss": float},
        "Delete it, and give the same command again: it scores the run anew.",
    ),
    WANDB: Kind({"id": str, "step": int}, "Delete it: the rows go to a new run of W&B then."),
}


def read(path: Path) -> Any:
    """Returns the content of one of the `KINDS`; raises WorkdirError, a line with the remedy."""
    kind = KINDS[path.name]
    with reading(path, kind.remedy):
        return _files.read_json(path, kind.pattern)


def write(path: Path, content: Any) -> None:
    """Writes JSON, such as one of the `KINDS`, with its checksum; the whole file or none.

    Raises:
      WorkdirError: It cannot be written; a line.
    """
    with writing(path):
        _files.write_json(path, content)


def rows_of(path: Path, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Returns the rows of `metrics.jsonl`, from its lines.

    Raises:
      WorkdirError: One of them is damaged; a line that has its number.
    """
    with reading(path, _RESTORE):
        places = (f"{path}, line {number}," for number in range(1, len(lines) + 1))
        pairs = zip(lines, places, strict=True)
        return [_files.of_line(line, ROW, place) for line, place in pairs]


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
        raise WorkdirError(f"{path} cannot be read: {error.strerror or error}.") from error


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


def plain(content: Any) -> Any:
    """Returns what JSON has of a content; NumPy's numbers become numbers."""
    return json.loads(json.dumps(content, default=lambda number: number.item()))
