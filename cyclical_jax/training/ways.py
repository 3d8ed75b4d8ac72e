"""The three ways in which the programs of a run are called; all give the same results.

- resident: many micro steps a call, on data that rests on every device. The way for all that fits.
- stepwise: one micro step a call on such data. XLA:CPU's convolutions are ten times slower inside
  a compiled loop.
- streamed: one micro step a call, on a batch that a thread sends to the devices ahead of its use.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from cyclical_jax.data.batches import Selection, rows
from cyclical_jax.data.feed import prefetched
from cyclical_jax.data.sources import Arrays, Dataset
from cyclical_jax.data.streams import Stream
from cyclical_jax.models import CONVOLUTIONAL
from cyclical_jax.training import assembly
from cyclical_jax.training.devices import (
    AXIS,
    Throttle,
    on_all_devices,
    own_part,
    place,
    share,
    split_over_devices,
)
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.images import as_batch, take_batch
from cyclical_jax.training.pretrained import Trained
from cyclical_jax.training.recipe import Numbers, Recipe, Structure
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.totals import Totals, add

# (state, totals, the batches to train on) -> state, totals; the state is donated
Advance = Callable[[TrainState, Totals, Selection], tuple[TrainState, Totals]]

MOST_MICRO_STEPS = 4096  # a call: bounds the memory of its selection


def way_of(recipe: Recipe, dataset: Dataset) -> str:
    """The recipe's own way, or the fastest that works."""
    if recipe.loop:
        return recipe.loop
    if isinstance(dataset.train, Stream):
        return "streamed"
    if recipe.structure.model in CONVOLUTIONAL and jax.default_backend() == "cpu":
        return "stepwise"
    memory = jax.local_devices()[0].memory_stats() or {}  # a CPU has none
    needed = sum(array.nbytes for array in dataset.train.values())
    return "resident" if needed < memory.get("bytes_limit", math.inf) / 2 else "streamed"


def make_advance(
    way: str,
    structure: Structure,
    timetable: Timetable,
    numbers: Numbers,
    dataset: Dataset,
    sent: Iterator[Any],
    teacher: Trained | None = None,
) -> Advance:
    """The function that trains on the batches it is given, which `sent` has for "streamed"."""
    given = numbers, teacher

    def of_size(micro_steps: int) -> Advance:
        program = compiled(way, structure, timetable.lengths, dataset.num_classes, micro_steps)
        if way == "resident":
            return _resident(program, timetable, given, split)
        if way == "stepwise":
            return _one_by_one(program, _send, (given, split))
        return _one_by_one(program, lambda selection: _next(sent, selection), (given,))

    split: Any = None if way == "streamed" else place(dataset.train)
    return _in_parts(of_size, timetable) if timetable.as_one_batch else of_size(1)


def _in_parts(of_size: Callable[[int], Advance], timetable: Timetable) -> Advance:
    """A call for each size of batch that is next in the timetable."""

    def advance(state, totals, selection):
        for size, part in joined(selection, timetable, int(state.micro_step)):
            state, totals = of_size(size)(state, totals, part)
        return state, totals

    return advance


def joined(
    selection: Selection, timetable: Timetable, start: int
) -> Iterator[tuple[int, Selection]]:
    """(micro steps of a batch, batches of that size), of the micro steps from `start` on."""
    done, total = 0, len(selection["index"])
    for count, size in timetable.parts(start, start + total):
        part = {name: array[done : done + count * size] for name, array in selection.items()}
        yield size, {name: array.reshape(count, -1) for name, array in part.items()}
        done += count * size


@functools.lru_cache(maxsize=32)
def compiled(
    way: str, structure: Structure, timetable: Timetable, num_classes: int, micro_steps: int = 1
):
    """The program of a way, (state, (totals, given, ...)) -> (state, totals), on all devices.

    `given` are the numbers, and the teacher that is asked at every step, or None.
    """
    axis_name = AXIS if jax.device_count() > 1 else None
    program = make_program(way, structure, timetable, num_classes, axis_name, micro_steps)
    axes = {
        "resident": (None, None, None, (0, None)),
        "stepwise": (None, None, None, 0),
        "streamed": (None, None, 0),
    }[way]
    return on_all_devices(program, in_axes=(None, axes), donate=True)


def num_programs() -> int:
    """How many there are so far; each is compiled in its first call."""
    return compiled.cache_info().misses


def make_program(
    way: str,
    structure: Structure,
    timetable: Timetable,
    num_classes: int,
    axis_name: str | None,
    micro_steps: int = 1,
) -> Callable[[TrainState, Any], tuple[TrainState, Totals]]:
    """What one device does of it; schedules and optimizer are built inside, of traced numbers."""

    def one(given, carry, batch):
        (state, totals), (numbers, teacher) = carry, given
        step = assembly.assemble_train_step(
            structure,
            numbers,
            timetable=timetable,
            num_classes=num_classes,
            axis_name=axis_name,
            teacher=teacher,
            image_shape=(1, *batch["image"].shape[1:]),
            micro_steps=micro_steps,
        )
        new_state, metrics = step(state, batch)
        return new_state, add(totals, metrics, state.step)

    def resident(state, inputs):
        totals, given, split, (selection, count) = inputs

        def body(position, carry):
            row = jax.tree.map(lambda array: array[position], selection)
            return one(given, carry, take_batch(split, row))

        return jax.lax.fori_loop(0, count, body, (state, totals))

    def stepwise(state, inputs):
        totals, given, split, selection = inputs
        return one(given, (state, totals), take_batch(split, selection))

    def streamed(state, inputs):
        totals, given, examples = inputs
        return one(given, (state, totals), as_batch(examples))

    return {"resident": resident, "stepwise": stepwise, "streamed": streamed}[way]


def _resident(program, timetable: Timetable, given: Any, split: Arrays) -> Advance:
    capacity = min(timetable.longest_interval, MOST_MICRO_STEPS)

    def advance(state, totals, selection):
        count = len(selection["index"])
        filled = fill(own_part(selection), capacity)
        shares = jax.tree.map(lambda array: split_over_devices(array, axis=1), filled)
        return program(state, (totals, given, split, (shares, np.int32(count))))

    return advance


def fill(selection: Selection, capacity: int) -> Selection:
    """One length for all calls, however many micro steps each has: one compilation."""
    padding = [(0, capacity - len(selection["index"])), (0, 0)]
    return {name: np.pad(array, padding) for name, array in selection.items()}


def _send(selection: Selection) -> Iterator[Any]:
    return prefetched(share, rows(own_part(selection)))


def _next(sent: Iterator[Any], selection: Selection) -> Iterator[Any]:
    """As many of what is sent as the selection has batches."""
    return itertools.islice(sent, len(selection["index"]))


def _one_by_one(
    program, make_batches: Callable[[Selection], Iterable[Any]], shared: tuple
) -> Advance:
    """A call for each of the batches that `make_batches` makes of a selection, and on `shared`."""

    def advance(state, totals, selection):
        throttle = Throttle()
        for batch in make_batches(selection):
            state, totals = program(state, (totals, *shared, batch))
            throttle(totals)
        return state, totals

    return advance
