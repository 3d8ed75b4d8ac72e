"""Training with few bits, whose number may cycle: fake quantization with bits that may be traced.

A quantized array is rounded to 2^b levels and stays in floats, so that it trains as the network of
b bits would compute. The number of bits b is an argument of the compiled program: one compilation
serves all of them. A number with a fraction is rounded to whole bits (halves to even). None is off.

    affine      n = 2^b - 1,  s = (hi - lo) / n,         q = clip(round((x - lo) / s), 0, n)
                result q s + lo; both ends of the range are levels, and 0 need not be one
    symmetric   m = 2^(b-1),  s = max|x| / (m - 1/2),    q = clip(round(x / s), -m, m - 1)
                result q s; for float32 and a range for each output channel equal, bit for bit, to
                what Qwix quantizes and dequantizes

[lo, hi] is the range of the values. Rounding is to the nearest level, halves to even, or with a key
at random. The mean is then x, but of symmetric levels only up to the largest one, (m - 1) s: above
it lies max|x|, half a step away, which is clipped to it. The arithmetic is in float32, and the
result has the dtype of x. All programs, traced or not, choose the same level; compiled ones agree
bit for bit, and so do all with symmetric levels. With a single range, Qwix's own s differs in the
last bit between its compiled programs, which are equal to these, and the others; the level of
-max|x|, which is halfway between two, may then differ.

A scale s below 1.2e-38, the smallest that float32 holds in full, is raised to it. So a constant
array gives itself. A range hi - lo, or 2 max|x|, above 2.5e38 is too large for float32: the result
is wrong or NaN. An array with NaN or an infinity gives NaN where its range reaches.

Source: affine as in the code of Fu et al., CPT (arXiv 2101.09868), whose scale is at least 1e-8:
small gradients then lose levels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax import _checks, _levels
from cyclical_jax._dtypes import as_array, standard_promotion, widened
from cyclical_jax._types import Array, Number

Limits: TypeAlias = tuple[Number, Number]

LEAST_BITS, MOST_BITS, WHOLE_BITS = 2, 16, 32

_REPEATED = {"easy": 3, "hard": 8, "factor": 1, "num_cycles": 8}
_TRIANGULAR = {"easy": 8, "hard": 3, "factor": 2, "num_cycles": 4}
_EXPONENTIAL = ("published_exponential", "late_published_exponential")

PRECISION_SCHEDULES: dict[str, dict[str, Any]] = {
    "CR": _REPEATED | {"shape": "cosine"},
    "LR": _REPEATED | {"shape": "linear"},
    "ER": _REPEATED | {"shape": "published_exponential"},
    "RR": _REPEATED | {"shape": "rex"},
    "CT": _TRIANGULAR | {"shape": "cosine"},
    "LT": _TRIANGULAR | {"shape": "linear"},
    "ETV": _TRIANGULAR | {"shape": _EXPONENTIAL},
    "ETH": _TRIANGULAR | {"shape": "late_published_exponential"},
    "RTV": _TRIANGULAR | {"shape": ("rex", "early_rex")},
    "RTH": _TRIANGULAR | {"shape": "early_rex"},
}
"""The ten schedules of Wolfe & Kyrillidis (arXiv 2403.02243), as arguments of `cyclical_schedule`.

