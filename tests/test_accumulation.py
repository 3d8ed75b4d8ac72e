"""Windows against a search through every number of updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax import cyclical_schedule
from cyclical_jax.accumulation import (
    powers_of_two,
    uniform_windows,
    windows_of_micro_steps,
    windows_of_updates,
    windows_schedule,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")

CYCLES = [
    dict(easy=8, hard=1),
    dict(easy=1, hard=8),
    dict(easy=4, hard=3, factor=4),
    dict(easy=30, hard=2, factor=1),
    dict(easy=8, hard=1, num_cycles=3),
    dict(easy=16, hard=1, scale="log", shape="cosine"),
]


def schedule_of(easy, hard, **options):
    return lambda total_steps: cyclical_schedule(float(easy), float(hard), total_steps, **options)


def listed(windows):
    return [size for count, size in windows for _ in range(count)]


def transcribed(total_steps, easy, hard, factor=2, num_cycles=1, scale="linear", shape="linear"):
    """By the formula, in float64."""
    every = []
    for count in range(total_steps):
        place = count / (total_steps - 1) * num_cycles
        x = 1 if count == total_steps - 1 else place % 1
        h = factor * x if x <= 1 / factor else factor * (1 - x) / (factor - 1)
        h = (1 - np.cos(np.pi * h)) / 2 if shape == "cosine" else h
        value = easy * (hard / easy) ** h if scale == "log" else (1 - h) * easy + h * hard
        every.append(max(1, round(value)))
    return every


@pytest.mark.parametrize("cycle", CYCLES, ids=str)
@pytest.mark.parametrize("total_steps", [5, 37])
def test_windows_of_updates_follow_the_formula(cycle, total_steps):
    windows = listed(windows_of_updates(schedule_of(**cycle), total_steps))
    expected = transcribed(total_steps, **cycle)
    assert len(windows) == total_steps
    # In float32 a half may fall to the other side.
    assert max(abs(a - b) for a, b in zip(windows, expected, strict=True)) <= 1
    assert sum(a != b for a, b in zip(windows, expected, strict=True)) <= total_steps // 5


@pytest.mark.parametrize("cycle", CYCLES, ids=str)
@pytest.mark.parametrize("micro_steps", [4, 9, 100])
def test_as_many_updates_as_take_all_micro_steps(cycle, micro_steps):
    least = cycle.get("num_cycles", 1) + 1
    minimum = min(cycle["easy"], cycle["hard"])
    of = schedule_of(**cycle)
    windows = listed(windows_of_micro_steps(of, micro_steps, least=least, minimum=minimum))
    assert sum(windows) == micro_steps and min(windows) >= 1
    whole = listed(windows_of_updates(of, len(windows)))
    assert sum(whole) >= micro_steps
    if len(windows) > least:
        assert sum(listed(windows_of_updates(of, len(windows) - 1))) < micro_steps
    short = [place for place, (a, b) in enumerate(zip(windows, whole, strict=True)) if a != b]
    assert all(windows[place] < whole[place] for place in short)
    for place in short[:1]:  # what is after it has nothing left to give
        assert set(windows[place + 1 :]) <= {1}


def test_eight_to_one_to_eight():
    sizes = listed(windows_of_micro_steps(schedule_of(8, 1), 60, least=2, minimum=1))
    assert sizes == [8, 7, 6, 4, 3, 2, 1, 2, 3, 4, 6, 7, 7]  # the last by one shorter


@pytest.mark.parametrize(
    "micro_steps, every, windows",
    [
        (10, 4, ((2, 4), (1, 2))),
        (8, 4, ((2, 4),)),
        (3, 4, ((1, 3),)),
        (5, 1, ((5, 1),)),
        (2**31 - 1, 1, ((2**31 - 1, 1),)),
    ],
)
def test_uniform_windows(micro_steps, every, windows):
    assert uniform_windows(micro_steps, every) == windows


@pytest.mark.parametrize("windows", [((7, 1),), ((2, 4), (1, 2)), ((1, 8), (2, 3), (4, 1), (1, 8))])
def test_the_schedule_is_the_windows(windows):
    every = jax.jit(windows_schedule(windows))
    assert [int(every(count)) for count in range(len(listed(windows)))] == listed(windows)
    assert every(jnp.int32(0)).dtype == jnp.int32
    assert int(every(10**6)) == windows[-1][1]  # past the end the last value holds


@pytest.mark.parametrize("cycle", CYCLES, ids=str)
def test_powers_of_two_are_the_nearest_on_a_log_scale(cycle):
    of = schedule_of(**cycle)
    for count in range(20):
        value, rounded = float(of(20)(count)), float(powers_of_two(of)(20)(count))
        assert np.log2(rounded) == int(np.log2(rounded))
        assert abs(np.log2(rounded) - np.log2(value)) <= 0.5 + 1e-6
