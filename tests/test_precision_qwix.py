"""The symmetric quantizer beside Qwix's own, bit for bit; skipped where Qwix is not installed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax.precision import fake_quantize

qwix = pytest.importorskip("qwix", reason="Qwix is not installed")
pytestmark = pytest.mark.slow  # CI installs the library for the slow tests alone

QTYPES = {2: "int2", 3: "int3", 4: jnp.int4, 5: "int5", 6: "int6", 7: "int7", 8: jnp.int8}
# shapes of kernels: axes of their outputs
CHANNELS = {(40, 24): (1,), (3, 3, 5, 7): (3,), (6, 4, 5): (1, 2)}
ONE_RANGE = {(301,): (), (300, 1): (1,)}


def kernel_of(shape):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=shape) * np.exp(rng.normal(size=shape[-1]))
    return jnp.asarray(kernel, jnp.float32)


def quantizer(shape, channels):
    axes = tuple(set(range(len(shape))) - set(channels))
    return lambda x, bits: fake_quantize(x, bits, axes=axes, symmetric=True)


def of_qwix(kernel, qtype, channels):
    return qwix.dequantize(qwix.quantize(kernel, qtype, channelwise_axes=channels))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("shape", CHANNELS, ids=str)
def test_symmetric_levels_are_those_of_qwix(shape, transform):
    quantize = transform(quantizer(shape, CHANNELS[shape]))
    kernel = kernel_of(shape).at[..., 0].set(0)  # an output that is not used
    for bits, qtype in QTYPES.items():
        expected = of_qwix(kernel, qtype, CHANNELS[shape])
        np.testing.assert_array_equal(quantize(kernel, bits), expected, strict=True)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("shape", ONE_RANGE, ids=str)
def test_levels_of_a_single_range_are_those_of_a_compiled_qwix(shape, transform):
    """Its other programs have another last bit, which decides about the level of -max|x|."""
    quantize = transform(quantizer(shape, ONE_RANGE[shape]))
    kernel = kernel_of(shape)
    kernel = kernel.at[0].set(-jnp.abs(kernel).max() - 0.1)
    for bits, qtype in QTYPES.items():
        found = quantize(kernel, bits)
        compiled = jax.jit(functools.partial(of_qwix, qtype=qtype, channels=ONE_RANGE[shape]))
        np.testing.assert_array_equal(found, compiled(kernel), strict=True)
        eager = of_qwix(kernel, qtype, ONE_RANGE[shape])
        np.testing.assert_allclose(found[1:], eager[1:], rtol=1e-6)