The bits of an update are `as_integer(cyclical_schedule(**cycle, total_steps=...))(count)` with one
of the values as `cycle`. A name says the growth (C cosine, L linear, E exponential, R rex) and what
follows it. R repeats the rise from 3 to 8 bits eight times; "CR" is that of CPT (arXiv 2101.09868).
T goes 8 -> 3 -> 8 bits four times, so that 8 bits are easy and 3 are hard; V: the second way is the
first one upside down; H: it is the first one mirrored in time. Where the growth is symmetric, both
are the same.
"""


@standard_promotion
def fake_quantize(
    x: Array,
    bits: Number | None,
    *,
    axes: Sequence[int] | int | None = None,
    key: jax.Array | None = None,
    symmetric: bool = False,
    limits: Limits | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Returns `x` rounded to 2^bits levels of its range; the gradient passes straight through.

    Args:
      x: Floats of any shape.
      bits: Number of bits, from 2 to 16; a scalar, rounded to whole bits; may be traced. None
        returns `x` as it is.
      axes: The axes over which a range is taken; all others have a range for each index, such as
        `axes=0` one for each output of a kernel [in, out]. None: one range for the whole array.
      key: A key for stochastic rounding: x lies between two levels, and the nearer one is the more
        probable, such that the mean over keys is x. Beyond the largest symmetric level there is no
        second one: those x go to it. None rounds to the nearest level.
      symmetric: Whether levels are symmetric about 0, which is then one of them; see the top of
        this file.
      limits: The range (lo, hi) instead of that of `x`, say a running mean of earlier ranges; each
        broadcasts to `x`. Finite values beyond it go to its end. `axes` and `axis_name` are then
        not used.
      axis_name: The name of a mapped axis, of devices say; the range is that over all of it.

    Returns:
      An array with the shape and dtype of `x`. Its derivative with respect to `x` is 1 everywhere,
      beyond `limits` too; with respect to `bits` and `limits` it is 0.

    Raises:
      ValueError: `x` is not of floats; `bits` is not a scalar or, as a plain number, not from 2 to
        16; `limits` are not two rising numbers.

    Examples:
      >>> x = jnp.array([-1.0, -0.2, 0.1, 0.5])
      >>> [round(float(level), 2) for level in fake_quantize(x, 2)]
      [-1.0, 0.0, 0.0, 0.5]
    """
    x = _floats(x)
    if bits is None:
        return x
    bits = _whole_bits("bits", bits)
    # The levels are constant to autodiff, which has no derivative of a range over devices.
    constant, bits = jax.lax.stop_gradient((widened(x), bits))
    lo, hi = _range(constant, axes, limits, axis_name)
    noise = 0.0 if key is None else _levels.draws(key, constant)
    quantize = _levels.symmetric if symmetric else _levels.affine
    levels = quantize(constant, bits, lo, hi, noise)
    if limits is not None:  # the clip would hide it
        levels = jnp.where(jnp.isinf(constant), constant, levels)
    return _straight_through(x, levels.astype(x.dtype))


@standard_promotion
def quantize_gradient(
    x: Array,
    bits: Number | None,
    key: jax.Array | None,
    *,
    axis_name: str | None = None,
) -> jax.Array:
    """Returns `x` as it is; the gradient that comes back to it is quantized.

    Put it on the output of a layer: the gradients of the layer's weights and of its input are then
    both computed from the quantized gradient. It has one affine range for the whole array.

    Args:
      x: Floats of any shape.
      bits: As in `fake_quantize`.
      key: The key of the stochastic rounding. Each layer and each update needs another one. None
        rounds to the nearest level, which loses small gradients: for comparisons.
      axis_name: As in `fake_quantize`.

    Returns:
      `x`.

    Raises:
      ValueError: As in `fake_quantize`.
    """
    x = _floats(x)
    if bits is None:
        return x
    return _quantized_backwards(x, _whole_bits("bits", bits), key, axis_name)


def quantized_dot_general(
    bits: Number | None,
    gradient_bits: Number | None,
    key: jax.Array | None = None,
    *,
    activation_bits: Number | Literal["as weights"] | None = "as weights",
    symmetric: bool = False,
) -> Callable[..., jax.Array]:
    """Returns a `jax.lax.dot_general` with few bits, for `dot_general=` of a Flax layer.

    The left operand, the activations, is quantized with one range; the right one, the kernel, with
    one for each output, that is over the contracted axes. The gradient of the result is quantized
    by `quantize_gradient`. For `nn.Dense` and `nn.DenseGeneral` of Linen and `nnx.Linear`.

    Args:
      bits: Bits of the kernel, as in `fake_quantize`, and of the activations.
      gradient_bits: Bits of the gradient; None leaves it in full precision.
      key: The key of the gradient's stochastic rounding. Each update needs another one, and so does
        each layer: layers with equal keys round equal shapes with equal draws.
      activation_bits: Bits of the activations where they differ from those of the kernel.
      symmetric: As in `fake_quantize`, for both operands. The gradient stays affine.

    Returns:
      A function with the arguments of `jax.lax.dot_general`.

    Raises:
      ValueError: A plain number of bits is not from 2 to 16; gradients are quantized without a key.

    Examples:
      A network of your own, whose bits cycle in a train step that compiles once:

      >>> import cyclical_jax as cj
      >>> from flax import linen as nn
      >>> class MLP(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, bits, key):
      ...         for layer, features in enumerate((64, 32)):
      ...             few = quantized_dot_general(bits, 8, jax.random.fold_in(key, layer))
      ...             x = nn.relu(nn.Dense(features, dot_general=few)(x))
      ...         return nn.Dense(10)(x)  # the last layer, in full precision
      >>> cycle = PRECISION_SCHEDULES["CT"]  # 8 -> 3 -> 8 bits, four times
      >>> bits_at = cj.as_integer(cj.cyclical_schedule(**cycle, total_steps=100))
      >>> @jax.jit
      ... def gradient(params, step, images, labels):
      ...     def loss(params):
      ...         logits = MLP().apply(params, images, bits_at(step), jax.random.key(step))
      ...         return cj.softmax_cross_entropy(logits, labels).mean()
      ...     return jax.grad(loss)(params)
      >>> images, labels = jnp.ones((8, 4)), jnp.arange(8)
      >>> params = MLP().init(jax.random.key(0), images, 8, jax.random.key(0))
      >>> for step in (0, 12):
      ...     gradients = gradient(params, step, images, labels)
      >>> [int(bits_at(step)) for step in (0, 12)]
      [8, 3]
    """
    _check_gradient(gradient_bits, key)
    of_input, of_kernel = _of_operands(bits, activation_bits, symmetric)

    def dot_general(lhs, rhs, dimension_numbers, *args, **options):
        (_, contracted), _ = dimension_numbers
        operands = of_input(lhs), of_kernel(rhs, axes=tuple(contracted))
        outputs = jax.lax.dot_general(*operands, dimension_numbers, *args, **options)
        return quantize_gradient(outputs, gradient_bits, key)

    return dot_general


