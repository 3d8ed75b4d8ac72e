"""PatchDense against NumPy, with a loop over the patches, and against a convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax.models import make_model
from cyclical_jax.models.patch_dense import overlapping_patches

# height, width, channels, patch_size, stride: patches that overlap, with a stride that divides the
# patch or does not, that only touch, and a single patch.
CASES = [(12, 20, 3, 8, 4), (11, 8, 2, 5, 3), (6, 9, 1, 3, 3), (7, 5, 2, 5, 1), (4, 4, 1, 4, 2)]


def make(**options):
    return make_model("patch_dense", num_classes=3, axis_name=None, **options)


def random_images(height, width, channels):
    rng = np.random.default_rng(height)
    return rng.normal(size=(2, height, width, channels)).astype(np.float32)


def random_params(model, images):
    """Returns parameters whose biases are not 0, and the model's state."""
    params, state = model.init(jax.random.key(0), images)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    noise = [0.1 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, [a + b for a, b in zip(leaves, noise, strict=True)]), state


def by_hand(params, images, patch_size, stride):
    """Returns logits, computed image by image and patch by patch."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    shared = params["DenseGeneral_0"]
    logits = []
    for image in images:
        features = []
        for top in range(0, image.shape[0] - patch_size + 1, stride):
            for left in range(0, image.shape[1] - patch_size + 1, stride):
                for channel in range(shared["bias"].size):
                    total = shared["bias"][channel]
                    for i, j, c in np.ndindex(patch_size, patch_size, image.shape[2]):
                        total += image[top + i, left + j, c] * shared["kernel"][i, j, c, channel]
                    features.append(max(total, 0))
        hidden = features @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
        last = params["Dense_1"]
        logits.append(np.maximum(hidden, 0) @ last["kernel"] + last["bias"])
    return np.stack(logits)


@pytest.mark.parametrize("height, width, channels, patch_size, stride", CASES)
def test_the_logits_equal_the_loop_over_patches(height, width, channels, patch_size, stride):
    images = random_images(height, width, channels)
    model = make(patch_size=patch_size, stride=stride, channels=2, hidden_sizes=(5,))
    params, state = random_params(model, images)
    logits, _ = jax.jit(lambda: model.apply(params, state, images, train=False))()
    expected = by_hand(params, images, patch_size, stride)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("height, width, channels, patch_size, stride", CASES)
def test_gradients_equal_those_of_a_convolution(height, width, channels, patch_size, stride):
    """They are the gradients by the shared kernel and by the images."""
    images = random_images(height, width, channels)
    rng = np.random.default_rng(2)
    kernel = rng.normal(size=(patch_size, patch_size, channels, 4)).astype(np.float32)

    def with_patches(images, kernel):
        patches = overlapping_patches(images, patch_size, stride)
        return jnp.einsum("nripqc,iqck->nrpk", patches, kernel)

    def convolved(images, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, (stride, stride), "VALID", dimension_numbers=numbers
        )

    actual, expected = (
        jax.grad(lambda *args, f=f: jnp.sin(f(*args)).sum(), argnums=(0, 1))(images, kernel)
        for f in (with_patches, convolved)
    )
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "shape, num_patches", [((8, 8, 1), 1), ((28, 28, 1), 36), ((32, 32, 3), 49)]
)
def test_number_of_parameters_with_the_defaults(shape, num_patches):
    def init(key):
        return make(batch_norm=True).init(key, jnp.zeros((1, *shape)))[0]

    params = jax.eval_shape(init, jax.random.key(0))
    shared = 64 * shape[2] * 32 + 32
    hidden = num_patches * 32 * 256 + 256
    norms = 2 * (32 + 256)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == shared + hidden + norms + 256 * 3 + 3


def test_batch_norm_of_the_patches_is_of_each_channel_over_all_patches():
    images = random_images(12, 20, 3)
    model = make(channels=5, batch_norm=True)
    params, state = model.init(jax.random.key(0), images)
    _, state = model.apply(params, state, images, train=True)
    patches = [
        images[:, top : top + 8, left : left + 8].reshape(2, -1)
        for top in (0, 4)
        for left in (0, 4, 8, 12)
    ]
    outputs = np.concatenate(patches) @ params["DenseGeneral_0"]["kernel"].reshape(-1, 5)
    statistics = state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.01 * outputs.mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.99 + 0.01 * outputs.var(0), rtol=1e-4)


def test_batch_norm_of_the_patches_comes_before_their_relu():
    """A bias far below 0 silences the ReLU, so only the last bias is left."""
    images = random_images(12, 20, 3)
    model = make(channels=5, batch_norm=True, hidden_sizes=())
    params, state = model.init(jax.random.key(0), images)
    params["BatchNorm_0"]["bias"] -= 1000.0
    params["Dense_0"]["bias"] += 1.5
    logits, _ = model.apply(params, state, images, train=True)
    np.testing.assert_array_equal(logits, np.full((2, 3), 1.5))


@pytest.mark.parametrize(
    "height, width, options, message",
    [
        (30, 28, {}, "leave pixels out of images of 30 x 28"),
        (28, 30, {}, "leave pixels out of images of 28 x 30"),
        (28, 6, {}, "`patch_size` must be a whole number from 1 to 6, got 8"),
        (28, 28, dict(patch_size=0), "`patch_size` must be a whole number from 1 to 28, got 0"),
        (28, 28, dict(stride=9), "`stride` must be a whole number from 1 to 8, got 9"),
        (28, 28, dict(stride=0), "`stride` must be a whole number from 1 to 8, got 0"),
    ],
)
def test_patches_that_do_not_fit_are_an_error_that_names_the_sizes(height, width, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).init(jax.random.key(0), jnp.zeros((1, height, width, 1)))
