"""Pseudo-labels against a loop over the examples."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax.semisupervised import pseudo_label_loss, pseudo_labels

RNG = np.random.default_rng(1)
STRONG, WEAK = 2 * RNG.normal(size=(2, 50, 5))


def by_hand(strong, weak, threshold, temperature=1.0):
    losses = []
    for s, w in zip(strong / temperature, weak, strict=True):
        p = np.exp(w) / np.exp(w).sum()
        log_q = s - np.log(np.exp(s).sum())
        losses.append(-log_q[p.argmax()] if p.max() >= threshold else 0.0)
    return np.array(losses)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_it_is_the_cross_entropy_of_confident_predictions(threshold, temperature):
    found = pseudo_label_loss(
        jnp.asarray(STRONG), jnp.asarray(WEAK), threshold, temperature=temperature
    )
    expected = by_hand(STRONG, WEAK, threshold, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_there_are_some_on_both_sides_of_the_threshold():
    labels = np.asarray(pseudo_labels(jnp.asarray(WEAK), 0.7))
    assert labels.dtype == np.int32 and 5 < (labels == -1).sum() < 45
    np.testing.assert_array_equal(labels[labels >= 0], WEAK.argmax(-1)[labels >= 0])


def test_a_certain_prediction_passes_any_threshold():
    certain = jnp.array([[200.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
    np.testing.assert_array_equal(pseudo_labels(certain, 1.0), [0, -1])


def test_no_gradient_reaches_the_weak_view():
    def total(strong, weak):
        return pseudo_label_loss(strong, weak, 0.6).sum()

    of_strong, of_weak = jax.grad(total, (0, 1))(jnp.asarray(STRONG), jnp.asarray(WEAK))
    is_kept = by_hand(STRONG, WEAK, 0.6) > 0
    assert not of_weak.any() and not of_strong[~is_kept].any()
    assert (jnp.abs(of_strong[is_kept]).max(-1) > 0).all()


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_value_and_gradient_are_finite(scale):
    strong, weak = (jnp.asarray(z * scale, jnp.float32) for z in (STRONG, WEAK))
    loss, slope = jax.value_and_grad(lambda z: pseudo_label_loss(z, weak, 0.5).mean())(strong)
    assert np.isfinite(loss) and np.isfinite(slope).all()


def test_the_threshold_is_traced_and_logits_may_be_bfloat16(count_compilations):
    @jax.jit
    def loss_at(threshold):
        return pseudo_label_loss(jnp.asarray(STRONG, jnp.bfloat16), jnp.asarray(WEAK), threshold)

    assert loss_at(0.1).dtype == jnp.float32
    with count_compilations() as compilations:
        few, many = loss_at(0.99), loss_at(0.2)
    assert not compilations
    assert float(few.sum()) < float(many.sum())


@pytest.mark.parametrize(
    "weak, threshold, line",
    [
        (WEAK[:, :4], 0.5, "the shape of `strong_logits`, (50, 5), got (50, 4)."),
        (WEAK, 1.1, "`threshold` must be at least 0 and at most 1, got 1.1."),
    ],
)
def test_what_cannot_be_is_one_line(weak, threshold, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        pseudo_label_loss(jnp.asarray(STRONG), jnp.asarray(weak), threshold)
