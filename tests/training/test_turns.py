"""All on two devices."""

import math

import jax
import pytest

from cyclical_jax.training import turns
from cyclical_jax.training.turns import chunks_in_turn
from tests.training.test_population import BATCH, dataset, recipe


@pytest.fixture
def in_turn(monkeypatch):
    """`chunks_in_turn`, where a member takes so many seconds by the estimate."""

    def in_turn(seconds, num_members, chunk=1, **changes):
        monkeypatch.setattr(turns, "_estimated_seconds", lambda recipe, dataset: seconds)
        numbers = dict(num_members=num_members, chunk=chunk)
        return chunks_in_turn(recipe(**changes), dataset(), **numbers)

    return in_turn


@pytest.mark.parametrize(
    "seconds, num_members, expected",
    [
        (0.2, 1, 1),
        (0.2, 2, 1),
        (0.2, 3, 2),
        (0.2, 32, 16),
        (0.2, 100, 50),
        (0.2, 101, 26),  # 51 of each device in two calls, not 50 and 1
        (3.0, 32, 3),  # of at most 3 in six calls
        (6.0, 32, 1),
        (600.0, 32, 1),
    ],
)
def test_a_group_lasts_ten_seconds_at_most_and_is_full(in_turn, seconds, num_members, expected):
    assert in_turn(seconds, num_members) == expected


def test_the_members_of_a_chunk_take_the_time_of_each(in_turn):
    assert in_turn(0.2, 32, chunk=4) == 4
    assert in_turn(1.0, 32, chunk=4) == 2  # 8 members of each device in ten seconds


def test_where_nothing_is_gained_it_is_one(in_turn, monkeypatch):
    assert in_turn(0.2, 32, loop="stepwise") == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert in_turn(0.2, 32) == 1


def test_the_estimate_counts_three_forward_passes_of_all_examples():
    """Of two matrix products, beside which the rest of the model is little."""
    run, data = recipe(model__hidden_sizes=(500, 500), duration="4 steps"), dataset()
    inputs = math.prod(data.train["image"].shape[1:])
    products = 2 * 500 * (inputs + 500 + data.num_classes)
    estimated = turns._estimated_seconds(run, data)
    assert estimated == pytest.approx(3 * products * 4 * BATCH / 1e10, rel=0.05)
