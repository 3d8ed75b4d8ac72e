"""The losses in one table, for the tests of what all of them share."""

import functools
import itertools

import jax
import numpy as np
import pytest

import cyclical_jax as cj
from cyclical_jax.distillation import distillation_loss
from cyclical_jax.semisupervised import pseudo_label_loss

CLASSES = 5
MANY = 4099  # so many classes that a CPU takes blocks of rows
SOFTMAX = {
    "cross_entropy": cj.softmax_cross_entropy,
    "focal": functools.partial(cj.focal_loss, gamma=1.5, label_smoothing=0.1),
    "asymmetric_focal": functools.partial(
        cj.asymmetric_focal_loss, gamma_pos=1.5, gamma_neg=2.5, label_smoothing=0.1
    ),
    "cyclical_focal": functools.partial(cj.cyclical_focal_loss, hardness=0.3),
}
MULTILABEL = {
    "asymmetric_multilabel": cj.asymmetric_multilabel_loss,
    "cyclical_multilabel": functools.partial(cj.cyclical_multilabel_loss, hardness=0.3),
}
OF_TWO_LOGITS = {
    "distillation": distillation_loss,
    "pseudo_label": functools.partial(pseudo_label_loss, threshold=0.3),
}
LOSSES = SOFTMAX | MULTILABEL | OF_TWO_LOGITS
KINDS = ["indices", "probabilities"]
CASES = [
    *itertools.product(SOFTMAX, KINDS),
    *itertools.product(MULTILABEL, ["multi-hot"]),
    *itertools.product(OF_TWO_LOGITS, ["logits"]),
]
every_loss = pytest.mark.parametrize("name, kind", CASES)
every_loss_of_labels = pytest.mark.parametrize("name, kind", CASES[: -len(OF_TWO_LOGITS)])
every_softmax_loss = pytest.mark.parametrize("name", SOFTMAX)
every_multilabel_loss = pytest.mark.parametrize("name", MULTILABEL)

NUMBERS = {
    "cross_entropy": ["temperature", "label_smoothing"],
    "focal": ["gamma", "temperature", "label_smoothing"],
    "asymmetric_focal": ["gamma_pos", "gamma_neg", "temperature", "label_smoothing"],
    "cyclical_focal": [
        *("hardness", "gamma_hc", "gamma_pos", "gamma_neg", "temperature", "label_smoothing")
    ],
    "asymmetric_multilabel": ["gamma_pos", "gamma_neg", "margin", "alpha"],
    "cyclical_multilabel": ["hardness", "gamma_hc", "gamma_pos", "gamma_neg", "margin", "alpha"],
    "distillation": ["temperature"],
    "pseudo_label": ["threshold", "temperature"],
}


def drawn(kind, shape=(2, 3), classes=CLASSES, seed=0):
    """Returns logits and labels, the classes last."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(*shape, classes)).astype(np.float32)
    labels = {
        "indices": rng.integers(0, classes, shape).astype(np.int32),
        "probabilities": rng.dirichlet([0.5] * classes, shape).astype(np.float32),
        "multi-hot": rng.integers(0, 2, (*shape, classes)).astype(np.int32),
        "logits": rng.normal(scale=2, size=(*shape, classes)).astype(np.float32),
    }
    return logits, labels[kind]


def with_gradient(loss, logits, labels, **more):
    """Returns the losses and the gradient of their sum."""

    def total(logits):
        values = loss(logits, labels, **more)
        return values.sum(), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(logits)
    return np.asarray(values), np.asarray(gradient)


def assert_same(actual, expected, rtol=1e-5, atol=1e-6):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
