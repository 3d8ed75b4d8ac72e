"""Whole runs on two devices: the three ways, the rows, the clock, and what stops a run."""

import contextlib
import dataclasses
import functools
import gc
import itertools
import math
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from cyclical_jax import data
from cyclical_jax.data.batches import shuffled
from cyclical_jax.tasks.classification import as_batch
from cyclical_jax.training import assembly, evaluation, loop, ways
from cyclical_jax.training import run as run_parts
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.devices import place
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.feeding import take_examples
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.keeper import Keeper, StoppedError
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.run import (
    NonFiniteError,
    Timer,
    begin,
    has_row_to_come,
    nothing_yet,
    plan,
)
from cyclical_jax.training.snapshots import Snapshot
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.step import make_train_step
from cyclical_jax.training.technique import spec_of
from tests.helpers import bright_classes, recipe_of
from tests.helpers import without_times as timeless

WAYS = ("resident", "stepwise", "streamed")
TRAIN, BATCH = 53, 12


def dataset(num_train=TRAIN):
    return bright_classes(num_train, 21)


def recipe(**changes):
    """Of a small model."""
    small = dict(batch_size=BATCH, model__hidden_sizes=(6,), duration="2 epochs")
    return recipe_of(num_devices=2, **small | changes)


EVERYTHING = dict(
    duration="13 steps",  # of 5 an epoch: neither it nor the intervals divide one another
    log_every="4 steps",
    validate_every="60 examples",  # 5 steps
    remainder="pad",
    ema_decay=cyclical(0.5, 0.8),
    model__batch_norm=True,
    model__dropout=cyclical(0.1, 0.5),
    optimizer__max_norm=cyclical(0.5, 2.0),
    optimizer__weight_decay=cyclical(1e-4, 1e-1, scale="log"),
    optimizer__momentum=cyclical(0.9, 0.7, factor=3),
    augment__operations=("flip", "brightness", "mixup"),
    augment__strength=cyclical(0, 1),
    loss__name="cyclical_focal",
    loss__label_smoothing=0.1,
    loss__temperature=cyclical(0.5, 2.0, shape="cosine"),
)
ROWS_AT = [4, 5, 8, 10, 12, 13]


def train(recipe, data, seed=0, progress=lambda micro_step: None):
    recipe = dataclasses.replace(recipe, seed=seed)
    rows = []
    state = loop.train(recipe, data, report=rows.append, progress=progress)
    return jax.device_get(state._replace(key=0)), rows


def assert_same_state(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def forget_programs(monkeypatch):
    """For this test, nothing was compiled before; and after it, nothing of it is left."""
    monkeypatch.setattr(ways, "compiled", functools.cache(ways.compiled.__wrapped__))


def live_bytes():
    """Of images, on all devices."""
    gc.collect()
    images = [array for array in jax.live_arrays() if array.dtype == jnp.uint8]
    # Not by `addressable_shards`, which makes further arrays of the same memory.
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * len(array.sharding.device_set)
        for array in images
    )


class Everything(NamedTuple):
    state: Any
    rows: list
    done: list  # micro steps after each call
    bytes: list  # of images on the devices then, beside those before


@functools.cache
def everything(way):
    done, live, before = [], [], live_bytes()

    def progress(micro_step):
        done.append(micro_step)
        live.append(live_bytes() - before)

    run = recipe(**EVERYTHING, loop=way)
    return Everything(*train(run, dataset(), seed=3, progress=progress), done, live)


# ---- the ways


@pytest.mark.parametrize("way", WAYS[1:])
def test_the_ways_give_the_same_bits(way):
    """BatchNorm, dropout, clipping, moving average, padding, and a loss that cycles."""
    one, resident = everything(way), everything("resident")
    assert_same_state(one.state, resident.state)
    assert timeless(one.rows) == timeless(resident.rows)


