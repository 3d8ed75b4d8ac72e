"""The arrays of a checkpoint on the disk, whose sizes are checked before any is read.

TensorStore allocates what the metadata of an array says, and ends the process where that fails.
"""

import errno
import math
import os
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from cyclical_jax.training.snapshots import Arrays, kinds_of, misfit

_MOST_COMPRESSED = 100  # bytes of arrays to bytes on the disk; noise alone is a third of a state
_DATA = "d"  # the folders of arrays; all other files are metadata, which are read whole
_LARGEST = 2**26  # bytes of such a file
_SLACK = 2**20  # bytes that even a small checkpoint may have

_MACHINE = ("EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "EACCES", "EPERM")
_OF_THE_MACHINE = {getattr(errno, name) for name in _MACHINE}


def read_arrays(state: Path, kinds: Mapping[str, str] | None) -> Arrays:
    """Returns the arrays that Orbax has written to a folder.

    Args:
      state: The folder.
      kinds: Their types and shapes, as `kinds_of` returns them; None is unknown.

    Raises:
      ValueError: They differ from `kinds`, or Orbax has not written them so; a line.
    """
    _check_files(state)
    handler = ocp.StandardCheckpointHandler()
    try:
        _check_sizes(state, _metadata_of(handler, state), kinds)
        return handler.restore(state, args=ocp.args.StandardRestore())
    finally:
        handler.close()


def _check_files(state: Path) -> None:
    """Raises ValueError for a path that is not a file, such as a pipe, and for a huge file."""
    for path in state.rglob("*"):
        name = path.relative_to(state.parent)
        if not (path.is_file() or path.is_dir()):  # a pipe would be waited for
            raise ValueError(f"{name} is not a file")
        if path.parent.name != _DATA and (size := path.stat().st_size) > _LARGEST:
            raise ValueError(f"{name} has {size / 1e6:,.0f} MB, which is too much")


def _metadata_of(handler: Any, state: Path) -> dict[str, Any]:
    """Returns {name: shape, dtype, storage}, for which nothing large is allocated."""
    try:
        return dict(handler.metadata(state).tree)
    except Exception as error:
        _drop_coroutines(error)
        if isinstance(error, ValueError | OSError):
            raise
        reason = f"{type(error).__name__} {error}"
        raise ValueError(f"its metadata cannot be read: {reason}") from error


def _drop_coroutines(error: Exception) -> None:
    """Frees the coroutines that Orbax did not await; Python would print a warning for each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        traceback.clear_frames(error.__traceback__)


def _check_sizes(state: Path, found: dict[str, Any], kinds: Mapping[str, str] | None) -> None:
    if kinds is not None and (problem := misfit(kinds, kinds_of(found))):
        raise ValueError(problem)
    if any(_size(one.storage.chunk_shape) > _size(one.shape) for one in found.values()):
        raise ValueError("the chunks of an array are larger than the array")
    num_bytes = sum(_size(one.shape) * np.dtype(one.dtype).itemsize for one in found.values())
    if kinds is None and num_bytes > _most_bytes(state):
        raise ValueError(f"its arrays have {num_bytes / 1e9:,.1f} GB, which cannot be right")


def _most_bytes(state: Path) -> float:
    """Returns an upper bound on the bytes of the arrays, from what is known here."""
    on_disk = sum(path.stat().st_size for path in state.rglob("*"))
    return min(_MOST_COMPRESSED * on_disk + _SLACK, _memory())


def _memory() -> float:
    """Returns the bytes of this machine's memory; infinity where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _size(shape: Any) -> int:
    return math.prod(max(side, 1) for side in shape)


def may_pass(error: Exception) -> bool:
    """Returns whether an error comes from the machine rather than from a file's content."""
    of_machine = isinstance(error, OSError) and error.errno in _OF_THE_MACHINE
    return of_machine or isinstance(error, MemoryError)
