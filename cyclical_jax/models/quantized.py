"""A model whose dense layers and convolutions compute with few bits. The maths is in precision.py.

Layers of flax.linen are found where they are called, by `flax.linen.intercept_methods`, so that no
network needs a change. Such a layer gets its input and its kernel quantized, and the gradient with
respect to its output. Everything else, biases and normalisations among it, is in full precision;
but the gradient of a bias is the sum of the quantized gradient.
"""

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cyclical_jax import precision
from cyclical_jax.models.model import Model

BITS, RANGES = "precision", "quant_stats"  # collections of the model's state
WEIGHTS, ACTIVATIONS, GRADIENTS = "weights", "activations", "gradients"
MOMENTUM = 0.9  # of the running ranges
_LAYERS = (nn.Dense, nn.DenseGeneral, nn.Einsum, nn.Conv, nn.ConvLocal, nn.ConvTranspose)
_ENDS = {"first": 0, "last": -1}
_KEY = 0x42495453  # tells the keys of gradients from those of dropout

Path = tuple[str, ...]  # names from the network down to a layer
Axes = tuple[int, ...]
Range = tuple[jax.Array, jax.Array]  # least and greatest number, ()


class Layer(NamedTuple):
    """A layer that can be quantized.

    Attributes:
      axes: The axes of its kernel over which the range of an output channel is taken.
      has_own_kernel: Whether its kernel is one array. In `nn.scan` and `nn.vmap` those of several
        layers may be.
      is_called_once: Whether a call of its is one call. In `nn.scan`, `nn.RNN` and `nn.vmap` it
        stands for many.
      inputs: The dtype of its inputs.
    """

    axes: Axes
    has_own_kernel: bool
    is_called_once: bool
    inputs: Any


class Precision(NamedTuple):
    """Says which numbers are quantized, and how.

    Attributes:
      words: Those of WEIGHTS, ACTIVATIONS and GRADIENTS that are quantized in training.
      symmetric: Whether levels of weights and activations are symmetric about 0.
      keep: The layers in full precision: "first" and "last" in the order in which they are called,
        names, or parts of paths such as "Block_0/Conv_1".
      axis_name: The mapped axis over which ranges are taken in training; None outside of one.
      keep_is: What a message calls `keep`.
    """

    words: tuple[str, ...] = (WEIGHTS, ACTIVATIONS)
    symmetric: bool = False
    keep: tuple[str, ...] = ("last",)
    axis_name: str | None = None
    keep_is: str = "keep"


def quantized(model: Model, how: Precision) -> Model:
    """Returns a model that computes with few bits, from parameters in full precision.

    In training, `apply` takes the numbers of bits as the knobs WEIGHTS, ACTIVATIONS and GRADIENTS,
    which may be traced. The model's state holds two more collections. BITS has the numbers of bits
    of the last training step, int32, 0 for full precision. RANGES has a running mean of the
    range of each layer's input. An evaluation uses both.

    Args:
      model: A model of flax.linen layers, as `from_linen` makes.
      how: What is quantized, and how.

    Raises:
      ValueError: At init and apply: there is no layer to quantize, a name of `keep` is not that of
        a layer, or a layer cannot be quantized as `how` says, such as one of `nn.scan`, of
        `nn.WeightNorm`, or of inputs that are no floats; a line.
    """

    def init(key, inputs):
        layers = _quantized_layers(model, inputs, how)
        declare = functools.partial(_declare_ranges, layers if ACTIVATIONS in how.words else {})
        with nn.intercept_methods(declare):
            params, state = model.init(key, inputs)
        words = [word for word in (WEIGHTS, ACTIVATIONS) if word in (WEIGHTS, *how.words)]
        return params, {**state, BITS: {word: jnp.int32(0) for word in words}}

    def apply(params, model_state, inputs, *, train, key=None, **knobs):
        layers = _quantized_layers(model, inputs, how)
        given = {word: knobs.pop(word) for word in how.words if word in knobs}
        bits = {word: jnp.round(of).astype(jnp.int32) for word, of in given.items()}
        bits = {**model_state[BITS], **bits}
        call = _Call(layers, bits, how, train=train, key=key)
        inner = {name: of for name, of in model_state.items() if name != BITS}
        with nn.intercept_methods(call):
            params = call.with_kernels(params)
            outputs, inner = model.apply(params, inner, inputs, train=train, key=key, **knobs)
        call.check()
        return outputs, {**inner, BITS: {word: bits[word] for word in model_state[BITS]}}

    return model._replace(init=init, apply=apply)


