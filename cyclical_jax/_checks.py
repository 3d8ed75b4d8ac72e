"""Checks of plain numbers. An error is one line: the argument, what it must be, and its value.

JAX arrays pass unchecked: they may be traced, and reading a concrete one would wait for its device.
"""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/")  # a single slash is what `Path` leaves of two


def number(
    name: str,
    value: Any,
    *,
    minimum: float = -np.inf,
    maximum: float = np.inf,
    above: float = -np.inf,
    below: float = np.inf,
    finite: bool = True,
) -> None:
    """Raises ValueError unless `value` is in [`minimum`, `maximum`] and (`above`, `below`)."""
    if isinstance(value, jax.Array):
        return
    values = _real(name, value)
    in_range = (values >= minimum) & (values <= maximum) & (values > above)
    in_range &= (values < below) | np.isinf(below)
    infinite = finite and not np.isfinite(values).all()
    if infinite or not in_range.all():
        limits = limits_in_words(minimum=minimum, maximum=maximum, above=above, below=below)
        wanted = " and ".join([*limits, "finite"] if infinite else limits)
        shown = " ".join(str(value).split())  # an array's rows in one line
        raise ValueError(f"`{name}` must be {wanted}, got {shown}.")


def whole_number(name: str, value: Any, *, minimum: int, maximum: int) -> None:
    """Raises ValueError unless `value` is a whole number in [`minimum`, `maximum`]."""
    if isinstance(value, jax.Array):
        return
    values = _real(name, value)
    if not ((values >= minimum) & (values <= maximum) & (values == np.floor(values))).all():
        raise ValueError(
            f"`{name}` must be a whole number from {minimum} to {maximum}, got {value}."
        )


def one_of(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raises ValueError, which suggests the nearest word, unless `value` is one of `allowed`."""
    words = tuple(allowed)
    if not isinstance(value, str) or value not in words:
        nearest = difflib.get_close_matches(str(value), words, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        listed = ", ".join(map(repr, words))
        raise ValueError(f"`{name}` must be one of {listed}, got {value!r}.{hint}")


def scalar(name: str, value: Any) -> None:
    """Raises ValueError if `value` has axes: it would be broadcast against the counts."""
    if np.ndim(value):
        raise ValueError(f"`{name}` must be a scalar, got shape {np.shape(value)}; use `jax.vmap`.")


def local_path(name: str, value: str | os.PathLike[str]) -> Path:
    """Returns a path on this machine, with a home directory in place of a leading "~".

    Raises ValueError for the address of a bucket or a server, and where there is no such home.
    """
    text = str(value)
    if not text:
        raise ValueError(f"`{name}` must be a path, got ''.")
    if _ADDRESS.match(text):
        raise ValueError(
            f"`{name}` must be a path on this machine, got {text!r}: copy or mount what is there."
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(f"`{name}` must be a path, got {text!r}, of no known user.")
    return Path(expanded)


def limits_in_words(
    *,
    minimum: float = -np.inf,
    maximum: float = np.inf,
    above: float = -np.inf,
    below: float = np.inf,
) -> list[str]:
    """Returns the limits of `number` that are finite, in words such as "at least 0"."""
    limits = {"at least": minimum, "at most": maximum, "above": above, "below": below}
    return [f"{word} {limit:g}" for word, limit in limits.items() if np.isfinite(limit)]


def short(text: str, most: int = 60) -> str:
    """Returns a text of at most that many characters for an error: its beginning if it is long."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def is_plain(*values: Any) -> bool:
    """Returns whether all `values` are single Python or NumPy numbers, known before tracing."""
    return all(not isinstance(value, jax.Array) and np.ndim(value) == 0 for value in values)


def _real(name: str, value: Any) -> np.ndarray:
    """Returns `value` as an array of floats; raises ValueError unless it holds real numbers."""
    array = np.asarray(value)
    if not any(jax.dtypes.issubdtype(array.dtype, kind) for kind in (np.integer, np.floating)):
        raise ValueError(f"`{name}` must be a number, got {value!r}.")
    return array.astype(np.float64)
