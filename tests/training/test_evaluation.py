"""Scores of a whole split are those of a plain forward pass over it, whatever its size."""

import types

import jax
import numpy as np
import optax
import pytest

from configs import default
from cyclical_jax.training import assembly, evaluation, images
from cyclical_jax.training.devices import place
from cyclical_jax.training.evaluation import evaluate
from cyclical_jax.training.recipe import parse
from cyclical_jax.training.state import Variables, init_state

CLASSES = 4


def structure():
    config = default.get_config()
    config.model.hidden_sizes, config.model.batch_norm, config.model.dropout = (5,), True, 0.5
    config.loss.temperature, config.loss.label_smoothing = 3.0, 0.2  # which evaluation leaves out
    return parse(config).structure


@pytest.fixture(scope="module")
def state():
    """BatchNorm's statistics are not those of its first call, and not those of the data."""
    model = assembly.assemble_model(structure(), CLASSES, None)
    optimizer = optax.sgd(0.1)
    state = init_state(model, optimizer, np.zeros((2, 3, 3, 1), np.float32), 0, ema=True)
    rng = np.random.default_rng(0)
    changed = jax.tree.map(
        lambda leaf: leaf + rng.uniform(0.1, 1, leaf.shape).astype(np.float32),
        (state.params, state.model_state, state.ema),
    )
    params, model_state, ema = changed
    return state._replace(params=params, model_state=model_state, ema=ema)


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


def calibration_error_by_hand(confidence, is_right):
    """Guo et al., 1706.04599, eq. 3 and 5: sum_m |B_m|/n |acc(B_m) - conf(B_m)|."""
    error = 0.0
    for m in range(1, 16):  # bin m is ((m - 1) / 15, m / 15]
        members = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if members.any():
            gap = is_right[members].mean() - confidence[members].mean()
            error += members.sum() / len(confidence) * abs(gap)
    return error


@pytest.mark.parametrize(
    "num_examples, batch_size",
    # In one batch of an even, an odd, the least size; in batches of 8 a device that leave 1 or 7.
    [(24, 1024), (7, 1024), (1, 1024), (33, 8), (39, 8)],
)
def test_every_example_counts_once(state, monkeypatch, num_examples, batch_size):
    monkeypatch.setattr(evaluation, "_BATCH_SIZE", batch_size)
    data = split(num_examples)
    scores = evaluate(structure(), CLASSES, place(state.evaluated), data)
    assert scores == pytest.approx(by_hand(state.ema, data), rel=1e-5)
    assert [type(score) for score in scores.values()] == [float, float, float, int]


def test_without_an_average_the_parameters_are_evaluated(state):
    data = split(24)
    expected = by_hand(Variables(state.params, state.model_state), data)
    scores = evaluate(structure(), CLASSES, place(state._replace(ema=None).evaluated), data)
    assert scores == pytest.approx(expected, rel=1e-5)
    assert abs(expected["loss"] - by_hand(state.ema, data)["loss"]) > 0.01


@pytest.fixture
def score_logits(monkeypatch):
    """(logits, labels, mask) -> scores of a model that gives these logits, in batches of 8."""
    model = types.SimpleNamespace(apply=lambda params, state, image, train: (params, state))
    monkeypatch.setattr(evaluation, "assemble_model", lambda *args, **options: model)

    def score(logits, label, mask):
        batch_sums = jax.jit(evaluation.make_batch_sums(structure(), logits.shape[-1]))
        sums = [
            batch_sums(
                Variables(logits[start : start + 8], {}),
                {
                    "image": np.zeros((8, 1, 1, 1), np.uint8),
                    "label": label[start : start + 8],
                    "mask": mask[start : start + 8],
                },
            )
            for start in range(0, len(label), 8)
        ]
        return evaluation.scores(jax.device_get(sums))

    return score


def logits_of(confidences, num_classes=2):
    """Of class 1, in float32; the others share what is left."""
    confidences = np.asarray(confidences, np.float64)
    rest = np.log((1 - confidences) / (num_classes - 1))
    logits = np.repeat(rest[:, None], num_classes, 1)
    logits[:, 1] = np.log(confidences)
    return logits.astype(np.float32)