def quantized_conv(
    bits: Number | None,
    gradient_bits: Number | None,
    key: jax.Array | None = None,
    *,
    activation_bits: Number | Literal["as weights"] | None = "as weights",
    symmetric: bool = False,
) -> Callable[..., jax.Array]:
    """Returns a `jax.lax.conv_general_dilated` with few bits, for `conv_general_dilated=` in Flax.

    As `quantized_dot_general`: one range for the images, one for each output channel of the kernel,
    with groups, strides and dilations too. For `nn.Conv` of Linen and `nnx.Conv`.

    Args:
      bits, gradient_bits, key, activation_bits, symmetric: As in `quantized_dot_general`.

    Returns:
      A function with the arguments of `jax.lax.conv_general_dilated`.

    Raises:
      ValueError: As in `quantized_dot_general`.

    Examples:
      A convolution whose weights and inputs have 4 bits, and its gradients 8:

      >>> from flax import linen as nn
      >>> few = quantized_conv(4, 8, jax.random.key(0))
      >>> layer, images = nn.Conv(16, (3, 3), conv_general_dilated=few), jnp.ones((2, 8, 8, 3))
      >>> layer.init_with_output(jax.random.key(1), images)[0].shape
      (2, 8, 8, 16)
    """
    _check_gradient(gradient_bits, key)
    of_input, of_kernel = _of_operands(bits, activation_bits, symmetric)

    def conv(lhs, rhs, window_strides, padding, *args, dimension_numbers=None, **options):
        shapes = lhs.shape, rhs.shape
        axes = jax.lax.conv_dimension_numbers(*shapes, dimension_numbers).rhs_spec
        operands = of_input(lhs), of_kernel(rhs, axes=axes[1:])  # the first are the outputs
        options["dimension_numbers"] = dimension_numbers
        outputs = jax.lax.conv_general_dilated(*operands, window_strides, padding, *args, **options)
        return quantize_gradient(outputs, gradient_bits, key)

    return conv


@standard_promotion
def relative_cost(
    bits: Number | None,
    gradient_bits: Number | None,
    *,
    activation_bits: Number | Literal["as weights"] | None = "as weights",
    reference: Number = 8,
) -> jax.Array:
    """Returns the cost of an update in bit operations, over that of `reference` bits everywhere.

    A multiplication of a by b bits counts a b. Each weight w meets an activation a in the forward
    pass, and a gradient g meets each of them in the backward pass:

        (w a + w g + a g) / (3 reference^2), which is (b^2 + 2 b g) / (3 reference^2) for w = a = b

    The cost is counted, not measured: fake quantization itself saves no time.

    Args:
      bits: Bits of the weights, and of the activations, from 2 to 32. Here as for the others, a
        scalar, rounded to whole bits as in `fake_quantize`; may be traced; None counts as 32.
      gradient_bits: Bits of the gradients.
      activation_bits: Bits of the activations where they differ from those of the weights.
      reference: Bits of the training to compare with.

    Returns:
      A float32 scalar.

    Raises:
      ValueError: A plain number is not from 2 to 32.

    Source: the effective operations of CPT (arXiv 2101.09868), relative as in Wolfe & Kyrillidis
    (arXiv 2403.02243).

    Examples:
      >>> [round(float(relative_cost(bits, 8)), 4) for bits in (8, 6, 4, 3)]
      [1.0, 0.6875, 0.4167, 0.2969]
    """
    of_activations = bits if _is_same(activation_bits) else activation_bits
    given = bits, of_activations, gradient_bits, reference
    names = "bits", "activation_bits", "gradient_bits", "reference"
    w, a, g, r = (_counted(name, value) for name, value in zip(names, given, strict=True))
    return (w * a + w * g + a * g) / (3 * r**2)


