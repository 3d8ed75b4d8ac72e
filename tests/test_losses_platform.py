"""What all losses share: no dtype is promoted unseen, and a mesh shards them."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import cyclical_jax as cj
from tests.loss_table import (
    CLASSES,
    LOSSES,
    MANY,
    MULTILABEL,
    NUMBERS,
    OF_TWO_LOGITS,
    SOFTMAX,
    assert_same,
    drawn,
    every_loss,
    with_gradient,
)

# ---- dtypes

LOW = 0.3, 0.7, 1 / 3  # which low precision cannot hold; nor 1 minus its rounded values


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@every_loss
def test_numbers_of_low_precision_are_computed_with_in_float32(name, kind, dtype):
    logits, labels = drawn(kind)
    numbers = {
        each: jnp.asarray(np.resize(LOW, (2, 3))[:, ::-1] + 0.01 * place, dtype)
        for place, each in enumerate(NUMBERS[name])
    }
    in_float32 = {each: values.astype(jnp.float32) for each, values in numbers.items()}
    loss = jax.jit(LOSSES[name])
    actual, expected = (loss(logits, labels, **each) for each in (numbers, in_float32))
    assert actual.dtype == jnp.float32
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_labels_of_low_precision_are_computed_with_in_float32(dtype):
    logits, labels = drawn("probabilities")
    labels = jnp.asarray(labels, dtype)
    for loss in (SOFTMAX | MULTILABEL).values():
        expected = loss(logits, labels.astype(jnp.float32))
        np.testing.assert_array_equal(loss(logits, labels), expected)


def test_a_number_of_numpy_is_that_of_python():
    logits, labels = drawn("indices")
    expected = cj.focal_loss(logits, labels, gamma=2)
    kinds = np.int64, np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.array
    for number in (kind(2) for kind in kinds):
        actual = cj.focal_loss(logits, labels, gamma=number)
        np.testing.assert_array_equal(actual, expected)
        assert actual.dtype == jnp.float32


@pytest.mark.parametrize(
    "logits_dtype, traced",
    [
        (jnp.float32, None),
        (jnp.float32, jnp.bfloat16),
        (jnp.float32, np.float64),
        (jnp.bfloat16, jnp.int32),
        (np.float64, None),
        (np.float64, jnp.float32),
    ],
)
@every_loss
def test_no_dtype_is_promoted_unseen(name, kind, logits_dtype, traced):
    wide = np.float64 in (traced, logits_dtype)
    with jax.numpy_dtype_promotion("strict"), jax.enable_x64(wide):
        logits, labels = drawn(kind)
        numbers = {} if traced is None else {each: traced(1) for each in NUMBERS[name]}
        numbers.pop("margin", None)
        arrays = {"where": np.ones((2, 3, CLASSES), bool)}
        if name not in OF_TWO_LOGITS:
            arrays["class_weights"] = np.ones(CLASSES, np.float16)
        args = jnp.asarray(logits, logits_dtype), labels

        def mean(logits, labels, numbers):
            return cj.weighted_mean(LOSSES[name](logits, labels, **numbers, **arrays))

        result = jax.eval_shape(jax.grad(mean), *args, numbers)
        values = jax.eval_shape(mean, *args, numbers)
    assert result.dtype == logits_dtype
    assert values.dtype == (np.float64 if logits_dtype == np.float64 else np.float32)
    assert not values.weak_type


# ---- meshes


@pytest.mark.parametrize("classes, knobs", [(CLASSES, "plain"), (MANY, "each")])
@every_loss
def test_the_default_mesh_shards_the_losses(name, kind, knobs, classes):
    """The axes of `jax.make_mesh` are explicit: JAX refuses what it cannot shard."""
    mesh = jax.make_mesh((2,), ("data",))
    logits, labels = drawn(kind, (4,), classes)
    numbers = {} if knobs == "plain" else {each: np.full(4, 0.4) for each in NUMBERS[name]}
    numbers = {each: values.astype(np.float32) for each, values in numbers.items()}
    expected = with_gradient(LOSSES[name], logits, labels, **numbers)

    def place(array):
        return jax.device_put(array, NamedSharding(mesh, P("data")))

    def total(logits, labels, numbers):
        values = LOSSES[name](logits, labels, **numbers)
        return cj.weighted_mean(values) * 4, values

    args = jax.tree.map(place, (logits, labels, numbers))
    gradient, values = jax.jit(jax.grad(total, has_aux=True))(*args)
    assert values.sharding.spec == P("data") and gradient.sharding.spec[0] == "data"
    assert_same((values, gradient), expected)


@pytest.mark.parametrize("name", SOFTMAX | MULTILABEL)
def test_the_default_mesh_with_masks_weights_and_channels_first(name):
    mesh = jax.make_mesh((2,), ("data",))
    logits, labels = drawn("probabilities", (4, 3))
    arrays = {
        "logits": np.moveaxis(logits, -1, 1),
        "labels": np.moveaxis(labels, -1, 1),
        "where": np.arange(12).reshape(4, 3) != 5,
        NUMBERS[name][0]: np.full((4, 1), 0.5, np.float32),
    }
    weights = np.linspace(0.5, 2, CLASSES, dtype=np.float32)
    loss = jax.jit(functools.partial(LOSSES[name], axis=1, class_weights=weights))
    expected = loss(**arrays)
    placed = {
        key: jax.device_put(array, NamedSharding(mesh, P("data"))) for key, array in arrays.items()
    }
    np.testing.assert_allclose(loss(**placed), expected, rtol=1e-5)