def with_bits(model_state: Mapping[str, Any], bits: int) -> dict[str, Any]:
    """Returns the state of a quantized model with other bits, for an evaluation; 0 is none."""
    return {**model_state, BITS: dict.fromkeys(model_state[BITS], jnp.int32(bits))}


# ---- the layers of a model


def quantized_layers(model: Model, inputs: Any, how: Precision) -> dict[Path, Axes]:
    """Returns the layers that `quantized` quantizes, in the order of their calls.

    The value of a layer are the axes of its kernel over which the range of an output is taken.

    Args:
      model, inputs: As in `layers_of`.
      how: As in `quantized`.

    Raises:
      ValueError: As in `quantized`.
    """
    return {path: layer.axes for path, layer in _quantized_layers(model, inputs, how).items()}


def layers_of(model: Model, inputs: Any) -> dict[Path, Layer]:
    """Returns the layers that can be quantized, in the order of their calls.

    Args:
      model: A model, as it was before `quantized`.
      inputs: Inputs of the model, of which only shapes and dtypes count.
    """
    found: dict[Path, Layer] = {}
    shapes: dict[Path, tuple[int, ...]] = {}

    def record(next_function, args, kwargs, context):
        outputs = next_function(*args, **kwargs)
        if _is_layer(context) and context.module.path not in found:
            path, kernel = context.module.path, context.module.get_variable("params", "kernel")
            found[path], shapes[path] = (
                _layer(context.module, kernel.ndim, args, kwargs),
                kernel.shape,
            )
        return outputs

    def init():
        with nn.intercept_methods(record):
            return model.init(jax.random.key(0), inputs)[0]

    params = jax.eval_shape(init)
    return {
        path: layer._replace(has_own_kernel=_kernel_at(params, path).shape == shapes[path])
        for path, layer in found.items()
    }


def _is_layer(context: Any) -> bool:
    return context.method_name == "__call__" and isinstance(context.module, _LAYERS)


def _layer(module: nn.Module, number: int, args, kwargs) -> Layer:
    """Returns the layer of a call at init, whose kernel has `number` axes."""
    (inputs, *args), kwargs = _in_order(args, kwargs)
    axes = _axes_of_a_channel(module, number, args, kwargs)
    # Lifting over an axis leaves out the collections that it does not name.
    return Layer(axes, True, module.is_mutable_collection(RANGES), jnp.result_type(inputs))


def _axes_of_a_channel(module: nn.Module, number: int, args, kwargs) -> Axes:
    """Returns the axes of a kernel with `number` axes that lead to one output channel."""
    if isinstance(module, nn.DenseGeneral):
        batch, inputs = (len(_tuple(axes)) for axes in (module.batch_dims, module.axis))
        return tuple(range(batch, batch + inputs))
    if isinstance(module, nn.Einsum):
        einsum = module.einsum_str or (args[0] if args else kwargs["einsum_str"])
        operands, _, result = einsum.replace(" ", "").replace("...", "").partition("->")
        letters = operands.partition(",")[2]
        if len(letters) != number:
            raise ValueError(f"a kernel with an ellipsis cannot be quantized, got {einsum!r}.")
        return tuple(axis for axis, letter in enumerate(letters) if letter not in result)
    is_swapped = isinstance(module, nn.ConvTranspose) and module.transpose_kernel
    output = number - 2 if is_swapped else number - 1
    return tuple(axis for axis in range(number) if axis != output)