def test_a_row_has_every_knob_once():
    """And nothing that the knobs are called inside of Optax's transformations."""
    knobs = set(recipe(**EVERYTHING).structure.columns.values())
    means = {"loss", "accuracy", "grad_norm"}
    beside = {"step", "epoch", "images_per_second", "seconds", "val_loss", "val_accuracy"}
    assert "momentum" in knobs
    assert set(everything("resident").rows[-1]) == knobs | means | beside


def test_a_convolution_is_the_same_stepwise_and_streamed():
    small = dict(model__name="cnn", model__widths=(2,), duration="2 steps")
    small |= dict(model__hidden_sizes=())
    (state, rows), (expected, expected_rows) = (
        train(recipe(**small, loop=way), dataset()) for way in (None, "streamed")
    )
    assert_same_state(state, expected)
    assert timeless(rows) == timeless(expected_rows)


@functools.cache
def logged_at_every_step():
    return train(recipe(**EVERYTHING | dict(log_every="1 step")), dataset(), seed=3)


def test_a_run_cut_otherwise_is_the_same_run():
    state, rows = logged_at_every_step()
    assert [row["step"] for row in rows] == list(range(1, 14))
    assert_same_state(state, everything("resident").state)
    validated = [
        [(row["step"], row["val_loss"], row["val_accuracy"]) for row in some if "val_loss" in row]
        for some in (rows, everything("resident").rows)
    ]
    assert validated[0] == validated[1] and len(validated[0]) == 3


def padded():
    return recipe(remainder="pad", optimizer__max_norm=cyclical(0.5, 2.0), ema_decay=0.5)


def test_a_run_equals_single_steps_on_one_device():
    run, split = padded(), dataset().train
    state, rows = train(run, dataset(), seed=1)
    timetable, spec = plan(run, dataset()), spec_of(dataset())
    program = assembly.assemble(run.structure, run.numbers, timetable=timetable, spec=spec)
    step = jax.jit(make_train_step(program))
    expected = begin(dataclasses.replace(run, seed=1), dataset()).state
    batches = shuffled(TRAIN, BATCH, seed=1, start=0, stop=10, remainder="pad")
    metrics = []
    for number in range(10):
        selection = {name: array[number] for name, array in batches.items()}
        expected, row = step(expected, as_batch(take_examples(split, selection)))
        metrics.append(jax.device_get(row))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
        (state.params, state.evaluated),
        (expected.params, expected.evaluated),
    )
    for epoch, row in enumerate(rows):
        of_epoch = metrics[5 * epoch : 5 * epoch + 5]
        counts = [float(of["num_examples"]) for of in of_epoch]
        assert counts == [12, 12, 12, 12, 5]
        for name in ("loss", "accuracy", "grad_norm"):
            mean = np.average([of[name] for of in of_epoch], weights=counts)
            assert row[name] == pytest.approx(mean, rel=1e-3)


# ---- compilations


OTHER_NUMBERS = dict(
    ema_decay=cyclical(0.1, 0.9, factor=4),
    optimizer__max_norm=cyclical(3.0, 1.0),
    optimizer__learning_rate=0.05,
    loss__gamma_pos=1.0,
)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_compiles_one_program_for_all_seeds_and_numbers(way, monkeypatch, count_compilations):
    everything("resident")  # initial state, evaluation and copies are compiled, whatever ran before
    forget_programs(monkeypatch)
    with count_compilations() as compilations:
        train(recipe(**EVERYTHING, loop=way), dataset(), seed=3)
    assert len(compilations) == 1
    with count_compilations() as compilations:
        _, rows = train(recipe(**EVERYTHING | OTHER_NUMBERS, loop=way), dataset(), seed=4)
    assert not compilations
    assert rows[0]["learning_rate"] < 0.05


# ---- memory


@pytest.mark.parametrize("way", ["resident", "stepwise"])
def test_the_images_rest_on_every_device_once(way):
    assert set(everything(way).bytes) == {2 * dataset().train["image"].nbytes}


