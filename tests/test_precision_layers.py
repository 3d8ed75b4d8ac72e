"""Quantized products and convolutions: forward and backward by hand, and in layers of Flax."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax.precision import fake_quantize, quantized_conv, quantized_dot_general
from tests.test_precision import affine, range_of, symmetric

KEY = jax.random.key(7)
RNG = np.random.default_rng(1)
WEIGHTS, ACTIVATIONS, GRADIENTS = 3, 4, 5  # bits, all different
FORMULAS = {False: affine, True: symmetric}


def levels(x, bits, axes=None, *, is_symmetric=False):
    formula = FORMULAS[is_symmetric]
    return formula(np.asarray(x, "f8"), bits, *range_of(x, axes))[0]


def skewed(*shape):
    """Returns floats of which each column has a size of its own, and the largest are above 0.

    Its negative would be halfway between two symmetric levels, where a rounding decides.
    """
    return ((RNG.exponential(size=shape) - 0.3) * np.exp(RNG.normal(size=shape[-1]))).astype("f4")


def assert_is_by_hand(operation, x, kernel, quantized, forward, backward):
    """Compares outputs and both gradients with those of quantized operands."""
    found, pull = jax.vjp(jax.jit(operation), jnp.asarray(x), jnp.asarray(kernel))
    np.testing.assert_allclose(found, forward(*quantized), rtol=1e-4, atol=1e-4)
    upstream = jnp.asarray(RNG.normal(size=found.shape), jnp.float32)
    gradient = np.asarray(fake_quantize(upstream, GRADIENTS, key=KEY), "f8")
    assert not np.allclose(gradient, upstream, atol=0.05)
    for one, other in zip(pull(upstream), backward(*quantized, gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


# ---- products


class Product(NamedTuple):
    x: tuple[int, ...]  # shapes
    kernel: tuple[int, ...]
    dimension_numbers: Any
    einsum: str  # x, kernel -> outputs
    shared: tuple[int, ...]  # the axes over which an output's range is taken


PRODUCTS = {
    "dense": Product((16, 9), (9, 6), (((1,), (0,)), ((), ())), "bi,io->bo", (0,)),
    "two axes of inputs and of outputs": Product(
        (5, 3, 4), (3, 4, 6, 2), (((1, 2), (0, 1)), ((), ())), "bij,ijop->bop", (0, 1)
    ),
    "a kernel for each group": Product(
        (3, 7, 5), (3, 5, 4), (((2,), (1,)), ((0,), (0,))), "gbi,gio->gbo", (1,)
    ),
}


@pytest.mark.parametrize(
    "name, is_symmetric", [*((name, False) for name in PRODUCTS), ("a kernel for each group", True)]
)
def test_a_product_is_that_of_quantized_operands(name, is_symmetric):
    product = PRODUCTS[name]
    x, kernel = skewed(*product.x), skewed(*product.kernel)
    dot_general = quantized_dot_general(
        WEIGHTS, GRADIENTS, KEY, activation_bits=ACTIVATIONS, symmetric=is_symmetric
    )
    quantized = (
        levels(x, ACTIVATIONS, is_symmetric=is_symmetric),
        levels(kernel, WEIGHTS, product.shared, is_symmetric=is_symmetric),
    )
    of_x, of_kernel, of_outputs = product.einsum.replace("->", ",").split(",")

    def backward(x, kernel, gradient):
        return (
            np.einsum(f"{of_outputs},{of_kernel}->{of_x}", gradient, kernel),
            np.einsum(f"{of_x},{of_outputs}->{of_kernel}", x, gradient),
        )

    assert_is_by_hand(
        lambda x, kernel: dot_general(x, kernel, product.dimension_numbers),
        x,
        kernel,
        quantized,
        functools.partial(np.einsum, product.einsum),
        backward,
    )


# ---- convolutions


class Convolution(NamedTuple):
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: int = 1


CONVOLUTIONS = {
    "plain": Convolution(),
    "strided": Convolution(stride=2, padding=0),
    "dilated": Convolution(dilation=2, padding=2),
    "grouped": Convolution(groups=2),
    "for each channel": Convolution(groups=4, stride=2),
}
NUMBERS = ("NHWC", "HWIO", "NHWC")
SIDE, CHANNELS, OUTPUTS = 7, 4, 8


def places(c, kernel, size):
    """Yields what each entry of the window and each group takes of inputs, kernel and outputs."""
    inputs, outputs = kernel.shape[2], kernel.shape[3] // c.groups
    for i, j in np.ndindex(3, 3):
        rows, columns = (
            slice(k * c.dilation, k * c.dilation + c.stride * size, c.stride) for k in (i, j)
        )
        for group in range(c.groups):
            of_inputs = slice(group * inputs, (group + 1) * inputs)
            of_outputs = slice(group * outputs, (group + 1) * outputs)
            yield (
                np.s_[:, rows, columns, of_inputs],
                np.s_[i, j, :, of_outputs],
                np.s_[..., of_outputs],
            )


def padded(x, c):
    return np.pad(x, [(0, 0), (c.padding,) * 2, (c.padding,) * 2, (0, 0)])


def convolved(c, x, kernel):
    size = (SIDE + 2 * c.padding - 2 * c.dilation - 1) // c.stride + 1
    found, x = np.zeros((len(x), size, size, OUTPUTS)), padded(x, c)
    for of_x, of_kernel, of_outputs in places(c, kernel, size):
        found[of_outputs] += x[of_x][:, :size, :size] @ kernel[of_kernel]
    return found


def slopes_of_convolved(c, x, kernel, gradient):
    x, size = padded(x, c), gradient.shape[1]
    slopes = np.zeros_like(x), np.zeros_like(kernel)
    for of_x, of_kernel, of_outputs in places(c, kernel, size):
        slopes[0][of_x] += gradient[of_outputs] @ kernel[of_kernel].T
        slopes[1][of_kernel] += np.einsum("byxi,byxo->io", x[of_x], gradient[of_outputs])
    inner = slice(c.padding, c.padding + SIDE)
    return slopes[0][:, inner, inner], slopes[1]


@pytest.mark.parametrize(
    "name, is_symmetric", [*((name, False) for name in CONVOLUTIONS), ("grouped", True)]
)
def test_a_convolution_is_that_of_quantized_operands(name, is_symmetric):
    c = CONVOLUTIONS[name]
    x, kernel = skewed(3, SIDE, SIDE, CHANNELS), skewed(3, 3, CHANNELS // c.groups, OUTPUTS)
    conv = quantized_conv(
        WEIGHTS, GRADIENTS, KEY, activation_bits=ACTIVATIONS, symmetric=is_symmetric
    )
    quantized = (
        levels(x, ACTIVATIONS, is_symmetric=is_symmetric),
        levels(kernel, WEIGHTS, (0, 1, 2), is_symmetric=is_symmetric),
    )
    assert_is_by_hand(
        lambda x, kernel: conv(
            x,
            kernel,
            (c.stride,) * 2,
            [(c.padding,) * 2] * 2,
            rhs_dilation=(c.dilation,) * 2,
            dimension_numbers=NUMBERS,
            feature_group_count=c.groups,
        ),
        x,
        kernel,
        quantized,
        functools.partial(convolved, c),
        functools.partial(slopes_of_convolved, c),
    )


@pytest.mark.parametrize("numbers", [None, ("NCHW", "OIHW", "NCHW")], ids=str)
def test_the_outputs_of_a_kernel_are_where_the_dimension_numbers_say(numbers):
    x, kernel = skewed(3, CHANNELS, SIDE, SIDE), skewed(OUTPUTS, CHANNELS, 3, 3)
    conv = quantized_conv(WEIGHTS, None, activation_bits=ACTIVATIONS)
    found = conv(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
    of_kernel = levels(kernel, WEIGHTS, (1, 2, 3)).transpose(2, 3, 1, 0)
    of_x = levels(x, ACTIVATIONS).transpose(0, 2, 3, 1)
    expected = convolved(Convolution(padding=0), of_x, of_kernel)
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_none_leaves_whole():
    x, kernel = skewed(16, 9), skewed(9, 6)
    numbers = PRODUCTS["dense"].dimension_numbers
    whole = quantized_dot_general(None, None)(x, kernel, numbers)
    np.testing.assert_array_equal(whole, jax.lax.dot_general(x, kernel, numbers))
    found = quantized_dot_general(WEIGHTS, None, activation_bits=None)(x, kernel, numbers)
    np.testing.assert_allclose(found, x @ levels(kernel, WEIGHTS, (0,)), rtol=1e-4, atol=1e-4)
    found = quantized_dot_general(None, None, activation_bits=ACTIVATIONS)(x, kernel, numbers)
    np.testing.assert_allclose(found, levels(x, ACTIVATIONS) @ kernel, rtol=1e-4, atol=1e-4)


# ---- layers of Flax


@pytest.fixture
def layers():
    """Returns layers, each with its input, as functions of the operations."""
    pytest.importorskip("flax")
    from flax import linen as nn
    from flax import nnx

    def linen(layer, x):
        params = layer.init(jax.random.key(0), x)
        return params["params"], lambda params: layer.apply({"params": params}, x)

    def of_nnx(layer, x):
        graph, params = nnx.split(layer)
        return params, lambda params: nnx.merge(graph, params)(x)

    dense, image = skewed(16, 9), skewed(3, SIDE, SIDE, CHANNELS)
    size, groups = (3, 3), {"feature_group_count": 2, "kernel_dilation": 2}
    return {
        "linen.Dense": lambda dot, conv: linen(nn.Dense(6, dot_general=dot), dense),
        "linen.DenseGeneral": lambda dot, conv: linen(
            nn.DenseGeneral((5, 2), axis=(-2, -1), dot_general=dot), image
        ),
        "linen.Conv": lambda dot, conv: linen(
            nn.Conv(OUTPUTS, size, conv_general_dilated=conv, **groups), image
        ),
        "nnx.Linear": lambda dot, conv: of_nnx(
            nnx.Linear(9, 6, dot_general=dot, rngs=nnx.Rngs(0)), dense
        ),
        "nnx.Conv": lambda dot, conv: of_nnx(
            nnx.Conv(
                CHANNELS, OUTPUTS, size, conv_general_dilated=conv, rngs=nnx.Rngs(0), **groups
            ),
            image,
        ),
    }


@pytest.mark.parametrize(
    "name", ["linen.Dense", "linen.DenseGeneral", "linen.Conv", "nnx.Linear", "nnx.Conv"]
)
def test_layers_of_flax_take_the_operations(layers, name):
    make = layers[name]

    @jax.jit
    def gradient(params, bits):
        options = {"key": KEY, "activation_bits": bits + 1}
        operations = (
            made(bits, bits + 2, **options) for made in (quantized_dot_general, quantized_conv)
        )
        _, apply = make(*operations)
        return jax.grad(lambda params: (apply(params) ** 2).sum())(params)

    params, whole = make(jax.lax.dot_general, jax.lax.conv_general_dilated)
    expected = jax.grad(lambda params: (whole(params) ** 2).sum())(params)

    def error(bits):
        pairs = zip(jax.tree.leaves(gradient(params, bits)), jax.tree.leaves(expected), strict=True)
        return max(float(jnp.abs(one - other).max() / jnp.abs(other).max()) for one, other in pairs)

    assert error(3) > 0.02 and error(14) < 0.001
