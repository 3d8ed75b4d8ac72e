"""The symmetric quantizer beside Qwix's own, bit for bit; skipped where Qwix is not installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax.precision import fake_quantize

qwix = pytest.importorskip("qwix", reason="Qwix is not installed")
pytestmark = pytest.mark.slow  # CI installs the library for the slow tests alone

QTYPES = {2: "int2", 3: "int3", 4: jnp.int4, 5: "int5", 6: "int6", 7: "int7", 8: jnp.int8}
CHANNELS = {  # shapes of kernels: axes of their outputs
    **{(40, 24): (1,), (3, 3, 5, 7): (3,), (6, 4, 5): (1, 2), (301,): (), (300, 1): (1,)},
}


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("shape", CHANNELS, ids=str)
def test_symmetric_levels_are_those_of_qwix(shape, transform):
    rng, channels = np.random.default_rng(0), CHANNELS[shape]
    axes = tuple(set(range(len(shape))) - set(channels))
    quantize = transform(lambda x, bits: fake_quantize(x, bits, axes=axes, symmetric=True))
    for bits, qtype in QTYPES.items():
        kernel = rng.normal(size=shape) * np.exp(rng.normal(size=shape[-1]))
        if shape[-1] > 1:
            kernel[..., 0] = 0  # an output that is not used
        kernel = jnp.asarray(kernel, jnp.float32)
        expected = qwix.dequantize(qwix.quantize(kernel, qtype, channelwise_axes=channels))
        np.testing.assert_array_equal(quantize(kernel, bits), expected, strict=True)
