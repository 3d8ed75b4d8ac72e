"""Scores of a whole split are those of a plain forward pass over it, whatever its size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from cyclical_jax.catalogue import parse
from cyclical_jax.models import Model
from cyclical_jax.training import assembly, evaluation, feeding
from cyclical_jax.training.devices import place
from cyclical_jax.training.evaluation import evaluate
from cyclical_jax.training.state import JUDGED, Variables, init_state
from cyclical_jax.training.technique import Memory, Spec, Task
from tests.helpers import calibration_error_by_hand, structure_of

CLASSES = 4
SPEC = Spec(num_train=100, num_outputs=CLASSES, shape=(3, 3, 1))


def structure():
    config = default.get_config()
    config.model.hidden_sizes, config.model.batch_norm, config.model.dropout = (5,), True, 0.5
    config.loss.temperature, config.loss.label_smoothing = 3.0, 0.2  # which evaluation leaves out
    return parse(config).structure


@pytest.fixture(scope="module")
def state():
    """BatchNorm's statistics are not those of its first call, and not those of the data."""
    model = assembly.assemble_model(structure(), SPEC)
    average = Memory(lambda variables: variables, lambda memory, seen: memory)
    image = np.zeros((2, 3, 3, 1), np.float32)
    state = init_state(model, optax.sgd(0.1), image, 0, memories={JUDGED: average})
    rng = np.random.default_rng(0)
    changed = jax.tree.map(
        lambda leaf: leaf + rng.uniform(0.1, 1, leaf.shape).astype(np.float32),
        (state.params, state.model_state, state.memory),
    )
    params, model_state, memory = changed
    return state._replace(params=params, model_state=model_state, memory=memory)


def split(num_examples):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (num_examples, 3, 3, 1), dtype=np.uint8)
    label = rng.permutation(np.arange(num_examples) % 3).astype(np.int32)  # one class is missing
    return {"image": image, "label": label}


def by_hand(variables, split):
    """In float64: dense, BatchNorm at its running statistics, ReLU, dense."""
    params, model_state = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tuple(variables))
    x = split["image"].reshape(len(split["label"]), -1) / 127.5 - 1
    x = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    statistics = model_state["batch_stats"]["BatchNorm_0"]
    norm = params["BatchNorm_0"]
    x = (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * norm["scale"] + norm["bias"]
    logits = np.maximum(x, 0) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(logits)), split["label"]]
    return {
        "loss": losses.mean(),
        "accuracy": (logits.argmax(-1) == split["label"]).mean(),
        "calibration_error": calibration_error_by_hand(
            (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).max(-1),
            logits.argmax(-1) == split["label"],
        ),
        "num_examples": len(logits),
    }


@pytest.mark.parametrize(
    "num_examples, batch_size",
    # In one batch of an even, an odd, the least size; in batches of 8 a device that leave 1 or 7.
    [(24, 1024), (7, 1024), (1, 1024), (33, 8), (39, 8)],
)
def test_every_example_counts_once(state, monkeypatch, num_examples, batch_size):
    monkeypatch.setattr(evaluation, "_BATCH_SIZE", batch_size)
    data = split(num_examples)
    scores = evaluate(structure(), SPEC, place(state.evaluated), data)
    assert scores == pytest.approx(by_hand(state.evaluated, data), rel=1e-5)
    assert [type(score) for score in scores.values()] == [float, float, float, int]


def test_without_an_average_the_parameters_are_evaluated(state):
    data = split(24)
    expected = by_hand(Variables(state.params, state.model_state), data)
    scores = evaluate(structure(), SPEC, place(state._replace(memory={}).evaluated), data)
    assert scores == pytest.approx(expected, rel=1e-5)
    assert abs(expected["loss"] - by_hand(state.evaluated, data)["loss"]) > 0.01


def test_batches_are_bounded_and_compile_once(state, monkeypatch, count_compilations):
    monkeypatch.setattr(evaluation, "_BATCH_SIZE", 8)
    seen, shared = [], feeding.scatter
    monkeypatch.setattr(feeding, "scatter", lambda tree: seen.append(tree) or shared(tree))
    placed = place(state.evaluated)
    evaluate(structure(), SPEC, placed, split(39))
    with count_compilations() as compilations:
        scores = evaluate(structure(), SPEC, placed, split(64))
    assert not compilations
    assert [len(batch["label"]) for batch in seen] == [16] * 7
    assert scores["num_examples"] == 64


def test_a_small_split_is_one_batch(state, monkeypatch):
    seen, shared = [], feeding.scatter
    monkeypatch.setattr(feeding, "scatter", lambda tree: seen.append(tree) or shared(tree))
    evaluate(structure(), SPEC, place(state.evaluated), split(7))
    assert [len(batch["label"]) for batch in seen] == [8]


def test_a_task_scores_what_it_sums_over_the_examples_of_all_devices(monkeypatch):
    """Trees of any structure, of examples as the task makes them, with the task's own values."""
    monkeypatch.setattr(evaluation, "_BATCH_SIZE", 2)

    def sums(site, model, variables, batch):
        outputs, _ = model.apply(*variables, batch["halves"], train=False)
        real = batch["mask"].sum()
        return {"total": (outputs * batch["mask"]).sum() * site.own["scale"], "counts": [real]}

    def scores(sums):
        assert len(sums) == 3 and all(isinstance(of["total"], np.ndarray) for of in sums)
        return {
            "loss": float(sum(of["total"] for of in sums)),
            "most": float(max(of["counts"][0] for of in sums)),
        }

    model = Model(lambda key, inputs: ({}, {}), lambda *args, train: (args[0] * args[2], args[1]))
    task = Task(
        "sums",
        {},
        model=lambda site, before: model,
        as_batch=lambda examples: examples | {"halves": examples["number"] / 2},
        sums=sums,
        scores=scores,
    )
    made_up = structure_of((task, (("scale", 10),)))
    image, label = np.zeros((9, *SPEC.shape)), np.zeros(9, np.int32)
    data = {"image": image, "label": label, "number": np.arange(9.0)}
    found = evaluate(made_up, SPEC, place(Variables(jnp.float32(3), {})), data)
    assert found == {"loss": 10 * 3 * 36 / 2, "most": 4}
