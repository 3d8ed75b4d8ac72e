"""The one place that says pmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax.training.devices import (
    AXIS,
    Throttle,
    on_all_devices,
    place,
    scatter,
    split_over_devices,
)


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


def test_a_mapped_result():
    mapped = on_all_devices(lambda x: x + jax.lax.axis_index(AXIS), in_axes=(0,), out_axes=0)
    np.testing.assert_array_equal(mapped(np.array([[1, 2], [5, 6]])), [[1, 2], [6, 7]])


@pytest.mark.parametrize("length", [1, 3, 4])
def test_a_mapped_axis_of_another_length_is_refused(length):
    mapped = on_all_devices(lambda state, batch: state, in_axes=(None, {"x": 0}))
    message = rf"A mapped axis has \[{length}\] entries for 2 devices."
    with pytest.raises(ValueError, match=message):
        mapped(jnp.float32(0), {"x": np.zeros((length, 5))})


def test_one_of_many_mapped_leaves_of_another_length_is_refused():
    mapped = on_all_devices(lambda pair: pair["x"].sum(), in_axes=(0,))
    with pytest.raises(ValueError, match=r"A mapped axis has \[2, 4\] entries for 2 devices."):
        mapped({"x": np.zeros((2, 5)), "y": np.zeros((4, 5))})


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


@pytest.mark.parametrize("donate", [True, False])
def test_only_what_is_donated_is_given_up(donate):
    mapped = on_all_devices(lambda state, x: state + x.sum(), in_axes=(None, 0), donate=donate)
    state, x = place(jnp.zeros(3)), scatter(np.ones((2, 1), np.float32))
    mapped(state, x)
    assert state.is_deleted() == donate and not x.is_deleted()


def test_leaves_that_were_one_array_may_be_donated():
    """Donating one buffer twice would end the process."""
    zero = jnp.zeros(3)
    add = on_all_devices(lambda pair, x: (pair[0] + x, pair[1] - x), in_axes=(None, 0), donate=True)
    up, down = add(place((zero, zero)), np.ones((2, 3), np.float32))
    np.testing.assert_array_equal([up, down], [[1] * 3, [-1] * 3])
    assert not zero.is_deleted()


def test_placed_is_whole_on_every_device():
    tree = {"host": np.arange(3, dtype=np.uint8), "device": jnp.ones((2, 2)), "none": None}
    placed = place(tree)
    assert placed["none"] is None and placed["host"].dtype == np.uint8
    for name in ("host", "device"):
        shards = placed[name].addressable_shards
        assert {shard.device for shard in shards} == set(jax.devices())
        for shard in shards:
            np.testing.assert_array_equal(shard.data, tree[name])


@pytest.mark.parametrize("backend, waits", [("cpu", [0, 1, 2, 3]), ("gpu", [None, None, 0, 1])])
def test_few_calls_are_in_flight(monkeypatch, backend, waits):
    """None on a CPU with several devices, two elsewhere: the one before these is waited for."""
    waited = []
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    throttle, latest = Throttle(), []
    for call in range(4):
        throttle(call)
        latest.append(waited[-1] if waited else None)
    assert latest == waits


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shares_are_contiguous_complete_and_no_copy(axis):
    array = np.arange(4 * 6 * 16).reshape(4, 6, 16)[..., 8:]  # as a process's part of a batch is
    shares = split_over_devices(array, axis)
    np.testing.assert_array_equal(shares, np.split(array, 2, axis))
    assert np.shares_memory(shares, array)


@pytest.mark.parametrize("axis, half", [(0, np.s_[2:]), (1, np.s_[:, 3:])])
def test_each_share_lies_on_its_device(axis, half):
    array = np.arange(24).reshape(4, 6)
    shares = scatter({"x": array}, axis=axis)["x"]
    assert [shard.device for shard in shares.addressable_shards] == jax.local_devices()
    assert all(shard.data.shape[0] == 1 for shard in shares.addressable_shards)
    np.testing.assert_array_equal(shares[1], array[half])


@pytest.mark.parametrize("axis, length", [(0, 5), (1, 7), (-1, 7)])
def test_what_cannot_be_shared_evenly_is_refused(axis, length):
    message = rf"^2 devices cannot share {length} entries evenly\.$"
    with pytest.raises(ValueError, match=message):
        scatter({"x": np.zeros((5, 7))}, axis=axis)
