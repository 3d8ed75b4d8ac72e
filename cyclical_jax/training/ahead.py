"""The programs of a run before there is a run: made from shapes, for devices that may be elsewhere.

The devices may be of this machine, or of a topology (`jax.experimental.topologies`) that no machine
here has. `lowered(...).compile()` is then the program that such a machine would run.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax.data.dataset import Dataset, num_examples
from cyclical_jax.training import accumulating, ways
from cyclical_jax.training.assembly import assemble_state
from cyclical_jax.training.earlier import Earlier
from cyclical_jax.training.feeding import take_examples
from cyclical_jax.training.run import NOTHING_EARLIER, nothing_yet, select_of
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.structure import Recipe
from cyclical_jax.training.technique import spec_of


def lowered(
    recipe: Recipe,
    dataset: Dataset,
    way: str,
    devices: tuple[jax.Device, ...],
    *,
    earlier: Earlier = NOTHING_EARLIER,
) -> jax.stages.Lowered:
    """Returns a run's program of `way` on `devices`, not yet compiled.

    The arguments are those of `arguments`.
    """
    timetable = recipe.timetable(num_examples(dataset.train)).lengths
    spec = spec_of(dataset)
    program = ways.compiled(way, recipe.structure, timetable, spec, devices=devices)
    args = arguments(recipe, dataset, way, num_devices=len(devices), earlier=earlier)
    return program.lower(*args)  # type: ignore[attr-defined]


def arguments(
    recipe: Recipe,
    dataset: Dataset,
    way: str,
    *,
    num_devices: int,
    earlier: Earlier = NOTHING_EARLIER,
) -> tuple[TrainState, ways.Inputs]:
    """Returns the shapes of what a program of `ways.compiled` is called with.

    Args:
      recipe: The run.
      dataset: Its data, or `jax.ShapeDtypeStruct` in place of each array.
      way: "resident", "stepwise" or "streamed".
      num_devices: Devices that share a batch.
      earlier: As in `loop.train`; its arrays may be shapes too.

    Returns:
      State and inputs, of one micro step a batch, every leaf a `jax.ShapeDtypeStruct`.
    """
    structure, split = recipe.structure, _shapes(dataset.train)
    timetable, spec = recipe.timetable(num_examples(split)), spec_of(dataset)
    numbers = jax.eval_shape(lambda: jax.tree.map(jnp.float32, recipe.numbers))
    static: dict[str, Any] = {"timetable": timetable.lengths, "spec": spec}
    given, start = _shapes((dict(earlier.given), earlier.start))
    make = functools.partial(assemble_state, structure, seed=0, **static)
    state = jax.eval_shape(make, numbers, given=given, start=start)
    totals = jax.eval_shape(functools.partial(nothing_yet, structure), state)
    if ways.is_spread(way, timetable, num_devices):
        state = _mapped(accumulating.AXES, state, num_devices)
    row = _row(select_of(structure, dataset, 0)(start=0, stop=1), num_devices)
    if way == "streamed":
        batch = jax.eval_shape(take_examples, split, row)
        return state, ways.Inputs(totals, numbers, given, None, batch)
    if way == "stepwise":
        return state, ways.Inputs(totals, numbers, given, split, row)
    capacity = ways.capacity_of(timetable)
    batches = {
        name: jax.ShapeDtypeStruct((num_devices, capacity, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in row.items()
    }
    count = jax.ShapeDtypeStruct((), np.int32)
    return state, ways.Inputs(totals, numbers, given, split, batches, count)


def _row(selection: dict[str, np.ndarray], num_devices: int) -> dict[str, Any]:
    """Returns the shapes of one batch, [devices, batch of a device]."""
    return {
        name: jax.ShapeDtypeStruct((num_devices, array.shape[-1] // num_devices), array.dtype)
        for name, array in selection.items()
    }


def _mapped(axes: Any, tree: Any, num_devices: int) -> Any:
    """Returns shapes with the axis of devices that a prefix tree of axes says."""

    def with_axis(axis, tree):
        devices = () if axis is None else (num_devices,)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((*devices, *leaf.shape), leaf.dtype), tree
        )

    return jax.tree.map(with_axis, axes, tree, is_leaf=lambda axis: axis is None)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