def _tuple(axes: int | Sequence[int]) -> tuple[int, ...]:
    return (axes,) if isinstance(axes, int) else tuple(axes)


def _quantized_layers(model: Model, inputs: Any, how: Precision) -> dict[Path, Layer]:
    """Returns the layers of `layers_of` that `how` does not keep; raises ValueError as it says."""
    layers = layers_of(model, inputs)
    kinds = ", ".join(kind.__name__ for kind in _LAYERS)
    if not layers:
        raise ValueError(f"no layer can be quantized: there is none of flax.linen's {kinds}.")
    kept = _kept(list(layers), how)
    chosen = {path: layer for path, layer in layers.items() if path not in kept}
    if not chosen:
        raise ValueError(f"{how.keep_is} leaves no layer to quantize of {_listed(layers)}.")
    for problem in _problems(chosen, how):
        raise ValueError(problem)
    return chosen


def _problems(layers: Mapping[Path, Layer], how: Precision) -> Iterator[str]:
    """Yields a line for each reason why layers cannot be quantized."""
    if stacked := [path for path, layer in layers.items() if not layer.has_own_kernel]:
        yield (
            f"{_listed(stacked)} cannot be quantized inside nn.scan or nn.vmap, where kernels of "
            f"several layers are one array: add it to {how.keep_is}."
        )
    words = [word for word in (ACTIVATIONS, GRADIENTS) if word in how.words]
    if words and (lifted := [path for path, layer in layers.items() if not layer.is_called_once]):
        yield (
            f"{_listed(lifted)} cannot have bits for {' and '.join(words)} inside nn.scan, nn.RNN "
            f"or nn.vmap, where one call stands for many: add it to {how.keep_is}."
        )
    for path, layer in layers.items():
        if ACTIVATIONS in how.words and not jnp.issubdtype(layer.inputs, jnp.floating):
            yield (
                f"{_listed([path])} cannot have bits for activations, since its inputs are "
                f"{layer.inputs}, no floats: add it to {how.keep_is}."
            )


def _kept(layers: Sequence[Path], how: Precision) -> set[Path]:
    """Returns the layers in full precision."""
    found: set[Path] = set()
    for name in how.keep:
        of_name = [layers[_ENDS[name]]] if name in _ENDS else _named(layers, name)
        if not of_name:
            raise ValueError(
                f"{how.keep_is} must name 'first', 'last' or layers of {_listed(layers)}, got "
                f"{name!r}."
            )
        found |= {*of_name}
    return found


def _named(layers: Sequence[Path], name: str) -> list[Path]:
    return [path for path in layers if f"/{name}/" in f"/{'/'.join(path)}/"]


def _listed(layers: Iterable[Path]) -> str:
    return ", ".join("/".join(path) or "the network" for path in layers)


# ---- their kernels, inputs and outputs


def _kernel_at(params: Any, path: Path) -> Any:
    return functools.reduce(lambda part, name: part[name], (*path, "kernel"), params)


def _with_kernel(params: Mapping[str, Any], path: Path, kernel: jax.Array) -> dict[str, Any]:
    """Returns parameters with another kernel for the layer at `path`."""
    if not path:
        return {**params, "kernel": kernel}
    first, *rest = path
    return {**params, first: _with_kernel(params[first], tuple(rest), kernel)}


def _declare_ranges(layers: Collection[Path], next_function, args, kwargs, context):
    """Intercepts calls within init; each layer gets a running range that has seen nothing."""
    outputs = next_function(*args, **kwargs)
    if _is_layer(context) and context.module.path in layers:
        context.module.put_variable(RANGES, "sums", jnp.zeros(3))
    return outputs


