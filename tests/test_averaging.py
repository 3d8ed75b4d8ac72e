"""The moving average against plain NumPy in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax.averaging import moving_average

RNG = np.random.default_rng(3)
OLD = {
    "kernel": RNG.normal(size=(3, 4)).astype(np.float32),
    "scale": jnp.asarray(RNG.normal(size=5), jnp.bfloat16),
    "count": np.array([3, -7], np.int32),
    "is_used": np.array(True),
}
NEW = {
    "kernel": 10 * RNG.normal(size=(3, 4)).astype(np.float32),
    "scale": jnp.asarray(10 * RNG.normal(size=5), jnp.bfloat16),
    "count": np.array([4, 9], np.int32),
    "is_used": np.array(False),
}
TOLERANCE = {"kernel": 1e-6, "scale": 1e-2}


def weight_by_hand(decay, step):
    return min(decay, (1 + step) / (10 + step))


def average_by_hand(old, new, d):
    return d * np.asarray(old, np.float64) + (1 - d) * np.asarray(new, np.float64)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.995, 1.0])
@pytest.mark.parametrize("step", [0, 1, 8, 100_000])
def test_floats_are_averaged_and_all_else_is_the_new_one(transform, decay, step):
    """Under jit the decay and the step are traced numbers."""

    def run(old, new, decay, step):
        return moving_average(old, new, decay, step=step)

    found = transform(run)(OLD, NEW, decay, step)
    d = weight_by_hand(decay, step)
    for name, tolerance in TOLERANCE.items():
        expected = average_by_hand(OLD[name], NEW[name], d)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            np.asarray(found[name], np.float64), expected, rtol=tolerance, atol=tolerance * scale
        )
    for name in ("count", "is_used"):
        np.testing.assert_array_equal(found[name], NEW[name])
    assert jax.tree.map(jnp.result_type, found) == jax.tree.map(jnp.result_type, OLD)


def test_the_dtype_is_that_of_the_old_average():
    found = moving_average(
        {"kernel": jnp.zeros(3, jnp.bfloat16)}, {"kernel": jnp.ones(3)}, 0.5, step=100
    )
    assert found["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["kernel"].astype(jnp.float32), [0.5] * 3)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_where_it_is_no_update_nothing_changes(transform):
    def run(is_update):
        return moving_average(OLD, NEW, 0.9, step=5, is_update=is_update)

    jax.tree.map(np.testing.assert_array_equal, transform(run)(False), OLD)
    moved = moving_average(OLD, NEW, 0.9, step=5)
    jax.tree.map(np.testing.assert_array_equal, run(True), moved)


def test_a_random_key_is_copied():
    old, new = jax.random.key(1), jax.random.key(2)
    for is_update, expected in [(True, new), (False, old)]:
        found = moving_average(old, new, 0.9, step=5, is_update=is_update)
        assert bool((found == expected).all())


def test_many_updates_follow_the_loop():
    decays = np.linspace(0.1, 0.95, 30, dtype=np.float32)
    values = RNG.normal(size=(30, 4)).astype(np.float32)

    def move(carry, inputs):
        average, step = carry
        value, decay = inputs
        return (moving_average(average, value, decay, step=step), step + 1), None

    (found, _), _ = jax.jit(lambda: jax.lax.scan(move, (jnp.zeros(4), 0), (values, decays)))()
    expected = np.zeros(4)
    for step, (value, decay) in enumerate(zip(values, decays.tolist(), strict=True)):
        expected = average_by_hand(expected, value, weight_by_hand(decay, step))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.5])
def test_a_plain_decay_out_of_range_is_an_error(decay):
    line = f"`decay` must be at least 0 and at most 1, got {decay}."
    with pytest.raises(ValueError, match=re.escape(line)):
        moving_average(OLD, NEW, decay, step=0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_traced_numbers_of_low_precision_are_computed_with_in_float32(dtype):
    decay, step = jnp.asarray(0.83, dtype), jnp.asarray(100, dtype)
    move = jax.jit(lambda decay, step: moving_average(OLD, NEW, decay, step=step))
    found, expected = move(decay, step), move(decay.astype(jnp.float32), jnp.int32(100))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    with jax.numpy_dtype_promotion("strict"):
        jax.tree.map(np.testing.assert_array_equal, move(decay, step), expected)


def test_the_last_step_that_int32_can_count():
    for step in (2**31 - 1, jnp.int32(2**31 - 1)):
        found = moving_average({"a": jnp.zeros(2)}, {"a": jnp.ones(2)}, 0.75, step=step)
        np.testing.assert_array_equal(found["a"], 0.25)
    with pytest.raises(ValueError, match="`step` must be a whole number from 0 to 2147483647"):
        moving_average(OLD, NEW, 0.75, step=2**31)


def test_a_step_of_a_small_integer_type_does_not_overflow():
    found = moving_average(OLD, NEW, 0.99, step=np.int8(127))
    expected = moving_average(OLD, NEW, 0.99, step=127)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
