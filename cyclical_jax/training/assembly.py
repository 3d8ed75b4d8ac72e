"""Schedules, model, optimizer and train step of a structure and its numbers.

The numbers may be traced: everything here is built inside the compiled program.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import optax

from cyclical_jax import transforms
from cyclical_jax._piecewise import in_each_cycle
from cyclical_jax.accumulation import windows_schedule
from cyclical_jax.models import Model
from cyclical_jax.schedules import as_schedule, cyclical_schedule
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.keys import RESTART
from cyclical_jax.training.state import JUDGED, TrainState, Variables, init_state
from cyclical_jax.training.step import Program
from cyclical_jax.training.structure import Numbers, Recipe, Structure
from cyclical_jax.training.technique import (
    BatchTransform,
    LossTerm,
    Memory,
    Part,
    Schedules,
    Site,
    Spec,
    Technique,
)

Given = Mapping[str, Any]  # {name of a technique: arrays, as `Prepared.given`}
Parts = Mapping[str, Part]  # by name, in the order in which they act


def make_schedules(structure: Structure, numbers: Numbers, timetable: Timetable) -> Schedules:
    """Returns {key: schedule} of each knob that is on."""
    curves, num_cycles = dict(structure.curves), structure.num_cycles
    ends = [timetable.updates(end) for end in timetable.cycle_ends]
    schedules = {}
    for key, (easy, hard, factor) in numbers.items():
        options = {"factor": factor, "num_cycles": num_cycles, **curves[key]._asdict()}
        of_length = functools.partial(cyclical_schedule, easy, hard, **options)
        spans_cycles = structure.span == RESTART
        schedules[key] = (
            in_each_cycle(of_length, ends) if spans_cycles else of_length(timetable.total_steps)
        )
    for entry, own in structure.entries:
        schedules |= entry.schedules(dict(own), schedules, timetable)
    return schedules


def summary_of(recipe: Recipe, num_train: int) -> dict[str, float]:
    """Returns the numbers about a whole run that follow from its recipe, such as its cost.

    Args:
      recipe: The run.
      num_train: Number of its training examples.

    Returns:
      What the `summary` of each technique in use says; {} if none has one.
    """
    structure, timetable = recipe.structure, recipe.timetable(num_train)
    schedules = make_schedules(structure, recipe.numbers, timetable)
    found: dict[str, float] = {}
    for entry, own in structure.entries:
        if entry.summary is not None:
            found |= entry.summary(dict(own), schedules, timetable)
    return found


def assemble_model(structure: Structure, spec: Spec, axis_name: str | None = None) -> Model:
    """Returns the model, whose BatchNorm averages over `axis_name`.

    A model that the structure was given takes the place of the one that the first entry makes.
    """
    given = structure.model
    model = given if given is None or isinstance(given, Model) else given(axis_name)
    is_made = given is None
    for entry, own in structure.entries:
        if entry.model is not None and (is_made or entry is not structure.maker):
            model = entry.model(Site(dict(own), spec, axis_name), model)
    if model is None:
        raise TypeError(f"Neither the task {structure.task[0]} nor a technique makes a model.")
    return model


def example_of(structure: Structure, spec: Spec) -> Any:
    """Returns inputs of one example, with which the model is initialised."""
    task, own = structure.task
    return task.example(dict(own), spec)


def make_parts(
    structure: Structure, schedules: Schedules, spec: Spec, given: Given, axis_name: str | None
) -> Parts:
    """Returns what each entry adds to the program."""
    model, example = assemble_model(structure, spec), example_of(structure, spec)

    def part_of(entry, own):
        arrays = given.get(entry.name)
        site = Site(dict(own), spec, axis_name, schedules, arrays, model, example)
        try:
            return entry.part(site)
        except Exception as error:
            error.add_note(f"This was raised by the part of {entry.name}.")
            raise

    return {entry.name: part_of(entry, own) for entry, own in structure.entries}


def make_optimizer(parts: Parts, timetable: Timetable) -> optax.GradientTransformation:
    """Returns the chain of all parts, in the order of their places, with accumulation outermost."""
    placed = [pair for part in parts.values() for pair in part.chain]
    chain = optax.chain(*(link for _, link in sorted(placed, key=lambda pair: pair[0])))
    every = _every(timetable)
    return transforms.accumulate_gradients(chain, every) if every else chain


def _every(timetable: Timetable) -> optax.Schedule | None:
    """Returns the micro steps of each update, where they are accumulated."""
    return windows_schedule(timetable.windows) if timetable.accumulates else None


def make_terms(structure: Structure, parts: Parts) -> tuple[list[LossTerm], list[LossTerm]]:
    """Returns the loss terms, and the terms of the reference gradient.

    The task's own term comes first, then the terms that take a part of its weight, then the others.
    The reference differs only in the task's own term. The other terms are in both, so that
    rescaling does not remove what they teach.
    """
    for entry, _ in structure.entries:
        _check_measures(entry, parts[entry.name])
    name = structure.task[0].name
    own, *further = parts[name].terms
    others = [term for part in parts for term in (further if part == name else parts[part].terms)]
    others.sort(key=lambda term: not term.is_instead)
    taken = [as_schedule(term.weight) for term in others if term.is_instead]
    if taken:
        whole = as_schedule(own.weight)
        own = own._replace(weight=lambda count: whole(count) - _total(at(count) for at in taken))
    references = {name: part.reference for name, part in parts.items() if part.reference}
    _check_one("a reference", references)
    reference = [r._replace(weight=own.weight) for r in references.values() if r]
    return [own, *others], [*reference, *others] if reference else []


def model_knobs(structure: Structure, model: Model) -> list[str]:
    """Returns the keys of the knobs that are on and that the model's `apply` takes."""
    on, replaced = dict(structure.curves), structure.maker if structure.model else None
    return [
        key
        for entry, _ in structure.entries
        for key in entry.model_knobs
        if key in on and (entry is not replaced or key.rpartition(".")[2] in model.knobs)
    ]


