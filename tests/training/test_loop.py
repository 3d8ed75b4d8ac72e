"""Whole runs on digits, on two devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import digits
from cyclical_jax import data
from cyclical_jax.data.batches import epoch_order, padded_order
from cyclical_jax.training import assembly, loop
from cyclical_jax.training.devices import place
from cyclical_jax.training.evaluation import evaluate
from cyclical_jax.training.images import take_batch
from cyclical_jax.training.recipe import RecipeError, parse


@pytest.fixture(scope="module")
def dataset():
    return data.load("digits")


def recipe(variant="plain", *, num_epochs=2, **numbers):
    config = digits.get_config(variant)
    config.num_epochs = num_epochs
    parsed = parse(config)
    knobs = {name: parsed.numbers[name]._replace(**new) for name, new in numbers.items()}
    return dataclasses.replace(parsed, numbers=parsed.numbers | knobs)


def train(recipe, dataset, seed=0):
    rows = []
    state = loop.train(recipe, dataset, seed=seed, report=rows.append)
    return state, rows


def test_digits_are_learned(dataset):
    run = recipe("all", num_epochs=15)
    state, rows = train(run, dataset)
    assert rows[-1]["val_accuracy"] > 0.95
    assert rows[-1]["step"] == state.step == 15 * (1197 // 64)
    assert [row["epoch"] for row in rows] == list(range(1, 16))


def test_knobs_start_and_end_easy_and_are_hard_between(dataset):
    _, rows = train(recipe("all", num_epochs=3), dataset)
    knobs = {
        "weight_decay": (1e-4, 2e-3),
        "max_norm": (0.5, 2.0),
        "temperature": (0.5, 2.0),
        "hardness": (0.0, 1.0),
    }
    for name, (easy, hard) in knobs.items():
        assert rows[-1][name] == pytest.approx(easy, rel=1e-6, abs=1e-7)
        assert easy < rows[0][name] < rows[1][name] < hard


def test_the_epoch_equals_single_steps_in_a_python_loop(dataset):
    run = recipe("all")
    state, _ = train(run, dataset, seed=3)
    structure, split = run.structure, dataset.train
    step = jax.jit(
        assembly.assemble_train_step(
            structure, run.numbers, total_steps=2 * 18, num_classes=10, axis_name=None
        )
    )
    expected = loop.initial_state(structure, run.numbers, dataset, 3)
    for epoch in range(2):
        for indices in epoch_order(1197, 64, seed=3, epoch=epoch):
            expected, _ = step(expected, take_batch(jax.tree.map(jnp.asarray, split), indices))
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(dataset):
    (one, rows), (same, same_rows), (other, _) = (
        train(recipe(), dataset, seed) for seed in (1, 1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, one.params, same.params)
    without_time = [row | {"images_per_second": 0} for row in rows]
    assert without_time == [row | {"images_per_second": 0} for row in same_rows]
    assert not np.allclose(one.params["Dense_0"]["kernel"], other.params["Dense_0"]["kernel"])


def test_other_numbers_and_another_seed_compile_nothing(dataset, count_compilations):
    train(recipe("all"), dataset)
    other = recipe(
        "all",
        learning_rate=dict(easy=0.05, hard=0.05),
        weight_decay=dict(easy=1e-5, hard=1e-2, factor=4.0),
    )
    with count_compilations() as compilations:
        _, rows = train(other, dataset, seed=9)
    assert not compilations
    assert rows[0]["learning_rate"] < 0.05


def test_the_program_does_not_hold_the_data(dataset):
    run = recipe()
    epoch = loop.compiled_epoch(run.structure, 10)
    numbers = jax.tree.map(jnp.float32, run.numbers)
    state = loop.initial_state(run.structure, numbers, dataset, 0)
    text = epoch.lower(state, (numbers, dataset.train, np.zeros((2, 18, 32), np.int32))).as_text()
    assert len(text) < 1_000_000


def test_evaluation_sees_every_example_once(dataset):
    run = recipe()
    state, _ = train(run, dataset)
    split = {name: array[:397] for name, array in dataset.test.items()}  # odd: it must be padded
    scores = evaluate(run.structure, 10, state, place(split))
    model = assembly.assemble_model(run.structure, 10, None)
    logits, _ = model.apply(
        state.params, state.model_state, split["image"] / np.float32(127.5) - 1, train=False
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, split["label"]).mean()
    assert scores["num_examples"] == 397
    assert scores["accuracy"] == pytest.approx((logits.argmax(-1) == split["label"]).mean())
    assert scores["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run(dataset):
    run = recipe(learning_rate=dict(easy=1e20, hard=1e20))
    with pytest.raises(loop.NonFiniteError, match="in epoch 1, .*learning_rate"):
        train(run, dataset)


def test_a_validation_loss_that_is_not_finite_stops_the_run(dataset, monkeypatch):
    scores = {"loss": float("nan"), "accuracy": 0.1, "num_examples": 1}
    monkeypatch.setattr(loop, "evaluate", lambda *args: scores)
    with pytest.raises(loop.NonFiniteError, match="val_loss is nan in epoch 1"):
        train(recipe(), dataset)


def test_labels_that_name_no_class_are_refused(dataset):
    wrong = dataset.train | {"label": dataset.train["label"] + 5}
    with pytest.raises(RecipeError, match="labels of digits must be 0 to 9, got 5 to 14"):
        train(recipe(), dataset._replace(train=wrong))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(batch_size=63), "batch_size must be a multiple of the 2 devices, got 63"),
        (dict(batch_size=2000), "at batch_size 2000 make 0 of 1197 training examples"),
        (dict(num_cycles=36), "cycle.num_cycles 36 needs at least 37 updates.*make 36"),
    ],
)
def test_what_cannot_be_trained_is_said_before_it_starts(dataset, changes, message):
    run = recipe()
    run = dataclasses.replace(run, structure=dataclasses.replace(run.structure, **changes))
    with pytest.raises(RecipeError, match=message):
        train(run, dataset)


def test_an_epoch_is_a_permutation_of_its_own():
    orders = [epoch_order(100, 8, seed=5, epoch=epoch) for epoch in (0, 1, 0)]
    assert orders[0].shape == (12, 8)
    assert len(np.unique(orders[0])) == 96
    np.testing.assert_array_equal(orders[0], orders[2])
    assert (orders[0] != orders[1]).any()
    assert (orders[0] != epoch_order(100, 8, seed=6, epoch=0)).any()


def test_the_padded_order_has_every_index_once():
    indices, mask = padded_order(11, 4)
    assert indices.shape == mask.shape == (3, 4)
    assert sorted(indices[mask == 1]) == list(range(11))
    assert mask.sum() == 11