def test_of_streamed_images_a_few_batches_are_there():
    batch = dataset().train["image"][:BATCH].nbytes
    assert max(everything("streamed").bytes) <= 3 * batch


def test_the_program_does_not_hold_the_data_and_gives_up_the_old_state():
    run, large = recipe(), dataset(60_000)
    timetable, spec = plan(run, large), spec_of(large)
    state = begin(run, large).state
    selection = {"index": np.zeros((2, 3, BATCH // 2), np.int32)}
    totals = nothing_yet(run.structure, state)
    program = ways.compiled("resident", run.structure, timetable, spec)
    inputs = ways.Inputs(totals, run.numbers, {}, large.train, selection, np.int32(3))
    text = program.lower(state, inputs).as_text()
    assert len(text) < 1_000_000
    assert text.count("tf.aliasing_output") == len(jax.tree.leaves(state))
    assert program is ways.compiled("resident", run.structure, timetable, spec)


def test_a_resident_call_has_one_shape_whatever_it_does():
    calls = []

    def program(state, inputs):
        calls.append((inputs.batches, inputs.count))
        return state, inputs.totals

    timetable = plan(recipe(), dataset())._replace(log_every=3)
    inputs = ways.Inputs(*[None] * 5)
    advance = ways._resident(program, timetable, inputs)
    for micro_steps in (1, 3, 2):
        index = np.arange(micro_steps * 4, dtype=np.int32).reshape(micro_steps, 4) + 7
        advance(0, 0, {"index": index, "mask": index % 2})
        shares, count = calls[-1]
        assert {name: share.shape for name, share in shares.items()} == {
            "index": (2, 3, 2),
            "mask": (2, 3, 2),
        }
        np.testing.assert_array_equal(shares["index"][0, :count], index[:, :2])
        np.testing.assert_array_equal(shares["index"][1, :count], index[:, 2:])
        assert count == micro_steps and count.dtype == np.int32

    endless = timetable._replace(windows=((10**6, 1),), log_every=10**6, validate_every=10**6)
    ways._resident(program, endless, inputs)(0, 0, {"index": index})
    assert calls[-1][0]["index"].shape == (2, 4096, 2)


# ---- runs without training, for the order of things


@pytest.fixture
def rehearse(monkeypatch):
    """A run whose calls take as long as told (a second), and only count what they are given."""

    def rehearse(run, seconds=None, data=None, params=()):
        done, given, rows, is_start = [], [], [], itertools.cycle([True, False])
        turns, now = itertools.repeat(1.0) if seconds is None else iter(seconds), [0.0]

        def perf_counter():
            now[0] += 0 if next(is_start) else next(turns)
            return now[0]

        def advance(state, totals, selection):
            given.append(selection)
            count = int(state.micro_step) + len(selection["index"])
            return state._replace(step=count, micro_step=count), totals

        scores = {"loss": 1.0, "accuracy": 0.5, "num_examples": 1}
        monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=perf_counter))
        monkeypatch.setattr(loop, "make_advance", lambda *args: advance)
        monkeypatch.setattr(loop, "evaluate", lambda *args, **kwargs: scores)
        state = TrainState(params, {}, (), {}, step=0, micro_step=0, skipped=0, key=0)
        start = Snapshot(state, nothing_yet(run.structure, state), 0.0)
        monkeypatch.setattr(loop, "begin", lambda *args, **kwargs: start)
        run = dataclasses.replace(run, seed=2)
        loop.train(run, data or dataset(), report=rows.append, progress=done.append)
        return done, given, rows

    return rehearse


@pytest.mark.parametrize("remainder, an_epoch", [("drop", 48), ("pad", 53)])
def test_every_epoch_sees_its_examples_once(rehearse, remainder, an_epoch):
    _, given, _ = rehearse(recipe(remainder=remainder, duration="3 epochs", log_every="3 steps"))
    whole = {name: np.concatenate([part[name] for part in given]) for name in given[0]}
    epochs = whole["index"].reshape(3, -1)
    masks = whole.get("mask", np.ones_like(whole["index"])).reshape(3, -1)
    for index, mask in zip(epochs, masks, strict=True):
        seen = index[mask > 0]
        assert len(seen) == len(set(seen)) == an_epoch
    expected = shuffled(
        TRAIN, BATCH, seed=2, start=0, stop=len(masks.ravel()) // BATCH, remainder=remainder
    )
    np.testing.assert_array_equal(whole["index"], expected["index"])


@pytest.mark.parametrize(
    "changes, logged, validated",
    [
        (dict(log_every="1 epoch", validate_every="1 epoch"), [4, 8], [4, 8]),
        (dict(log_every="0.5 epochs", validate_every="2 epochs"), [2, 4, 6, 8], [8]),
        (dict(log_every="36 examples", validate_every="5 steps"), [3, 5, 6, 8], [5, 8]),
        (dict(log_every="9 epochs", validate_every="9 epochs"), [8], [8]),
        (dict(log_every="3 steps", validate_every="9 epochs"), [3, 6, 8], [8]),
    ],
)
def test_intervals_in_steps_epochs_and_examples(rehearse, changes, logged, validated):
    done, _, rows = rehearse(recipe(**changes))
    assert [row["step"] for row in rows] == logged
    assert [row["step"] for row in rows if "val_loss" in row] == validated
    assert set(logged) <= set(done)


@pytest.mark.parametrize(
    "seconds, expected",
    [
        ([0.5, 0.5, 0.5], [1, 9, 20]),
        ([2.5, 2, 3, 0.5, 0.5], [1, 3, 8, 16, 20]),
        ([10] * 20, list(range(1, 21))),
        ([0.125, 4.5, 15, 0.5, 0.5], [1, 9, 17, 19, 20]),
    ],
)
def test_calls_are_bounded_in_time(rehearse, seconds, expected):
    """One row: only the clock cuts."""
    run = recipe(duration="20 steps", log_every="99 epochs", validate_every="99 epochs")
    done, _, (row,) = rehearse(run, seconds)
    assert done == expected
    assert row["seconds"] == sum(seconds[1:])
    assert row["images_per_second"] == pytest.approx(19 * BATCH / sum(seconds[1:]))


def test_without_a_validation_split_no_row_has_scores_of_it(rehearse):
    _, _, rows = rehearse(recipe(), data=dataset()._replace(validation=dataset().test))
    assert len(rows) == 2 and not any("val_loss" in row or "val_accuracy" in row for row in rows)


def test_calls_are_bounded_in_memory(rehearse, monkeypatch):
    monkeypatch.setattr(run_parts, "MOST_MICRO_STEPS", 3)
    done, *_ = rehearse(recipe(**EVERYTHING | dict(log_every="9 steps")))
    assert done == [1, 4, 5, 8, 9, 10, 13]


# ---- rows


def between(easy, hard, hardness):
    return (1 - hardness) * easy + hardness * hard


def test_every_knob_is_logged_at_every_update():
    _, rows = logged_at_every_step()
    for count, row in enumerate(rows):
        hardness = 1 - abs(count - 6) / 6
        expected = {
            "hardness": hardness,
            "max_norm": between(0.5, 2.0, hardness),
            "weight_decay": 1e-4 * 1000**hardness,
            "ema_decay": between(0.5, 0.8, hardness),
            "momentum": between(0.9, 0.7, count / 4 if count < 4 else 1 - (count - 4) / 8),
            "temperature": between(0.5, 2.0, (1 - math.cos(math.pi * hardness)) / 2),
            "learning_rate": 0.1 * (1 + math.cos(math.pi * count / 13)) / 2,
            "label_smoothing": 0.1,
            "gamma_hc": 3.0,
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-5, abs=1e-6), (count, name)
        assert row["label_smoothing"] == 0.1  # not 0.10000000149
    for name, (easy, hard) in {"hardness": (0, 1), "max_norm": (0.5, 2)}.items():
        assert [rows[count][name] for count in (0, 6, 12)] == [easy, hard, easy]


def test_rows_come_at_every_interval_and_at_the_end():
    rows = everything("resident").rows
    assert [row["step"] for row in rows] == ROWS_AT
    assert [row["epoch"] for row in rows] == [0.8, 1, 1.6, 2, 2.4, 2.6]
    assert [row["step"] for row in rows if "val_loss" in row] == [5, 10, 13]
    assert all(("val_loss" in row) == ("val_accuracy" in row) for row in rows)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds) and 0 < seconds[-1] < 60
    assert all(row["images_per_second"] > 0 for row in rows)
    assert "skipped" not in rows[0]


