"""The loop of a run: calls of compiled programs, of some seconds each, and rows of the log."""

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from cyclical_jax import data
from cyclical_jax.data.dataset import Dataset
from cyclical_jax.training.devices import check_equal, place
from cyclical_jax.training.earlier import Earlier, check_prepared
from cyclical_jax.training.evaluation import Scores, evaluate
from cyclical_jax.training.feeding import sent_batches
from cyclical_jax.training.keeper import Keeper
from cyclical_jax.training.resident import rest
from cyclical_jax.training.run import (
    NOTHING_EARLIER,
    Row,
    Timer,
    begin,
    check_finite,
    check_row,
    check_totals,
    has_row_to_come,
    make_row,
    nothing_yet,
    plan,
    select_of,
)
from cyclical_jax.training.snapshots import Snapshot
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.structure import AnyModel, Recipe
from cyclical_jax.training.technique import spec_of
from cyclical_jax.training.ways import Inputs, make_advance, num_programs, way_of


def train(
    recipe: Recipe,
    dataset: Dataset,
    *,
    report: Callable[[Row], None],
    progress: Callable[[int], None] = lambda micro_step: None,
    earlier: Earlier = NOTHING_EARLIER,
    start: Snapshot | None = None,
    keeper: Keeper | None = None,
    num_workers: int = 0,
    model: AnyModel | None = None,
) -> TrainState:
    """Trains a model on all devices of all processes, and returns its last state.

    Args:
      recipe: The run. Its seed decides the initial parameters, the order of the examples and all
        other random numbers.
      dataset: Its train and validation splits are read; its test split is not.
      report: Called with a row after each interval, at the end of an update. A row has step and
        epoch; loss, grad_norm (of the mean gradient of an update) and the measures of the loss
        terms, as means over the interval; the value of every knob at the last update; skipped, if
        batches may be skipped; images_per_second over the interval and seconds so far, both
        without compilation and validation; and, when a validation is due, val_loss and the score
        that the task judges by.
      progress: Called with the number of micro steps done after each call.
      earlier: The second result of `earlier.prepare`.
      start: The snapshot of a run of the same recipe and dataset to go on from; None is
        `run.begin`. On a CPU the run ends bit for bit like a run without a stop.
      keeper: Saves the run as it goes; None saves nothing.
      num_workers: Number of processes that read a stream; 0 reads it in this process.
      model: Your own model, in place of the one that the recipe names; or a function of the axis
        name that returns one, whose BatchNorm averages over that axis of devices. Programs are
        compiled once for each object. None is the recipe's model.

    Returns:
      The state after the last update.

    Raises:
      RecipeError: As in `run.plan`, or `earlier.prepare` was not called.
      NonFiniteError: Loss or gradient is not finite, and the recipe does not skip such batches or
        would skip more than half of all; or the validation loss or the parameters are not finite.
      StoppedError: As in `Keeper.keep`.
      CheckpointError: As in `Keeper.keep`.
    """
    recipe = recipe.with_model(model)
    return _Loop(recipe, dataset, report, progress, earlier, keeper or Keeper(), num_workers).run(
        start or begin(recipe, dataset, earlier=earlier)
    )


class _Loop:
    """A run under way."""

    def __init__(self, recipe, dataset, report, progress, earlier, keeper, num_workers):
        self._timetable = plan(recipe, dataset)
        check_prepared(recipe, earlier)
        self._recipe, self._dataset = recipe, dataset
        self._report, self._progress, self._keeper = report, progress, keeper
        self._earlier, self._num_workers = earlier, num_workers
        self._select = select_of(recipe.structure, dataset, recipe.seed)
        self._way = way_of(recipe, dataset)

    def run(self, start: Snapshot) -> TrainState:
        check_equal(start.state.params, "the parameters at the start")
        self._timer = Timer(start.seconds, growth=2 if self._way == "streamed" else 8)
        self._state, self._totals = place((start.state, start.totals))
        self._zeros = place(nothing_yet(self._recipe.structure, self._state))
        done, is_row_due = int(self._state.micro_step), has_row_to_come(self._timetable, start)
        workers = {"seed": self._recipe.seed, "num_workers": self._num_workers}
        ends = {"start": done, "stop": self._timetable.micro_steps}
        sent = sent_batches(self._dataset.train, self._select, **ends, **workers)
        with self._keeper.saving_the_best(), contextlib.closing(sent):
            self._finish(self._go_on(done, is_row_due, self._make_advance(sent)))
        return self._state

    def _make_advance(self, sent):
        numbers = place(jax.tree.map(np.float32, self._recipe.numbers))
        split = None if self._way == "streamed" else rest(self._dataset.train)
        given = place(dict(self._earlier.given))
        inputs = Inputs(None, numbers, given, split, None)
        structure, spec = self._recipe.structure, spec_of(self._dataset)
        return make_advance(self._way, structure, self._timetable, inputs, spec, sent)

    def _go_on(self, done: int, is_row_due: bool, advance) -> Scores | None:
        """Trains to the end, and returns the last scores."""
        while True:
            scores = self._row(done) if is_row_due else None
            self._keeper.keep(self._snapshot(), self._timetable, done, self._worth(scores))
            if done == self._timetable.micro_steps:
                return scores
            stop = self._next_stop(done)
            self._call(advance, self._select(start=done, stop=stop))
            done, is_row_due = stop, self._timetable.is_row(stop)
            self._progress(done)
            numbers = self._recipe.numbers
            check_totals(self._recipe.structure, numbers, self._timetable, self._totals)

    def _next_stop(self, done: int) -> int:
        due = min(self._timetable.next_row(done), self._keeper.next_stop(self._timetable, done))
        return self._timetable.next_stop(min(due, done + self._timer.micro_steps_a_call))

    def _call(self, advance, selection) -> None:
        began, programs = time.perf_counter(), num_programs()
        found = jax.block_until_ready(advance(self._state, self._totals, selection))
        self._state, self._totals = found
        seconds = self._keeper.agree(time.perf_counter() - began)
        self._timer.add(seconds, selection, is_compiling=num_programs() > programs)

    def _row(self, done: int) -> Scores | None:
        """Reports a row, and then raises what is wrong with it, so that the row is not lost."""
        scores = self._validate() if self._timetable.validates_at(done) else None
        counts = jax.device_get((self._state.step, self._state.skipped))
        totals, structure = jax.device_get(self._totals), self._recipe.structure
        row = make_row(structure, self._timetable, done, counts, totals, scores)
        rate = self._timer.images_per_second()
        self._report(row | {"images_per_second": rate, "seconds": self._timer.seconds})
        check_row(self._timetable, done, row, scores)
        self._totals = self._zeros
        return scores

    def _validate(self) -> Scores | None:
        """Returns the scores of the validation split, where there is one."""
        split = self._dataset.validation
        if not data.num_examples(split):
            return None
        pause = functools.partial(self._keeper.pause, self._snapshot())
        static = self._recipe.structure, spec_of(self._dataset)
        options: dict[str, Any] = {"num_workers": self._num_workers, "after_batch": pause}
        options["is_checked"] = True  # by `plan`
        return evaluate(*static, self._state.evaluated, split, **options)

    def _finish(self, scores: Scores | None) -> None:
        step = int(self._state.step)
        check_finite("the norm of the parameters", float(_norm(self._state.params)), step)
        self._keeper.finish(self._snapshot(), self._worth(scores))

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._state, self._totals, self._timer.seconds)

    def _worth(self, scores: Scores | None) -> float | None:
        return self._recipe.task.worth(scores) if scores else None


@jax.jit
def _norm(params):
    return optax.tree.norm(params)
