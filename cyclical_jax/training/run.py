"""The parts that a single run and a population share: plan, start, order, clock, rows."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cyclical_jax import data
from cyclical_jax._words import counted
from cyclical_jax.data.batches import Select, Selection, shuffled, with_others
from cyclical_jax.data.dataset import Dataset
from cyclical_jax.training import assembly
from cyclical_jax.training.contradictions import uneven_batch, uneven_groups
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.earlier import Earlier, check_dataset
from cyclical_jax.training.evaluation import Scores
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.model_checks import model_problems
from cyclical_jax.training.snapshots import Snapshot
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.structure import AnyModel, Numbers, Recipe, Structure
from cyclical_jax.training.technique import Spec, spec_of
from cyclical_jax.training.totals import Totals, is_empty, no_totals
from cyclical_jax.training.ways import MOST_MICRO_STEPS, way_of

Row = dict[str, Any]  # a row of the log
NOTHING_EARLIER = Earlier()
_CALL_SECONDS = 5.0  # a call that lasts no longer can be stopped in time, and shows progress


class NonFiniteError(FloatingPointError):
    """The loss or the gradient is not finite any more."""


# ---- checks


def plan(
    recipe: Recipe,
    dataset: Dataset,
    *,
    num_devices: int | None = None,
    model: AnyModel | None = None,
) -> Timetable:
    """Returns the timetable of a run, after checks that the recipe fits devices and data.

    Args:
      recipe: The run.
      dataset: Its data.
      num_devices: Number of devices that share a batch; None is all.
      model: As in `loop.train`.

    Raises:
      RecipeError: The dataset is not as `Dataset` says, the devices cannot share a batch evenly, a
        group of devices does not divide them, a cycle has too few updates, the task cannot learn
        from the data, or the model does not take its inputs or gives other outputs than the task
        needs; a line for each problem.
    """
    check_dataset(recipe, dataset)
    recipe = recipe.with_model(model)
    problems = list(_misfits(recipe, dataset, num_devices or jax.device_count()))
    try:
        timetable = recipe.timetable(data.num_examples(dataset.train))
    except RecipeError as error:
        problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    return timetable


def _misfits(recipe: Recipe, dataset: Dataset, num_devices: int) -> Iterator[str]:
    """Yields a line for each way in which a recipe does not fit the devices or the data."""
    structure = recipe.structure
    yield from uneven_batch(structure.batch_size, num_devices)
    yield from uneven_groups(structure.device_groups, num_devices)
    if problems := model_problems(structure, spec_of(dataset)):
        yield from problems
    elif structure.as_one_batch and way_of(recipe, dataset) == "streamed":
        yield "accumulate_as must be 'micro_steps' where the data does not stay on the devices."


def check_finite(name: str, value: float, step: int) -> None:
    """Raises NonFiniteError if a value after the updates up to `step` is not finite."""
    if not math.isfinite(value):
        raise NonFiniteError(f"{name} is {value} at step {step}; try a lower learning rate.")


def check_totals(
    structure: Structure, numbers: Numbers, timetable: Timetable, totals: Totals
) -> None:
    """Raises NonFiniteError if loss or gradient are not finite and are not to be skipped."""
    step = int(totals.nonfinite["step"])
    if structure.on_nonfinite == "skip" or step < 0:
        return
    bad = jax.device_get(totals.nonfinite)
    name = "loss" if not math.isfinite(bad["loss"]) else "grad_norm"
    schedules = assembly.make_schedules(structure, numbers, timetable)
    knobs = ", ".join(f"{key} {float(at(step)):.4g}" for key, at in schedules.items())
    raise NonFiniteError(
        f"{name} is {bad[name]} at step {step}, with {knobs}; try a lower learning rate, a clip of "
        "the gradient, or on_nonfinite='skip'."
    )


def _check_skipped(timetable: Timetable, micro_step: int, skipped: int) -> None:
    """Raises NonFiniteError for a run that has skipped more than half of its batches."""
    is_early = micro_step < min(timetable.micro_steps_per_epoch, timetable.micro_steps)
    if not is_early and 2 * skipped > micro_step:
        raise NonFiniteError(
            f"skipped {skipped} of {counted(micro_step, 'batch', 'batches')}, whose loss or "
            "gradient was not finite; try a lower learning rate or a clip of the gradient."
        )


# ---- the start


def begin(
    recipe: Recipe,
    dataset: Dataset,
    *,
    earlier: Earlier = NOTHING_EARLIER,
    model: AnyModel | None = None,
) -> Snapshot:
    """Returns the start of a run, before any update; the arguments are those of `loop.train`."""
    recipe = recipe.with_model(model)
    state = first_state(recipe, plan(recipe, dataset), spec_of(dataset), earlier)
    return Snapshot(state, nothing_yet(recipe.structure, state), 0.0)


def first_state(recipe: Recipe, timetable: Timetable, spec: Spec, earlier: Earlier) -> TrainState:
    """Returns the state before the first update of a recipe that is known to fit."""
    return _compiled_start()(
        recipe.structure,
        jax.tree.map(np.float32, recipe.numbers),
        recipe.seed,
        timetable=timetable.lengths,
        spec=spec,
        given=dict(earlier.given),
        start=earlier.start,
    )


@functools.cache
def _compiled_start():
    static = "structure", "timetable", "spec"
    options = compiled_for_one_call()
    return jax.jit(assembly.assemble_state, static_argnames=static, compiler_options=options)


def compiled_for_one_call() -> dict[str, Any]:
    """Returns the compiler options of a program that a run calls once.

    On a CPU, LLVM's full effort takes three quarters of the time of compiling first parameters.
    With less effort the program is slower, but its results are the same bit for bit.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


