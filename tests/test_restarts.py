"""The schedule that restarts against its formula, with cycles that are walked one by one."""

import itertools
import math

import jax
import numpy as np
import optax
import pytest

from cyclical_jax import cycle_ends, warm_restart_schedule
from cyclical_jax.restarts import ends_of_cycles

MOST = 2**31 - 1
# (first_cycle, multiplier, warmup)
ALL = [(8, 2, 8), (5, 1.5, 3), (7, 1, 0), (4, 2.5, 0), (1, 3, 9), (1, 1, 2), (100, 1.01, 1)]
every_case = pytest.mark.parametrize("first, multiplier, warmup", ALL)


def walked(first, multiplier, warmup, until):
    """Yields (begin, length) of each cycle that begins before `until`."""
    begin = warmup
    for k in itertools.count():
        if begin >= until:
            return
        length = round(first * multiplier**k)
        yield begin, length
        begin += length


def by_hand(count, first, multiplier, warmup):
    if count < warmup:
        return count / warmup
    begin, length = list(walked(first, multiplier, warmup, count + 1))[-1]
    return (1 + math.cos(math.pi * (count - begin) / length)) / 2


# ---- ends


@pytest.mark.parametrize("updates_an_epoch", [1, 625])
def test_ends_are_those_that_were_published(updates_an_epoch):
    ends = [16, 32, 64, 128, 256, 512]
    lengths = {"first_cycle": 8 * updates_an_epoch, "warmup": 8 * updates_an_epoch}
    found = cycle_ends(512 * updates_an_epoch, **lengths)
    assert found == tuple(end * updates_an_epoch for end in ends)
    assert cycle_ends(512 * updates_an_epoch - 1, **lengths) == found[:-1]
    assert cycle_ends(1023 * updates_an_epoch, **lengths) == found


@every_case
def test_ends_are_those_of_a_walk(first, multiplier, warmup):
    ends = [begin + length for begin, length in walked(first, multiplier, warmup, 3000)]
    for total in (1, first + warmup - 1, first + warmup, ends[3], ends[3] + 1, 2999):
        found = cycle_ends(max(1, total), first, multiplier=multiplier, warmup=warmup)
        assert found == tuple(end for end in ends if end <= total)
        assert all(isinstance(end, int) for end in found)


def test_at_most_so_many_ends_are_listed():
    assert len(cycle_ends(3 * 2**15, 3, multiplier=1)) == 2**15
    line = r"^`total_steps` must be at most 98304, the end of cycle 32768, got 98307\.$"
    with pytest.raises(ValueError, match=line):
        cycle_ends(3 * 2**15 + 3, 3, multiplier=1)


# ---- values


@every_case
def test_every_count_has_the_value_of_the_formula(first, multiplier, warmup):
    schedule = jax.jit(warm_restart_schedule(first, multiplier=multiplier, warmup=warmup))
    counts = np.arange(300)
    expected = [by_hand(count, first, multiplier, warmup) for count in counts.tolist()]
    np.testing.assert_allclose(schedule(counts), expected, atol=1e-6)


@every_case
def test_a_cycle_begins_at_1_and_ends_just_above_0(first, multiplier, warmup):
    schedule = warm_restart_schedule(first, multiplier=multiplier, warmup=warmup)
    begins, lengths = np.array([*walked(first, multiplier, warmup, 5000)]).T
    np.testing.assert_array_equal(schedule(begins), 1.0)
    last = np.sin(np.pi / (2 * lengths)) ** 2
    np.testing.assert_allclose(schedule(begins + lengths - 1), last, rtol=1e-5)


def test_the_warm_up_is_a_line_to_1():
    schedule = warm_restart_schedule(50, warmup=40)
    found = schedule(np.arange(41))
    np.testing.assert_allclose(found, np.arange(41) / 40, rtol=1e-6)
    assert found[0] == 0 and found[40] == 1
    # Continuous: the step into the first cycle is no larger than one of the warm-up.
    assert abs(float(schedule(41)) - 1) < 1 / 40


