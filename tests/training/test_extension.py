"""A run may become longer only where all that it did is what the longer run begins with."""

import numpy as np
import pytest

from cyclical_jax.training import extension
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.extension import Extension
from tests.helpers import bright_classes, recipe_of

# 10 updates an epoch.
PLAIN = {
    "duration": "6 epochs",
    "batch_size": 20,
    "optimizer.learning_rate_schedule": None,
    "log_every": "1 epochs",
    "validate_every": "1 epochs",
}
CANNOT = "This run cannot be made longer: "


def problem(there, num_validation=40, **changes):
    names = {key.replace("__", "."): value for key, value in changes.items()}
    recipe = recipe_of(None, PLAIN | names)
    longer = Extension(recipe, bright_classes(200, num_validation))
    found = longer.problem(there)
    assert (found is None) == (longer.told is not None)
    return found or longer.told


@pytest.mark.parametrize(
    "there, changes",
    [
        ("3 epochs", {}),
        ("30 steps", {}),
        ("600 examples", {}),
        ("3 epochs", {"optimizer__warmup": "29 steps"}),
        ("3 epochs", {"optimizer__weight_decay": None, "model__dropout": 0.5}),
        ("3 epochs", {"log_every": "7 steps"}),  # the end is a row, because it validates
        ("3 epochs", {"log_every": "4 epochs"}),  # no row of either before the end
    ],
)
def test_a_run_whose_schedules_are_constant_is_the_beginning_of_a_longer_one(there, changes):
    assert problem(there, **changes) == "extended from 30 to 60 updates"


def test_an_update_of_several_batches_counts_as_one():
    told = "extended from 10 to 20 updates"
    assert problem("2 epochs", duration="4 epochs", accumulate=2) == told
    assert problem("10 steps", duration="4 epochs", accumulate=2) == told
    assert problem("10 steps", duration="4 epochs", accumulate=2, accumulate_as="one_batch") == told


@pytest.mark.parametrize(
    "key, changes",
    [
        ("optimizer.learning_rate", {"optimizer__learning_rate_schedule": "cosine"}),
        ("optimizer.learning_rate", {"optimizer__learning_rate_schedule": "one_cycle"}),
        ("optimizer.weight_decay", {"optimizer__weight_decay": {"easy": 1e-4, "hard": 1e-3}}),
        (
            "loss.label_smoothing and loss.temperature",
            {
                "loss__temperature": {"easy": 0.5, "hard": 2, "scale": "log"},
                "loss__label_smoothing": {"easy": 0, "hard": 0.1, "factor": 1},
            },
        ),
    ],
)
def test_a_schedule_that_would_move_is_named(key, changes):
    update = "update 2 on, because a schedule spans the whole run."
    assert problem("3 epochs", **changes) == f"{CANNOT}{key} would have other values from {update}"


def test_a_schedule_that_is_no_key_is_named_by_the_knobs_that_make_it(monkeypatch):
    bits = {"precision__weights": {"easy": 8, "hard": 3}, "precision__gradients": 8}
    update = "other values from update {} on, because a schedule spans the whole run."
    found = problem("3 epochs", **bits)
    assert found == f"{CANNOT}precision.weights would have {update.format(3)}"
    monkeypatch.setattr(extension, "_moved", lambda *_: {"precision.relative_cost": 4})
    keys = "precision.weights and precision.gradients"
    assert problem("3 epochs", **bits) == f"{CANNOT}{keys} would have {update.format(5)}"


RESTARTS = {
    "optimizer__learning_rate_schedule": "warm_restarts",
    "optimizer__first_cycle": "1 epoch",
    "optimizer__warmup": "1 epoch",
    "duration": "16 epochs",
    "validate_every": "cycle",
}


@pytest.mark.parametrize(
    "there, changes",
    [
        ("8 epochs", {}),
        ("80 steps", {"optimizer__restart_multiplier": 2.0}),
        ("12 epochs", {"optimizer__restart_multiplier": 1.0}),
        ("8 epochs", {"optimizer__weight_decay": {"easy": 0, "hard": 1}, "cycle__span": "restart"}),
    ],
)
def test_a_run_of_k_cycles_is_the_beginning_of_one_of_more_cycles(there, changes):
    assert problem(there, **RESTARTS | changes).endswith(" to 160 updates")


def test_hardness_that_spans_the_run_keeps_it_from_becoming_longer():
    cycle = {"optimizer__weight_decay": {"easy": 0, "hard": 1}}
    update = "update 2 on, because a schedule spans the whole run."
    found = problem("8 epochs", **RESTARTS | cycle)
    assert found == f"{CANNOT}optimizer.weight_decay would have other values from {update}"


