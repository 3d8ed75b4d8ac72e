"""The three ways in which the programs of a run are called; all give the same results.

- resident: many micro steps per call, on data that stays on every device. Used for all that fits.
- stepwise: one micro step per call on such data. XLA:CPU's convolutions are ten times slower inside
  a compiled loop.
- streamed: one micro step per call, on a batch that a thread sends to the devices ahead of its use.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from cyclical_jax.data.batches import Selection, rows
from cyclical_jax.data.dataset import Dataset
from cyclical_jax.data.feed import prefetched
from cyclical_jax.data.streams import Stream
from cyclical_jax.training import accumulating, assembly
from cyclical_jax.training.devices import (
    AXIS,
    Throttle,
    on_all_devices,
    own_part,
    scatter,
    split_over_devices,
)
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.feeding import take_examples
from cyclical_jax.training.resident import num_bytes
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.step import make_train_step
from cyclical_jax.training.structure import Recipe, Structure
from cyclical_jax.training.technique import Spec, spec_of
from cyclical_jax.training.totals import Totals, add

# (state, totals, the batches to train on) -> state, totals; the state is donated
Advance = Callable[[TrainState, Totals, Selection], tuple[TrainState, Totals]]

MOST_MICRO_STEPS = 4096  # a call: bounds the memory of its selection


class Inputs(NamedTuple):
    """The arguments of a program beside the state; as `AXES`, the mapped axis of each.

    `split` is None where batches are streamed, `count` where a call is one micro step.
    """

    totals: Any
    numbers: Any
    given: Any  # arrays that techniques have prepared, by their names
    split: Any  # the training split, as `resident.rest` has put it on the devices
    batches: Any  # a selection from the split, or the examples of one batch
    count: Any = None  # micro steps of the call; the selection may be longer


AXES = Inputs(None, None, None, None, batches=0)


def way_of(recipe: Recipe, dataset: Dataset) -> str:
    """Returns the recipe's own way, or the fastest that works."""
    if recipe.loop:
        return recipe.loop
    if isinstance(dataset.train, Stream):
        return "streamed"
    if jax.default_backend() == "cpu" and has_convolutions(recipe.structure, spec_of(dataset)):
        return "stepwise"
    memory = jax.local_devices()[0].memory_stats() or {}  # a CPU has none
    needed = num_bytes(dataset.train, jax.default_backend())
    return "resident" if needed < memory.get("bytes_limit", math.inf) / 2 else "streamed"


@functools.lru_cache(maxsize=32)
def has_convolutions(structure: Structure, spec: Spec) -> bool:
    """Returns whether the model has a convolution, whoever wrote it."""
    model = assembly.assemble_model(structure, spec)

    def forward():
        example = assembly.example_of(structure, spec)
        variables = model.init(jax.random.key(0), example)
        return model.apply(*variables, example, train=False)

    return "conv_general_dilated" in str(jax.make_jaxpr(forward)())


def make_advance(
    way: str,
    structure: Structure,
    timetable: Timetable,
    inputs: Inputs,
    spec: Spec,
    sent: Iterator[Any],
) -> Advance:
    """Returns the function that trains on the batches it is given, which `sent` has for "streamed".

    `inputs` are the inputs of all calls, without totals, batches and count.
    """

    def of_size(micro_steps: int) -> Advance:
        program = compiled(way, structure, timetable.lengths, spec, micro_steps)
        if way == "resident":
            return _resident(program, timetable, inputs)
        of_sent = functools.partial(_next, sent)
        advance = _one_by_one(program, _send if way == "stepwise" else of_sent, inputs)
        return _spread(advance) if is_spread(way, timetable, jax.device_count()) else advance

    return _in_parts(of_size, timetable) if timetable.as_one_batch else of_size(1)


def _spread(advance: Advance) -> Advance:
    """Returns a function whose calls between whole updates have states that are spread."""

    def spread(state, totals, selection):
        state, totals = advance(accumulating.spread(state), totals, selection)
        return accumulating.joined(state), totals

    return spread


def _in_parts(of_size: Callable[[int], Advance], timetable: Timetable) -> Advance:
    """Returns a function that makes a call for each size of batch in the timetable."""

    def advance(state, totals, selection):
        for size, part in in_batches(selection, timetable, int(state.micro_step)):
            state, totals = of_size(size)(state, totals, part)
        return state, totals

    return advance