def test_the_timer_counts_no_compilation_and_grows_with_care():
    selection = {"index": np.zeros((4, 2))}
    timer = Timer(growth=2)
    timer.add(3.0, selection)  # the first, which compiles
    assert timer.seconds == 0
    timer.add(0.5, selection)
    timer.add(2.0, selection, is_compiling=True)
    assert timer.seconds == 0.5 and timer.images_per_second() == 16
    timer.add(1e-3, selection)
    grown = timer.micro_steps_a_call
    timer.add(1e-3, selection)
    assert timer.micro_steps_a_call == 2 * grown


def test_the_calls_that_compile_a_size_of_batches_are_told_to_the_timer(monkeypatch):
    told, add = [], Timer.add

    def record(self, seconds, selection, *, is_compiling=False):
        told.append(is_compiling)
        add(self, seconds, selection, is_compiling=is_compiling)

    monkeypatch.setattr(Timer, "add", record)
    forget_programs(monkeypatch)
    run = recipe(accumulate=cyclical(4, 1), accumulate_as="one_batch", duration="12 epochs")
    train(run, dataset())
    assert len(told) > sum(told) >= 2
    told.clear()
    train(run, dataset(), seed=1)  # all are there
    assert not any(told)


def test_a_stop_at_any_moment_leaves_no_trace(tmp_path, monkeypatch):
    """Within a validation, too, whose row is then written by who goes on."""
    monkeypatch.setattr(evaluation, "_BATCH_SIZE", 4)  # three batches of both devices
    run, stopped_at = recipe(**EVERYTHING, loop="resident"), set()
    timetable = plan(run, dataset())

    def stopping_at(number):
        asked = itertools.count()
        return lambda: next(asked) == number

    def train_from(start, reported, is_stopping, checkpoints):
        keeper = Keeper(checkpoints, every=1e9, is_stopping=is_stopping)
        options = {"report": reported.append, "start": start, "keeper": keeper}
        return loop.train(dataclasses.replace(run, seed=3), dataset(), **options)

    whole, rows = train(run, dataset(), seed=3)
    for number in itertools.count():
        reported = []
        with Checkpoints(tmp_path / str(number)) as checkpoints:
            try:
                train_from(None, reported, stopping_at(number), checkpoints)
                break
            except StoppedError:
                start = checkpoints.restore(begin(dataclasses.replace(run, seed=3), dataset()))
            is_to_come = has_row_to_come(timetable, start)
            stopped_at.add((int(start.state.micro_step), is_to_come))
            assert len(reported) == timetable.num_rows(start.state.micro_step) - is_to_come
            state = train_from(start, reported, lambda: False, checkpoints)
        assert_same_state(jax.device_get(state._replace(key=0)), whole)
        assert timeless(reported) == timeless(rows)
    assert stopped_at >= {(1, False), (4, False), (5, True), (8, False), (10, True), (13, True)}


