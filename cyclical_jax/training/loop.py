"""The loop of a run: calls of compiled programs, of ten seconds or so, and rows of the log."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cyclical_jax import data
from cyclical_jax.data import UNLABELLED
from cyclical_jax.data.batches import Select, Selection, shuffled, with_unlabelled
from cyclical_jax.data.sources import Dataset, Split
from cyclical_jax.data.streams import Stream
from cyclical_jax.models import Model
from cyclical_jax.training import assembly
from cyclical_jax.training.checkpoints import Snapshot
from cyclical_jax.training.devices import check_equal, place
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.evaluation import Scores, evaluate
from cyclical_jax.training.images import sent_batches
from cyclical_jax.training.keeper import Keeper
from cyclical_jax.training.networks import assemble_model, layers
from cyclical_jax.training.pretrained import Earlier, check_prepared
from cyclical_jax.training.recipe import Numbers, Recipe, RecipeError, Structure, uneven_batch
from cyclical_jax.training.state import TrainState, Variables, init_state
from cyclical_jax.training.totals import Totals, is_empty, no_totals
from cyclical_jax.training.ways import MOST_MICRO_STEPS, make_advance, num_programs, way_of

Row = dict[str, Any]  # what is logged of an interval
_NOTHING = Earlier()
_CALL_SECONDS = 5.0  # a call that lasts no longer can be stopped in time, and shows progress


class NonFiniteError(FloatingPointError):
    """The loss or the gradient stopped being a number."""


def train(
    recipe: Recipe,
    dataset: Dataset,
    *,
    seed: int,
    report: Callable[[Row], None],
    progress: Callable[[int], None] = lambda micro_step: None,
    earlier: Earlier = _NOTHING,
    start: Snapshot | None = None,
    keeper: Keeper | None = None,
    num_workers: int = 0,
) -> TrainState:
    """Trains a model on all devices of all processes.

    Args:
      recipe: What to train and how.
      dataset: Its train and validation splits are read; its test split is not.
      seed: Of the initial parameters, of the order of the examples and of all randomness.
      report: Called with a row after each interval: step, epoch; loss, accuracy, grad_norm, and,
        with unlabelled images, confident, their share that is learnt from (means over the
        interval); every knob at its last update; skipped, where batches may be;
        images_per_second over the interval and seconds so far, both without compilation and
        validation; val_loss and val_accuracy, where it is their turn and there is such a split.
      earlier: What the recipe takes of earlier runs, as `pretrained.prepare` returns it beside the
        dataset.
      progress: Called with the number of micro steps done after each call.
      start: Where a run of the same recipe, dataset and seed was; None is `begin`. On a CPU its end
        is that of a run without a stop, bit for bit.
      keeper: Saves the run as it goes; None does not.
      num_workers: Processes that read a stream; 0 reads it in this one.

    Returns:
      The state after the last update.

    Raises:
      RecipeError: As in `plan`, or the dataset is not prepared.
      NonFiniteError: Loss or gradient is not finite, and the recipe does not skip it, or skips more
        than half of all batches; or validation loss or parameters are not.
      StoppedError, CheckpointError: As in `Keeper.keep`.
    """
    structure, timetable = recipe.structure, plan(recipe, dataset)
    check_prepared(recipe, dataset, earlier)
    numbers = place(jax.tree.map(jnp.float32, recipe.numbers))
    start = start or begin(recipe, dataset, seed=seed, earlier=earlier)
    keeper = keeper or Keeper()
    check_equal(start.state.params, "the parameters at the start")
    state, totals = place((start.state, start.totals))
    zeros = place(nothing_yet(structure, state, recipe.numbers))
    select = select_of(structure, dataset, seed)
    way, teacher = way_of(recipe, dataset), place(earlier.teacher)
    timer = Timer(start.seconds, growth=2 if way == "streamed" else 8)
    done, is_row_due = int(state.micro_step), has_row_to_come(timetable, start)
    workers = {"seed": seed, "num_workers": num_workers}
    sent = sent_batches(dataset.train, select, start=done, stop=timetable.micro_steps, **workers)
    advance = make_advance(way, structure, timetable, numbers, dataset, sent, teacher)
    with contextlib.closing(sent):
        while True:
            scores = None
            if is_row_due:
                pause = functools.partial(keeper.pause, Snapshot(state, totals, timer.seconds))
                if timetable.validates_at(done):
                    scores = _validate(recipe, dataset, state, num_workers, pause)
                _report(recipe, timetable, done, state, totals, timer, scores, report)
                totals = zeros
            keeper.keep(Snapshot(state, totals, timer.seconds), timetable, done, _accuracy(scores))
            if done == timetable.micro_steps:
                break
            stop = min(timetable.next_row(done), keeper.next_stop(timetable, done))
            stop = timetable.next_stop(min(stop, done + timer.micro_steps_a_call))
            began, programs = time.perf_counter(), num_programs()
            selection = select(start=done, stop=stop)
            state, totals = jax.block_until_ready(advance(state, totals, selection))
            seconds = keeper.agree(time.perf_counter() - began)
            timer.add(seconds, selection, is_compiling=num_programs() > programs)
            done, is_row_due = stop, timetable.is_row(stop)
            progress(done)
            check_totals(structure, recipe.numbers, timetable, totals)
    check_finite("the norm of the parameters", float(_norm(state.params)), int(state.step))
    keeper.finish(Snapshot(state, totals, timer.seconds), _accuracy(scores))
    return state


# ---- checks


def plan(recipe: Recipe, dataset: Dataset, *, num_devices: int | None = None) -> Timetable:
    """The timetable of a run, once it is known that the recipe fits the devices and the data.

    Args:
      recipe: What is to be trained.
      dataset: On what.
      num_devices: How many share a batch; None is all there are.

    Raises:
      RecipeError: The devices cannot share a batch evenly, a cycle has too few updates, labels name
        no class, or the model does not take images of this size; a line for each problem.
    """
    problems = list(_misfits(recipe, dataset, num_devices or jax.device_count()))
    try:
        timetable = recipe.timetable(data.num_examples(dataset.train))
    except RecipeError as error:
        problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    return timetable


def _misfits(recipe: Recipe, dataset: Dataset, num_devices: int) -> Iterator[str]:
    """What of a recipe does not fit the devices or the data, a line each."""
    structure = recipe.structure
    yield from uneven_batch(structure.batch_size, num_devices)
    if structure.as_one_batch and way_of(recipe, dataset) == "streamed":
        yield "accumulate_as must be 'micro_steps' where the data does not rest on the devices."
    for name in ("train", "validation", "test"):
        yield from _nameless_labels(recipe.dataset, name, getattr(dataset, name), dataset)
    model = assemble_model(structure, dataset.num_classes, axis_name=None)
    try:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape_of_images(dataset))))
    except ValueError as error:
        yield f"model: {str(error).replace('`', '')}"


def _nameless_labels(source: str, name: str, split: Split, dataset: Dataset) -> Iterator[str]:
    """Labels in memory that are no class; those of a stream TFDS has checked."""
    if isinstance(split, Stream) or not len(split["label"]):
        return
    labels = split["label"]
    if labels.ndim == 2:
        yield from _misshapen_labels(source, name, labels, dataset.num_classes)
        return
    lowest, highest = labels.min(), labels.max()
    if lowest < 0 or highest >= dataset.num_classes:
        yield (
            f"{name} labels of {source} must be 0 to {dataset.num_classes - 1}, "
            f"got {lowest} to {highest}."
        )


def _misshapen_labels(source: str, name: str, labels: np.ndarray, classes: int) -> Iterator[str]:
    """Those that are a number a class."""
    is_float, width = labels.dtype.kind == "f", labels.shape[1]
    if not (is_float and width == classes and 0 <= labels.min() and labels.max() <= 1):
        yield (
            f"{name} labels of {source} must be floats of shape [examples, {classes}] from 0 to 1, "
            f"got {labels.dtype} of shape {list(labels.shape)}."
        )


def check_finite(name: str, value: float, step: int) -> None:
    """Raises NonFiniteError if what came of the updates up to `step` is not finite."""
    if not math.isfinite(value):
        raise NonFiniteError(f"{name} is {value} at step {step}; try a lower learning_rate.")


def check_totals(
    structure: Structure, numbers: Numbers, timetable: Timetable, totals: Totals
) -> None:
    """Raises NonFiniteError if loss or gradient were not finite and the structure does not skip."""
    step = int(totals.nonfinite["step"])
    if structure.on_nonfinite == "skip" or step < 0:
        return
    bad = jax.device_get(totals.nonfinite)
    name = "loss" if not math.isfinite(bad["loss"]) else "grad_norm"
    schedules = assembly.make_schedules(structure, numbers, timetable)
    knobs = ", ".join(f"{knob} {float(at(step)):.4g}" for knob, at in schedules.items())
    raise NonFiniteError(
        f"{name} is {bad[name]} at step {step}, with {knobs}; try a lower learning_rate, a clip "
        "(optimizer.max_norm), or on_nonfinite='skip'."
    )


def _check_skipped(timetable: Timetable, micro_step: int, skipped: int) -> None:
    """A run that has gone wrong for good would go on to skip all that is left of it."""
    is_early = micro_step < min(timetable.micro_steps_per_epoch, timetable.micro_steps)
    if not is_early and 2 * skipped > micro_step:
        raise NonFiniteError(
            f"{skipped} of {micro_step} batches were skipped as not finite; try a lower "
            "learning_rate or a clip (optimizer.max_norm)."
        )


# ---- the start


def begin(recipe: Recipe, dataset: Dataset, *, seed: int, earlier: Earlier = _NOTHING) -> Snapshot:
    """Where a run starts: nothing done yet."""
    timetable, numbers = plan(recipe, dataset), jax.tree.map(jnp.float32, recipe.numbers)
    start = earlier.start
    state = initial_state(recipe.structure, timetable, numbers, dataset, seed, start)
    return Snapshot(state, nothing_yet(recipe.structure, state, recipe.numbers), 0.0)


def nothing_yet(structure: Structure, state: TrainState, numbers: Numbers) -> Totals:
    """The totals of a run before the first micro step of a row."""
    return no_totals(state, numbers, assembly.measures_of(structure))


def has_row_to_come(timetable: Timetable, snapshot: Snapshot) -> bool:
    """Whether the interval that has ended there was not reported: it stopped in the validation."""
    return timetable.is_row(int(snapshot.state.micro_step)) and not is_empty(snapshot.totals)


def initial_state(
    structure: Structure,
    timetable: Timetable,
    numbers: Numbers,
    dataset: Dataset,
    seed: int,
    start: Variables | None = None,
) -> TrainState:
    """The state before the first update, by one compiled call."""
    shape = shape_of_images(dataset)
    number = data.num_examples(dataset.train)
    known = structure, timetable.lengths, dataset.num_classes, shape, number
    return _initial_state(*known, numbers, seed, start)


def make_initial_state(
    structure: Structure,
    timetable: Timetable,
    num_classes: int,
    image_shape: tuple[int, ...],
    num_train: int,
    numbers: Numbers,
    seed: int | jax.Array,
    start: Variables | None = None,
) -> TrainState:
    """The state before the first update; numbers and seed, and variables, may be traced.

    All variables are those of `start`, but for parameters that it has not, of a new head.
    """
    schedules = assembly.make_schedules(structure, numbers, timetable)
    names = layers(structure, image_shape) if "share" in schedules else ()
    optimizer = assembly.make_optimizer(structure, schedules, timetable, names)
    model = assemble_model(structure, num_classes, axis_name=None)
    if start is not None:
        model = _starting_from(model, start)
    # What a network without a preference for any class loses, until an example is met.
    even = jnp.full([num_train], jnp.log(num_classes)) if "average_decay" in schedules else None
    has_average = "ema_decay" in schedules
    images = jnp.zeros(image_shape)
    return init_state(model, optimizer, images, seed, ema=has_average, difficulty=even)


def _starting_from(model: Model, start: Variables) -> Model:
    def init(key, images):
        params, _ = model.init(key, images)
        return {**params, **start.params}, start.model_state

    return model._replace(init=init)


_initial_state = jax.jit(make_initial_state, static_argnums=(0, 1, 2, 3, 4))


def shape_of_images(dataset: Dataset) -> tuple[int, ...]:
    """Of a batch of one, with which a model is initialised."""
    return (1, *data.image_shape(dataset.train))


def select_of(structure: Structure, dataset: Dataset, seed: int) -> Select:
    """The function that selects the batches of the micro steps from `start` up to `stop`."""
    labelled = functools.partial(
        shuffled,
        data.num_examples(dataset.train),
        structure.batch_size,
        seed=seed,
        remainder=structure.remainder,
    )
    size = structure.unlabelled_batch_size
    if not size:
        return labelled
    number = len(dataset.train[UNLABELLED])
    return functools.partial(with_unlabelled, labelled, number, size, seed=seed)


# ---- time, and the rows of the log


class Timer:
    """Seconds of training, and how many micro steps the next call may have.

    At most `growth` times as many as the last one: less where what was made ahead of the first
    calls may make them fast.
    """

    def __init__(self, seconds: float = 0.0, *, growth: int = 8):
        self.seconds = seconds
        self._growth = growth
        self.micro_steps_a_call = 1
        self._is_compiled = False
        self._start_row()

    def add(self, seconds: float, selection: Selection, *, is_compiling: bool = False) -> None:
        """Counts a call, unless it is the first, which is of one micro step, or compiles."""
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
        """Since it was asked last; None where nothing was counted."""
        rate = self._row_examples / self._row_seconds if self._row_seconds else None
        self._start_row()
        return rate

    def _start_row(self):
        self._row_seconds, self._row_examples = 0.0, 0


def _validate(recipe, dataset, state, num_workers, after_batch) -> Scores | None:
    """The scores of the validation split, where there is one."""
    if not data.num_examples(dataset.validation):
        return None
    arguments = recipe.structure, dataset.num_classes, state.evaluated, dataset.validation
    return evaluate(*arguments, num_workers=num_workers, after_batch=after_batch)


def _report(recipe, timetable, micro_step, state, totals, timer, scores, report) -> None:
    """Reports a row, and then raises what is wrong with it, so that the row is not lost."""
    counts = jax.device_get((state.step, state.skipped))
    row = make_row(recipe.structure, timetable, micro_step, counts, jax.device_get(totals), scores)
    time = {"images_per_second": timer.images_per_second(), "seconds": timer.seconds}
    report(row | time)
    check_row(timetable, micro_step, row, scores)


def _accuracy(scores: Scores | None) -> float | None:
    return scores["accuracy"] if scores else None


def make_row(
    structure: Structure,
    timetable: Timetable,
    micro_step: int,
    counts: tuple[np.ndarray, np.ndarray],
    totals: Totals,
    scores: Scores | None,
) -> Row:
    """The row at `micro_step`, without times; `counts` are the state's step and skipped."""
    step, skipped = map(int, counts)
    # By way of its shortest decimal, so that the float32 nearest to 0.1 is logged as 0.1.
    values = {name: float(str(value)) for name, value in totals.values.items()}
    some = totals.num_examples > 0  # no mean, where all batches were skipped
    means = {name: float(mean) if some else None for name, mean in totals.means.items()}
    row = {"step": step, "epoch": timetable.epoch(micro_step), **means, **values}
    if structure.on_nonfinite == "skip":
        row["skipped"] = skipped
    if scores and math.isfinite(scores["loss"]):
        row |= {"val_loss": scores["loss"], "val_accuracy": scores["accuracy"]}
    return row


def check_row(timetable: Timetable, micro_step: int, row: Row, scores: Scores | None) -> None:
    """Raises NonFiniteError if the validation loss is not finite, or most batches were skipped."""
    if scores:
        check_finite("val_loss", scores["loss"], row["step"])
    _check_skipped(timetable, micro_step, row.get("skipped", 0))


@jax.jit
def _norm(params):
    return optax.tree.norm(params)
