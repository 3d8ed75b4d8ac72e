"""Trained parameters as integers of few bits, by Qwix (https://github.com/google/qwix).

Train with `precision.fake_quantize(..., symmetric=True)`, in the trainer
`precision.quantizer="symmetric"`: with the same axes of ranges, its float32 weights are those of
Qwix, bit for bit. (If a kernel has one output, its largest weight may get the level beside; see
`precision`.) This module needs `pip install ".[qwix]"` in the clone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp

from cyclical_jax import _checks
from cyclical_jax._extras import to_install

_KERNEL = "kernel"
_Path = tuple[str, ...]
_Axes = tuple[int, ...]


def export(
    params: Any,
    bits: SupportsIndex,
    *,
    keep: Sequence[str] = (),
    layers: Mapping[str, Sequence[int]] | None = None,
) -> Any:
    """Returns the parameters with integers of few bits in place of each kernel.

    A kernel is an array of two or more axes under the name "kernel", as the layers of Flax have it.
    With w the weights of an output and s its scale,

        q = clip(round(w / s), -2^(bits-1), 2^(bits-1) - 1),   s = max|w| / (2^(bits-1) - 1/2)

    For a run of the trainer, `layers=run.few_bit_layers()` gives the layers and outputs of the
    training. Without `layers`, all kernels are quantized, the last layer's too, and each is taken
    for that of `nn.Dense`, `nn.Conv` or `nn.DenseGeneral`: its outputs are the indices of the last
    axis, or of as many last axes as the bias has. `nn.ConvTranspose(transpose_kernel=True)` and
    `nn.Einsum` may have another order: give `layers` for them.

    Args:
      params: Nested dictionaries of arrays, such as `LoadedRun.params`.
      bits: 2 to 8.
      keep: Layers that stay as they are: names such as "Dense_1", or paths such as "head/Dense_0".
        A name stands for all that is below it.
      layers: {path of a layer: axes of its kernel over which max|w| is taken}, such as
        {"Conv_0": (0, 1, 2)}; all other layers stay as they are.

    Returns:
      The same tree, with a `qwix.QArray` for each kernel. All other arrays are the same.

    Raises:
      ValueError: `bits` is no such number; a layer of `keep` or `layers` is not there, or its
        kernel has no such axes; no kernel is left. Without `layers`: the outputs of a kernel cannot
        be known, since the bias does not fit the last axes, or a kernel of three axes has none,
        which a convolution and the heads of attention may have.
      ImportError: Qwix is not installed.
    """
    number = _checks.integer("bits", bits, minimum=2, maximum=8)
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    leaves = {tuple(map(_name, path)): leaf for path, leaf in paths}
    channels = _channels_of_kernels(leaves, keep, layers)
    qwix = _qwix()
    leaves |= {
        path: qwix.quantize(jnp.asarray(leaves[path]), _qtype(number), channelwise_axes=axes)
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


def rules(
    bits: SupportsIndex,
    *,
    activation_bits: SupportsIndex | None = None,
    keep: Sequence[str] = (),
    layers: Iterable[str] | None = None,
) -> list[Any]:
    """Returns the rules by which Qwix's own providers quantize the same kernels.

    `qwix.quantize_model(module, qwix.PtqProvider(rules(4)))` is a Flax module that multiplies
    integers; `qwix.quantize_params` fills it. Qwix knows the outputs of each kernel from the
    product itself. It computes the range of activations anew for each example, symmetric about 0.

    Args:
      bits: Of the kernels, 2 to 8.
      activation_bits: Of the inputs of layers, 2 to 8; None leaves them floats. Qwix's convolutions
        need as many as `bits`.
      keep: As in `export`; in a path, names are those of Flax modules.
      layers: Paths of the layers to quantize, such as `LoadedRun.few_bit_layers()`; None: all.

    Returns:
      A list of `qwix.QuantizationRule`, the first of which fits.

    Raises:
      ValueError: A number of bits is none from 2 to 8.
      ImportError: Qwix is not installed.
    """
    number = _checks.integer("bits", bits, minimum=2, maximum=8)
    types = {"weight_qtype": _qtype(number)}
    if activation_bits is not None:
        inputs = _checks.integer("activation_bits", activation_bits, minimum=2, maximum=8)
        types["act_qtype"] = _qtype(inputs)
    qwix = _qwix()
    whole = [qwix.QuantizationRule(module_path=rf"(.*/)?{re.escape(name)}(/.*)?") for name in keep]
    paths = [".*"] if layers is None else map(re.escape, layers)
    return [*whole, *(qwix.QuantizationRule(module_path=path, **types) for path in paths)]


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
    leaves: Mapping[_Path, Any],
    keep: Sequence[str],
    layers: Mapping[str, Sequence[int]] | None,
) -> dict[_Path, _Axes]:
    """Returns {path of a kernel that is quantized: its axes of outputs}."""
    found = [path for path, leaf in leaves.items() if path[-1] == _KERNEL and jnp.ndim(leaf) > 1]
    kernels = {path: "/".join(path[:-1]) for path in found}
    there = ", ".join(kernels.values())
    for name in keep:
        if not any(_is_within(path[:-1], name) for path in kernels):
            raise ValueError(f"keep has {name!r}, but the layers are {there}.")
    for name in layers or ():
        if name not in kernels.values():
            raise ValueError(f"layers has {name!r}, but the layers are {there}.")
    chosen = {
        path: layer
        for path, layer in kernels.items()
        if not any(_is_within(path[:-1], name) for name in keep)
        and (layers is None or layer in layers)
    }
    if not chosen:
        raise ValueError("no kernel is left to quantize.")
    if layers is None:
        return _known(leaves, chosen)
    return {path: _others(leaves[path], layer, layers[layer]) for path, layer in chosen.items()}


def _is_within(layer: _Path, name: str) -> bool:
    """Returns whether a layer is of that name or path, or lies below it."""
    parts = tuple(name.split("/"))
    return any(layer[start:][: len(parts)] == parts for start in range(len(layer)))


def _others(kernel: Any, layer: str, axes: Sequence[int]) -> _Axes:
    """Returns the axes of a kernel that are not those over which a range is taken."""
    number = jnp.ndim(kernel)
    if not all(0 <= axis < number for axis in axes):
        shape = list(jnp.shape(kernel))
        raise ValueError(f"layers has the axes {tuple(axes)} for {layer}, whose kernel is {shape}.")
    return tuple(axis for axis in range(number) if axis not in axes)


def _known(leaves: Mapping[_Path, Any], kernels: Mapping[_Path, str]) -> dict[_Path, _Axes]:
    """Returns the axes of outputs as `export` takes them without `layers`."""
    channels = {path: _channels(leaves, path) for path in kernels}
    unknown = [kernels[path] for path, axes in channels.items() if axes is None]
    if unknown:
        raise ValueError(
            f"the outputs of the kernel of {', '.join(unknown)} cannot be known from its shape: "
            "give `layers`, such as run.few_bit_layers(), or add it to keep."
        )
    return {path: axes for path, axes in channels.items() if axes is not None}


def _channels(leaves: Mapping[_Path, Any], path: _Path) -> _Axes | None:
    """Returns the axes of outputs, as many as the bias has; None if they cannot be known."""
    shape = jnp.shape(leaves[path])
    bias = jnp.shape(leaves.get((*path[:-1], "bias"), 0))
    is_known = shape[len(shape) - len(bias) :] == bias if bias else len(shape) != 3
    return tuple(range(len(shape) - max(1, len(bias)), len(shape))) if is_known else None
