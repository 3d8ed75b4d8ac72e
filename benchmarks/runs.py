"""Parts of real runs for timing: an epoch of a config on random bytes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from cyclical_jax.training.images import sent_batches, take_batch
from ml_collections import ConfigDict

from cyclical_jax.catalogue import parse
from cyclical_jax.data import Dataset
from cyclical_jax.training import assembly, loop, ways
from cyclical_jax.training.devices import place


def random_dataset(num_train: int, side: int) -> Dataset:
    """Returns random grey images of `side` x `side` pixels, in ten classes."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (num_train, side, side, 1), np.uint8)
    train = {"image": image, "label": rng.integers(0, 10, num_train).astype(np.int32)}
    few = {name: array[:10] for name, array in train.items()}
    return Dataset(train, few, few, num_classes=10)


def epoch(config: ConfigDict, dataset: Dataset, way: str) -> Callable[[], None]:
    """Returns a function that trains for one more epoch per call, in one of the loop's ways."""
    recipe = parse(config)
    structure, timetable = recipe.structure, loop.plan(recipe, dataset)
    numbers = place(jax.tree.map(jnp.float32, recipe.numbers))
    select = _select(structure, dataset)
    sent = sent_batches(dataset.train, select, start=0, stop=10**9, seed=0, num_workers=0)
    advance = ways.make_advance(way, structure, timetable, numbers, dataset, sent)
    state = place(loop.initial_state(structure, timetable, numbers, dataset, 0))
    totals = place(loop.nothing_yet(structure, state, recipe.numbers))
    selection = select(start=0, stop=timetable.micro_steps_per_epoch)

    def call():
        nonlocal state
        state, _ = jax.block_until_ready(advance(state, totals, selection))

    return call


def jitted_epoch(config: ConfigDict, dataset: Dataset) -> Callable[[], None]:
    """Returns the same with `jax.jit` on one device, to measure the time that pmap adds."""
    recipe = parse(config)
    structure, timetable = recipe.structure, loop.plan(recipe, dataset)
    numbers = jax.tree.map(jnp.float32, recipe.numbers)
    state = loop.initial_state(structure, timetable, numbers, dataset, 0)
    selection = _select(structure, dataset)(start=0, stop=timetable.micro_steps_per_epoch)

    def program(state, numbers, split, selection):
        step = assembly.assemble_train_step(
            structure, numbers, timetable=timetable, num_classes=10, axis_name=None
        )
        return jax.lax.scan(lambda s, row: step(s, take_batch(split, row)), state, selection)

    program = jax.jit(program, donate_argnums=0)
    split = jax.device_put(dataset.train)

    def call():
        nonlocal state
        state, _ = jax.block_until_ready(program(state, numbers, split, selection))

    return call


def _select(structure, dataset):
    return loop.select_of(structure, dataset, seed=0)