def test_ends_between_two_validations_are_no_rows_of_the_longer_run():
    every = {"validate_every": "3 epochs"}
    assert "after 8 epochs a run of that length has another row" in problem(
        "8 epochs", **RESTARTS | every
    )


def test_a_schedule_that_follows_from_no_knob_is_named_itself(monkeypatch):
    real = extension.assembly.make_schedules

    def with_own(structure, numbers, timetable):
        total = timetable.total_steps
        return real(structure, numbers, timetable) | {"mine.pace": lambda count: count / total}

    monkeypatch.setattr(extension.assembly, "make_schedules", with_own)
    assert problem("3 epochs").startswith(
        f"{CANNOT}mine.pace would have other values from update 2"
    )


def test_a_value_that_moves_in_one_update_alone_is_found(monkeypatch):
    """Also where it is not in the first part of the updates that are computed at once."""
    monkeypatch.setattr(extension, "_CHUNK", 7)
    real = extension.assembly.make_schedules

    def moved(structure, numbers, timetable):
        at = real(structure, numbers, timetable)
        rate, is_long = at["optimizer.learning_rate"], timetable.total_steps == 60
        return at | {
            "optimizer.learning_rate": lambda count: (
                rate(count) * (1 + is_long * (count == 29) * np.float32(2e-7))
            )
        }

    assert problem("29 steps", validate_every="29 steps").startswith("extended ")
    monkeypatch.setattr(extension.assembly, "make_schedules", moved)
    assert problem("29 steps", validate_every="29 steps").startswith("extended ")
    assert "other values from update 30 on" in problem("30 steps")


@pytest.mark.parametrize(
    "there, changes, line",
    [
        ("9 epochs", {}, "A run can be made longer, but not shorter: 90 updates there, 60 here."),
        (
            "60 steps",
            {},
            "Both durations are as long: give the one that is there (60 updates there, 60 here).",
        ),
        (
            "3 epochs",
            {"accumulate": 4},
            f"{CANNOT}its update 8 takes 2 batches, and would take 4 in a run of that length.",
        ),
        (
            "3 epochs",
            {"accumulate": {"easy": 1, "hard": 6}},
            f"{CANNOT}its update 3 takes 4 batches, and would take 2 in a run of that length.",
        ),
        ("many", {}, "duration must be a number above 0 and a unit, such as '1.5 epochs'"),
    ],
)
def test_what_is_no_beginning_of_the_longer_run_is_a_sentence(there, changes, line):
    assert problem(there, **changes).startswith(line)


ROW = f"{CANNOT}after 2.5 epochs a run of that length has another row, or none. "


@pytest.mark.parametrize(
    "changes, line",
    [
        ({}, ROW),
        ({"log_every": "1 steps"}, ROW),  # a row, but without a validation
        ({"validate_every": "2.5 epochs"}, "extended from 25 to 60 updates"),
        ({"log_every": "1 steps", "num_validation": 0}, "extended from 25 to 60 updates"),
        ({"num_validation": 0}, ROW),
    ],
)
def test_the_end_of_the_run_must_be_a_row_of_the_longer_one(changes, line):
    assert problem("2.5 epochs", **changes).startswith(line)


@pytest.mark.parametrize(
    "there, here, first",
    [
        (((5, 1),), ((5, 1),), (1, 1, 1)),
        (((5, 1),), ((9, 1),), (1, 1, 1)),
        (((2, 1), (3, 4)), ((2, 1), (4, 4), (9, 1)), (1, 1, 1)),
        (((2, 1), (3, 4)), ((2, 1), (2, 4), (9, 1)), (5, 4, 1)),
        (((2, 1), (1, 2)), ((9, 1),), (3, 2, 1)),
        (((5, 1),), ((2, 9),), (1, 1, 9)),
        (((3, 1), (3, 2)), ((3, 1), (1, 9)), (4, 2, 9)),
    ],
)
def test_windows_are_compared_update_by_update(there, here, first):
    expand = [[size for count, size in windows for _ in range(count)] for windows in (there, here)]
    is_prefix = expand[0] == expand[1][: len(expand[0])]
    found = extension._first_other_window(there, here)
    assert (found[1] == found[2]) == is_prefix
    if not is_prefix:
        assert found == first


def test_a_state_without_an_accumulated_gradient_cannot_become_one_with():
    there, here = (Timetable(windows, 10, 1, 1) for windows in (((9, 1),), ((9, 1), (1, 2))))
    (line,) = extension._window_problems(there, here)
    assert line == f"{CANNOT}its updates take one batch each, later ones more."
