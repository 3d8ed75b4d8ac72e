"""The CNN against its transcription: SciPy's correlation, and loops for the pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from cyclical_jax.models import make_model
from cyclical_jax.models.cnn import max_pool


def make(**options):
    return make_model("cnn", num_classes=3, axis_name=None, **options)


def pool_by_hand(maps):
    """Returns the maximum of each 2x2 square of [height, width, channels], cut at the border."""
    height, width, channels = maps.shape
    pooled = np.empty((-(-height // 2), -(-width // 2), channels), maps.dtype)
    for i, j in np.ndindex(*pooled.shape[:2]):
        pooled[i, j] = maps[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((0, 1))
    return pooled


def convolve_by_hand(maps, kernel, bias):
    """[height, width, in], [3, 3, in, out] -> [height, width, out], zeros beyond the border."""
    inputs, outputs = kernel.shape[2:]
    by_output = [
        bias[o] + sum(correlate2d(maps[..., i], kernel[..., i, o], "same") for i in range(inputs))
        for o in range(outputs)
    ]
    return np.stack(by_output, axis=-1)


def by_hand(params, images):
    logits = []
    for x in images:
        for name in sorted(name for name in params if name.startswith("Conv")):
            layer = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params[name])
            x = pool_by_hand(np.maximum(convolve_by_hand(x, **layer), 0))
        x = x.flatten()
        for name in ("Dense_0", "Dense_1"):
            x = x @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])
            x = x if name == "Dense_1" else np.maximum(x, 0)
        logits.append(x)
    return np.stack(logits)


@pytest.mark.parametrize("height, width, channels", [(7, 5, 3), (8, 4, 1), (9, 1, 2), (1, 1, 1)])
def test_the_logits_equal_the_transcription(height, width, channels):
    """The cases include odd maps, and maps of a single pixel before the last pooling."""
    rng = np.random.default_rng(height)
    images = rng.normal(size=(4, height, width, channels)).astype(np.float32)
    model = make(widths=(4, 3, 5), hidden_sizes=(6,))
    params, state = model.init(jax.random.key(0), images)
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)
    logits, _ = jax.jit(lambda: model.apply(params, state, images, train=False))()
    np.testing.assert_allclose(logits, by_hand(params, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("height, width", [(7, 5), (8, 4), (1, 6), (1, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_pooling_is_right_for_odd_maps_and_negative_numbers(height, width, dtype):
    values = np.random.default_rng(0).permutation(2 * height * width * 3) - 1000.0
    maps = jnp.asarray(values.reshape(2, height, width, 3), dtype)
    pooled = max_pool(maps)
    assert pooled.dtype == dtype
    expected = np.stack([pool_by_hand(np.asarray(x, np.float32)) for x in maps])
    np.testing.assert_array_equal(np.asarray(pooled, np.float32), expected)


@pytest.mark.parametrize("height, width", [(7, 5), (1, 6)])
def test_the_gradient_of_pooling_goes_to_the_maximum(height, width):
    rng = np.random.default_rng(0)
    maps = jnp.asarray(rng.permutation(height * width * 2).reshape(1, height, width, 2), float)
    weights = jnp.asarray(rng.normal(size=max_pool(maps).shape))
    gradient = np.asarray(jax.grad(lambda x: (max_pool(x) * weights).sum())(maps))
    expected = np.zeros_like(maps)
    for i, j, c in np.ndindex(*max_pool(maps).shape[1:]):
        square = np.asarray(maps[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c])
        row, column = np.unravel_index(square.argmax(), square.shape)
        expected[0, 2 * i + row, 2 * j + column, c] = weights[0, i, j, c]
    np.testing.assert_allclose(gradient, expected)


@pytest.mark.parametrize(
    "shape, num_pixels", [((8, 8, 1), 4), ((28, 28, 1), 49), ((32, 32, 3), 64), ((7, 5, 1), 4)]
)
def test_number_of_parameters_with_the_defaults(shape, num_pixels):
    def init(key):
        return make(batch_norm=True).init(key, jnp.zeros((1, *shape)))[0]

    params = jax.eval_shape(init, jax.random.key(0))
    convolutions = 9 * shape[2] * 32 + 32 + 9 * 32 * 64 + 64
    norms = 2 * (32 + 64)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == convolutions + norms + num_pixels * 64 * 3 + 3


def test_batch_norm_of_the_maps_is_of_each_channel_before_the_relu_and_the_pooling():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 7, 5, 2)).astype(np.float32)
    model = make(widths=(3,), batch_norm=True)
    params, state = model.init(jax.random.key(0), images)
    _, state = model.apply(params, state, images, train=True)
    maps = np.stack([convolve_by_hand(image, **params["Conv_0"]) for image in images])
    statistics = state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.01 * maps.mean((0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(statistics["var"], 0.99 + 0.01 * maps.var((0, 1, 2)), rtol=1e-4)
