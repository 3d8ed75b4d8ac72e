"""The mean without the losses that are left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cyclical_jax as cj
from tests.loss_table import (
    CLASSES,
    drawn,
)

# ---- the mean

LOSS = np.array([[1.0, 2, 3], [4, 5, 6]], np.float32)
WHERE = np.array([[True, False, True], [True, True, False]])


def mean_by_hand(losses, weights, kept, axis=None):
    weights = np.broadcast_to(weights, losses.shape) * kept
    return (weights * np.where(kept, losses, 0)).sum(axis) / weights.sum(axis)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1)])
@pytest.mark.parametrize(
    "weights", [None, 2, [3, 0.5, 1], [[2.0], [0.7]], np.arange(1, 7.0)], ids=str
)
def test_the_weighted_mean(weights, axis):
    weights = np.reshape(weights, (2, 3)) if np.size(weights) == 6 else weights
    labels = np.where(WHERE, 1, -1)
    plain = 1.0 if weights is None else np.asarray(weights, np.float64)
    expected = mean_by_hand(LOSS, plain, WHERE, axis)
    mean = functools.partial(cj.weighted_mean, axis=axis, weights=weights)
    np.testing.assert_allclose(mean(LOSS, where=WHERE), expected, rtol=1e-6)
    np.testing.assert_allclose(mean(LOSS, labels=labels), expected, rtol=1e-6)
    both = mean(LOSS, labels=np.where(WHERE, labels, 3), where=WHERE)
    np.testing.assert_allclose(both, expected, rtol=1e-6)
    whole = mean_by_hand(LOSS, plain, np.full((2, 3), True), axis)
    np.testing.assert_allclose(mean(LOSS), whole, rtol=1e-6)


def test_ignored_labels_leave_the_mean():
    logits, labels = drawn("indices", (8, 4))
    labels[:, 2:] = -100
    losses = cj.cyclical_focal_loss(logits, labels, 0.4)
    mean = cj.weighted_mean(losses, labels=labels)
    np.testing.assert_allclose(mean, losses[:, :2].mean(), rtol=1e-6)
    past = np.where(labels < 0, CLASSES, labels)
    assert np.isnan(cj.weighted_mean(cj.cyclical_focal_loss(logits, past, 0.4), labels=past))


def test_the_pixels_without_a_label_leave_the_mean_by_where():
    """255 is past the last class: their losses are NaN, and no NaN reaches the gradient."""
    logits, labels = drawn("indices", (8, 4))
    kept = np.arange(32).reshape(8, 4) % 3 > 0
    marked = np.where(kept, labels, 255).astype(np.uint8)

    @jax.jit
    @jax.value_and_grad
    def mean(logits):
        return cj.weighted_mean(cj.focal_loss(logits, marked), where=marked != 255)

    value, gradient = mean(logits)
    np.testing.assert_allclose(value, cj.focal_loss(logits, labels)[kept].mean(), rtol=1e-6)
    assert np.isfinite(gradient).all() and not gradient[~kept].any() and gradient[kept].any()


@pytest.mark.parametrize(
    "left_out", [{"where": np.zeros((2, 3), bool)}, {"labels": np.full((2, 3), -1)}, {"weights": 0}]
)
def test_the_mean_of_nothing_is_zero(left_out):
    losses = LOSS if "weights" in left_out else np.full_like(LOSS, np.nan)
    mean = jax.jit(jax.value_and_grad(lambda losses: cj.weighted_mean(losses, **left_out)))
    value, gradient = mean(losses)
    assert value == 0 and not gradient.any()


def test_a_loss_that_is_not_left_out_may_make_the_mean_nan():
    losses = np.array([np.nan, 1], np.float32)
    assert np.isnan(cj.weighted_mean(losses))
    assert np.isnan(cj.weighted_mean(losses[1:], weights=jnp.array([jnp.nan])))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(losses=np.arange(6).reshape(2, 3)), "`losses` must be floats, got int"),
        (dict(weights=-1), "`weights` must be at least 0, got -1"),
        (dict(weights=np.ones(2)), r"`weights` must .*write weights\[..., None\]"),
        (dict(weights=WHERE), "`weights` must be numbers.*pass booleans as `where`"),
        (dict(weights=jnp.asarray(WHERE)), "`weights` must be numbers.*pass booleans as `where`"),
        (dict(where=LOSS), "`where` must be booleans, got float32"),
        (dict(where=WHERE[:, 0]), r"`where` must .*\(2, 3\), got shape \(2,\)"),
        (dict(labels=LOSS), "`labels` must be integers .*got float32"),
        (dict(labels=np.zeros(3, int)), r"`labels` must be integers .*\(2, 3\), got .*\(3,\)"),
        (dict(axis=2), r"`axis` must name axes of `losses`.*\(2, 3\), got 2"),
    ],
    ids=str,
)
def test_what_the_mean_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        cj.weighted_mean(**{"losses": LOSS, **wrong})
