"""Several techniques at once, in every way and on several devices; and none of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cyclical_jax.catalogue import TECHNIQUES
from cyclical_jax.losses import softmax_cross_entropy
from cyclical_jax.models import make_model
from cyclical_jax.tasks.classification import as_batch
from cyclical_jax.training import assembly, ways
from cyclical_jax.training import run as of_run
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.earlier import prepare, read_trained
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.keeper import Keeper, StoppedError
from cyclical_jax.training.population import Population
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.state import init_state
from cyclical_jax.training.step import Program, make_train_step
from cyclical_jax.training.technique import LossTerm, Spec, spec_of
from cyclical_jax.transforms import add_decayed_weights
from tests.techniques.helpers import (
    CLASSES,
    SHAPE,
    TABLE,
    assert_same,
    cross_entropies,
    digits,
    divergences,
    logits_of,
    recipe,
    some_bytes,
    step_and_state,
    train,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")

UNLABELLED = dict(
    semisupervised__unlabelled_weight=cyclical(0, 1),
    semisupervised__threshold=cyclical(0.9, 0.2),
    semisupervised__batch_size=8,
    semisupervised__strong=("flip", "erase"),
)
RUNNING = dict(running_curriculum__preference=cyclical(4, -2))


# ---- two at once, against NumPy


def test_both_curricula_multiply_their_weights(batch):
    step, state = step_and_state(
        curriculum__scorer="there",
        curriculum__preference=cyclical(4, -2),
        running_curriculum__preference=cyclical(6, -2),
        num_train=6,
    )
    so_far, ranks = np.arange(6, dtype=np.float32)[::-1], np.linspace(0, 1, 6, dtype=np.float32)
    state = state._replace(memory={"running_curriculum": jnp.asarray(so_far)})
    _, metrics = step(state, batch | {"rank": ranks})
    in_batch = (so_far + 0.5) / 6
    running = np.exp(-2 * in_batch) / np.exp(-2 * in_batch).mean()
    earlier = np.exp(-ranks) / (1 - np.exp(-1))
    losses = cross_entropies(logits_of(state, batch["image"]), batch["label"])
    np.testing.assert_allclose(metrics["loss"], (running * earlier * losses).mean(), rtol=1e-5)
    assert metrics["curriculum.preference"] == 1 and metrics["running_curriculum.preference"] == 2
    assert "preference" not in metrics


def test_a_teacher_takes_its_weight_from_the_labels_and_unlabelled_images_do_not(batch):
    step, state = step_and_state(
        distillation__teacher="there",
        distillation__teacher_weight=cyclical(0.9, 0.3),
        distillation__teacher_temperature=2.0,
        semisupervised__unlabelled_weight=cyclical(0, 0.5),
        semisupervised__threshold=0.0,
        semisupervised__weak=(),
        semisupervised__strong=(),
    )
    teacher = np.random.default_rng(1).normal(size=(6, CLASSES)).astype(np.float32)
    in_bytes, unlabelled = some_bytes()
    _, metrics = step(state, batch | {"teacher": teacher, "unlabelled": in_bytes})
    logits, predicted = (logits_of(state, images) for images in (batch["image"], unlabelled))
    labelled = cross_entropies(logits, batch["label"]).mean()
    taught = divergences(teacher, logits, 2.0).mean()
    pseudo = cross_entropies(predicted, predicted.argmax(-1)).mean()
    expected = (1 - 0.6) * labelled + 0.6 * taught + 0.25 * pseudo
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


# ---- what is prepared


def test_each_technique_reads_its_own_run(earlier_runs):
    run = recipe(
        distillation__teacher=earlier_runs["plain"],
        curriculum__scorer=earlier_runs["wide"],
        finetuning__start=earlier_runs["averaged"],
        model__batch_norm=True,
    )
    dataset, earlier = prepare(run, digits())
    images = as_batch({"image": digits().train["image"]})["image"]
    outputs, variables = {}, {}
    for name, workdir in earlier_runs.items():
        trained = read_trained("a run", workdir, digits(), run.catalogue)
        outputs[name], variables[name] = np.asarray(trained.outputs(images)), trained.variables
    np.testing.assert_allclose(dataset.train["teacher"], outputs["plain"], rtol=1e-4, atol=1e-5)
    losses = softmax_cross_entropy(outputs["wide"], digits().train["label"])
    np.testing.assert_array_equal(np.argsort(dataset.train["rank"]), np.argsort(losses))
    assert_same(earlier.start, variables["averaged"])
    assert earlier.given == {"distillation": None, "curriculum": None, "finetuning": None}


def test_what_was_not_prepared_is_told_before_training(earlier_runs):
    run = recipe(
        distillation__teacher=earlier_runs["plain"],
        curriculum__scorer=earlier_runs["plain"],
        finetuning__start=earlier_runs["plain"],
        loss__class_weights="balanced",
        semisupervised__unlabelled_weight=1.0,
    )
    with pytest.raises(RecipeError) as caught:
        train(run, digits(unlabelled=False))
    for name in ("teacher", "scorer", "start", "class_weights", "unlabelled_weight"):
        assert f".{name} " in str(caught.value)
    with pytest.raises(RecipeError, match="prepare"):
        Population(run, digits(unlabelled=False))


# ---- all at once


def everything(runs):
    return UNLABELLED | dict(
        distillation__teacher=runs["wide"],
        distillation__teacher_weight=cyclical(0.9, 0.1),
        distillation__teacher_temperature=cyclical(1, 4),
        curriculum__scorer=runs["wide"],
        curriculum__preference=cyclical(4, -1),
        running_curriculum__preference=cyclical(2, -1),
        finetuning__start=runs["plain"],
        finetuning__share=cyclical(0, 1),
        finetuning__new_head=True,
        loss__class_weights="balanced",
        loss__name="cyclical_focal",
        loss__gradient_norm="cross_entropy",
        loss__temperature=cyclical(0.5, 2.0),
        loss__label_smoothing=cyclical(0, 0.1),
        augment__operations=("crop", "flip", "brightness", "cutmix"),
        augment__strength=cyclical(0, 1),
        accumulate=cyclical(3, 1),
        duration="3 epochs",
        ema_decay=cyclical(0.5, 0.9),
        model__batch_norm=True,
        model__dropout=cyclical(0, 0.3),
        optimizer__weight_decay=cyclical(1e-4, 1e-2, scale="log"),
        optimizer__max_norm=cyclical(0.5, 2.0),
        optimizer__max_delta=cyclical(0.5, 2.0),
        optimizer__clipping=cyclical(0.1, 0.5),
        optimizer__learning_rate=cyclical(0.01, 0.05),
        optimizer__learning_rate_schedule="one_cycle",
        optimizer__warmup="1 step",
        precision__weights=cyclical(8, 4),
        precision__activations=cyclical(8, 4),
        precision__gradients=8,
    )


def test_all_techniques_run_together_again_and_nothing_recompiles(
    earlier_runs, monkeypatch, count_compilations
):
    run = recipe(**everything(earlier_runs))
    dataset, earlier = prepare(run, digits())
    assert {entry for entry, _ in run.structure.techniques} == set(TECHNIQUES)
    state, rows = train(run, dataset, seed=1, earlier=earlier)
    assert len(rows) == 3 and all(np.isfinite(row["loss"]) for row in rows)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert {"share", "threshold", "teacher_weight", "strength"} <= rows[0].keys()
    assert {"curriculum.preference", "running_curriculum.preference"} <= rows[0].keys()
    assert all(0 <= row["confident"] <= 1 for row in rows)
    monkeypatch.setattr(ways, "compiled", functools.cache(ways.compiled.__wrapped__))
    with count_compilations() as compilations:
        again, rows_again = train(run, dataset, seed=1, earlier=earlier)
    assert len(compilations) == 1  # the program itself, which was forgotten
    assert_same(again, state)
    assert [row["loss"] for row in rows_again] == [row["loss"] for row in rows]
    other = recipe(**everything(earlier_runs) | dict(curriculum__preference=cyclical(2, -2)))
    with count_compilations() as compilations:
        train(other, dataset, seed=2, earlier=earlier)
    assert not compilations


# ---- ways, devices, stops, members


def run_of(**changes):
    return recipe(**UNLABELLED, **RUNNING, duration="2 epochs", seed=4, **changes)


def trained(run, **options):
    dataset, earlier = prepare(run, digits())
    return train(run, dataset, run.seed, earlier=earlier, **options)[0]


@functools.cache
def resident():
    """A whole run, with which others are compared."""
    return trained(run_of(loop="resident"))


@pytest.mark.parametrize("way", ["stepwise", "streamed"])
def test_examples_without_labels_are_the_same_in_every_way(way):
    assert_same(trained(run_of(loop=way)), resident())


def test_a_run_with_unlabelled_examples_goes_on_as_if_not_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(of_run, "MOST_MICRO_STEPS", 1)  # a call
    run, calls = run_of(), []

    def is_stopping():
        calls.append(None)
        return len(calls) == 4

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        with pytest.raises(StoppedError):
            trained(run, keeper=Keeper(checkpoints, is_stopping=is_stopping))
        start = checkpoints.restore(of_run.begin(run, digits()))
        assert 0 < int(start.state.micro_step) < 5  # within an epoch of either
        assert_same(trained(run, start=start), resident())


def alone(run, dataset, table, earlier=of_run.NOTHING_EARLIER):
    """Returns the state and the totals of a whole run on one device, within one call."""
    program = one_device(run.structure, table.lengths, spec_of(dataset))
    start = of_run.begin(run, dataset, earlier=earlier)
    count = table.micro_steps
    selection = of_run.select_of(run.structure, dataset, run.seed)(start=0, stop=count)
    numbers = jax.tree.map(jnp.float32, run.numbers)
    arrays = start.totals, numbers, earlier.given, dataset.train, selection, count
    state, totals = program(start.state, ways.Inputs(*arrays))
    return jax.device_get((state._replace(key=0), totals))


@functools.cache
def one_device(structure, lengths, spec):
    return jax.jit(ways.make_program("resident", structure, lengths, spec, None))


def test_running_averages_of_two_devices_are_those_of_one():
    run = recipe(**RUNNING, remainder="pad", batch_size=14, duration="2 epochs", seed=3)
    dataset = digits(unlabelled=False)
    state, _ = train(run, dataset, seed=3)
    one, _ = alone(run, dataset, of_run.plan(run, dataset))
    found, wanted = (of.memory["running_curriculum"] for of in (state, one))
    np.testing.assert_allclose(found, wanted, rtol=2e-4)
    assert len(np.unique(found)) > 50
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        state.params,
        one.params,
    )


@pytest.mark.parametrize("techniques", ["unlabelled and running average", "start and teacher"])
def test_a_member_of_a_population_is_the_run_on_one_device(techniques, earlier_runs):
    changes = {
        "unlabelled and running average": UNLABELLED | RUNNING,
        "start and teacher": dict(
            finetuning__start=earlier_runs["plain"],
            finetuning__share=cyclical(0, 1),
            model__batch_norm=True,
            distillation__teacher=earlier_runs["wide"],
            augment__operations=("flip",),
            augment__strength=0.5,
        ),
    }[techniques]
    some = [recipe(**changes, seed=seed) for seed in (1, 2)]
    dataset, earlier = prepare(some[0], digits())
    population = Population(some[0], dataset, earlier=earlier)
    found = [outcome.rows[-1] for outcome in population.outcomes(some, ["validation"])]
    for run, row in zip(some, found, strict=True):
        _, totals = alone(run, dataset, population.timetable, earlier)
        np.testing.assert_allclose(row["loss"], totals.means["loss"], rtol=1e-5)


# ---- none


def test_what_is_not_used_leaves_nothing_in_the_program(batch):
    run, spec = recipe(model__batch_norm=True), Spec(60, CLASSES, SHAPE)
    at = assembly.make_schedules(run.structure, run.numbers, TABLE)

    def loss(logits, batch, values):
        knobs = {name: values[f"loss.{name}"] for name in ("temperature", "label_smoothing")}
        return softmax_cross_entropy(logits, batch["label"], **knobs)

    def is_right(logits, batch, values):
        return (logits.argmax(-1) == batch["label"]).astype(jnp.float32)

    trace = optax.inject_hyperparams(optax.trace, static_args="nesterov")
    by_hand = Program(
        make_model("mlp", num_classes=CLASSES, hidden_sizes=(6,), batch_norm=True, axis_name=None),
        optax.chain(
            add_decayed_weights(
                at["optimizer.weight_decay"], mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
            ),
            trace(decay=at["optimizer.momentum"], nesterov=True),
            optax.scale_by_learning_rate(at["optimizer.learning_rate"]),
        ),
        [LossTerm(loss, measures=(("accuracy", is_right),))],
        knobs=at,
    )
    own = assembly.assemble(run.structure, run.numbers, timetable=TABLE, spec=spec)
    state = init_state(by_hand.model, by_hand.optimizer, batch["image"], 0)
    texts = [
        jax.jit(make_train_step(program)).lower(state, batch).as_text()
        for program in (by_hand, own)
    ]
    assert texts[0] == texts[1]
    knobs = "learning_rate", "weight_decay", "momentum"
    assert set(at) == {
        *(f"optimizer.{name}" for name in knobs),
        "loss.temperature",
        "loss.label_smoothing",
    }
