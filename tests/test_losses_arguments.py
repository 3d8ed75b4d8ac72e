"""What all losses share: the axes of the classes, binary losses, masks and labels."""

import functools

import jax
import numpy as np
import optax
import pytest

import cyclical_jax as cj
from tests.loss_table import (
    CLASSES,
    LOSSES,
    MANY,
    MULTILABEL,
    NUMBERS,
    OF_TWO_LOGITS,
    SOFTMAX,
    assert_same,
    drawn,
    every_loss,
    every_multilabel_loss,
    every_softmax_loss,
    with_gradient,
)

# ---- the axis of the classes


@every_loss
def test_the_classes_may_be_on_another_axis(name, kind):
    logits, labels = drawn(kind)
    values, gradient = with_gradient(LOSSES[name], logits, labels)
    moved = labels if kind == "indices" else np.moveaxis(labels, -1, 0)
    actual = with_gradient(LOSSES[name], np.moveaxis(logits, -1, 0), moved, axis=0)
    assert_same(actual, (values, np.moveaxis(gradient, -1, 0)))


@every_loss
def test_the_classes_may_be_on_several_axes(name, kind):
    """Indices are into the axes in the order in which they are named."""
    logits, labels = drawn(kind, classes=12)
    weights = np.linspace(0.5, 2, 12, dtype=np.float32)
    takes_weights = name not in OF_TWO_LOGITS
    more = {"class_weights": weights} if takes_weights else {}
    expected = LOSSES[name](logits, labels, **more)

    def spread(array):  # [2, 3, 12] -> [4, 2, 3, 3], the classes on the axes 3 and 0
        return np.moveaxis(array.reshape(2, 3, 3, 4), -1, 0)

    labels = labels if kind == "indices" else spread(labels)
    more = {"class_weights": weights.reshape(3, 4)} if takes_weights else {}
    actual = LOSSES[name](spread(logits), labels, axis=(3, 0), **more)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@every_loss
def test_none_is_all_axes(name, kind):
    logits, labels = drawn(kind, shape=())
    expected = LOSSES[name](logits, labels)
    labels = labels if kind == "indices" else labels.reshape(1, CLASSES)
    actual = LOSSES[name](logits.reshape(1, CLASSES), labels, axis=None)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [3, -4, 1.0, "1", (0, 0), (1, -2)])
@pytest.mark.parametrize("name", LOSSES)
def test_another_axis_is_refused(name, axis):
    logits, _ = drawn("probabilities")
    with pytest.raises(ValueError, match=r"`axis` .*`logits`.*\(2, 3, 5\), got "):
        LOSSES[name](logits, logits, axis=axis)


@every_softmax_loss
def test_a_softmax_needs_an_axis(name):
    logits, labels = drawn("probabilities")
    with pytest.raises(ValueError, match=r"`axis` .*softmax, got \(\)"):
        SOFTMAX[name](logits, labels, axis=())


# ---- binary losses


