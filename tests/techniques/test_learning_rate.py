"""The learning rate's schedules against formulas written out."""

import math

import jax
import numpy as np
import pytest

from cyclical_jax.catalogue import default_config, parse
from cyclical_jax.techniques.learning_rate import WARMUP
from cyclical_jax.training import assembly
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.recipe import cyclical
from tests.techniques.helpers import logits_of, step_and_state

pytestmark = pytest.mark.usefixtures("fast_compilation")

STEPS, PEAK = 90, 0.4
KEY = "optimizer.learning_rate"


def recipe(**changes):
    config = default_config()
    config.duration, config.optimizer.learning_rate = f"{STEPS} steps", PEAK
    for key, value in changes.items():
        config.optimizer[key] = value
    return parse(config)


def rate_of(run, table=None):
    table = table or run.timetable(1197)
    return assembly.make_schedules(run.structure, run.numbers, table)[KEY]


def rates(**changes):
    rate = jax.jit(rate_of(recipe(**changes)))
    return np.array([float(rate(count)) for count in range(STEPS)])


def half_cosine(start, stop, x):
    return stop + (start - stop) * (1 + math.cos(math.pi * x)) / 2


def one_cycle(count):
    """Up from 1 / 25 over 27 updates, down to 1 / 250000."""
    if count < 27:
        return half_cosine(1 / 25, 1, count / 27)
    return half_cosine(1, 1 / 250_000, (count - 27) / (STEPS - 27))


def warm_restarts(count):
    """90 updates as 6 + 12 + 24 + 48."""
    for start, length in [(0, 6), (6, 12), (18, 24), (42, 48)]:
        if count < start + length:
            return half_cosine(1, 0, (count - start) / length)


CASES = [
    (dict(learning_rate_schedule=None), lambda count: 1.0),
    (dict(), lambda count: half_cosine(1, 0, count / STEPS)),
    (dict(learning_rate_schedule="one_cycle"), one_cycle),
    (dict(learning_rate_schedule="warm_restarts", first_cycle="6 steps"), warm_restarts),
]
NAMES = ["none", "cosine", "one_cycle", "warm_restarts"]


@pytest.mark.parametrize("changes, expected", CASES, ids=NAMES)
def test_a_schedule_is_its_formula(changes, expected):
    wanted = [PEAK * expected(count) for count in range(STEPS)]
    np.testing.assert_allclose(rates(**changes), wanted, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("changes, expected", CASES, ids=NAMES)
def test_a_cycle_is_multiplied_by_it(changes, expected):
    cycled = rates(learning_rate=cyclical(0.1, PEAK), **changes)
    alone = rates(learning_rate=cyclical(0.1, PEAK), learning_rate_schedule=None)
    wanted = [rate * expected(count) for count, rate in enumerate(alone)]
    np.testing.assert_allclose(cycled, wanted, rtol=2e-5, atol=1e-7)
    assert alone.argmax() in (44, 45) and alone[0] == alone[-1] == np.float32(0.1)


@pytest.mark.parametrize("changes, expected", CASES[:-1], ids=NAMES[:-1])
def test_a_warm_up_is_a_line_to_what_follows(changes, expected):
    found = rates(warmup="9 steps", **changes)
    end = PEAK * expected(9)
    np.testing.assert_allclose(found[:9], [end * (n + 1) / 10 for n in range(9)], rtol=2e-5)
    np.testing.assert_allclose(found[9:], rates(**changes)[9:], rtol=1e-6)


def test_the_cycles_of_warm_restarts_begin_after_the_warm_up():
    """90 updates as 3 + 29 + 58."""
    cycles = dict(learning_rate_schedule="warm_restarts", first_cycle="29 steps")
    found = rates(warmup="3 steps", **cycles)
    lengths = [(3, 29), (32, 58)]
    cosines = [half_cosine(1, 0, n / length) for _, length in lengths for n in range(length)]
    expected = [PEAK * factor for factor in (0, 1 / 3, 2 / 3, *cosines)]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)
    assert found[[3, 32]] == pytest.approx(PEAK, rel=1e-6)


@pytest.mark.parametrize("warmup, steps", [("1 epoch", 18), ("64 examples", 1), ("5 steps", 5)])
def test_a_warm_up_is_a_duration(warmup, steps):
    assert recipe(warmup=warmup).timetable(1197).own == ((WARMUP, steps),)


def test_a_warm_up_counts_updates_where_batches_are_accumulated():
    config = default_config()
    config.duration, config.accumulate, config.optimizer.warmup = "4 epochs", 3, "2 epochs"
    assert parse(config).timetable(1197).own == ((WARMUP, 12),)


def test_counts_may_be_an_array():
    changes = dict(learning_rate_schedule="one_cycle", warmup="4 steps")
    at_once = jax.jit(rate_of(recipe(**changes)))(np.arange(STEPS))
    np.testing.assert_allclose(at_once, rates(**changes), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "warm_restarts"])
@pytest.mark.parametrize("steps", [2, 3, 5])
def test_the_shortest_runs_have_finite_rates(schedule, steps):
    restarts = dict(first_cycle="90 steps") if schedule == "warm_restarts" else {}
    run = recipe(learning_rate_schedule=schedule, **restarts)
    rate = rate_of(run, run.timetable(1197)._replace(windows=((steps, 1),)))
    for count in range(steps):
        assert 0 <= float(rate(count)) <= PEAK * (1 + 1e-6)


def test_a_step_moves_by_the_rate_in_force(batch):
    step, state = step_and_state(
        optimizer__learning_rate=cyclical(0.1, 0.5),
        optimizer__momentum=0.0,
    )
    opt_state = step(state._replace(step=state.step - 1), batch)[0].opt_state  # counts one update
    new, metrics = step(state._replace(opt_state=opt_state), batch)
    rate = 0.3 * half_cosine(1, 0, 1 / 5)
    assert metrics["learning_rate"] == pytest.approx(rate, rel=1e-5)
    (before,), (after,) = state.params.values(), new.params.values()
    logits = logits_of(state, batch["image"])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    gradient = (p - np.eye(10)[batch["label"]]).mean(0)
    np.testing.assert_allclose(after["bias"] - before["bias"], -rate * gradient, rtol=1e-4)


@pytest.mark.parametrize(
    "changes, line",
    [
        (dict(learning_rate_schedule="onecycle"), "Did you mean 'one_cycle'?"),
        (dict(warmup="3"), "optimizer.warmup must be a number above 0 and a unit"),
    ],
)
def test_what_cannot_be_is_one_line(changes, line):
    with pytest.raises(RecipeError) as error:
        recipe(**changes)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_warm_up_is_shorter_than_the_run():
    with pytest.raises(RecipeError, match="optimizer.warmup must be shorter than the run, got 90 "):
        recipe(warmup="90 steps").timetable(1197)
