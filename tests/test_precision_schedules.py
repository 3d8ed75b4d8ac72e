"""The ten published schedules of the number of bits, against independent transcriptions."""

import jax
import numpy as np
import pytest

import cyclical_jax as cj
from cyclical_jax.precision import PRECISION_SCHEDULES

TOTAL, NUM_CYCLES, LOW, HIGH = 64_000, 8, 3, 8
# Mean bits; mean cost relative to 8 bits everywhere; bits of the first and of the last update.
TABLE = {
    "CR": (5.500, 0.6334, 3, 8),
    "LR": (5.500, 0.6276, 3, 8),
    "ER": (6.834, 0.8224, 3, 8),
    "RR": (3.805, 0.3990, 3, 8),
    "CT": (5.500, 0.6334, 8, 8),
    "LT": (5.500, 0.6276, 8, 8),
    "ETV": (5.500, 0.6348, 8, 8),
    "ETH": (6.835, 0.8225, 8, 8),
    "RTV": (5.500, 0.6373, 8, 8),
    "RTH": (3.806, 0.3990, 8, 8),
}
GROWTH = {
    "C": lambda x: 0.5 * (1 - np.cos(np.pi * x)),
    "L": lambda x: x,
    "E": lambda x: 1 - np.exp(-4 * x),
    "R": lambda x: 1 - (1 - x) / (0.1 + 0.9 * (1 - x)),
}


def published_bits(name):
    """Returns the bits as published: x = (t mod P) / P in cycles of whole updates."""
    growth, period = GROWTH[name[0]], TOTAL // NUM_CYCLES
    cycle, x = np.divmod(np.arange(TOTAL), period)
    x = x / period
    if name.endswith("R"):
        s = growth(x)
    else:
        s = np.where(cycle % 2 == 1, growth(x), growth(1 - x) if name[-1] == "H" else 1 - growth(x))
    return np.rint(LOW + (HIGH - LOW) * s)


def bits_of(cycle):
    schedule = cj.as_integer(cj.cyclical_schedule(**cycle, total_steps=TOTAL))
    return np.asarray(jax.jit(schedule)(np.arange(TOTAL)))


def mean_cost(bits, of_gradients=8, reference=8):
    """Returns b x b forwards, b x g twice backwards, over three times r x r."""
    return np.mean((bits**2 + 2 * bits * of_gradients) / (3 * reference**2))


def test_the_table_has_all_ten():
    assert PRECISION_SCHEDULES.keys() == TABLE.keys()


@pytest.mark.parametrize("name", TABLE)
def test_mean_bits_cost_and_ends(name):
    mean, cost, first, last = TABLE[name]
    theirs, ours = published_bits(name), bits_of(PRECISION_SCHEDULES[name])
    assert theirs.mean() == pytest.approx(mean, abs=5.1e-4)  # the table is of theirs, rounded
    assert ours.mean() == pytest.approx(theirs.mean(), abs=5e-4)
    for bits in (theirs, ours):
        assert mean_cost(bits.astype(float)) == pytest.approx(cost, abs=1e-4)
        assert (bits[0], bits[-1]) == (first, last)


@pytest.mark.parametrize("name", TABLE)
def test_the_bits_are_the_published_ones_but_at_a_few_updates(name):
    """They count to T / N, we to (T - 1) / N: a change of bits may come one update earlier."""
    differs = np.mean(bits_of(PRECISION_SCHEDULES[name]) != published_bits(name))
    assert differs <= 5e-4


@pytest.mark.parametrize("name", [name for name in TABLE if name[0] == "E"])
def test_the_exponential_that_reaches_the_end_has_other_bits(name):
    published = PRECISION_SCHEDULES[name]
    shape = jax.tree.map(lambda word: word.replace("published_", ""), published["shape"])
    bits = bits_of(published | {"shape": shape})
    differs = np.mean(bits != published_bits(name))
    assert differs == pytest.approx(0.056, abs=2e-3)
    if name == "ER":
        assert bits.mean() == pytest.approx(6.89, abs=5e-3)
        assert mean_cost(bits.astype(float)) == pytest.approx(0.8312, abs=5e-4)
