"""The compiled programs of a population: those of one member, mapped over the members."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from cyclical_jax.training import run
from cyclical_jax.training.assembly import assemble_state
from cyclical_jax.training.devices import on_all_devices
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.evaluation import make_batch_sums
from cyclical_jax.training.feeding import take_examples
from cyclical_jax.training.state import TrainState, Variables
from cyclical_jax.training.structure import Structure
from cyclical_jax.training.technique import Spec
from cyclical_jax.training.totals import Totals
from cyclical_jax.training.ways import Inputs, make_program


class Programs(NamedTuple):
    """Programs on all devices; leaves are [devices, members of a device, ...] or shared by all."""

    initialise: Callable[..., tuple[TrainState, Totals]]  # (numbers, seeds, first variables)
    # micro steps of a batch -> a program of (states, (totals, given, split, ...))
    advance: Callable[[int], Callable[..., tuple[TrainState, Totals]]]
    batch_sums: Callable[..., Any]  # (variables, (split, selection))
    norm: Callable[..., Any]  # (parameters)


@functools.lru_cache(maxsize=64)
def compiled(
    way: str,
    structure: Structure,
    timetable: Timetable,
    spec: Spec,
    chunk: int,
    in_turn: int = 1,
    devices: tuple[jax.Device, ...] | None = None,
) -> Programs:
    """Returns the programs of a population of `chunk` members a device."""
    of_batch = make_batch_sums(structure, spec)

    def initialise(numbers, seed, given, start):
        options = {"timetable": timetable, "spec": spec, "given": given, "start": start}
        state = assemble_state(structure, numbers, seed, **options)
        return state, run.nothing_yet(structure, state)

    def batch_sums(variables: Variables, inputs):
        return of_batch(variables, take_examples(*inputs))

    @functools.cache
    def advance(micro_steps):
        program = make_program(way, structure, timetable, spec, None, micro_steps)
        axes = Inputs(totals=0, numbers=0, given=None, split=None, batches=0)
        return of_members(program, (0, axes), donate=True)

    of_members = functools.partial(_of_members, chunk=chunk, in_turn=in_turn, devices=devices)
    return Programs(
        of_members(initialise, (0, 0, None, None)),
        advance,
        of_members(batch_sums, (0, None)),
        of_members(optax.tree.norm, (0,)),
    )


def _of_members(function, in_axes, *, chunk: int, in_turn: int, devices, donate: bool = False):
    """Returns `function`, of one member's arguments, mapped over devices and members."""
    if in_turn > 1:
        of_device = _one_after_the_other(function, in_axes, chunk)
    else:
        of_device = _one_by_itself(function, in_axes) if chunk == 1 else jax.vmap(function, in_axes)
    options = {"in_axes": in_axes, "out_axes": 0, "donate": donate}
    return on_all_devices(of_device, devices=devices, **options)


def _one_after_the_other(function, in_axes, chunk: int):
    """Does what `vmap` does, a chunk after the other; chunks of one without `vmap`."""

    def for_each(choose, *trees):
        return jax.tree.map(choose, in_axes, *trees, is_leaf=lambda axis: axis is None)

    def call(*args):
        def one(own):
            merged = for_each(lambda axis, own, all: all if axis is None else own, own, args)
            return function(*merged)

        own = for_each(lambda axis, tree: None if axis is None else tree, args)
        return jax.lax.map(one, own, batch_size=None if chunk == 1 else chunk)

    return call


def _one_by_itself(function, in_axes):
    """Does what `vmap` does over axes of length 1, with the matrix products of a single run."""

    def without_axis(axis, tree):
        return tree if axis is None else jax.tree.map(lambda leaf: leaf[0], tree)

    def call(*args):
        one = jax.tree.map(without_axis, in_axes, args, is_leaf=lambda axis: axis is None)
        return jax.tree.map(lambda leaf: leaf[None], function(*one))

    return call
