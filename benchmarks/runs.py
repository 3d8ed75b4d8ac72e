"""Parts of real runs for timing: an epoch of a config on random bytes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cyclical_jax.catalogue import parse
from cyclical_jax.data import Dataset
from cyclical_jax.training import run, ways
from cyclical_jax.training.devices import place
from cyclical_jax.training.earlier import Earlier, prepare
from cyclical_jax.training.feeding import sent_batches
from cyclical_jax.training.resident import as_rows, rest
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.structure import Recipe
from cyclical_jax.training.technique import spec_of
from cyclical_jax.training.totals import Totals


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
    dataset, earlier = prepare(recipe, dataset)
    structure, timetable = recipe.structure, run.plan(recipe, dataset)
    select = run.select_of(structure, dataset, recipe.seed)
    ends = {"start": 0, "stop": 10**9}
    sent = sent_batches(dataset.train, select, **ends, seed=recipe.seed, num_workers=0)
    inputs = place(_inputs(recipe, earlier))._replace(split=rest(dataset.train))
    advance = ways.make_advance(way, structure, timetable, inputs, spec_of(dataset), sent)
    state, totals = place(_start(recipe, dataset, earlier))
    selection = select(start=0, stop=timetable.micro_steps_per_epoch)

    def call():
        nonlocal state
        state, _ = jax.block_until_ready(advance(state, totals, selection))

    return call


def jitted_epoch(config: ConfigDict, dataset: Dataset) -> Callable[[], None]:
    """Returns the same with `jax.jit` on one device, to measure the time that pmap adds."""
    recipe = parse(config)
    dataset, earlier = prepare(recipe, dataset)
    structure, timetable = recipe.structure, run.plan(recipe, dataset)
    one = ways.make_program("stepwise", structure, timetable, spec_of(dataset), None)
    select = run.select_of(structure, dataset, recipe.seed)
    selection = jax.device_put(select(start=0, stop=timetable.micro_steps_per_epoch))

    def program(state, totals, inputs, selection):
        def body(carry, batches):
            state, totals = carry
            return one(state, inputs._replace(totals=totals, batches=batches)), None

        return jax.lax.scan(body, (state, totals), selection)[0]

    program = jax.jit(program, donate_argnums=0)
    inputs = jax.device_put(_inputs(recipe, earlier)._replace(split=as_rows(dataset.train)))
    state, totals = jax.device_put(_start(recipe, dataset, earlier))

    def call():
        nonlocal state
        state, _ = jax.block_until_ready(program(state, totals, inputs, selection))

    return call


def _inputs(recipe: Recipe, earlier: Earlier) -> ways.Inputs:
    """Returns the inputs of all calls, without the split."""
    numbers = jax.tree.map(jnp.float32, recipe.numbers)
    return ways.Inputs(None, numbers, dict(earlier.given), None, None)


def _start(recipe: Recipe, dataset: Dataset, earlier: Earlier) -> tuple[TrainState, Totals]:
    begun = run.begin(recipe, dataset, earlier=earlier)
    return begun.state, begun.totals