@every_multilabel_loss
def test_without_an_axis_there_is_a_loss_for_each_logit(name):
    logits, labels = drawn("multi-hot")
    each = with_gradient(LOSSES[name], logits, labels, axis=())
    assert each[0].shape == logits.shape
    values, gradient = with_gradient(LOSSES[name], logits, labels)
    assert_same((each[0].sum(-1), each[1]), (values, gradient))
    one_logit = functools.partial(LOSSES[name], axis=())
    in_vmap = jax.vmap(one_logit)(logits[:, 0, 0], labels[:, 0, 0])
    np.testing.assert_allclose(in_vmap, each[0][:, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
def test_the_focal_loss_of_one_logit_is_that_of_optax(alpha):
    """Both gammas the same and no margin."""
    logits, labels = drawn("multi-hot")
    numbers = dict(gamma_pos=2.0, gamma_neg=2.0, margin=0.0, alpha=alpha, axis=())
    ours = with_gradient(cj.asymmetric_multilabel_loss, logits, labels, **numbers)
    optaxs = with_gradient(optax.sigmoid_focal_loss, logits, labels, gamma=2.0, alpha=alpha)
    assert_same(ours, optaxs)


def test_without_gammas_the_loss_of_one_logit_is_binary_cross_entropy():
    logits, labels = drawn("multi-hot")
    numbers = dict(gamma_hc=0.0, gamma_pos=0.0, gamma_neg=0.0, margin=0.0, axis=())
    ours = with_gradient(cj.cyclical_multilabel_loss, logits, labels, hardness=0.4, **numbers)
    assert_same(ours, with_gradient(optax.sigmoid_binary_cross_entropy, logits, labels))


# ---- masks


@every_loss
def test_a_masked_class_is_as_if_it_were_removed(name, kind):
    """Even where its logits and labels are NaN."""
    kept = [0, 2, 3]
    logits, labels = drawn(kind, classes=len(kept))
    expected = with_gradient(LOSSES[name], logits, labels)
    mask = np.isin(np.arange(CLASSES), kept)[None, None]
    wide = np.full((2, 3, CLASSES), np.nan, np.float32)
    wide[..., kept] = logits
    wide_labels = np.array(kept)[labels] if kind == "indices" else np.full_like(wide, np.nan)
    if kind != "indices":
        wide_labels[..., kept] = labels
    values, gradient = with_gradient(LOSSES[name], wide, wide_labels, where=mask)
    assert_same((values, gradient[..., kept]), expected)
    np.testing.assert_array_equal(np.delete(gradient, kept, -1), 0)


@every_loss
def test_a_masked_example_costs_nothing(name, kind):
    logits, labels = drawn(kind)
    values, gradient = with_gradient(LOSSES[name], logits, labels)
    mask = np.array([[True, False, True], [False, True, True]])
    logits = np.where(mask[..., None], logits, np.nan)
    labels = labels if kind == "indices" else np.moveaxis(labels, -1, 1)
    moved = np.moveaxis(logits, -1, 1)
    actual = with_gradient(LOSSES[name], moved, labels, axis=1, where=mask)
    expected = np.where(mask, values, 0), np.where(mask[..., None], gradient, 0)
    assert_same((actual[0], np.moveaxis(actual[1], 1, -1)), expected)


@every_loss
def test_what_a_mask_leaves_out_has_no_part_in_the_slopes_of_numbers(name, kind):
    """A whole example and a class are left out; their logits and labels are NaN."""
    logits, labels = drawn(kind, (4,))
    mask = np.ones((4, CLASSES), bool)
    mask[1], mask[:, 2] = False, False
    nan_labels = labels if kind == "indices" else np.where(mask, labels, np.nan)
    numbers = dict.fromkeys(NUMBERS[name], 0.4)

    @jax.jit
    @jax.grad
    def slopes(numbers, logits, labels):
        return LOSSES[name](logits, labels, where=mask, **numbers).sum()

    actual = slopes(numbers, np.where(mask, logits, np.nan), nan_labels)
    expected = slopes(numbers, logits, labels)
    assert np.isfinite(list(expected.values())).all()
    assert_same(actual.values(), expected.values(), rtol=1e-6)


@pytest.mark.parametrize(
    "where, message",
    [
        (np.ones((2, 3)), r"`where` must be booleans, got float32"),
        (np.ones((3, 2), bool), r"`where` must .*\(2, 3, 5\).*\(2, 3\), got shape \(3, 2\)"),
        (np.ones(5, bool), r"`where` must .*\(2, 3, 5\).*\(2, 3\), got shape \(5,\)"),
        (np.ones((1, 1, 4), bool), r"`where` must .*, got shape \(1, 1, 4\)"),
    ],
)
@pytest.mark.parametrize("name", LOSSES)
def test_another_mask_is_refused(name, where, message):
    logits, labels = drawn("probabilities")
    with pytest.raises(ValueError, match=message):
        LOSSES[name](logits, labels, where=where)


# ---- labels


@every_softmax_loss
@pytest.mark.parametrize("classes", [CLASSES, MANY])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_label_past_the_last_class_is_an_error_and_a_negative_one_is_ignored(
    name, classes, weighted
):
    logits, labels = drawn("indices", (6,), classes)
    labels[:4] = classes, -1, 2**31 - 1, -(2**31)
    weights = np.ones(classes, np.float32) if weighted else None
    values, gradient = with_gradient(SOFTMAX[name], logits, labels, class_weights=weights)
    np.testing.assert_array_equal(values[:4], [np.nan, 0, np.nan, 0])
    np.testing.assert_array_equal(gradient[:4], 0)
    assert (values[4:] > 0).all() and (gradient[4:] != 0).any(-1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64, np.uint64])
def test_no_label_past_the_last_class_wraps_to_an_ignored_one(dtype):
    labels = np.array([np.iinfo(dtype).max, 1], dtype)
    with jax.enable_x64(np.dtype(dtype).itemsize == 8):
        values = cj.softmax_cross_entropy(np.zeros((2, 3), np.float32), labels)
    np.testing.assert_allclose(values, [np.nan, np.log(3)], rtol=1e-6)


HINTS = [
    (np.eye(3, dtype=int), "one-hot labels must be floats: labels.astype(float)"),
    (np.eye(3, dtype=bool), "one-hot labels must be floats: labels.astype(float)"),
    (np.zeros((3, 1), int), "labels.squeeze(-1)"),
    (np.zeros(3, np.float32), "class indices must be integers: labels.astype(int)"),
    (np.zeros(3, bool), "class indices must be integers: labels.astype(int)"),
]


@every_softmax_loss
@pytest.mark.parametrize("labels, hint", HINTS, ids=lambda value: str(getattr(value, "dtype", "")))
def test_the_usual_mistakes_with_labels_get_a_hint(name, labels, hint):
    with pytest.raises(ValueError) as error:
        SOFTMAX[name](np.zeros((3, 3), np.float32), labels)
    message = str(error.value)
    assert hint in message and str(labels.shape) in message and "\n" not in message


@every_softmax_loss
def test_channels_first_gets_a_hint(name):
    logits, labels = np.zeros((2, 5, 4, 6), np.float32), np.zeros((2, 4, 6), int)
    with pytest.raises(ValueError, match="if the classes are on axis 1, pass axis=1"):
        SOFTMAX[name](logits, labels)
    with pytest.raises(ValueError, match=r"labels.squeeze\(1\)"):
        SOFTMAX[name](logits, labels[:, None], axis=1)
    assert SOFTMAX[name](logits, labels, axis=1).shape == (2, 4, 6)


@every_multilabel_loss
@pytest.mark.parametrize(
    "classes, hint", [(4, r"jax.nn.one_hot\(labels, classes\)"), (1, r"labels\[..., None\]")]
)
def test_indices_as_multilabels_get_a_hint(name, classes, hint):
    with pytest.raises(ValueError, match=hint):
        MULTILABEL[name](np.zeros((3, classes), np.float32), np.zeros(3, int))


@every_softmax_loss
def test_log_probabilities_may_be_given_as_logits(name):
    logits, labels = drawn("indices")
    log_p = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(
        SOFTMAX[name](log_p, labels), SOFTMAX[name](logits, labels), rtol=1e-5
    )
