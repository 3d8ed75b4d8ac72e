"""Computes with numbers in at least float32, whatever JAX's promotion."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

_Function = TypeVar("_Function", bound=Callable[..., Any])


def standard_promotion(function: _Function) -> _Function:
    """Makes `function` promote dtypes as JAX does by default.

    A project may set `jax_numpy_dtype_promotion=strict` to find the promotions in its own code.
    Ours mixes counts and float32 on purpose, and every result has the dtype of its docstring.
    """

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def as_array(value: Any, dtype: Any = None, *, name: str = "array") -> jax.Array:
    """Returns `value` as a JAX array; a NumPy array may have another machine's order of bytes.

    Raises TypeError, in one line, if JAX has no such arrays.
    """
    value = native(value)
    try:
        return jnp.asarray(value, dtype)
    except TypeError:  # JAX's message has a line for each row
        given = np.asarray(value)
    raise TypeError(
        f"`{name}` must have a dtype of JAX, such as float32, got {given.dtype} of shape "
        f"{given.shape}."
    )


def native(value: Any) -> Any:
    """Returns a NumPy array in this machine's order of bytes; anything else as it is."""
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.isnative:
        return value.astype(value.dtype.newbyteorder("="))
    return value


@standard_promotion
def widened(value: Any, name: str = "array") -> jax.Array:
    """Returns `value` as an array of at least float32: bfloat16 and float16 lose too many bits."""
    array = as_array(value, name=name)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


@standard_promotion
def as_count(count: Any) -> jax.Array:
    """Returns `count` as an array of at least 32 bits, so that small types lose nothing."""
    array = as_array(count, name="count")
    is_whole = jnp.issubdtype(array.dtype, jnp.integer)
    return array.astype(jnp.promote_types(array.dtype, jnp.int32)) if is_whole else widened(array)
