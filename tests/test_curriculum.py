"""Ranks against SciPy's; weights against their formula and their mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cyclical_jax.curriculum import difficulty_ranks, sample_weights, update_difficulty


@pytest.mark.parametrize("number", [2, 3, 50])
def test_ranks_are_scipys(number):
    losses = np.random.default_rng(number).integers(0, 20, number).astype(np.float32)  # with ties
    expected = (scipy.stats.rankdata(losses) - 0.5) / number
    np.testing.assert_allclose(jax.jit(difficulty_ranks)(losses), expected, atol=1e-6)


def test_what_is_not_finite_is_hardest_and_one_alone_is_in_the_middle():
    ranks = difficulty_ranks(jnp.array([1.0, jnp.nan, 0.0, jnp.inf, 2.0]))
    np.testing.assert_allclose(ranks, [0.3, 0.8, 0.1, 0.8, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(difficulty_ranks(jnp.array([3.0])), [0.5])


@pytest.mark.parametrize("c", [-100.0, -4.0, -0.5, 0.01, 1.0, 4.0, 30.0, 100.0])
def test_weights_follow_the_formula(c):
    ranks = np.linspace(0, 1, 11)
    expected = c * np.exp(-c * ranks) / (1 - np.exp(-c))
    np.testing.assert_allclose(sample_weights(ranks, c), expected, rtol=2e-4, atol=1e-30)


@pytest.mark.parametrize("c", [-20.0, -2.0, -1e-4, 0.0, 5e-4, 0.0015, 3.0, 40.0])
def test_their_mean_over_uniform_ranks_is_1(c):
    ranks = (np.arange(20_000) + 0.5) / 20_000
    assert float(sample_weights(ranks, c).mean()) == pytest.approx(1, abs=1e-4)


def test_no_preference_is_exactly_uniform():
    np.testing.assert_array_equal(sample_weights(np.linspace(0, 1, 9), 0.0), np.ones(9))


def test_easy_ones_come_first_and_hard_ones_with_a_negative_preference():
    ranks = np.linspace(0, 1, 9)
    assert (np.diff(sample_weights(ranks, 2.0)) < 0).all()
    np.testing.assert_allclose(
        sample_weights(ranks, -2.0), sample_weights(ranks, 2.0)[::-1], rtol=1e-6
    )


@pytest.mark.parametrize("c", [-100.0, -1e-3, 0.0, 1e-3, 100.0])
def test_the_slope_in_the_preference_is_finite(c):
    ranks = jnp.linspace(0, 1, 5)
    slopes = jax.jacobian(lambda c: sample_weights(ranks, c))(jnp.float32(c))
    assert np.isfinite(slopes).all()


def test_a_preference_is_limited():
    with pytest.raises(ValueError, match="`preference` must be at least -100 and at most 100"):
        sample_weights(np.ones(3), 101)


def test_the_running_average_is_of_each_examples_own_losses():
    rng, expected = np.random.default_rng(0), np.full(10, 2.0)
    found = jnp.asarray(expected, jnp.float32)
    update = jax.jit(lambda *args: update_difficulty(*args, decay=0.8))
    for _ in range(20):
        index, losses = rng.integers(0, 10, 6), rng.uniform(0, 5, 6)
        found = update(found, index, jnp.asarray(losses, jnp.float32))
        for example in set(index):
            expected[example] = 0.8 * expected[example] + 0.2 * losses[index == example].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_plain_decay_leaves_its_exact_rest_to_the_new_loss():
    """1 - 0.9 in float32 is 0.100000024, off by two units in the last place."""
    found = update_difficulty(jnp.zeros(1), jnp.array([0]), jnp.ones(1), decay=0.9)
    assert found[0] == np.float32(0.1)


def test_the_weights_of_a_batch_have_a_mean_near_1():
    """So a preference does not act as a learning rate."""
    for number in (8, 64):
        ranks = difficulty_ranks(np.random.default_rng(0).uniform(size=number))
        assert float(sample_weights(ranks, 4.0).mean()) == pytest.approx(1, abs=0.02)


def test_an_average_that_is_not_finite_starts_anew_and_padding_is_left_out():
    found = jnp.array([jnp.nan, 1.0, 2.0])
    index, losses = jnp.array([0, 3, 1, -1]), jnp.array([4.0, jnp.nan, 3.0, 9.0])
    found = update_difficulty(found, index, losses, decay=0.5)
    np.testing.assert_array_equal(found, [4, 2, 2])


def test_each_example_of_a_batch_has_a_loss():
    with pytest.raises(ValueError, match=r"`losses` must have the shape of `index`, \(3,\), got"):
        update_difficulty(jnp.zeros(5), jnp.arange(3), jnp.ones(2))


@pytest.mark.parametrize(
    "call, line",
    [
        (
            lambda: difficulty_ranks(np.ones((3, 2))),
            r"`difficulty` must have shape \[n\], got \(3, 2",
        ),
        (
            lambda: update_difficulty(np.arange(5), np.arange(3), np.ones(3)),
            r"`difficulty` must be floats of shape \[n\], got int",
        ),
        (
            lambda: update_difficulty(np.ones(5), np.ones(3), np.ones(3)),
            r"`index` must be integers of shape \[batch\], got float32 of shape \(3,\)",
        ),
    ],
)
def test_what_cannot_be_is_one_line(call, line):
    with pytest.raises(ValueError, match=line):
        call()


def test_small_integers_and_low_precision_do_not_overflow_or_round():
    """A position of uint8 that is out of range, and 1 - 0.999 in bfloat16, which is 0."""
    index = np.array([3, 200], np.uint8)
    decay = jnp.bfloat16(0.996)
    found = jax.jit(update_difficulty)(
        np.zeros(300, np.float32), index, np.array([1000.0, 500.0], np.float16), decay=decay
    )
    np.testing.assert_allclose(found[index], (1 - float(decay)) * np.array([1000, 500]), rtol=1e-5)
    assert found.sum() == found[index].sum()


def test_a_decay_is_a_share():
    with pytest.raises(ValueError, match="`decay` must be at least 0 and at most 1, got 2"):
        update_difficulty(jnp.zeros(3), jnp.array([0]), jnp.ones(1), decay=2)
