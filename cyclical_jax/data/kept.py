"""Keeps arrays that take long to make in a file for the next time.

The file is an .npz with a seal. If the seal does not fit, because the file is damaged or comes from
an earlier version, the arrays are made anew.
"""

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from cyclical_jax import _files
from cyclical_jax.data import npz
from cyclical_jax.data.npz import Arrays

_SEAL = "kept by cyclical_jax, "


def kept(
    path: Path, names: Collection[str], make: Callable[[], Arrays], source: str = ""
) -> Arrays:
    """Returns the arrays of those names from the file, or makes them and writes the file.

    Args:
      path: The file.
      names: The names.
      make: Returns the arrays.
      source: Words for what they are made from; a file made from something else is not used.
    """
    try:
        return npz.read(path, names, comment=_comment(source))
    except ValueError:
        arrays = make()
    _write(path, arrays, source)
    return arrays


def _write(path: Path, arrays: Arrays, source: str = "") -> None:
    """Writes the arrays at once or not at all."""
    # On a read-only or full disk they are made again next time.
    with contextlib.suppress(OSError), _files.whole(path) as temporary:
        with temporary.open("xb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        npz.seal(temporary, _comment(source))


def _comment(source: str) -> bytes:
    return f"{_SEAL}{source} ".encode()
