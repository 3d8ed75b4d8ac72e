"""A gradient with the norm of the plain loss's gradient, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from tests.techniques.helpers import (
    CLASSES,
    PLAIN_SGD,
    flat,
    logits_of,
    some_bytes,
    step_and_state,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")


def test_the_norm_is_that_of_the_cross_entropy_at_temperature_1(batch):
    step, state = step_and_state(
        loss__gradient_norm="cross_entropy",
        loss__temperature=4.0,
        loss__label_smoothing=0.2,
        loss__class_weights="balanced",
        **PLAIN_SGD,
    )
    weights = np.float32([1, 2, 0, 4, 0.5, 1])
    new, metrics = step(state, batch | {"weight": weights})
    logits, x = logits_of(state, batch["image"]), flat(batch["image"])
    labels = 0.8 * np.eye(CLASSES)[batch["label"]] + 0.2 / CLASSES

    def gradient(temperature):
        slopes = (softmax(logits / temperature, axis=-1) - labels) / temperature
        slopes *= weights[:, None] / 6
        return np.concatenate([x.T @ slopes, slopes.sum(0, keepdims=True)])

    own, plain = gradient(4.0), gradient(1.0)
    wanted = own * np.linalg.norm(plain) / np.linalg.norm(own)
    assert metrics["grad_norm"] == pytest.approx(np.linalg.norm(plain), rel=1e-5)
    (before,), (after,) = state.params.values(), new.params.values()
    np.testing.assert_allclose(before["kernel"] - after["kernel"], wanted[:-1], atol=1e-6)
    np.testing.assert_allclose(before["bias"] - after["bias"], wanted[-1], atol=1e-6)


def test_a_gradient_with_the_plain_losss_norm_keeps_what_other_terms_teach(batch):
    """Where labels are learnt their gradient vanishes, and what is rescaled to it would too."""
    changes = dict(
        semisupervised__unlabelled_weight=1.0,
        semisupervised__threshold=0.0,
        semisupervised__weak=(),
        semisupervised__strong=("flip",),
        loss__name="focal",
    )
    in_bytes, _ = some_bytes()
    norms = {}
    for name in (None, "cross_entropy"):
        step, state = step_and_state(**changes, loss__gradient_norm=name)
        (layer,) = state.params
        bias = jnp.zeros(CLASSES).at[3].set(40.0)  # sure of class 3, which all labels are
        params = {layer: {"kernel": state.params[layer]["kernel"] * 20, "bias": bias}}
        learnt = batch | {"image": 0 * batch["image"], "label": 0 * batch["label"] + 3}
        _, metrics = step(state._replace(params=params), learnt | {"unlabelled": in_bytes})
        norms[name] = float(metrics["grad_norm"])
    assert norms[None] > 0.1
    assert norms["cross_entropy"] == pytest.approx(norms[None], rel=1e-4)
