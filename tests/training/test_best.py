"""The best checkpoint is the state of the best row of the log, however the run was cut off."""

import itertools
import types

import pytest

from cyclical_jax.training import evaluation, loop
from cyclical_jax.training import keeper as keeper_module
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.devices import place
from cyclical_jax.training.keeper import Keeper, StoppedError
from cyclical_jax.training.reading import read_variables
from cyclical_jax.training.run import NonFiniteError, begin
from cyclical_jax.training.state import Variables
from cyclical_jax.training.technique import spec_of
from tests.helpers import bright_classes, recipe_of

DATASET = bright_classes(53, 40)
RECIPE = recipe_of(
    num_devices=2,
    batch_size=12,
    model__hidden_sizes=(6,),
    optimizer__learning_rate=0.5,  # so that the scores jump
    duration="12 epochs",
)


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A second passes each time that the clock is read: once a call, and once a save."""
    monkeypatch.setattr(
        keeper_module, "time", types.SimpleNamespace(monotonic=itertools.count().__next__)
    )


def go_on(directory, every, *, kill_at=None, stop_at=None):
    """Trains from the newest checkpoint; returns {epoch: score} of the rows it made."""
    rows, calls = {}, itertools.count(1)

    def report(row):
        if row["epoch"] == kill_at:
            raise Killed
        rows[row["epoch"]] = row["val_accuracy"]

    with Checkpoints(directory) as checkpoints:
        start = checkpoints.restore(begin(RECIPE, DATASET))
        is_stopping = (lambda: next(calls) == stop_at) if stop_at else lambda: False
        keeper = Keeper(checkpoints, every=every, is_stopping=is_stopping)
        try:
            loop.train(RECIPE, DATASET, report=report, start=start, keeper=keeper)
        except (Killed, StoppedError):
            pass
    return rows


def best_of(directory):
    """Returns update and score of the best checkpoint, evaluated anew."""
    like = begin(RECIPE, DATASET).state.evaluated
    found, step = read_variables(directory, Variables(*like), best=True)
    arguments = RECIPE.structure, spec_of(DATASET), place(found), DATASET.validation
    return step, evaluation.evaluate(*arguments)["accuracy"]


def best_row(rows):
    epoch = max(rows, key=rows.__getitem__)
    return 4 * epoch, rows[epoch]  # updates an epoch


@pytest.mark.parametrize("every", [0, 4, 1000])
def test_the_best_is_the_best_row(tmp_path, every):
    rows = go_on(tmp_path, every)
    assert len(rows) == 12 and 4 < best_row(rows)[0] < 48  # neither the first nor the last
    assert best_of(tmp_path) == best_row(rows)


@pytest.mark.parametrize("cut, at", [("kill_at", 2), ("kill_at", 9), ("stop_at", 7)])
def test_a_run_that_was_cut_off_has_the_same_best(tmp_path, cut, at):
    rows = go_on(tmp_path, 4, **{cut: at})
    rows |= go_on(tmp_path, 4)
    assert len(rows) == 12
    assert best_of(tmp_path) == best_row(rows)


def test_a_crash_between_the_best_and_the_newest_goes_on_from_the_best(tmp_path, monkeypatch):
    save = Checkpoints._write

    def write_best_alone(checkpoints, item):
        save(checkpoints, item)
        if item.worth is not None and item.micro_step > 8:
            raise Killed

    whole = go_on(tmp_path / "whole", 4)
    monkeypatch.setattr(Checkpoints, "_write", write_best_alone)
    rows = go_on(tmp_path / "cut", 4)
    monkeypatch.undo()
    assert 0 < len(rows) < 12
    rows |= go_on(tmp_path / "cut", 4)
    assert rows == whole and best_of(tmp_path / "cut") == best_of(tmp_path / "whole")


def test_the_best_is_there_after_a_run_that_ended_with_an_error(tmp_path, monkeypatch):
    """It was in memory, as the run was saved at its start alone."""
    check_row = loop.check_row

    def check(timetable, micro_step, row, scores):
        check_row(timetable, micro_step, row, scores)
        if row["epoch"] == 9:
            raise NonFiniteError("val_loss is nan")

    monkeypatch.setattr(loop, "check_row", check)
    rows, start = {}, begin(RECIPE, DATASET)

    def report(row):
        rows[row["epoch"]] = row["val_accuracy"]

    with Checkpoints(tmp_path) as checkpoints, pytest.raises(NonFiniteError):
        checkpoints.save(start)
        keeper = Keeper(checkpoints, every=1000)
        loop.train(RECIPE, DATASET, report=report, start=start, keeper=keeper)
    del rows[9]  # which was not kept: it is wrong
    assert len(rows) == 8 and best_of(tmp_path) == best_row(rows)
    monkeypatch.undo()
    rows |= go_on(tmp_path, 4)
    assert len(rows) == 12 and best_of(tmp_path) == best_row(rows)
