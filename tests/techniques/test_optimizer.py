"""The optimizers through the steps of a run, by hand."""

import jax
import numpy as np
import pytest
from scipy.special import softmax

from cyclical_jax.training.recipe import cyclical
from tests.techniques.helpers import CLASSES, flat, logits_of, step_and_state

pytestmark = pytest.mark.usefixtures("fast_compilation")

RATE = dict(optimizer__learning_rate=0.5, optimizer__learning_rate_schedule=None)


def by_hand(state, batch):
    """Returns parameters and gradients as one array each, whose last row is the bias."""
    (layer,) = jax.device_get(state.params).values()
    slopes = softmax(logits_of(state, batch["image"]), axis=-1) - np.eye(CLASSES)[batch["label"]]
    inputs = np.concatenate([flat(batch["image"]), np.ones((6, 1))], axis=1)
    return np.concatenate([layer["kernel"], layer["bias"][None]]), inputs.T @ slopes / 6


def is_matrix(params):
    return np.arange(len(params))[:, None] < len(params) - 1


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_clips_decays_and_has_momentum(batch, nesterov):
    step, state = step_and_state(
        **RATE,
        optimizer__max_norm=0.4,
        optimizer__weight_decay=cyclical(0.1, 0.5),
        optimizer__momentum=cyclical(0.5, 0.9),
        optimizer__nesterov=nesterov,
        count=0,
    )
    trace = 0.0
    for decay, momentum in ((0.1, 0.5), (0.3, 0.7)):
        params, gradient = by_hand(state, batch)
        assert np.linalg.norm(gradient) > 0.4
        gradient *= 0.4 / np.linalg.norm(gradient)
        gradient += decay * params * is_matrix(params)
        trace = gradient + momentum * trace
        update = gradient + momentum * trace if nesterov else trace
        state, metrics = step(state, batch)
        np.testing.assert_allclose(
            by_hand(state, batch)[0], params - 0.5 * update, rtol=1e-4, atol=1e-6
        )
        assert metrics["weight_decay"] == np.float32(decay)
        assert metrics["momentum"] == np.float32(momentum)


def test_adamw_decays_beside_its_averages(batch):
    step, state = step_and_state(
        **RATE,
        optimizer__name="adamw",
        optimizer__b1=0.8,
        optimizer__b2=0.9,
        optimizer__eps=0.01,
        optimizer__weight_decay=0.2,
        count=0,
    )
    mean = square = 0.0
    for count in (1, 2):
        params, gradient = by_hand(state, batch)
        mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
        update = mean / (1 - 0.8**count) / (np.sqrt(square / (1 - 0.9**count)) + 0.01)
        update += 0.2 * params * is_matrix(params)
        state, _ = step(state, batch)
        np.testing.assert_allclose(
            by_hand(state, batch)[0], params - 0.5 * update, rtol=1e-4, atol=1e-5
        )