def test_the_moving_average_is_what_is_validated():
    run, spec = recipe(**EVERYTHING, loop="resident"), spec_of(dataset())
    state, rows, *_ = everything("resident")
    averaged, last = (
        evaluation.evaluate(run.structure, spec, place(some.evaluated), dataset().validation)
        for some in (state, state._replace(memory={}))
    )
    assert (rows[-1]["val_loss"], rows[-1]["val_accuracy"]) == (
        averaged["loss"],
        averaged["accuracy"],
    )
    assert abs(averaged["loss"] - last["loss"]) > 1e-3


def test_the_last_update_of_an_accumulating_run_takes_what_is_left():
    """12 micro steps of 4 an epoch, 5 an update: 5, 5 and 2."""
    changes = dict(accumulate=5, duration="3 epochs", log_every="24 examples")
    run = recipe(**changes, loss__name="cyclical_focal", optimizer__max_norm=1.0)
    state, rows = train(run, dataset())
    assert (state.step, state.micro_step) == (3, 12)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["hardness"] for row in rows] == [0, 1, 0]
    assert [row["every"] for row in rows] == [5, 5, 2]


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    one, same, other = (train(padded(), dataset(), seed) for seed in (1, 1, 2))
    assert_same_state(one[0], same[0])
    assert timeless(one[1]) == timeless(same[1])
    kernels = (one[0].params["Dense_0"]["kernel"], other[0].params["Dense_0"]["kernel"])
    assert (kernels[0] != kernels[1]).all()


