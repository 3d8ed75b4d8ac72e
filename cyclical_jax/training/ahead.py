"""The programs of a run, made ahead of it from shapes, for devices that may be elsewhere.

The devices may be those of this machine or of a topology (`jax.experimental.topologies`) that no
machine here has. `lowered(...).compile()` is the program that such a machine would run.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax.data.dataset import Dataset, num_examples
from cyclical_jax.training import accumulating, members, ways
from cyclical_jax.training.assembly import assemble_state
from cyclical_jax.training.earlier import Earlier
from cyclical_jax.training.feeding import take_examples
from cyclical_jax.training.resident import as_rows, shapes_on
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
    chunk: int | None = None,
    earlier: Earlier = NOTHING_EARLIER,
) -> jax.stages.Lowered:
    """Returns the program of `way` on `devices`, not yet compiled, for the shapes of `arguments`.

    It is the program of a run or, with a chunk, of a `Population` with that many members on each
    device.
    """
    timetable = recipe.timetable(num_examples(dataset.train)).lengths
    static = way, recipe.structure, timetable, spec_of(dataset)
    if chunk is None:
        program = ways.compiled(*static, devices=devices)
    else:
        program = members.compiled(*static, chunk, devices=devices).advance(1)
    options: dict[str, Any] = {"num_devices": len(devices), "chunk": chunk, "earlier": earlier}
    state, inputs = arguments(recipe, dataset, way, **options)
    inputs = inputs._replace(split=shapes_on(devices, inputs.split))
    return program.lower(state, inputs)  # type: ignore[attr-defined]


def arguments(
    recipe: Recipe,
    dataset: Dataset,
    way: str,
    *,
    num_devices: int,
    chunk: int | None = None,
    earlier: Earlier = NOTHING_EARLIER,
) -> tuple[TrainState, ways.Inputs]:
    """Returns the shapes of the arguments of the program of a run or of a population.

    Args:
      recipe: The run.
      dataset: Its data, or `jax.ShapeDtypeStruct` in place of each array.
      way: "resident", "stepwise" or, of a run, "streamed".
      num_devices: Devices that share a batch, or that train members of their own.
      chunk: Members that a device trains at once, as in `Population`; None is a run.
      earlier: As in `loop.train`; its arrays may be shapes too.

    Returns:
      State and inputs, of one micro step a batch, every leaf a `jax.ShapeDtypeStruct`.
    """
    if chunk is None:
        return _of_a_run(recipe, dataset, way, num_devices, earlier)
    if way == "streamed":
        raise ValueError("A population runs 'resident' or 'stepwise', not 'streamed'.")
    state, inputs = _of_a_run(recipe, dataset, way, 1, earlier)
    of_members = functools.partial(_with_axes, (num_devices, chunk))
    batches = of_members(jax.tree.map(_without_axis, inputs.batches))
    totals, numbers = of_members((inputs.totals, inputs.numbers))
    own = inputs._replace(totals=totals, numbers=numbers, batches=batches)
    return of_members(state), own


def _of_a_run(
    recipe: Recipe, dataset: Dataset, way: str, num_devices: int, earlier: Earlier
) -> tuple[TrainState, ways.Inputs]:
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
    resting = jax.eval_shape(as_rows, split)
    row = _row(select_of(structure, dataset, 0)(start=0, stop=1), num_devices)
    if way == "streamed":
        batch = jax.eval_shape(take_examples, split, row)
        return state, ways.Inputs(totals, numbers, given, None, batch)
    if way == "stepwise":
        return state, ways.Inputs(totals, numbers, given, resting, row)
    capacity = ways.capacity_of(timetable)
    batches = {
        name: jax.ShapeDtypeStruct((num_devices, capacity, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in row.items()
    }
    count = jax.ShapeDtypeStruct((), np.int32)
    return state, ways.Inputs(totals, numbers, given, resting, batches, count)


def _row(selection: dict[str, np.ndarray], num_devices: int) -> dict[str, Any]:
    """Returns the shapes of one batch, [devices, batch of a device]."""
    return {
        name: jax.ShapeDtypeStruct((num_devices, array.shape[-1] // num_devices), array.dtype)
        for name, array in selection.items()
    }


def _with_axes(axes: tuple[int, ...], tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.update(shape=(*axes, *leaf.shape)), tree)


def _without_axis(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return leaf.update(shape=leaf.shape[1:])


def _mapped(axes: Any, tree: Any, num_devices: int) -> Any:
    """Returns shapes with the axis of devices that a prefix tree of axes says."""

    def with_axis(axis, tree):
        return _with_axes(() if axis is None else (num_devices,), tree)

    return jax.tree.map(with_axis, axes, tree, is_leaf=lambda axis: axis is None)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
