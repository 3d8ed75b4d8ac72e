"""Several classes for an image: the loss by hand, and overlaid digits that are learned."""

import jax
import numpy as np
import pytest

from cyclical_jax import data
from cyclical_jax.training.devices import place
from cyclical_jax.training.evaluation import evaluate
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.technique import spec_of
from tests.techniques.helpers import CLASSES, logits_of, recipe, some_images, step_and_state, train

pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.mark.parametrize("name", ["asymmetric", "cyclical"])
def test_labels_of_several_classes_or_of_one(name):
    hardness = {"multilabel__hardness": cyclical(0, 1)} if name == "cyclical" else {}
    step, state = step_and_state(
        task__name="multilabel",
        multilabel__loss=name,
        multilabel__gamma_pos=1.0,
        multilabel__gamma_neg=3.0,
        **hardness,
    )
    images = some_images(6, seed=0)
    classes = np.random.default_rng(0).integers(0, CLASSES, 6).astype(np.int32)
    several = np.eye(CLASSES, dtype=np.float32)[classes]
    several[[0, 2], [1, 4]] = 1
    logits = logits_of(state, images)
    p, h = 1 / (1 + np.exp(-logits)), 0.5 if hardness else 1.0
    p_m = np.maximum(p - 0.05, 0)
    confident = (1 + p) ** 3 if hardness else 1
    positive = -(h * (1 - p) + (1 - h) * confident) * np.log(p)
    negative = -(h * p_m**3 + 1 - h) * np.log(1 - p_m)
    for labels in (several, classes):
        hot = labels if labels.ndim == 2 else np.eye(CLASSES)[labels]
        batch = {"image": images, "label": labels, "index": np.arange(6, dtype=np.int32)}
        _, metrics = step(state, batch)
        expected = (hot * positive + (1 - hot) * negative).sum(-1).mean()
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)
        right = hot[np.arange(6), logits.argmax(-1)]
        assert metrics["accuracy"] == pytest.approx(right.mean())


def overlaid(seed, number):
    """Two digits in one image, and both as labels."""
    digits = data.load("digits").train
    one, other = np.random.default_rng(seed).integers(0, len(digits["label"]), (2, number))
    labels = np.maximum(
        *(np.eye(CLASSES, dtype=np.float32)[digits["label"][i]] for i in (one, other))
    )
    return {"image": np.maximum(digits["image"][one], digits["image"][other]), "label": labels}


def test_several_digits_in_an_image_are_learned():
    dataset = data.Dataset(*(overlaid(seed, n) for seed, n in enumerate((3000, 300, 300))), CLASSES)
    run = recipe(
        subset=None,
        duration="12 epochs",
        batch_size=60,
        model__hidden_sizes=(64,),
        task__name="multilabel",
        optimizer__learning_rate=0.02,
    )
    state, rows = train(run, dataset)
    spec = spec_of(dataset)
    scores = evaluate(run.structure, spec, place(state.evaluated), dataset.test)
    assert rows[-1]["val_accuracy"] > 0.9 and scores["accuracy"] > 0.9
    by_hand, images = state.params, np.float32(dataset.test["image"] / 127.5 - 1).reshape(300, -1)
    hidden, head = by_hand["Dense_0"], by_hand["Dense_1"]
    features = np.maximum(images @ hidden["kernel"] + hidden["bias"], 0)
    p = np.asarray(jax.nn.sigmoid(features @ head["kernel"] + head["bias"]), np.float64)
    y = dataset.test["label"]
    expected = -(y * np.log(p) + (1 - y) * np.log1p(-p)).sum(-1).mean()
    assert scores["loss"] == pytest.approx(expected, rel=1e-3)