# ---- time


def selection(micro_steps):
    return {"index": np.zeros((micro_steps, BATCH), np.int32)}


@pytest.mark.parametrize(
    "calls, expected",
    [  # (micro steps, seconds) of each call
        ([(1, 0.1)], 8),
        ([(1, 2.0)], 5),  # 10 s are five times as many
        ([(1, 30.0)], 1),
        ([(1, 0.1), (8, 0.1)], 64),
        ([(1, 0.1), (8, 0.1), (64, 16.0)], 40),
        ([(1, 0.1), (8, 0.1), (3, 0.1)], 300),  # a call that ended at a row says no less
        ([(1, 0.01), (8, 0.01), (64, 0.01), (512, 0.01)], 4096),
        ([(1, 0.01), (8, 0.01), (64, 0.01), (512, 0.01), (4096, 0.01)], 4096),
        ([(1, 0.01), (8, 100.0), (1, 1.0)], 8),
    ],
)
def test_a_call_is_of_as_many_micro_steps_as_five_seconds_take(calls, expected):
    timer = Timer()
    assert timer.micro_steps_a_call == 1
    for micro_steps, seconds in calls:
        timer.add(seconds / 2, selection(micro_steps))
    assert timer.micro_steps_a_call == expected


def test_images_a_second_are_of_one_row_without_the_first_call_and_padding():
    timer = Timer()
    timer.add(100.0, selection(1))
    assert timer.images_per_second() is None and timer.seconds == 0
    timer.add(2.0, selection(3))
    timer.add(1.0, selection(1) | {"mask": np.arange(BATCH)[None] < 5})
    assert timer.images_per_second() == (3 * BATCH + 5) / 3
    timer.add(0.5, selection(2))
    assert timer.images_per_second() == 2 * BATCH / 0.5
    assert timer.images_per_second() is None
    assert timer.seconds == 3.5


# ---- what is not finite


@pytest.fixture
def white_is_nan(monkeypatch):
    """An image that is white is not a number; returns a dataset with one, in the batch given."""

    def poisoning(function):
        def poisoned(*args):
            batch = function(*args)
            return batch | {"image": jnp.where(batch["image"] > 0.99, jnp.nan, batch["image"])}

        return poisoned

    task = recipe().task
    # A frozen dataclass, whose equality is its identity: the program takes it for the same task.
    monkeypatch.setitem(vars(task), "as_batch", poisoning(task.as_batch))
    monkeypatch.setattr(ways, "compiled", _programs_of_poison)

    def with_white(micro_step):
        index = shuffled(TRAIN, BATCH, seed=0, start=0, stop=4, remainder="drop")["index"]
        image = dataset().train["image"].copy()
        image[index[micro_step, -1]] = 255
        return dataset()._replace(train=dataset().train | {"image": image})

    return with_white