def _is_same(activation_bits: Any) -> bool:
    """Whether activations have the bits of the weights; other words are refused."""
    if isinstance(activation_bits, str):
        _checks.one_of("activation_bits", activation_bits, ["as weights"])
    return isinstance(activation_bits, str)


def _counted(name: str, bits: Any) -> jax.Array:
    bits = WHOLE_BITS if bits is None else bits
    return _whole_bits(name, bits, most=WHOLE_BITS).astype(jnp.float32)


def _check_gradient(gradient_bits, key) -> None:
    if gradient_bits is None:
        return
    _whole_bits("gradient_bits", gradient_bits)
    if key is None:
        raise ValueError(
            "`key` must be given with `gradient_bits`, which are rounded at random; or give None "
            "for `gradient_bits`, to leave gradients in full precision."
        )


def _of_operands(
    bits, activation_bits, symmetric
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """Returns the quantizers of activations and kernels, whose bits are checked here."""
    of_activations = bits if _is_same(activation_bits) else activation_bits
    for name, value in {"bits": bits, "activation_bits": of_activations}.items():
        if value is not None:
            _whole_bits(name, value)
    of_input, of_kernel = (
        functools.partial(fake_quantize, bits=value, symmetric=symmetric)
        for value in (of_activations, bits)
    )
    return of_input, of_kernel


def _floats(x: Any) -> jax.Array:
    x = as_array(x, name="x")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"`x` must be of floats, got {x.dtype} of shape {x.shape}.")
    return x


def _whole_bits(name: str, bits: Any, most: int = MOST_BITS) -> jax.Array:
    """Returns a number of bits as an int32 scalar."""
    _checks.number(name, bits, minimum=LEAST_BITS, maximum=most)
    return jnp.round(widened(bits)).astype(jnp.int32)


def _range(x, axes, limits, axis_name) -> tuple[jax.Array, jax.Array]:
    """Returns the least and the greatest value, in shapes that broadcast to `x`."""
    if limits is not None:
        return _given_range(x, limits)
    lo = jnp.min(x, axes, keepdims=True, initial=np.inf)
    hi = jnp.max(x, axes, keepdims=True, initial=-np.inf)
    if axis_name is not None:
        lo, hi = jax.lax.pmin(lo, axis_name), jax.lax.pmax(hi, axis_name)
    return lo, hi


def _given_range(x, limits) -> tuple[jax.Array, jax.Array]:
    lo, hi = limits
    for limit in limits:
        _checks.numbers("limits", limit)
        if not _broadcasts(np.shape(limit), x.shape):
            raise ValueError(
                f"`limits` must broadcast to the shape {x.shape} of `x`, got {np.shape(limit)}."
            )
    if _checks.is_plain(lo, hi) and lo > hi:
        raise ValueError(f"`limits` must rise, got {lo} and {hi}.")
    ranks = (1,) * x.ndim
    lo, hi = (widened(limit, "limits").astype(x.dtype) for limit in limits)
    return (
        lo.reshape(ranks[lo.ndim :] + lo.shape),
        hi.reshape(ranks[hi.ndim :] + hi.shape),
    )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    axes = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(one in (1, other) for one, other in axes)


@jax.custom_jvp
def _straight_through(x, levels):
    """Returns `levels`, with the derivative of `x`."""
    del x
    return levels


@_straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    # Called again, so that the derivative of this one passes straight through too.
    return _straight_through(*primals), tangents[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _quantized_backwards(x, bits, key, axis_name):
    del bits, key, axis_name
    return x


def _forwards(x, bits, key, axis_name):
    del axis_name
    return x, (bits, key)


def _backwards(axis_name, bits_and_key, gradient):
    bits, key = bits_and_key
    return fake_quantize(gradient, bits, key=key, axis_name=axis_name), None, None


_quantized_backwards.defvjp(_forwards, _backwards)
