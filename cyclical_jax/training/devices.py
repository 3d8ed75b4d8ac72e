"""The devices and the processes that train together, and the one place that says `pmap`."""

import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cyclical_jax.data.batches import Selection, part_of

AXIS = "batch"  # the mapped axis: what BatchNorm, pmean and axis_index refer to


def place(tree: Any) -> Any:
    """Copies every leaf of `tree` to all devices, once, before the first mapped call.

    A state that is not placed costs a second compilation: the first call returns it replicated,
    and the second call meets another type. The copies are real: two leaves that were one array
    would crash the process when donated.
    """
    everywhere = on_each(jax.devices())

    def place_leaf(leaf):
        own = leaf.copy() if isinstance(leaf, jax.Array) else leaf
        if jax.process_count() == 1:
            return jax.device_put(own, everywhere)
        # device_put reaches this process's devices alone; the others have, or get, their own.
        copies = [jax.device_put(own, device) for device in jax.local_devices()]
        return jax.make_array_from_single_device_arrays(np.shape(own), everywhere, copies)

    return jax.tree.map(place_leaf, tree)


def on_each(devices: Sequence[jax.Device]) -> NamedSharding:
    """Returns the sharding of an array that each of the devices has whole."""
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())


def on_all_devices(
    function: Callable[..., Any],
    *,
    in_axes: Any,
    out_axes: Any = None,
    donate: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., Any]:
    """Returns `function` mapped over the local devices by `jax.pmap`, with the axis named `AXIS`.

    Args:
      function: A pure function of arrays.
      in_axes: For each argument, or as a tree that is a prefix of it: 0 for an axis with one entry
        a device, None for what is the same on all.
      out_axes: The same for the result; None needs a result that is equal on all devices.
      donate: Whether the first argument's memory is given up to the result.
      devices: Devices of a topology that need not be here, for `lower`; None is those of all
        processes.

    Returns:
      The mapped function. It raises ValueError where a mapped axis is not as long as there are
      local devices; pmap itself would use fewer devices without a word.
    """
    donated = (0,) if donate else ()
    options = {"in_axes": in_axes, "out_axes": out_axes, "donate_argnums": donated}
    mapped = jax.pmap(function, AXIS, devices=devices, **options)

    @functools.wraps(function)
    def call(*args):
        jax.tree.map(_check_axis, in_axes, args, is_leaf=lambda axis: axis is None)
        return mapped(*args)

    call.lower = mapped.lower  # type: ignore[attr-defined]
    return call


class Throttle:
    """Lets few calls be unfinished at once: a new one waits for earlier ones."""

    def __init__(self):
        # On a CPU whose cores serve as several devices, calls in flight deadlock each other.
        is_fragile = jax.default_backend() == "cpu" and jax.local_device_count() > 1
        self._most = 0 if is_fragile else 2
        self._unfinished: deque[Any] = deque()

    def __call__(self, result: Any) -> None:
        """Waits if needed. `result` is what the call returned; none of it may be donated."""
        self._unfinished.append(result)
        if len(self._unfinished) > self._most:
            jax.block_until_ready(self._unfinished.popleft())


def own_part(selection: Selection) -> Selection:
    """Returns this process's part of every batch of a selection that is equal on all."""
    return part_of(selection, jax.process_index(), jax.process_count())


def scatter(tree: Any, *, axis: int = 0) -> Any:
    """Splits `axis` of every leaf into one slice for each local device, and sends it there.

    [..., n, ...] becomes [devices, ..., n / devices, ...]. Do not change the arrays of `tree` in
    place afterwards: a CPU's device keeps the host's memory where it is aligned to 64 bytes.
    """
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(
        jax.tree.map(lambda leaf: split_over_devices(leaf, axis), tree),
        NamedSharding(mesh, PartitionSpec(AXIS)),
    )


def split_over_devices(array: np.ndarray, axis: int) -> np.ndarray:
    """Returns [devices, ..., n / devices, ...] of [..., n, ...]: a slice for each device.

    The result is a view: `jax.device_put` then copies each slice once, to its device.
    """
    count, shape = jax.local_device_count(), array.shape
    if shape[axis] % count:
        raise ValueError(f"{count} devices cannot share {shape[axis]} entries evenly.")
    slices = array.reshape(*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :])
    return np.moveaxis(slices, axis, 0)


def gathered(tree: Any, axis_name: str | None) -> Any:
    """Returns leaves [batch, ...] of this device as those of all devices, one after the other."""
    return jax.lax.all_gather(tree, axis_name, tiled=True) if axis_name else tree


def own_slice(values: jax.Array, axis_name: str | None, size: int) -> jax.Array:
    """Returns this device's part of `values`, which `gathered` brought together."""
    if axis_name is None:
        return values
    start = jax.lax.axis_index(axis_name) * size
    return jax.lax.dynamic_slice_in_dim(values, start, size)


def is_first_process() -> bool:
    """Returns whether this process is the first, which writes what only one may write."""
    return jax.process_index() == 0


def largest_of_all(values: Sequence[float]) -> tuple[float, ...]:
    """Returns the largest of each value over all processes, which all have to call this."""
    if jax.process_count() == 1:
        return tuple(values)
    gathered = multihost_utils.process_allgather(np.array(values, np.float64))
    return tuple(gathered.max(0).tolist())


def text_of_first(text: str) -> str:
    """Returns the `text` of the first process; all processes have to call this."""
    if jax.process_count() == 1:
        return text
    encoded = np.frombuffer(text.encode(), np.uint8)
    longest = int(largest_of_all([len(encoded)])[0])
    padded = np.pad(encoded, (0, longest - len(encoded)), constant_values=ord(" "))
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8)).decode()


def check_equal(tree: Any, name: str) -> None:
    """Raises AssertionError, a line, unless all processes have the same values."""
    if jax.process_count() == 1:
        return
    try:
        multihost_utils.assert_equal(tree)
    except AssertionError:  # with all values of both
        raise AssertionError(f"{name} differ between the processes.") from None


def wait_for_all(place: str) -> None:
    """Returns when all processes have called this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def _check_axis(axis, tree):
    if axis is None:
        return
    lengths = {np.shape(leaf)[axis] for leaf in jax.tree.leaves(tree)}
    if lengths - {jax.local_device_count()}:
        raise ValueError(
            f"A mapped axis has {sorted(lengths)} entries for {jax.local_device_count()} devices."
        )
