"""What all losses share: numbers of one per example, class weights, signatures."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cyclical_jax as cj
from tests.loss_table import (
    CLASSES,
    KINDS,
    LOSSES,
    MANY,
    MULTILABEL,
    NUMBERS,
    assert_same,
    drawn,
    every_loss,
    every_loss_of_labels,
    with_gradient,
)

# ---- one number per example


def test_the_table_has_all_numbers():
    arrays = {"logits", "labels", "axis", "where", "class_weights"}
    arrays |= {"teacher_logits", "strong_logits", "weak_logits"}
    for name, loss in LOSSES.items():
        assert set(inspect.signature(loss).parameters) - arrays == set(NUMBERS[name])


@every_loss
@pytest.mark.parametrize("shape", [(2, 1), (3,)], ids=str)
def test_numbers_broadcast_to_the_examples(name, kind, shape):
    logits, labels = drawn(kind)
    rng = np.random.default_rng(1)
    numbers = {each: rng.uniform(0.1, 0.9, shape).astype(np.float32) for each in NUMBERS[name]}
    whole = {each: np.broadcast_to(values, (2, 3)) for each, values in numbers.items()}
    actual = with_gradient(LOSSES[name], logits, labels, **numbers)
    assert_same(actual, with_gradient(LOSSES[name], logits, labels, **whole))
    alone = {each: float(values[1, 2]) for each, values in whole.items()}
    of_one = LOSSES[name](logits, labels, **alone)
    np.testing.assert_allclose(actual[0][1, 2], of_one[1, 2], rtol=1e-5)


def test_numbers_of_rows_of_many_classes_have_slopes_of_their_shape():
    logits, labels = drawn("indices", classes=MANY)

    def total(gamma_neg):
        return cj.cyclical_focal_loss(logits, labels, 0.5, gamma_neg=gamma_neg).sum()

    whole = jax.grad(total)(jnp.full((2, 3), 0.5))
    np.testing.assert_allclose(jax.grad(total)(jnp.full((2, 1), 0.5)), whole.sum(1)[:, None], 1e-5)
    np.testing.assert_allclose(jax.grad(total)(jnp.full(3, 0.5)), whole.sum(0), 1e-5)


NUMBER_OF = [(name, number) for name in LOSSES for number in NUMBERS[name]]


@pytest.mark.parametrize("name, number", NUMBER_OF)
def test_numbers_on_another_axis_are_refused(name, number):
    logits, labels = drawn("probabilities")
    with pytest.raises(ValueError, match=rf"`{number}` .*\(2, 3\).*write {number}\[..., None\]"):
        LOSSES[name](logits, labels, **{number: np.full(2, 0.5)})
    with pytest.raises(ValueError, match=rf"`{number}` .*\(2, 3\), got shape \(4,\)\."):
        LOSSES[name](logits, labels, **{number: jnp.full(4, 0.5)})
    square, labels = drawn("probabilities", (3, 3))
    with pytest.raises(ValueError, match=rf"`{number}` of shape \(3,\) fits the first and the las"):
        LOSSES[name](square, labels, **{number: jnp.full(3, 0.5)})


# ---- class weights


WEIGHTS = np.array([0.2, 3, 0, 1, 1.7], np.float32)


@every_loss_of_labels
def test_class_weights_multiply_the_terms_of_their_classes(name, kind):
    """A loss is linear in its class weights, and weights of 1 change nothing."""
    logits, labels = drawn(kind, (40,))

    @jax.jit
    @jax.vmap
    def weighted(class_weights):
        return LOSSES[name](logits, labels, class_weights=class_weights)

    units = np.eye(CLASSES, dtype=np.float32)
    *each, actual, whole = weighted(np.stack([*units, WEIGHTS, np.ones(CLASSES, np.float32)]))
    expected = sum(weight * term for weight, term in zip(WEIGHTS, each, strict=True))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole, LOSSES[name](logits, labels), rtol=1e-5, atol=1e-6)
    assert (sum(np.asarray(term) > 1e-4 for term in each) > 0).all()


@pytest.mark.parametrize("smoothing", [0, 0.0, 0.1, jnp.float32(0.3)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_weighted_cross_entropy(kind, smoothing):
    """-sum_j c_j y'_j log p_j, in which the smoothed share of each class has its weight too."""
    logits, labels = drawn(kind, (40,))
    z = logits.astype(np.float64)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    y = np.eye(CLASSES)[labels] if kind == "indices" else labels
    smoothed = (1 - float(smoothing)) * y + float(smoothing) / CLASSES
    expected = -(WEIGHTS * smoothed * log_p).sum(-1)
    actual = with_gradient(
        cj.softmax_cross_entropy, logits, labels, label_smoothing=smoothing, class_weights=WEIGHTS
    )
    mass = WEIGHTS * smoothed
    gradient = mass.sum(-1, keepdims=True) * np.exp(log_p) - mass
    assert_same(actual, (expected, gradient))


@every_loss_of_labels
def test_other_class_weights_are_refused(name, kind):
    logits, labels = drawn(kind)
    for weights in (np.ones(4), np.ones((1, 5)), 1.0):
        with pytest.raises(ValueError, match=r"`class_weights` must .*\(5,\), got"):
            LOSSES[name](logits, labels, class_weights=weights)
    with pytest.raises(ValueError, match="`class_weights` must be at least 0"):
        LOSSES[name](logits, labels, class_weights=-WEIGHTS)
    if name in MULTILABEL:
        with pytest.raises(ValueError, match="multiply the losses instead"):
            LOSSES[name](logits, labels, axis=(), class_weights=WEIGHTS)


# ---- signatures


@pytest.mark.parametrize("loss", [*LOSSES.values(), cj.weighted_mean])
def test_signatures_can_be_read(loss):
    signature = str(inspect.signature(getattr(loss, "func", loss)))
    assert "'Array'" in signature and "'Number" in signature
    assert "Union" not in signature and "jaxlib" not in signature and len(signature) < 420


@pytest.mark.parametrize("name", [name for name in LOSSES if "gamma_hc" in NUMBERS[name]])
def test_an_array_above_the_ceiling_of_gamma_hc_warns_in_any_dtype(name):
    logits, labels = drawn("probabilities")
    with pytest.warns(UserWarning, match="is above 3.591"):
        LOSSES[name](logits, labels, gamma_hc=jnp.bfloat16(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LOSSES[name](logits, labels, gamma_hc=jnp.bfloat16(3.5))
