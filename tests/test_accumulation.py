"""Windows, and numbers of updates, against a search through every number of updates."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cyclical_jax import (
    accumulate_gradients,
    as_integer,
    cyclical_schedule,
    num_updates,
    updates_of,
)
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


# ---- updates_of


@pytest.mark.parametrize("cycle", CYCLES, ids=str)
def test_the_updates_of_a_cycle_fit_and_one_more_does_not(cycle):
    of, counts = schedule_of(**cycle), np.arange(80)

    def taken(total_steps):
        return as_integer(of(total_steps))(counts)[:total_steps].sum()

    for micro_steps in (79, 80):
        updates = updates_of(micro_steps, of)
        assert taken(updates) <= micro_steps < taken(updates + 1)


def run(every, micro_steps):
    """Returns the state after all micro steps, under jit."""
    optimizer = accumulate_gradients(optax.sgd(0.1), every)

    def step(state, _):
        return optimizer.update(jnp.ones(()), state)[1], None

    @jax.jit
    def train():
        return jax.lax.scan(step, optimizer.init(jnp.ones(())), length=micro_steps)[0]

    return train()


@pytest.mark.parametrize("micro_steps", [150, 97])
def test_a_run_of_150_batches_ends_its_cycle(micro_steps):
    """Planned as half the number of batches, a cycle of 4 -> 1 -> 4 stopped at 64 of 75 updates."""
    assert num_updates(run(cyclical_schedule(4, 1, 75), 150)) == 64

    def every(total_steps):
        return cyclical_schedule(4, 1, total_steps)

    total_steps = updates_of(micro_steps, every)
    state = run(every(total_steps), micro_steps)
    assert num_updates(state) == total_steps
    longer = next(t for t in range(2, micro_steps) if sum(transcribed(t, 4, 1)) > micro_steps)
    assert total_steps == longer - 1
    assert state.mini_step == micro_steps - sum(transcribed(total_steps, 4, 1))


@pytest.mark.parametrize(
    "every, expected",
    [
        (4, 37),
        (4.0, 37),
        (np.int32(150), 1),
        (1, 150),
        (lambda count: 4, 37),
        (lambda count: 3.6, 37),
        (lambda count: 1 + count % 2, 100),
        (lambda total_steps: lambda count: 4, 37),
        (cyclical_schedule(4, 1, 75), 64),
    ],
)
def test_the_updates_of_a_number_and_of_a_fixed_schedule(every, expected):
    assert updates_of(150, every) == expected
    if not callable(every) or not callable(every(2)):
        assert num_updates(run(every, 150)) == expected


@pytest.mark.parametrize(
    "micro_steps, every, line",
    [
        (0, 4, "`micro_steps` must be a whole number from 1 to 2147483647, got 0."),
        (1.5, 4, "`micro_steps` must be a whole number from 1 to 2147483647, got 1.5."),
        ("9", 4, "`micro_steps` must be a number, got '9'."),
        (10**7 + 1, schedule_of(4, 1), "`micro_steps` must be a whole number from 1 to 10000000"),
        (9, 0, "`every` must be a whole number from 1 to 2147483647, got 0."),
        (9, 2.5, "`every` must be a whole number from 1 to 2147483647, got 2.5."),
        (3, 4, "`micro_steps` must be enough for one update, got 3."),
        (3, lambda count: 4, "`micro_steps` must be enough for one update, got 3."),
        (5, schedule_of(8, 1), "`micro_steps` 5 are too few for a cycle: `total_steps` must be"),
        (9, schedule_of(8, 1, num_cycles=3), "are too few for a cycle: `num_cycles` must be"),
        (9, schedule_of(8, 1, factor=0.5), "`factor` must be at least 1"),
    ],
)
def test_numbers_of_updates_that_cannot_be(micro_steps, every, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        updates_of(micro_steps, every)


@pytest.mark.skipif(
    not hasattr(jax.sharding, "AxisType"), reason="this JAX has no explicit sharding"
)
def test_windows_of_counts_on_two_devices():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    counts = jax.device_put(
        jnp.arange(8), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    )
    with jax.numpy_dtype_promotion("strict"):
        values = jax.jit(windows_schedule(((1, 8), (2, 3), (4, 1), (1, 8))))(counts)
    np.testing.assert_array_equal(values, [8, 3, 3, 1, 1, 1, 1, 8])
