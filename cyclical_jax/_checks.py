"""Checks of plain numbers. An error is one line: the argument, what it must be, and its value.

Only the shape of a JAX array is checked: the array may be traced, and reading the values of a
concrete one would wait for its device.
"""

import difflib
import operator
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

_FLOAT32_TINY, _FLOAT32_MAX = map(float, (np.finfo("f4").tiny, np.finfo("f4").max))
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/")  # a single slash is what `Path` leaves of two


def number(name: str, value: Any, **limits: Any) -> None:
    """Raises ValueError unless `value` is a scalar that `numbers` takes."""
    scalar(name, value)
    numbers(name, value, **limits)


def numbers(
    name: str,
    value: Any,
    *,
    minimum: float = -np.inf,
    maximum: float = np.inf,
    above: float = -np.inf,
    below: float = np.inf,
    finite: bool = True,
    relative: bool = False,
) -> None:
    """Checks one or more numbers, and that float32 can hold them without overflow or underflow.

    Args:
      name: The argument.
      value: A number or an array.
      minimum, maximum: Limits, both included.
      above, below: Limits, both excluded.
      finite: Whether infinities are refused.
      relative: Whether only ratios of the numbers matter, as of weights: beside a larger one, a
        number may then be too small for float32.

    Raises:
      ValueError: A number is not as above.
    """
    if isinstance(value, jax.Array):
        return
    values = _real(name, value)
    in_range = (values >= minimum) & (values <= maximum) & (values > above)
    in_range &= (values < below) | np.isinf(below)
    infinite = finite and not np.isfinite(values).all()
    if infinite or not in_range.all():
        limits = limits_in_words(minimum=minimum, maximum=maximum, above=above, below=below)
        wanted = " and ".join([*limits, "finite"] if infinite else limits)
        raise ValueError(f"`{name}` must be {wanted}, got {in_one_line(value)}.")
    if not _fits_float32(values, relative):
        zero = "0 or " if minimum <= 0 <= maximum and above < 0 < below else ""
        raise ValueError(
            f"`{name}` must be {zero}from {_FLOAT32_TINY:.2g} to {_FLOAT32_MAX:.2g} in size, which "
            f"float32 can hold, got {in_one_line(value)}."
        )


def whole_number(name: str, value: Any, *, minimum: int, maximum: int) -> None:
    """Raises ValueError unless `value` is a scalar, a whole number in [`minimum`, `maximum`]."""
    scalar(name, value)
    if isinstance(value, jax.Array):
        return
    values = _real(name, value)
    if not ((values >= minimum) & (values <= maximum) & (values == np.floor(values))).all():
        raise ValueError(
            f"`{name}` must be a whole number from {minimum} to {maximum}, got {value}."
        )


def integer(name: str, value: Any, *, minimum: int, maximum: int) -> int:
    """Returns a number that `as_int` takes; raises ValueError if there is none in the range."""
    found = as_int(value)
    if found is None or not minimum <= found <= maximum:
        raise ValueError(f"`{name}` must be an integer from {minimum} to {maximum}, got {value!r}.")
    return found


def as_int(value: Any) -> int | None:
    """Returns a number of any integer type as an int; None for all else, True and False too."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def one_of(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raises ValueError, which suggests the nearest word, unless `value` is one of `allowed`."""
    words = tuple(allowed)
    if not isinstance(value, str) or value not in words:
        nearest = difflib.get_close_matches(str(value), words, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        listed = ", ".join(map(repr, words))
        raise ValueError(f"`{name}` must be one of {listed}, got {value!r}.{hint}")


def scalar(name: str, value: Any) -> None:
    """Raises ValueError if `value` has axes: it would be broadcast against other arrays."""
    if np.ndim(value):
        raise ValueError(f"`{name}` must be a scalar, got shape {np.shape(value)}; use `jax.vmap`.")


def same_shape(name: str, value: Any, wanted: tuple[int, ...]) -> None:
    """Raises ValueError unless `value` has the shape: it would be broadcast against others."""
    if np.shape(value) != wanted:
        raise ValueError(f"`{name}` must have shape {wanted}, got {np.shape(value)}.")


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
    """Returns the limits of `numbers` that are finite, in words such as "at least 0"."""
    limits = {"at least": minimum, "at most": maximum, "above": above, "below": below}
    return [f"{word} {limit:g}" for word, limit in limits.items() if np.isfinite(limit)]


def short(text: str, most: int = 60) -> str:
    """Returns a text of at most that many characters for an error: its beginning if it is long."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def in_one_line(value: Any) -> str:
    """Returns the rows of an array after one another."""
    return " ".join(str(value).split())


def is_plain(*values: Any) -> bool:
    """Returns whether all `values` are single Python or NumPy numbers, known before tracing."""
    return all(not isinstance(value, jax.Array) and np.ndim(value) == 0 for value in values)


def _fits_float32(values: np.ndarray, relative: bool) -> bool:
    """Returns whether none, or if `relative` the largest, becomes infinite or loses digits."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    if relative and sizes.size:
        sizes = sizes.max()
    with np.errstate(over="ignore"):
        sizes = sizes.astype(np.float32)  # which rounds 3.4028235e38 to its largest number
    return bool(((sizes >= _FLOAT32_TINY) & (sizes <= _FLOAT32_MAX)).all())


def _real(name: str, value: Any) -> np.ndarray:
    """Returns `value` as an array of floats; raises ValueError unless it holds real numbers."""
    array = np.asarray(value)
    if not any(jax.dtypes.issubdtype(array.dtype, kind) for kind in (np.integer, np.floating)):
        raise ValueError(f"`{name}` must be a number, got {in_one_line(repr(value))}.")
    with np.errstate(over="ignore"):  # of a long double
        return array.astype(np.float64)