def nothing_yet(structure: Structure, state: TrainState) -> Totals:
    """Returns the totals of a run before the first micro step of a row."""
    return no_totals(state, structure.columns.values(), structure.measures)


def has_row_to_come(timetable: Timetable, snapshot: Snapshot) -> bool:
    """Returns whether the last interval has no row yet, because its validation was stopped."""
    return timetable.is_row(int(snapshot.state.micro_step)) and not is_empty(snapshot.totals)


def select_of(structure: Structure, dataset: Dataset, seed: int) -> Select:
    """Returns the function that selects the batches of the micro steps from `start` to `stop`."""
    of_examples = functools.partial(
        shuffled,
        data.num_examples(dataset.train),
        structure.batch_size,
        seed=seed,
        remainder=structure.remainder,
    )
    if not structure.beside:
        return of_examples
    others = {name: (len(dataset.train[name]), size) for name, size in structure.beside}
    return functools.partial(with_others, of_examples, others, seed=seed)


# ---- time, and the rows of the log


class Timer:
    """Counts seconds of training, and decides how many micro steps the next call may have.

    These are at most `growth` times as many as in the last call. `growth` is smaller where batches
    that were made ahead may make the first calls fast.
    """

    def __init__(self, seconds: float = 0.0, *, growth: int = 8):
        self.seconds = seconds
        self._growth = growth
        self.micro_steps_a_call = 1
        self._is_compiled = False
        self._start_row()

    def add(self, seconds: float, selection: Selection, *, is_compiling: bool = False) -> None:
        """Counts a call, except the first one, which has one micro step, and calls that compile."""
        micro_steps = len(selection["index"])
        limit = int(_CALL_SECONDS / seconds * micro_steps)
        most = min(self._growth * self.micro_steps_a_call, limit, MOST_MICRO_STEPS)
        self.micro_steps_a_call = max(1, most)
        if self._is_compiled and not is_compiling:
            self.seconds += seconds
            self._row_seconds += seconds
            self._row_examples += int(selection.get("mask", selection["index"] >= 0).sum())
        self._is_compiled = True

    def images_per_second(self) -> float | None:
        """Returns the rate since the last time it was asked; None if nothing was counted."""
        rate = self._row_examples / self._row_seconds if self._row_seconds else None
        self._start_row()
        return rate

    def _start_row(self):
        self._row_seconds, self._row_examples = 0.0, 0


def make_row(
    structure: Structure,
    timetable: Timetable,
    micro_step: int,
    counts: tuple[np.ndarray, np.ndarray],
    totals: Totals,
    scores: Scores | None,
) -> Row:
    """Returns the row at `micro_step`, without times; `counts` are the state's step and skipped."""
    step, skipped = map(int, counts)
    # By way of its shortest decimal, so that the float32 nearest to 0.1 is logged as 0.1.
    values = {name: float(str(value)) for name, value in totals.values.items()}
    values |= {name: int(values[name]) for name in structure.whole}
    some = totals.num_examples > 0  # no mean, where all batches were skipped
    means = {name: _finite(mean) if some else None for name, mean in totals.means.items()}
    row: Row = {"step": step, "epoch": timetable.epoch(micro_step), **means, **values}
    if structure.on_nonfinite == "skip":
        row["skipped"] = skipped
    if scores and math.isfinite(scores["loss"]):
        score, _ = structure.task[0].judged_by
        row |= {f"val_{name}": _finite(scores[name]) for name in dict.fromkeys(("loss", score))}
    return row


def _finite(value: Any) -> float | None:
    """Returns a number for JSON: None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def check_row(timetable: Timetable, micro_step: int, row: Row, scores: Scores | None) -> None:
    """Raises NonFiniteError if the validation loss is not finite, or most batches were skipped."""
    if scores:
        check_finite("val_loss", scores["loss"], row["step"])
    _check_skipped(timetable, micro_step, row.get("skipped", 0))
