"""The one place that says pmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax.training.devices import AXIS, on_all_devices, place, split_over_devices


def test_there_are_two_devices():
    """Else every test of data parallelism in this suite would check nothing."""
    assert jax.local_device_count() == 2


def test_mapped_and_shared_arguments():
    def weighted_mean(weight, inputs):
        shared, values = inputs
        return jax.lax.pmean(weight * shared["scale"] * values.sum(), AXIS)

    mapped = on_all_devices(weighted_mean, in_axes=(None, (None, 0)))
    inputs = ({"scale": jnp.float32(3)}, np.arange(6.0, dtype=np.float32).reshape(2, 3))
    assert float(mapped(jnp.float32(2), inputs)) == 2 * 3 * (3 + 12) / 2


@pytest.mark.parametrize("length", [1, 3, 4])
def test_a_mapped_axis_of_another_length_is_refused(length):
    mapped = on_all_devices(lambda state, batch: state, in_axes=(None, {"x": 0}))
    message = rf"A mapped axis has \[{length}\] entries for 2 devices."
    with pytest.raises(ValueError, match=message):
        mapped(jnp.float32(0), {"x": np.zeros((length, 5))})


def test_a_placed_state_compiles_once(count_compilations):
    def step(state, x):
        return state + jax.lax.pmean(x.sum(), AXIS)

    mapped = on_all_devices(step, in_axes=(None, 0), donate=True)
    x = np.ones((2, 3), np.float32)
    state = mapped(place(jnp.float32(0)), x)
    with count_compilations() as compilations:
        state = mapped(state, x)
        mapped(place(jnp.float32(0)), x)
    assert float(mapped(state, x)) == 9
    assert not compilations


def test_leaves_that_were_one_array_may_be_donated():
    """Donating one buffer twice would end the process."""
    zero = jnp.zeros(3)
    add = on_all_devices(lambda pair, x: (pair[0] + x, pair[1] - x), in_axes=(None, 0), donate=True)
    up, down = add(place((zero, zero)), np.ones((2, 3), np.float32))
    np.testing.assert_array_equal([up, down], [[1] * 3, [-1] * 3])


def test_shares_are_contiguous_and_complete():
    array = np.arange(24).reshape(3, 8)
    shares = split_over_devices(array, axis=1)
    np.testing.assert_array_equal(shares, [array[:, :4], array[:, 4:]])
