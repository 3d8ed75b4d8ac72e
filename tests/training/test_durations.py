"""Durations against a walk over all micro steps."""

import itertools
from fractions import Fraction

import pytest

from cyclical_jax.accumulation import uniform_windows
from cyclical_jax.training.durations import Duration, Timetable, Units, parse_duration


@pytest.mark.parametrize(
    "text, amount, unit",
    [
        ("40 epochs", 40, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("1.5 epochs", 1.5, "epochs"),
        ("1 step", 1, "steps"),
        ("3 step", 3, "steps"),
        (" 7   steps ", 7, "steps"),
        ("+2 steps", 2, "steps"),
        ("1e4 examples", 10_000, "examples"),
        ("1E-2 epochs", 0.01, "epochs"),
        (".5 epochs", 0.5, "epochs"),
        ("60_000 examples", 60_000, "examples"),
        ("1 example", 1, "examples"),
    ],
)
def test_words_become_an_amount_and_a_unit(text, amount, unit):
    assert parse_duration(text) == Duration(amount, unit)


@pytest.mark.parametrize("text", ["40 epochs", "1.5 epochs", "1000000 steps", "0.001 epochs"])
def test_a_duration_is_printed_as_it_is_written(text):
    assert str(parse_duration(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "40", "epochs", "40epochs", "0 steps", "-1 steps", "nan steps", "inf steps", "1e400 steps"]
    + ["ten steps", "1 day", "1 Epoch", "1 s", "2 stepss", "1,000 steps", "1/2 epoch", "0x10 steps"]
    + ["1 step 2", "1 2 steps", "1.2.3 steps", "None", "-0.0 epochs"]
    + ["2.25 steps", "0.1 steps", "0.5 examples", "1e15 epochs"],
)
def test_other_words_are_refused_with_the_words_and_an_example(text):
    with pytest.raises(ValueError) as error:
        parse_duration(text)
    line = f"must be a number above 0 and a unit, such as '1.5 epochs' or '9 steps', got {text!r}"
    assert str(error.value) == line


@pytest.mark.parametrize(
    "text, micro_steps",
    [
        ("3 steps", 12),  # of 4 micro steps each
        ("2 epochs", 36),
        ("1.5 epochs", 27),
        ("0.04 epochs", 1),  # 0.72
        ("0.07 epochs", 1),  # 1.26
        ("0.09 epochs", 2),  # 1.62
        ("0.001 epochs", 1),
        ("640 examples", 10),
        ("641 examples", 11),  # rather a batch more than an example less
        ("1 example", 1),
    ],
)
def test_a_duration_in_micro_steps(text, micro_steps):
    actual = parse_duration(text).in_micro_steps(Units(64, 18), 4)
    assert actual == micro_steps and isinstance(actual, int)


TIMETABLES = [
    Timetable(uniform_windows(length, 1), 7, log_every, validate_every)
    for length in [1, 20]
    for log_every, validate_every in [(1, 1), (4, 6), (6, 4), (5, 50), (50, 5), (100, 100)]
]


@pytest.mark.parametrize("timetable", TIMETABLES, ids=str)
def test_a_timetable_is_what_a_walk_over_all_micro_steps_finds(timetable):
    _, per_epoch, log_every, validate_every, *_ = timetable
    length = timetable.micro_steps
    rows, validations = [], []
    for done in range(1, length + 1):
        if done % validate_every == 0 or done == length:
            validations.append(done)
        if done % log_every == 0 or done in validations:
            rows.append(done)
        passed = Fraction(done, per_epoch)
        epoch = timetable.epoch(done)
        assert epoch == pytest.approx(float(passed), abs=5e-7)
        assert isinstance(epoch, int) == (passed.denominator == 1)

    done, actual = 0, []
    while done < length and len(actual) <= length:
        done = timetable.next_row(done)
        actual.append(done)
    assert actual == rows
    assert [row for row in rows if timetable.validates_at(row)] == validations
    for done in range(length):
        assert timetable.next_row(done) == min(row for row in rows if row > done)
    assert timetable.total_steps == length
    gaps = [row - before for before, row in zip([0, *rows], rows, strict=False)]
    assert timetable.longest_interval == max(gaps)


@pytest.mark.parametrize("intervals", [(1, 1), (4, 6), (6, 4), (3, 50), (50, 7), (100, 100)])
@pytest.mark.parametrize("windows", [((3, 4), (5, 1), (2, 8), (1, 3)), ((40, 1),), ((2, 16),)])
@pytest.mark.parametrize("as_one_batch", [True, False])
def test_all_ends_are_ends_of_updates(as_one_batch, windows, intervals):
    timetable = Timetable(windows, 7, *intervals, as_one_batch=as_one_batch)
    sizes = [size for count, size in windows for _ in range(count)]
    ends, length = list(itertools.accumulate(sizes)), sum(sizes)
    spans = list(zip([0, *ends], ends, strict=False))

    def reached(interval):  # at the end of the update in which a multiple of it is passed
        multiples = {*range(interval, length, interval), length}
        return [end for start, end in spans if multiples & {*range(start + 1, end + 1)}]

    log_every, validate_every = intervals
    validations, epochs = reached(validate_every), reached(7)
    rows = sorted({*reached(log_every), *validations})
    assert [end for end in ends if timetable.is_row(end)] == rows
    assert [end for end in ends if timetable.validates_at(end)] == validations
    assert [end for end in ends if timetable.is_epoch(end)] == epochs
    for start in [0, *ends[:-1]]:
        assert timetable.next_row(start) == min(row for row in rows if row > start)
        assert timetable.num_rows(start) == sum(row <= start for row in rows)
    for micro_step in range(1, length + 1):
        assert timetable.next_stop(micro_step) == min(end for end in ends if end >= micro_step)
    gaps = [row - before for before, row in zip([0, *rows], rows, strict=False)]
    assert max(gaps) <= timetable.longest_interval < min(intervals) + max(sizes)
    for start, most in itertools.product([0, *ends[:-1]], [1, 5, 30]):
        stop = timetable.next_stop(min(start + most, length))
        assert stop - start <= timetable.longest_call(most) <= length
    assert timetable.accumulates == (max(sizes) > 1 and not as_one_batch)
    assert timetable.total_steps == len(sizes)
    for micro_step in range(length + 1):
        assert timetable.updates(micro_step) == sum(end <= micro_step for end in ends)
    for start, stop in itertools.combinations([0, *ends], 2):
        if not as_one_batch:
            assert list(timetable.parts(start, stop)) == [(stop - start, 1)]
            continue
        parts = [size for count, size in timetable.parts(start, stop) for _ in range(count)]
        assert parts == [end - first for first, end in spans if start <= first and end <= stop]


def test_an_epoch_that_is_not_whole_is_written_with_six_digits():
    assert Timetable(((10, 1),), 3, 1, 1).epoch(1) == 0.333333


@pytest.mark.parametrize("log, validate", [(6, 12), (5, 7), (30, 4), (1, 1), (29, 30)])
def test_rows_are_counted_as_they_come(log, validate):
    timetable = Timetable(((30, 1),), 12, log, validate)
    rows, micro_step = [], 0
    while micro_step < 30:
        micro_step = timetable.next_row(micro_step)
        rows.append(micro_step)
    for micro_step in range(31):
        assert timetable.num_rows(micro_step) == sum(row <= micro_step for row in rows)


def test_the_next_end_of_an_epoch_is_after_and_the_last_is_the_end_of_the_run():
    timetable = Timetable(((30, 1),), 12, 5, 5)
    ends = [timetable.next_epoch(micro_step) for micro_step in (0, 11, 12, 23, 24, 29)]
    assert ends == [12, 12, 24, 24, 30, 30]
