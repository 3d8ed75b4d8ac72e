"""Writes into a workdir; what cannot be written is a line that names the path."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class WorkdirError(OSError):
    """The workdir cannot take the run."""


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
    """Yields a path beside `path`, whose file takes its place when it is complete.

    Raises:
      WorkdirError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    with writing(path):
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Writes the whole file or none; raises WorkdirError if it cannot be written."""
    with whole(path) as temporary:
        temporary.write_text(text + "\n")
