"""Computes with numbers in at least float32, whatever JAX's promotion."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

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


@standard_promotion
def widened(value: Any) -> jax.Array:
    """Returns `value` as an array of at least float32: bfloat16 and float16 lose too many bits."""
    array = jnp.asarray(value)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


@standard_promotion
def as_count(count: Any) -> jax.Array:
    """Returns `count` as an array of at least 32 bits, so that small types lose nothing."""
    array = jnp.asarray(count)
    is_whole = jnp.issubdtype(array.dtype, jnp.integer)
    return array.astype(jnp.promote_types(array.dtype, jnp.int32)) if is_whole else widened(array)