class _Call:
    """One call of a network: it intercepts the calls of the layers."""

    def __init__(self, layers: Mapping[Path, Layer], bits, how: Precision, *, train: bool, key):
        self._layers, self._bits, self._how, self._train = layers, bits, how, train
        self._key = None if key is None else jax.random.fold_in(key, _KEY)
        self._calls = itertools.count()
        self._without_place: list[Path] = []

    def with_kernels(self, params: Any) -> Any:
        """Returns parameters with the kernels of the layers quantized."""
        for path, layer in self._layers.items():
            kernel = self._fake_quantized(WEIGHTS, _kernel_at(params, path), axes=layer.axes)
            params = _with_kernel(params, path, kernel)
        return params

    def check(self) -> None:
        """Raises ValueError unless each range had a place."""
        if self._without_place:
            raise ValueError(
                f"{_listed(self._without_place)} cannot have bits for activations inside "
                "nn.WeightNorm or nn.map_variables, where a range has no place: add it to "
                f"{self._how.keep_is}."
            )

    def __call__(self, next_function, args, kwargs, context):
        if not (_is_layer(context) and context.module.path in self._layers):
            return next_function(*args, **kwargs)
        (inputs, *args), kwargs = _in_order(args, kwargs)
        if ACTIVATIONS in self._how.words:
            limits = self._limits(context.module, inputs)
            inputs = self._fake_quantized(ACTIVATIONS, inputs, limits=limits)
        outputs = next_function(inputs, *args, **kwargs)
        key = None if self._key is None else jax.random.fold_in(self._key, next(self._calls))
        bits, axis_name = self._bits.get(GRADIENTS), self._how.axis_name
        return precision.quantize_gradient(outputs, bits, key, axis_name=axis_name)

    def _fake_quantized(self, word: str, x: jax.Array, **options: Any) -> jax.Array:
        """Returns `x` quantized; 0 bits leave it as it is."""
        if self._train and word not in self._how.words:
            return x
        bits, symmetric = self._bits[word], self._how.symmetric
        some = jnp.maximum(bits, precision.LEAST_BITS)
        few = precision.fake_quantize(x, some, symmetric=symmetric, **options)
        return jnp.where(bits > 0, few, x)

    def _limits(self, module: nn.Module, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the range of a layer's input: that of the batch, or in an evaluation of many."""
        lo, hi = _range(x, self._how.axis_name if self._train else None)
        sums: jax.Array = module.get_variable(RANGES, "sums")
        if self._train and not module.is_mutable_collection(RANGES):
            self._without_place.append(module.path)
        elif self._train:
            new = (1 - MOMENTUM) * jnp.stack([lo, hi, jnp.ones_like(hi)])
            module.put_variable(RANGES, "sums", MOMENTUM * sums + new)
        if self._train:
            return lo, hi
        return running_range(sums, otherwise=(lo, hi))


def running_range(sums: jax.Array, *, otherwise: Range) -> Range:
    """Returns the mean (lo, hi) of the ranges so far; `otherwise` before there is one.

    Args:
      sums: What RANGES holds for a layer, [3]: the decaying sums of lo, of hi, and of the weights,
        which all begin at 0. So the mean is not drawn to 0.
      otherwise: The range before the first one.
    """
    weight = jnp.where(sums[2] > 0, sums[2], 1)
    lo, hi = otherwise
    means = sums[:2] / weight
    return jnp.where(sums[2] > 0, means[0], lo), jnp.where(sums[2] > 0, means[1], hi)


def _range(x: jax.Array, axis_name: str | None) -> Range:
    """Returns the least and the greatest number, over all devices of an axis; float32."""
    constant = jax.lax.stop_gradient(x).astype(jnp.float32)
    ends = jnp.stack([-constant.min(), constant.max()])
    ends = jax.lax.pmax(ends, axis_name) if axis_name else ends
    return -ends[0], ends[1]


def _in_order(args, kwargs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of a layer's call with the inputs as the first one."""
    if args:
        return args, kwargs
    rest = dict(kwargs)
    return (rest.pop("inputs"),), rest