@pytest.mark.parametrize("warmup", [0, 6])
def test_equal_cycles_are_equal_cosines_of_optax(warmup):
    cosines = [optax.cosine_decay_schedule(1.0, 20)] * 5
    first = [optax.linear_schedule(0.0, 1.0, warmup)] if warmup else []
    starts = [warmup + 20 * k for k in range(5)]
    expected = optax.join_schedules([*first, *cosines], starts if warmup else starts[1:])
    schedule = warm_restart_schedule(20, multiplier=1, warmup=warmup)
    counts = range(warmup + 100)
    found = [schedule(count) for count in counts]
    np.testing.assert_allclose(found, [expected(count) for count in counts], atol=1e-6)


@pytest.mark.parametrize(
    "first, multiplier", [(3, 2), (3, 1), (2**30, 2), (2**30, 1e6), (999, 1.01)]
)
@pytest.mark.parametrize("warmup", [0, 2**24 + 1, MOST])
def test_counts_are_told_apart_to_the_end_of_int32(first, multiplier, warmup):
    schedule = jax.jit(warm_restart_schedule(first, multiplier=multiplier, warmup=warmup))
    if multiplier == 1:
        begins = [warmup + first * ((MOST - warmup) // first)]
    else:
        begins = [begin for begin, _ in walked(first, multiplier, warmup, MOST)]
    near = {begin + step for begin in begins[-20:] for step in (-2, -1, 0, 1, 2)}
    counts = sorted(c for c in near | {2**24 + 1, MOST - 1, MOST} if 0 <= c <= MOST)

    def expected(count):
        if count < warmup or multiplier > 1:
            return by_hand(count, first, multiplier, warmup)
        return by_hand((count - warmup) % first, first, 1, 0)

    found = schedule(np.array(counts, np.int32))
    np.testing.assert_allclose(found, [expected(count) for count in counts], atol=1e-6)


def test_counts_may_have_any_shape_and_be_traced():
    schedule = warm_restart_schedule(4, warmup=2)
    counts = np.arange(24).reshape(2, 3, 4)
    alone = [float(schedule(count)) for count in range(24)]
    for transform in (lambda f: f, jax.jit, jax.vmap):
        found = transform(schedule)(counts)
        assert found.shape == counts.shape and found.dtype == np.float32
        np.testing.assert_allclose(found.ravel(), alone, rtol=1e-6)
    assert schedule(-3) == schedule(0) == 0
    np.testing.assert_array_equal(schedule(np.float32([4, 5])), schedule(np.int8([4, 5])))


@pytest.mark.parametrize(
    "arguments, line",
    [
        ({"first_cycle": 0}, "`first_cycle` must be a whole number from 1 to 2147483647, got 0."),
        (
            {"first_cycle": 2.5},
            "`first_cycle` must be a whole number from 1 to 2147483647, got 2.5.",
        ),
        ({"multiplier": 0.9}, "`multiplier` must be at least 1, got 0.9."),
        ({"multiplier": 1.001}, "`multiplier` must be 1, or at least 1.01, got 1.001."),
        ({"multiplier": np.inf}, "`multiplier` must be at least 1 and finite, got inf."),
        ({"warmup": -1}, "`warmup` must be a whole number from 0 to 2147483647, got -1."),
    ],
)
def test_bad_arguments_are_one_line(arguments, line):
    arguments = {"first_cycle": 3} | arguments
    for call in (warm_restart_schedule, lambda **kw: cycle_ends(10, **kw)):
        with pytest.raises(ValueError) as error:
            call(**arguments)
        assert str(error.value) == line


def test_the_number_of_updates_must_be_one():
    with pytest.raises(ValueError, match="^`total_steps` must be a whole number from 1 to 2147"):
        cycle_ends(0, 3)


# ---- parts for the trainer


def test_the_ends_go_on():
    ends = ends_of_cycles(2, multiplier=2, warmup=1)
    assert list(itertools.islice(ends, 40))[-1] == 1 + 2 * (2**40 - 1)
