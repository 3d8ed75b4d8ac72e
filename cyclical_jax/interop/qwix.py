"""Trained parameters as whole numbers of few bits, by Qwix (https://github.com/google/qwix).

Train with `precision.fake_quantize(..., symmetric=True)`, in the trainer
`precision.quantizer="symmetric"`: its float32 weights are those of Qwix, bit for bit. (If a kernel
has one output, its largest weight may get the level beside; see `precision`.) This module needs
`pip install ".[qwix]"` in the clone.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cyclical_jax import _checks
from cyclical_jax._extras import to_install

_KERNEL = "kernel"
_Path = tuple[str, ...]


def export(params: Any, bits: int, *, keep: Sequence[str] = ()) -> Any:
    """Returns the parameters with whole numbers of few bits in place of each kernel.

    A kernel is an array of two or more axes under the name "kernel", as the layers of Flax have it.
    With w the weights of an output channel and s its scale,

        q = clip(round(w / s), -2^(bits-1), 2^(bits-1) - 1),   s = max|w| / (2^(bits-1) - 1/2)

    An output channel is an index of the last axis. A layer with a bias of several axes, such as the
    heads of attention, has that many axes of channels.

    Args:
      params: Nested dictionaries of arrays, such as `LoadedRun.params`.
      bits: 2 to 8.
      keep: Layers that stay as they are: names such as "Dense_1", or paths such as "head/Dense_0".
        A name stands for all that is below it.

    Returns:
      The same tree, with a `qwix.QArray` for each kernel. All other arrays are the same.

    Raises:
      ValueError: `bits` is no such number, a layer of `keep` is not there, or no kernel is left.
      ImportError: Qwix is not installed.
    """
    _checks.whole_number("bits", bits, minimum=2, maximum=8)
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    leaves = {tuple(map(_name, path)): leaf for path, leaf in paths}
    channels = _channels_of_kernels(leaves, keep)
    qwix = _qwix()
    leaves |= {
        path: qwix.quantize(jnp.asarray(leaves[path]), _qtype(bits), channelwise_axes=axes)
        for path, axes in channels.items()
    }
    return jax.tree.unflatten(structure, list(leaves.values()))


def dequantize(params: Any) -> Any:
    """Returns the parameters with floats, q times s, in place of what `export` made.

    Args:
      params: As `export` returns them.

    Raises:
      ImportError: Qwix is not installed.
    """
    qwix = _qwix()
    return jax.tree.map(
        lambda leaf: qwix.dequantize(leaf) if isinstance(leaf, qwix.QArray) else leaf,
        params,
        is_leaf=lambda leaf: isinstance(leaf, qwix.QArray),
    )


def rules(bits: int, *, activation_bits: int | None = None, keep: Sequence[str] = ()) -> list[Any]:
    """Returns the rules by which Qwix's own providers quantize the same kernels.

    `qwix.quantize_model(module, qwix.PtqProvider(rules(4)))` is a Flax module that multiplies whole
    numbers; `qwix.quantize_params` fills it. Its kernels are those of `export`. Qwix computes the
    range of activations anew for each example, symmetric about 0.

    Args:
      bits: Of the kernels, 2 to 8.
      activation_bits: Of the inputs of layers, 2 to 8; None leaves them whole. Qwix's convolutions
        need as many as `bits`.
      keep: As in `export`; in a path, names are those of Flax modules.

    Returns:
      A list of `qwix.QuantizationRule`, the first of which fits.

    Raises:
      ValueError: A number of bits is none from 2 to 8.
      ImportError: Qwix is not installed.
    """
    _checks.whole_number("bits", bits, minimum=2, maximum=8)
    if activation_bits is not None:
        _checks.whole_number("activation_bits", activation_bits, minimum=2, maximum=8)
    qwix = _qwix()
    whole = [qwix.QuantizationRule(module_path=rf"(.*/)?{re.escape(name)}(/.*)?") for name in keep]
    act_qtype = None if activation_bits is None else _qtype(activation_bits)
    return [*whole, qwix.QuantizationRule(weight_qtype=_qtype(bits), act_qtype=act_qtype)]


def _qwix() -> Any:
    try:
        import qwix
    except ModuleNotFoundError as error:
        message = f"{error}. Install it: {to_install('qwix')}."
        raise ModuleNotFoundError(message, name=error.name) from error
    return qwix


def _qtype(bits: int) -> Any:
    """Returns Qwix's name of the type: a dtype where JAX has one."""
    return {4: jnp.int4, 8: jnp.int8}.get(bits, f"int{bits}")


def _name(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)


def _channels_of_kernels(
    leaves: Mapping[_Path, Any], keep: Sequence[str]
) -> dict[_Path, tuple[int, ...]]:
    """Returns {path of a kernel that is quantized: its axes of output channels}."""
    kernels = [path for path, leaf in leaves.items() if path[-1] == _KERNEL and jnp.ndim(leaf) > 1]
    layers = [path[:-1] for path in kernels]
    for name in keep:
        if not any(_is_within(layer, name) for layer in layers):
            there = ", ".join("/".join(layer) for layer in layers)
            raise ValueError(f"keep has {name!r}, but the layers are {there}.")
    kept = [path for path in kernels if any(_is_within(path[:-1], name) for name in keep)]
    if len(kept) == len(kernels):
        raise ValueError("no kernel is left to quantize.")
    return {path: _channels(leaves, path) for path in kernels if path not in kept}


def _is_within(layer: _Path, name: str) -> bool:
    """Returns whether a layer is of that name or path, or lies below it."""
    parts = tuple(name.split("/"))
    return any(layer[start:][: len(parts)] == parts for start in range(len(layer)))


def _channels(leaves: Mapping[_Path, Any], path: _Path) -> tuple[int, ...]:
    """Returns the axes of output channels: as many as the bias has, if its shape fits."""
    shape = jnp.shape(leaves[path])
    bias = jnp.shape(leaves.get((*path[:-1], "bias"), ()))
    number = len(bias) if 0 < len(bias) < len(shape) and shape[-len(bias) :] == bias else 1
    return tuple(range(len(shape) - number, len(shape)))
