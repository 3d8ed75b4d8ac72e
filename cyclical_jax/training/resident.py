"""The form in which a split stays on devices: an example is a row, and its bytes lie side by side.

A program that takes a batch then copies only the rows of the batch. By default a TPU stores images
[n, h, w, c] with the same pixel of all examples side by side, and pads c to 128. A program would
then copy all images into another order at each call, or read all of them for each batch. On a CPU
or a GPU images are rows already: nothing is moved, and no bytes are added.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental.layout import Format, Layout

from cyclical_jax.data.dataset import Arrays
from cyclical_jax.training.devices import on_each, place

# A TPU keeps a matrix in tiles of (rows, elements of a row), and a vector in lines; it fills the
# last ones up. https://openxla.org/xla/tiled_layout, and `memory_analysis` of compiled programs.
_TILE, _LINE = (8, 128), 1024


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rows"], meta_fields=["shape"])
@dataclasses.dataclass(frozen=True)
class Resident:
    """An entry of a split, [n, *shape]: `entry[index]` is [*index.shape, *shape] as of an array."""

    rows: Any  # [n, elements of an example], or [n]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: jax.Array) -> jax.Array:
        return self.rows[index].reshape(*index.shape, *self.shape)


def rest(split: Arrays) -> dict[str, Resident]:
    """Returns a split on all devices, in the form in which it stays there."""
    return jax.tree.map(_by_rows, place(as_rows(split)))


def as_rows(split: Arrays) -> dict[str, Resident]:
    """Returns the same for arrays that stay where they are."""
    return {name: _as_rows(array) for name, array in split.items()}


def shapes_on(devices: Sequence[jax.Device], shapes: Any) -> Any:
    """Returns the shapes of `as_rows` with the layout that `rest` would give them on `devices`."""
    sharding = on_each(devices)
    return jax.tree.map(lambda x: x.update(sharding=Format(_layout(x), sharding)), shapes)


def num_bytes(split: Arrays, platform: str) -> int:
    """Returns the memory in bytes that a split takes on each device.

    Args:
      split: The arrays, or their shapes.
      platform: As `jax.default_backend` names it. "tpu" fills up tiles, so that rows of 784 bytes
        take 896; others take the bytes of the arrays.
    """
    shapes = jax.tree.leaves(jax.eval_shape(as_rows, split))
    return sum(math.prod(_tiled(x.shape, platform)) * x.dtype.itemsize for x in shapes)


def _as_rows(array) -> Resident:
    n, *shape = array.shape
    return Resident(array.reshape(n, math.prod(shape)) if shape else array, tuple(shape))


def _by_rows(array):
    """Returns the array row by row, if the device itself would choose another layout."""
    layout = _layout(array)
    if array.format.layout.major_to_minor == layout.major_to_minor:
        return array  # `device_put` would copy it all the same
    return jax.device_put(array, Format(layout, array.sharding))


def _layout(array) -> Layout:
    return Layout(tuple(range(array.ndim)))


def _tiled(shape: tuple[int, ...], platform: str) -> tuple[int, ...]:
    if platform != "tpu":
        return shape
    tile = _TILE if len(shape) == len(_TILE) else (_LINE,)
    return tuple(
        -(-length // of_tile) * of_tile for length, of_tile in zip(shape, tile, strict=True)
    )
