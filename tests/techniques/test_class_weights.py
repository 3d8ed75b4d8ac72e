"""Weights of the classes become weights of their examples, once, on the host."""

import numpy as np
import pytest

from cyclical_jax.training.earlier import Earlier, prepare
from tests.techniques.helpers import (
    CLASSES,
    cross_entropies,
    digits,
    logits_of,
    recipe,
    step_and_state,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")


def test_balanced_weights_give_each_class_the_same_sum():
    dataset = digits(unlabelled=False)
    imbalanced = dataset._replace(train={name: a[:17] for name, a in dataset.train.items()})
    prepared, _ = prepare(recipe(loss__class_weights="balanced"), imbalanced)
    labels, weights = (prepared.train[name] for name in ("label", "weight"))
    sums = np.bincount(labels, weights, minlength=CLASSES)
    there = np.bincount(labels, minlength=CLASSES) > 0
    np.testing.assert_allclose(sums[there], 1.7, rtol=1e-6)


def test_numbers_are_the_weights_as_they_are():
    run = recipe(loss__class_weights=[1.0] * 9 + [5.0])
    dataset, earlier = prepare(run, digits())
    weights = dataset.train["weight"]
    np.testing.assert_array_equal(weights, np.where(digits().train["label"] == 9, 5, 1))
    assert weights.dtype == np.float32 and earlier == Earlier({"class_weights": None}, None)


def test_a_loss_is_multiplied_by_its_weight_and_the_mean_is_over_examples(batch):
    step, state = step_and_state(loss__class_weights="balanced")
    weights = np.float32([1, 2, 0, 4, 0.5, 1])
    _, metrics = step(state, batch | {"weight": weights})
    losses = cross_entropies(logits_of(state, batch["image"]), batch["label"])
    np.testing.assert_allclose(metrics["loss"], (losses * weights).sum() / 6, rtol=1e-5)