def test_the_calibration_error_is_as_published(score_logits):
    """With padding that is sure of itself, half of the time wrongly; bins of several batches."""
    rng = np.random.default_rng(4)
    confidence, is_right = rng.uniform(0.34, 0.99, 48), rng.integers(0, 3, 48) > 0
    mask = (rng.uniform(size=48) > 0.3).astype(np.float32)
    confidence[mask == 0] = 0.999
    label = np.where(is_right, 1, 2).astype(np.int32)
    scores = score_logits(logits_of(confidence, num_classes=3), label, mask)
    expected = calibration_error_by_hand(confidence[mask > 0], is_right[mask > 0])
    assert scores["calibration_error"] == pytest.approx(expected, rel=1e-5)
    assert scores["num_examples"] == mask.sum() < 48


def test_what_is_as_often_right_as_it_is_sure_is_calibrated(score_logits):
    """In bins of four, five and three examples; the first ones come in two batches."""
    confidence = np.repeat([0.75, 0.6, 2 / 3, 0.75], [2, 5, 3, 2])
    is_right = np.array([1, 1] + [1, 0, 1, 0, 1] + [1, 0, 1] + [1, 0])
    padding = np.zeros(4)
    confidence, label = np.append(confidence, padding + 0.9), np.append(is_right, padding)
    mask = np.repeat([1, 0], [12, 4]).astype(np.float32)
    scores = score_logits(logits_of(confidence), label.astype(np.int32), mask)
    assert scores["calibration_error"] == pytest.approx(0, abs=1e-6)
    # All are wrong now: it is the mean confidence.
    scores = score_logits(logits_of(confidence), 0 * label.astype(np.int32), mask)
    assert scores["calibration_error"] == pytest.approx(confidence[:12].mean(), rel=1e-5)


@pytest.mark.parametrize("is_right", [True, False])
def test_a_confidence_of_one_is_in_the_last_bin(score_logits, is_right):
    """With one of 0.95, in the same bin: gaps of opposite sign cancel."""
    logits = np.concatenate([np.float32([[0, 200]] * 6), logits_of([0.95, 0.95])])
    label = np.repeat([is_right, not is_right], [6, 2]).astype(np.int32)
    scores = score_logits(logits, label, np.ones(8, np.float32))
    confidence = np.repeat([1, 0.95], [6, 2])
    expected = abs((label - confidence).mean())
    assert scores["calibration_error"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("num_classes", [3, 5])
def test_an_edge_belongs_to_the_bin_below_it(score_logits, num_classes):
    """Equal logits have the confidence 1 / classes, the edge of a bin: 5/15, 3/15.

    The others are wrong and in the bin above: gaps would cancel if the edge fell into that one.
    """
    logits = np.zeros((8, num_classes), np.float32)
    above = 1 / num_classes + 0.03
    logits[4:] = logits_of(np.full(4, above), num_classes)
    label = np.repeat([0, 2], 4).astype(np.int32)
    scores = score_logits(logits, label, np.ones(8, np.float32))
    expected = ((1 - 1 / num_classes) + above) / 2
    assert scores["calibration_error"] == pytest.approx(expected, rel=1e-5)


def test_batches_are_bounded_and_compile_once(state, monkeypatch, count_compilations):
    monkeypatch.setattr(evaluation, "_BATCH_SIZE", 8)
    seen, shared = [], images.share
    monkeypatch.setattr(images, "share", lambda tree: seen.append(tree) or shared(tree))
    placed = place(state.evaluated)
    evaluate(structure(), CLASSES, placed, split(39))
    with count_compilations() as compilations:
        scores = evaluate(structure(), CLASSES, placed, split(64))
    assert not compilations
    assert [len(batch["label"]) for batch in seen] == [16] * 7
    assert scores["num_examples"] == 64


def test_a_small_split_is_one_batch(state, monkeypatch):
    seen, shared = [], images.share
    monkeypatch.setattr(images, "share", lambda tree: seen.append(tree) or shared(tree))
    evaluate(structure(), CLASSES, place(state.evaluated), split(7))
    assert [len(batch["label"]) for batch in seen] == [8]