_programs_of_poison = functools.cache(ways.compiled.__wrapped__)


@pytest.mark.parametrize("step", [0, 2, 3])
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(white_is_nan, step):
    rows = []
    run = recipe(optimizer__momentum=cyclical(0.9, 0.2), log_every="2 steps")
    with pytest.raises(NonFiniteError) as error:
        loop.train(run, white_is_nan(step), report=rows.append)
    momentum = between(0.9, 0.2, 1 - abs(step - 3.5) / 3.5)
    rate = 0.1 * (1 + math.cos(math.pi * step / 8)) / 2
    message = str(error.value)
    assert message.startswith(f"loss is nan at step {step}, with ")
    assert f"momentum {momentum:.4g}" in message and f"learning_rate {rate:.4g}" in message
    for remedy in ("a lower learning rate", "a clip of the gradient", "on_nonfinite='skip'"):
        assert remedy in message
    assert [row["step"] for row in rows] == [2][: step // 2]


def test_a_rate_that_is_far_too_high_stops_the_run(white_is_nan):
    changes = dict(optimizer__momentum=cyclical(0.9, 0.2), log_every="2 steps")
    run = recipe(**changes, optimizer__learning_rate=1e30)
    with pytest.raises(NonFiniteError, match=r"at step [1-3], .*learning_rate \d.*e\+"):
        train(run, dataset())


def test_a_batch_that_is_not_finite_is_skipped_and_counted(white_is_nan):
    run = recipe(
        on_nonfinite="skip",
        loop="streamed",
        log_every="1 step",
        optimizer__momentum=cyclical(0.9, 0.2),
    )
    state, rows = train(run, white_is_nan(2))
    assert [row["skipped"] for row in rows[:4]] == [0, 0, 1, 1]
    assert [row["step"] for row in rows[:4]] == [1, 2, 2, 3]
    assert rows[2]["momentum"] == rows[3]["momentum"]
    assert [row["loss"] is None for row in rows[:4]] == [False, False, True, False]
    assert rows[2]["accuracy"] is None and rows[2]["grad_norm"] is None
    assert state.step == 8 - state.skipped and rows[-1]["skipped"] == state.skipped
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_validation_loss_that_is_not_finite_stops_the_run(monkeypatch):
    scores = {"loss": float("nan"), "accuracy": 0.1, "num_examples": 1}
    monkeypatch.setattr(loop, "evaluate", lambda *args, **kwargs: scores)
    rows = []
    with pytest.raises(NonFiniteError, match="val_loss is nan at step 5; try a lower learn"):
        loop.train(padded(), dataset(), report=rows.append)
    assert [row["step"] for row in rows] == [5] and "val_loss" not in rows[0]  # it is not lost


def test_parameters_that_are_not_finite_end_the_run_with_an_error(rehearse):
    message = "the norm of the parameters is inf at step 8; try a lower learning rate"
    with pytest.raises(NonFiniteError, match=message):
        rehearse(recipe(), params={"w": np.float32([1, np.inf])})


@pytest.mark.parametrize(
    "micro_step, skipped, is_stopped",
    [(9, 9, False), (10, 5, False), (10, 6, True), (30, 15, False), (30, 16, True)],
)
def test_a_run_that_skips_more_than_half_of_its_batches_is_stopped(micro_step, skipped, is_stopped):
    """From the end of its first epoch on, which is of 10 micro steps."""
    timetable = Timetable(((30, 1),), 10, 1, 1)
    expected = pytest.raises(
        NonFiniteError, match=f"^skipped {skipped} of {micro_step} batches, whose loss"
    )
    with expected if is_stopped else contextlib.nullcontext():
        run_parts._check_skipped(timetable, micro_step, skipped)


# ---- the way of a run


ON_TPU = 56 * 128 + 1024 * 4  # bytes that images and labels take there, in whole tiles


def a_device(limit):
    return types.SimpleNamespace(memory_stats=lambda: limit and {"bytes_limit": limit})


@pytest.mark.parametrize(
    "changes, backend, limit, way",
    [
        ({}, "cpu", None, "resident"),
        (dict(model__name="cnn"), "cpu", None, "stepwise"),
        (dict(model__name="cnn"), "gpu", 10**9, "resident"),
        (dict(model__name="cnn", loop="resident"), "cpu", None, "resident"),
        (dict(loop="stepwise"), "gpu", 10**9, "stepwise"),
        ({}, "gpu", 2 * TRAIN * (9 + 4) + 2, "resident"),
        ({}, "gpu", 2 * TRAIN * (9 + 4), "streamed"),
        ({}, "tpu", 2 * ON_TPU + 2, "resident"),
        ({}, "tpu", 2 * ON_TPU, "streamed"),
        (dict(loop="resident"), "gpu", 1, "resident"),
    ],
)
def test_the_way_is_the_fastest_that_works_or_the_recipes_own(
    monkeypatch, changes, backend, limit, way
):
    run = recipe(**changes)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [a_device(limit)])
    assert ways.way_of(run, dataset()) == way


