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


def with_soft_labels(labels):
    return digits(unlabelled=False)._replace(
        train={"image": digits().train["image"][: len(labels)], "label": np.float32(labels)}
    )


def weights_of(labels, class_weights):
    prepared, _ = prepare(recipe(loss__class_weights=class_weights), with_soft_labels(labels))
    return prepared.train["weight"]


def test_the_weight_of_soft_labels_is_the_mean_of_their_classes():
    soft = np.random.default_rng(0).dirichlet(np.ones(10), 12)
    numbers = tuple(range(10))
    expected = [sum(y * w for y, w in zip(row, numbers, strict=True)) for row in soft]
    found = weights_of(soft, numbers)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_several_classes_of_an_example_count_alike_and_none_is_1():
    several = np.zeros((12, 10))
    several[0, [2, 8]] = several[1, 3] = 1
    found = weights_of(several, tuple(range(10)))
    np.testing.assert_allclose(found, [5, 3] + [1] * 10)


def test_balanced_weights_of_soft_labels_are_by_the_sums_of_probabilities():
    soft = np.random.default_rng(1).dirichlet(np.ones(10), 12)
    of_class = 12 / (10 * soft.sum(0))
    np.testing.assert_allclose(weights_of(soft, "balanced"), soft @ of_class, rtol=1e-5)


def test_one_hot_labels_have_the_weights_of_their_classes():
    classes = digits().train["label"][:24]
    for chosen in ("balanced", tuple(range(1, 11))):
        index = digits(unlabelled=False)._replace(
            train={key: array[:24] for key, array in digits(unlabelled=False).train.items()}
        )
        expected, _ = prepare(recipe(loss__class_weights=chosen), index)
        found = weights_of(np.eye(10)[classes], chosen)
        np.testing.assert_allclose(found, expected.train["weight"], rtol=1e-6)


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
