"""The arguments of a program made ahead: a run's first state, and random data for the rest."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cyclical_jax.data.dataset import Dataset, num_examples
from cyclical_jax.training.devices import AXIS
from cyclical_jax.training.earlier import Earlier
from cyclical_jax.training.resident import rest
from cyclical_jax.training.run import first_state, nothing_yet
from cyclical_jax.training.structure import Recipe
from cyclical_jax.training.technique import spec_of
from cyclical_jax.training.ways import Inputs

Devices = tuple[jax.Device, ...]


def arguments(
    recipe: Recipe,
    dataset: Dataset,
    earlier: Earlier,
    shapes: tuple[Any, Inputs],
    devices: Devices,
    *,
    steps: int,
) -> tuple[Any, Inputs]:
    """Returns the state and inputs of a call on `devices`.

    Args:
      recipe, dataset, earlier: As in `ahead.arguments`; arrays of the dataset may be shapes.
      shapes: What `ahead.arguments` returns.
      devices: Devices of this process.
      steps: Micro steps of the call, where a call takes several.
    """
    state, totals, numbers = _start(recipe, dataset, earlier)
    like_state, like = shapes
    limits = {"index": num_examples(dataset.train), "label": dataset.num_classes}
    is_population = _ndim(like_state) > _ndim(state)

    def of_members(tree, shapes):
        repeated = jax.tree.map(lambda leaf, own: jnp.broadcast_to(leaf, own.shape), tree, shapes)
        return put(repeated, devices, mapped=is_population)

    return of_members(state, like_state), Inputs(
        totals=of_members(totals, like.totals),
        numbers=of_members(numbers, like.numbers),
        given=put(dict(earlier.given), devices, mapped=False),
        split=None if like.split is None else rest(random_like(dataset.train, limits)),
        batches=put(random_like(like.batches, limits), devices, mapped=True),
        count=None if like.count is None else np.int32(steps),
    )


def random_like(tree: Any, limits: Mapping[str, int]) -> Any:
    """Returns arrays of random values for shapes.

    Args:
      tree: Shapes, or arrays, under names.
      limits: Numbers below which the integers of an entry stay, by the end of its name.
    """
    rng = np.random.default_rng(0)

    def make(path, leaf):
        if not np.issubdtype(leaf.dtype, np.integer):
            return rng.uniform(size=leaf.shape).astype(leaf.dtype)
        name = str(getattr(path[-1], "key", ""))
        limit = next((limits[end] for end in limits if name.endswith(end)), 256)
        return rng.integers(0, limit, leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(make, tree)


def put(tree: Any, devices: Devices, *, mapped: bool) -> Any:
    """Places each leaf on the devices: the first axis split among them, or the same on all."""
    mesh = Mesh(np.array(devices), (AXIS,))
    copied = jax.tree.map(jnp.copy, tree)  # two leaves that are one array cannot both be donated
    spec = PartitionSpec(AXIS) if mapped else PartitionSpec()
    return jax.device_put(copied, NamedSharding(mesh, spec))


def _start(recipe: Recipe, dataset: Dataset, earlier: Earlier) -> tuple[Any, Any, Any]:
    """Returns the state, totals and numbers of a run before its first update."""
    timetable = recipe.timetable(num_examples(dataset.train))
    state = first_state(recipe, timetable, spec_of(dataset), earlier)
    numbers = jax.tree.map(jnp.float32, recipe.numbers)
    return state, nothing_yet(recipe.structure, state), numbers


def _ndim(tree: Any) -> int:
    return jax.tree.leaves(tree)[0].ndim