# ---- what cannot be trained


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(batch_size=13), "^batch_size must be a multiple of the number of devices, 2, got 13"),
        (dict(batch_size=54), "^batch_size 54 is more than the 53 training examples.$"),
        (
            dict(num_cycles=8),
            "^duration must make more updates than cycle.num_cycles 8, got 8",
        ),
        (
            dict(model__name="patch_dense", model__patch_size=4, model__stride=1),
            "^model: patch_size must be a whole number from 1 to 3, got 4",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_before_it_starts(changes, message):
    run = recipe(**{key: changes.pop(key) for key in list(changes) if "__" in key})
    run = dataclasses.replace(run, structure=dataclasses.replace(run.structure, **changes))
    for start in (plan, train):
        with pytest.raises(RecipeError, match=message):
            start(run, dataset())


@pytest.mark.parametrize("shift, found", [(1, "1 to 4"), (-1, "-1 to 2")])
@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_labels_that_name_no_class_are_refused(name, shift, found):
    split = dataset().train
    label = np.arange(len(split["label"])) % 4 + shift
    message = rf"^{name}\['label'\] must be 0 to 3, got {found}.$"
    with pytest.raises(RecipeError, match=message):
        plan(recipe(), dataset()._replace(**{name: split | {"label": label}}))


def test_all_that_does_not_fit_is_said_at_once():
    run = recipe(model__name="patch_dense", model__patch_size=4)
    run = dataclasses.replace(run, structure=dataclasses.replace(run.structure, batch_size=55))
    with pytest.raises(RecipeError) as error:
        plan(run, dataset())
    begins = [
        "batch_size must be",
        "model: patch_size",
        "batch_siz",
    ]
    for line, beginning in zip(str(error.value).splitlines(), begins, strict=True):
        assert line.startswith(beginning)


def test_a_plan_is_the_timetable_of_the_recipe():
    timetable = plan(recipe(**EVERYTHING), dataset())
    assert timetable == (((13, 1),), 5, 4, 5, False, (), ())


# ---- learning


@pytest.mark.parametrize(
    "changes",
    [pytest.param({}, marks=pytest.mark.slow), dict(model__dtype="bfloat16")],
    ids=["float32", "bfloat16"],
)
def test_digits_are_learned(changes):
    run = recipe_of(digits.get_config("all"), duration="12 epochs", **changes)
    state, rows = train(run, data.load("digits"))
    assert rows[-1]["val_accuracy"] > 0.95
    assert rows[-1]["step"] == state.step == 12 * (1197 // 64)
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}