def in_batches(
    selection: Selection, timetable: Timetable, start: int
) -> Iterator[tuple[int, Selection]]:
    """Yields (micro steps of a batch, batches of that size), of the micro steps from `start` on."""
    done, total = 0, len(selection["index"])
    for count, size in timetable.parts(start, start + total):
        part = {name: array[done : done + count * size] for name, array in selection.items()}
        yield size, {name: array.reshape(count, -1) for name, array in part.items()}
        done += count * size


@functools.lru_cache(maxsize=32)
def compiled(
    way: str,
    structure: Structure,
    timetable: Timetable,
    spec: Spec,
    micro_steps: int = 1,
    devices: tuple[jax.Device, ...] | None = None,
) -> Callable[..., Any]:
    """Returns the program of a way on all devices: (state, inputs) -> (state, totals)."""
    number = jax.device_count() if devices is None else len(devices)
    axis_name = AXIS if number > 1 else None
    program = make_program(way, structure, timetable, spec, axis_name, micro_steps)
    state = accumulating.AXES if is_spread(way, timetable, number) else None
    axes = {"in_axes": (state, AXES), "out_axes": (state, None)}
    return on_all_devices(program, **axes, donate=True, devices=devices)


def is_spread(way: str, timetable: Timetable, num_devices: int) -> bool:
    """Returns whether devices may differ between two calls of a program: within an update."""
    return timetable.accumulates and way != "resident" and num_devices > 1


def num_programs() -> int:
    """Returns the number of programs so far; each is compiled in its first call."""
    return compiled.cache_info().misses


def make_program(
    way: str,
    structure: Structure,
    timetable: Timetable,
    spec: Spec,
    axis_name: str | None,
    micro_steps: int = 1,
) -> Callable[[TrainState, Inputs], tuple[TrainState, Totals]]:
    """Returns the function of one device; it builds all inside the program, from traced numbers."""
    as_batch = structure.task[0].as_batch

    def one(inputs, carry, examples):
        state, totals = carry
        program = assembly.assemble(
            structure,
            inputs.numbers,
            timetable=timetable,
            spec=spec,
            given=inputs.given,
            axis_name=axis_name,
            micro_steps=micro_steps,
        )
        new_state, metrics = make_train_step(program)(state, as_batch(examples))
        return new_state, add(totals, metrics, state.step)

    def resident(state, inputs):
        def body(position, carry):
            row = jax.tree.map(lambda array: array[position], inputs.batches)
            return one(inputs, carry, take_examples(inputs.split, row))

        return jax.lax.fori_loop(0, inputs.count, body, (state, inputs.totals))

    def stepwise(state, inputs):
        examples = take_examples(inputs.split, inputs.batches)
        return one(inputs, (state, inputs.totals), examples)

    def streamed(state, inputs):
        return one(inputs, (state, inputs.totals), inputs.batches)

    return {"resident": resident, "stepwise": stepwise, "streamed": streamed}[way]


def _resident(program, timetable: Timetable, inputs: Inputs) -> Advance:
    capacity = capacity_of(timetable)

    def advance(state, totals, selection):
        count = len(selection["index"])
        filled = fill(own_part(selection), capacity)
        batches = jax.tree.map(lambda array: split_over_devices(array, axis=1), filled)
        own = inputs._replace(totals=totals, batches=batches, count=np.int32(count))
        return program(state, own)

    return advance


def capacity_of(timetable: Timetable) -> int:
    """Returns the most micro steps of a call."""
    return min(timetable.longest_interval, timetable.longest_call(MOST_MICRO_STEPS))


def fill(selection: Selection, capacity: int) -> Selection:
    """Returns a selection in one length for all calls, however many micro steps each has."""
    padding = [(0, capacity - len(selection["index"])), (0, 0)]
    return {name: np.pad(array, padding) for name, array in selection.items()}


def _send(selection: Selection) -> Iterator[Any]:
    return prefetched(scatter, rows(own_part(selection)))


def _next(sent: Iterator[Any], selection: Selection) -> Iterator[Any]:
    """Yields one sent batch for each batch of the selection."""
    return itertools.islice(sent, len(selection["index"]))


def _one_by_one(
    program, make_batches: Callable[[Selection], Iterable[Any]], inputs: Inputs
) -> Advance:
    """Returns a function that makes a call for each batch that `make_batches` makes."""

    def advance(state, totals, selection):
        throttle = Throttle()
        for batch in make_batches(selection):
            state, totals = program(state, inputs._replace(totals=totals, batches=batch))
            throttle(totals)
        return state, totals

    return advance