def make_memories(parts: Parts) -> dict[str, Memory]:
    """Returns {name in the state: memory} of the parts that keep one."""
    kept = {name: part.memory for name, part in parts.items() if part.memory is not None}
    _check_one("a memory that is judged", [name for name in kept if kept[name].is_judged])
    return {JUDGED if memory.is_judged else name: memory for name, memory in kept.items()}


def assemble(
    structure: Structure,
    numbers: Numbers,
    *,
    timetable: Timetable,
    spec: Spec,
    given: Given | None = None,
    axis_name: str | None = None,
    micro_steps: int = 1,
) -> Program:
    """Returns the parts of the train step of a run.

    Args:
      structure, numbers: The structure and the numbers of the recipe.
      timetable: The lengths of the run.
      spec: The spec of the dataset.
      given: The arrays that techniques have prepared.
      axis_name: Mapped axis of the devices; None for one device.
      micro_steps: How many micro steps a batch counts as.
    """
    schedules = make_schedules(structure, numbers, timetable)
    parts = make_parts(structure, schedules, spec, given or {}, axis_name)
    terms, reference = make_terms(structure, parts)
    entries = [entry for entry, _ in structure.entries]
    task = structure.task[0]
    is_early = {entry.name: entry.changes_inputs or entry is task for entry in entries}
    model = assemble_model(structure, spec, axis_name)
    return Program(
        model=model,
        optimizer=make_optimizer(parts, timetable),
        every=_every(timetable),
        terms=terms,
        transforms=_transforms(parts, [name for name in parts if is_early[name]]),
        view=task.view,
        later=_transforms(parts, [name for name in parts if not is_early[name]]),
        reference=reference,
        knobs=schedules,
        columns=structure.columns,
        model_knobs=model_knobs(structure, model),
        memories=make_memories(parts),
        skip_nonfinite=structure.on_nonfinite == "skip",
        micro_steps=micro_steps,
        axis_name=axis_name,
    )


def assemble_state(
    structure: Structure,
    numbers: Numbers,
    seed: int | jax.Array,
    *,
    timetable: Timetable,
    spec: Spec,
    given: Given | None = None,
    start: Variables | None = None,
) -> TrainState:
    """Returns the state before the first update; numbers, seed and variables may be traced.

    If there is a `start`, all variables come from it, except those that it lacks.
    """
    program = assemble(structure, numbers, timetable=timetable, spec=spec, given=given)
    model = program.model if start is None else _starting_from(program.model, start)
    inputs = example_of(structure, spec)
    return init_state(model, program.optimizer, inputs, seed, memories=program.memories)


def _starting_from(model: Model, start: Variables) -> Model:
    def init(key, inputs):
        params, state = model.init(key, inputs)
        is_dict = isinstance(state, Mapping)  # of what techniques add the start has nothing
        state = {**state, **start.model_state} if is_dict else start.model_state
        return {**params, **start.params}, state

    return model._replace(init=init)


def _transforms(parts: Parts, names: Sequence[str]) -> list[BatchTransform]:
    return [transform for name in names for transform in parts[name].transforms]


def _check_measures(entry: Technique, part: Part) -> None:
    found = [name for term in part.terms for name, _ in term.measures]
    if sorted(found) != sorted(entry.measures):
        raise RecipeError(
            f"{entry} declares the measures {entry.measures}, but its terms have {found}."
        )


def _check_one(what: str, names: Collection[str]) -> None:
    if len(names) > 1:
        raise RecipeError(f"{' and '.join(names)} cannot be on at once: each has {what}.")


def _total(weights) -> jax.Array:
    """Returns the sum of the weights, without adding a first zero."""
    first, *rest = weights
    for weight in rest:
        first = first + weight
    return first
