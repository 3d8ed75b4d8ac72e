"""Schedules in pieces, against the pieces alone."""

import functools
import itertools

import jax
import numpy as np
import pytest

from cyclical_jax import cycle_ends, cyclical_schedule
from cyclical_jax._piecewise import constant_between, in_each_cycle


def test_a_constant_between_counts():
    schedule = constant_between([3, 5, 5, 9], [4, -7, 2, 2**31 - 1])
    assert schedule(np.arange(11)).tolist() == [4] * 5 + [2] * 4 + [2**31 - 1] * 2


@pytest.mark.parametrize("num_cycles", [1, 2])
@pytest.mark.parametrize("shape", ["linear", "cosine", "rex"])
def test_a_schedule_begins_anew_in_each_cycle(shape, num_cycles):
    ends = cycle_ends(129, 9, multiplier=1.5, warmup=4)
    assert ends[0] == 13 and len(ends) == 5
    options = {"shape": shape, "num_cycles": num_cycles, "factor": 3}
    found = jax.jit(
        in_each_cycle(lambda length: cyclical_schedule(0.2, 3.0, length, **options), ends)
    )(np.arange(ends[-1]))
    alone = [
        cyclical_schedule(0.2, 3.0, end - start, **options)(np.arange(end - start))
        for start, end in itertools.pairwise((0, *ends))
    ]
    np.testing.assert_allclose(found, np.concatenate(alone), rtol=1e-5)


@pytest.mark.parametrize("shape, num_cycles, end", [("cosine", 3, 54), ("rex", 7, 61)])
def test_later_cycles_change_no_bit_of_the_first_one(shape, num_cycles, end):
    """XLA would round otherwise where a single cycle lets it know the length."""
    options = {"shape": shape, "num_cycles": num_cycles}

    @functools.partial(jax.jit, static_argnums=0)
    def values(ends, easy, hard, factor, counts):
        def within(length):
            return cyclical_schedule(easy, hard, length, factor=factor, **options)

        return in_each_cycle(within, ends)(counts)

    numbers = np.float32(0.5), np.float32(0.9), np.float32(2)
    alone = values((end,), *numbers, np.arange(end))
    longer = values((end, 3 * end, 7 * end), *numbers, np.arange(7 * end))
    np.testing.assert_array_equal(alone, longer[:end])
