"""Where a run is hard."""

import itertools

import numpy as np
import pytest

from cyclical_jax.data import num_train
from cyclical_jax.training import assembly
from cyclical_jax.training.recipe import cyclical
from experiments import clocks
from tests.helpers import recipe_of


def told(**changes):
    recipe = recipe_of(**changes)
    return clocks.told(recipe, recipe.timetable(num_train("digits")))


def test_the_peak_is_told_in_updates_and_epochs():
    decay = cyclical(1e-4, 1e-3)
    line = "peak (hard) at update 2,250 of 9,001, epoch 125.0 of 500.056"
    assert told(optimizer__weight_decay=decay, cycle__factor=4, duration="9001 steps") == [line]


def test_knobs_that_turn_together_are_one_clock():
    lines = told(
        optimizer__weight_decay=cyclical(1e-4, 1e-3, factor=4),
        loss__temperature=cyclical(0.5, 2),
        optimizer__max_norm=cyclical(2, 0.5),
        optimizer__momentum=0.8,
        duration="101 steps",
    )
    assert lines == [
        "peak (hard) of temperature, max_norm at update 50 of 101, epoch 2.8 of 5.61111",
        "peak (hard) of weight_decay at update 25 of 101, epoch 1.4 of 5.61111",
    ]


def test_a_run_without_a_cycle_has_no_peak():
    assert told() == []


def test_a_cyclical_batch_size_counts_its_batches():
    epoch = sum(round(8 - 7 * count / 50) for count in range(50)) / 18
    line = f"peak (hard) at update 50 of 101, epoch {epoch:.1f} of 25.3889"
    assert told(accumulate=cyclical(8, 1), duration="101 steps") == [line]


RESTARTS = dict(
    optimizer__learning_rate_schedule="warm_restarts",
    optimizer__first_cycle="1 epoch",
    optimizer__warmup="1 epoch",
)


def test_the_ends_of_cycles_are_told_in_updates_and_epochs():
    assert told(**RESTARTS, duration="8 epochs", accumulate=2) == [
        "cycles end (learning rate 0) after updates 18, 36, 72 of 72, epochs 2.0, 4.0, 8.0 of 8"
    ]
    (line,) = told(**RESTARTS, duration="2 epochs")
    assert line == "cycle ends (learning rate 0) after update 36 of 36, epoch 2.0 of 2"
    equal = dict(optimizer__restart_multiplier=1, duration="15 epochs")
    (line,) = told(**RESTARTS, **equal)
    assert line.endswith(
        " 216, 234 and 2 more of 270, epochs 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, "
        "12.0, 13.0 and 2 more of 15"
    )


def test_a_hardness_that_restarts_has_its_peaks_in_each_cycle():
    decay = cyclical(1e-4, 1e-3, factor=4)
    changes = RESTARTS | dict(duration="8 epochs", optimizer__weight_decay=decay)
    (_, line) = told(**changes, cycle__span="restart")
    assert line == "peaks (hard) at updates 9, 45, 90 of 144, epochs 0.5, 2.5, 5.0 of 8"
    (_, line) = told(**changes, cycle__span="restart", cycle__num_cycles=2)
    assert line.startswith("peaks (hard) at updates 5, 22, 41, 58 and 2 more of 144, epochs ")
    (_, line) = told(**changes)
    assert line == "peak (hard) at update 36 of 144, epoch 2.0 of 8"


@pytest.mark.parametrize("span", ["run", "restart"])
def test_the_peaks_of_each_cycle_are_those_that_training_follows(span):
    changes = RESTARTS | dict(optimizer__momentum=cyclical(0.5, 0.9, factor=1.7))
    recipe = recipe_of(**changes, duration="8 epochs", cycle__span=span)
    timetable = recipe.timetable(1197)
    at = assembly.make_schedules(recipe.structure, recipe.numbers, timetable)["optimizer.momentum"]
    values = np.asarray(at(np.arange(144)))
    (clock,) = clocks.clocks(recipe, timetable)
    ends = [36, 72, 144] if span == "restart" else [144]
    highest = [a + int(values[a:b].argmax()) for a, b in itertools.pairwise((0, *ends))]
    assert list(clock.peaks) == highest


@pytest.mark.parametrize("num_cycles, ending", [(3, ""), (6, " and 2 more")])
def test_many_peaks_are_counted(num_cycles, ending):
    (line,) = told(
        optimizer__momentum=cyclical(0.8, 0.9), cycle__num_cycles=num_cycles, duration="601 steps"
    )
    first = ", ".join(f"{(2 * k + 1) * 300 // num_cycles}" for k in range(min(num_cycles, 4)))
    assert line.startswith(f"peaks (hard) at updates {first}{ending} of 601, epochs ")


@pytest.mark.parametrize("shape", ["linear", "rex"])
@pytest.mark.parametrize("factor", [1, 1.7, 5])
@pytest.mark.parametrize("num_cycles", [1, 3])
def test_the_peaks_are_those_of_the_schedule_that_training_follows(shape, factor, num_cycles):
    recipe = recipe_of(
        optimizer__momentum=cyclical(0.5, 0.9, factor=factor, shape=shape),
        cycle__num_cycles=num_cycles,
        duration="300 steps",
    )
    timetable = recipe.timetable(1197)
    at = assembly.make_schedules(recipe.structure, recipe.numbers, timetable)["optimizer.momentum"]
    values = np.asarray(at(np.arange(300)))
    (clock,) = clocks.clocks(recipe, timetable)
    assert len(clock.peaks) == num_cycles
    length = 299 / num_cycles
    for number, peak in enumerate(clock.peaks):
        first, last = int(number * length) + 1, int(min(299, (number + 1) * length))
        highest = first + int(values[first : last + 1].argmax())
        assert values[peak] == pytest.approx(values[highest], rel=1e-5)
