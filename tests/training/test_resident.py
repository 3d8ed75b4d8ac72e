"""A split rests on devices as rows, and examples are taken of it as of arrays."""

import functools

import jax
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout

from cyclical_jax.data import Dataset
from cyclical_jax.training import ahead, loop, population, resident, ways
from cyclical_jax.training.earlier import prepare
from cyclical_jax.training.feeding import take_examples
from tests.helpers import recipe_of

N, CLASSES = 40, 4
SHAPES = {
    "image": ((6, 5, 3), np.uint8),
    "floats": ((6, 5, 2), np.float32),
    "table": ((7,), np.float32),
    "label": ((), np.int32),
    "classes": ((CLASSES,), np.float32),
    "of_pixels": ((6, 5), np.int32),
}


def some(n=N, names=tuple(SHAPES)):
    rng = np.random.default_rng(n)
    return {name: of_shape(rng, n, *SHAPES[name]) for name in names}


def of_shape(rng, n, shape, dtype):
    return rng.integers(0, CLASSES if dtype == np.int32 else 200, (n, *shape)).astype(dtype)


# ---- examples


@pytest.mark.parametrize("index", [[3], [5, 39, 0, 5]], ids=str)
def test_examples_are_those_of_the_arrays(index):
    split = some() | {"unlabelled": some(11)["image"]}
    selection = {"index": np.array(index), "unlabelled_index": np.array([10, 2, 2])}
    for others in ({}, {"unlabelled_index": selection["unlabelled_index"]}):
        chosen = {"index": selection["index"]} | others
        taken = jax.jit(take_examples)(resident.rest(split), chosen)
        expected = take_examples(split, chosen)
        assert taken.keys() == expected.keys()
        for name, array in expected.items():
            assert taken[name].dtype == array.dtype or array.dtype == np.int64
            np.testing.assert_array_equal(taken[name], array)


def test_a_split_without_examples_rests_too():
    for name, entry in resident.rest(some(0)).items():
        assert len(entry) == 0 and entry.shape == SHAPES[name][0]


# ---- the memory


def test_rows_are_on_every_device_and_nothing_is_added_to_them():
    split = some()
    for name, entry in resident.rest(split).items():
        assert entry.rows.shape == (split[name].reshape(N, -1).shape if entry.shape else (N,))
        assert entry.rows.nbytes == split[name].nbytes
        assert [shard.data.shape for shard in entry.rows.addressable_shards] == [
            entry.rows.shape
        ] * jax.device_count()


def test_a_device_that_would_lay_examples_side_by_side_gets_rows():
    """A device of another mind, made of what it does to an array that is put there."""
    rows = resident.rest(some())["image"].rows
    columns = jax.device_put(rows, Format(Layout((1, 0)), rows.sharding))
    assert columns.format.layout.major_to_minor == (1, 0)
    again = resident._by_rows(columns)
    assert again.format.layout.major_to_minor == (0, 1)
    np.testing.assert_array_equal(again, rows)
    assert resident._by_rows(rows) is rows  # and no copy is made where none is needed


@pytest.mark.parametrize(
    "shape, dtype, expected",
    [
        ((45_000, 32, 32, 3), np.uint8, 45_000 * 3072),
        ((55_000, 28, 28, 1), np.uint8, 55_000 * 896),
        ((1001, 28, 28, 1), np.uint8, 1008 * 896),
        ((1000, 28, 28, 1), np.float32, 1000 * 896 * 4),
        ((1000, 10), np.float32, 1000 * 128 * 4),
        ((1000, 129), np.float16, 1000 * 256 * 2),
        ((50_000,), np.int32, 50_176 * 4),
        ((0, 28, 28, 1), np.uint8, 0),
    ],
    ids=str,
)
def test_the_bytes_of_a_split_on_a_tpu(shape, dtype, expected):
    """As `memory_analysis` of programs with such arguments has them, for v5e (libtpu 0.0.42)."""
    split = {"image": jax.ShapeDtypeStruct(shape, dtype)}
    assert resident.num_bytes(split, "tpu") == expected
    assert resident.num_bytes({**split, "other": split["image"]}, "tpu") == 2 * expected
    for platform in ("cpu", "gpu"):
        assert resident.num_bytes(split, platform) == np.prod(shape) * np.dtype(dtype).itemsize


# ---- programs made ahead


class CalledError(Exception):
    """The first call of a program."""


def first_call(monkeypatch, module, run, of_program):
    """The shapes of the arguments of the first call of what `module.compiled` returns."""

    def program(*args):
        calls.append(jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), args))
        raise CalledError

    calls = []
    with monkeypatch.context() as patch, pytest.raises(CalledError):
        made = functools.cache(lambda *args: of_program(program, *args))
        patch.setattr(module, "compiled", made)
        run()
    return calls[0]


def a_run(**changes):
    small = dict(model__hidden_sizes=(6,), batch_size=8, duration="2 epochs")
    recipe = recipe_of(**small | changes, num_devices=2)
    names = ("image", "label")
    dataset = Dataset(some(N, names), some(10, names), some(10, names), CLASSES)
    return prepare(recipe, dataset)[0], recipe


@pytest.mark.parametrize("way", ["resident", "stepwise"])
def test_a_run_is_called_with_the_shapes_of_its_program_made_ahead(way, monkeypatch):
    dataset, recipe = a_run(loop=way)

    def run():
        loop.train(recipe, dataset, report=print)

    made = ahead.arguments(recipe, dataset, way, num_devices=2)
    assert first_call(monkeypatch, ways, run, lambda program, *_: program) == made
    lowered = ahead.lowered(recipe, dataset, way, tuple(jax.devices()))
    assert lowered.in_tree == jax.tree.structure((made, {}))


@pytest.mark.parametrize("way, chunk", [("resident", 1), ("stepwise", 3)])
def test_a_population_is_called_with_the_shapes_of_its_program_made_ahead(way, chunk, monkeypatch):
    dataset, recipe = a_run(loop=way)
    real = population.compiled

    def with_program(program, *static):
        return real(*static)._replace(advance=lambda micro_steps: program)

    def run():
        members = population.Population(recipe, dataset, chunk=chunk)
        members.train([recipe.numbers] * members.size, list(range(members.size)))

    made = ahead.arguments(recipe, dataset, way, num_devices=2, chunk=chunk)
    assert first_call(monkeypatch, population, run, with_program) == made
    lowered = ahead.lowered(recipe, dataset, way, tuple(jax.devices()), chunk=chunk)
    assert lowered.in_tree == jax.tree.structure((made, {}))


def test_a_population_is_not_streamed():
    dataset, recipe = a_run()
    with pytest.raises(ValueError, match="population.*'resident' or 'stepwise'"):
        ahead.arguments(recipe, dataset, "streamed", num_devices=2, chunk=2)
