"""Keeps arrays that take long to make in a file for the next time."""

import contextlib
import uuid
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def kept(path: Path, names: Collection[str], make: Callable[[], Arrays]) -> Arrays:
    """Returns the arrays of those names from the file, or makes them and writes the file."""
    arrays = _read(path, names)
    if arrays is None:
        arrays = make()
        _write(path, arrays)
    return arrays


def _read(path: Path, names: Collection[str]) -> Arrays | None:
    """Returns the arrays that `_write` wrote, or None if they cannot be read for any reason."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _write(path: Path, arrays: Arrays) -> None:
    """Writes the arrays at once or not at all."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):  # on a read-only or full disk they are made again next time
        try:
            with temporary.open("xb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
