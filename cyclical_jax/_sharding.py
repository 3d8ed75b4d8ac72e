"""Arrays spread over the explicit axes of a mesh, which `jax.make_mesh` makes by default.

JAX tracks how such an array is spread as a part of its type, and refuses an operation that would
need communication unless the code says how its result is spread. All other arrays pass as they are.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def replicated(array: jax.Array) -> jax.Array:
    """Returns `array` whole on every device of its mesh."""
    return jax.sharding.reshard(array, _whole(array)) if is_spread(array) else array


def spread_like(array: jax.Array, model: jax.Array) -> jax.Array:
    """Returns `array` spread over devices as `model`, an array of the same shape, is."""
    return jax.sharding.reshard(array, jax.typeof(model).sharding) if is_spread(model) else array


def of_examples(array: jax.Array, model: jax.Array) -> jax.Array:
    """Returns `array`, [examples, ...], spread over devices as the first axis of `model` is."""
    if not is_spread(model):
        return array
    sharding = jax.typeof(model).sharding
    spec = PartitionSpec(sharding.spec[0], *[None] * (array.ndim - 1))
    return jax.sharding.reshard(array, NamedSharding(sharding.mesh, spec))


def taken(values: jax.Array, index: jax.Array) -> jax.Array:
    """Returns `values[index]`, whole on every device; an index out of range takes the nearest."""
    options: dict[str, Any] = {"out_sharding": _whole(values)} if is_spread(values) else {}
    return values.at[index].get(mode="clip", **options)


def put(values: jax.Array, index: jax.Array, new: jax.Array) -> jax.Array:
    """Returns `values` with `new` at `index`, spread as before; drops what is out of range."""
    options: dict[str, Any] = {}
    if is_spread(values):
        options = {"out_sharding": jax.typeof(values).sharding}
    return values.at[index].set(new, mode="drop", **options)


def is_spread(array: jax.Array) -> bool:
    """Returns whether an axis of `array` is on an explicit axis of a mesh."""
    if not hasattr(jax, "typeof"):  # a JAX without explicit axes
        return False
    return any(part is not None for part in jax.typeof(array).sharding.spec)


def _whole(array: jax.Array) -> NamedSharding:
    return NamedSharding(jax.typeof(array).sharding.mesh, PartitionSpec())
