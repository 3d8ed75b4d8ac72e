"""What all losses share: axes, masks, class weights, numbers of one per example, dtypes, meshes.

The formulas themselves are in test_losses.py.
"""

import functools
import inspect
import itertools
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import cyclical_jax as cj

CLASSES = 5
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
KINDS = ["indices", "probabilities"]
CASES = [*itertools.product(SOFTMAX, KINDS), *itertools.product(MULTILABEL, ["multi-hot"])]
LOSSES = SOFTMAX | MULTILABEL
every_loss = pytest.mark.parametrize("name, kind", CASES)
every_softmax_loss = pytest.mark.parametrize("name", SOFTMAX)
every_multilabel_loss = pytest.mark.parametrize("name", MULTILABEL)


def drawn(kind, shape=(2, 3), classes=CLASSES, seed=0):
    """Returns logits and labels, the classes last."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(*shape, classes)).astype(np.float32)
    labels = {
        "indices": rng.integers(0, classes, shape).astype(np.int32),
        "probabilities": rng.dirichlet([0.5] * classes, shape).astype(np.float32),
        "multi-hot": rng.integers(0, 2, (*shape, classes)).astype(np.int32),
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


# ---- the axis of the classes


@every_loss
@pytest.mark.parametrize("axis", [0, 1, -2])
def test_the_classes_may_be_on_any_axis(name, kind, axis):
    logits, labels = drawn(kind)
    values, gradient = with_gradient(LOSSES[name], logits, labels)
    moved = labels if kind == "indices" else np.moveaxis(labels, -1, axis)
    actual = with_gradient(LOSSES[name], np.moveaxis(logits, -1, axis), moved, axis=axis)
    assert_same(actual, (values, np.moveaxis(gradient, -1, axis)))


@every_loss
def test_the_classes_may_be_on_several_axes(name, kind):
    """Indices are into the axes in the order in which they are named."""
    logits, labels = drawn(kind, classes=12)
    weights = np.linspace(0.5, 2, 12, dtype=np.float32)
    expected = LOSSES[name](logits, labels, class_weights=weights)

    def spread(array):  # [2, 3, 12] -> [4, 2, 3, 3], the classes on the axes 3 and 0
        return np.moveaxis(array.reshape(2, 3, 3, 4), -1, 0)

    labels = labels if kind == "indices" else spread(labels)
    weights = weights.reshape(3, 4)
    actual = LOSSES[name](spread(logits), labels, axis=(3, 0), class_weights=weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@every_loss
def test_none_is_all_axes(name, kind):
    logits, labels = drawn(kind, shape=())
    expected = LOSSES[name](logits, labels)
    labels = labels if kind == "indices" else labels.reshape(1, CLASSES)
    actual = LOSSES[name](logits.reshape(1, CLASSES), labels, axis=None)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


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
@pytest.mark.parametrize("axis", [-1, 1])
def test_a_masked_example_costs_nothing(name, kind, axis):
    logits, labels = drawn(kind)
    values, gradient = with_gradient(LOSSES[name], logits, labels)
    mask = np.array([[True, False, True], [False, True, True]])
    logits = np.where(mask[..., None], logits, np.nan)
    labels = labels if kind == "indices" else np.moveaxis(labels, -1, axis)
    moved = np.moveaxis(logits, -1, axis)
    actual = with_gradient(LOSSES[name], moved, labels, axis=axis, where=mask)
    expected = np.where(mask, values, 0), np.where(mask[..., None], gradient, 0)
    assert_same((actual[0], np.moveaxis(actual[1], axis, -1)), expected)


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


MANY = 4099  # so many classes that a CPU takes blocks of rows


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


# ---- one number per example


NUMBERS = {
    "cross_entropy": ["temperature", "label_smoothing"],
    "focal": ["gamma", "temperature", "label_smoothing"],
    "asymmetric_focal": ["gamma_pos", "gamma_neg", "temperature", "label_smoothing"],
    "cyclical_focal": [
        *("hardness", "gamma_hc", "gamma_pos", "gamma_neg", "temperature", "label_smoothing")
    ],
    "asymmetric_multilabel": ["gamma_pos", "gamma_neg", "margin", "alpha"],
    "cyclical_multilabel": ["hardness", "gamma_hc", "gamma_pos", "gamma_neg", "margin", "alpha"],
}


def test_the_table_has_all_numbers():
    arrays = {"logits", "labels", "axis", "where", "class_weights"}
    for name, loss in LOSSES.items():
        assert set(inspect.signature(loss).parameters) - arrays == set(NUMBERS[name])


@every_loss
@pytest.mark.parametrize("shape", [(2, 1), (3,), (1, 3), (1, 1), (2, 3)], ids=str)
def test_numbers_broadcast_to_the_examples(name, kind, shape):
    logits, labels = drawn(kind)
    rng = np.random.default_rng(1)
    numbers = {each: rng.uniform(0.1, 0.9, shape).astype(np.float32) for each in NUMBERS[name]}
    whole = {each: np.broadcast_to(values, (2, 3)) for each, values in numbers.items()}
    actual = with_gradient(LOSSES[name], logits, labels, **numbers)
    assert_same(actual, with_gradient(LOSSES[name], logits, labels, **whole))
    alone = {each: float(values[1, 2]) for each, values in whole.items()}
    np.testing.assert_allclose(actual[0][1, 2], LOSSES[name](logits, labels, **alone)[1, 2], 1e-5)


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


def weighted_by_hand(name, kind, logits, labels, weights):
    """Returns the sum of each class's weight times its term, the loss where its weight alone is 1.

    A loss is linear in its class weights.
    """
    each = [
        LOSSES[name](logits, labels, class_weights=np.eye(CLASSES, dtype=np.float32)[j])
        for j in range(CLASSES)
    ]
    return sum(weight * np.asarray(term) for weight, term in zip(weights, each, strict=True))


WEIGHTS = np.array([0.2, 3, 0, 1, 1.7], np.float32)


@every_loss
def test_class_weights_multiply_the_terms_of_their_classes(name, kind):
    logits, labels = drawn(kind, (40,))
    expected = weighted_by_hand(name, kind, logits, labels, WEIGHTS)
    actual = LOSSES[name](logits, labels, class_weights=WEIGHTS)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    ones = with_gradient(LOSSES[name], logits, labels, class_weights=np.ones(CLASSES, int))
    assert_same(ones, with_gradient(LOSSES[name], logits, labels), atol=1e-5)


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


@every_loss
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


# ---- dtypes

LOW = 0.3, 0.7, 1 / 3  # which low precision cannot hold; nor 1 minus its rounded values


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@every_loss
def test_numbers_of_low_precision_are_computed_with_in_float32(name, kind, dtype):
    logits, labels = drawn(kind)
    numbers = {
        each: jnp.asarray(np.resize(LOW, (2, 3))[:, ::-1] + 0.01 * place, dtype)
        for place, each in enumerate(NUMBERS[name])
    }
    in_float32 = {each: values.astype(jnp.float32) for each, values in numbers.items()}
    loss = jax.jit(LOSSES[name])
    actual, expected = (loss(logits, labels, **each) for each in (numbers, in_float32))
    assert actual.dtype == jnp.float32
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_labels_of_low_precision_are_computed_with_in_float32(dtype):
    logits, labels = drawn("probabilities")
    labels = jnp.asarray(labels, dtype)
    for loss in LOSSES.values():
        expected = loss(logits, labels.astype(jnp.float32))
        np.testing.assert_array_equal(loss(logits, labels), expected)


def test_a_number_of_numpy_is_that_of_python():
    logits, labels = drawn("indices")
    expected = cj.focal_loss(logits, labels, gamma=2)
    kinds = np.int64, np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.array
    for number in (kind(2) for kind in kinds):
        actual = cj.focal_loss(logits, labels, gamma=number)
        np.testing.assert_array_equal(actual, expected)
        assert actual.dtype == jnp.float32


@pytest.mark.parametrize(
    "logits_dtype, traced",
    [
        (jnp.float32, None),
        (jnp.float32, jnp.bfloat16),
        (jnp.float32, np.float64),
        (jnp.bfloat16, jnp.int32),
        (np.float64, None),
        (np.float64, jnp.float32),
    ],
)
@every_loss
def test_no_dtype_is_promoted_unseen(name, kind, logits_dtype, traced):
    wide = np.float64 in (traced, logits_dtype)
    with jax.numpy_dtype_promotion("strict"), jax.enable_x64(wide):
        logits, labels = drawn(kind)
        numbers = {} if traced is None else {each: traced(1) for each in NUMBERS[name]}
        numbers.pop("margin", None)
        arrays = dict(
            class_weights=np.ones(CLASSES, np.float16), where=np.ones((2, 3, CLASSES), bool)
        )
        args = jnp.asarray(logits, logits_dtype), labels

        def mean(logits, labels, numbers):
            return cj.weighted_mean(LOSSES[name](logits, labels, **numbers, **arrays))

        result = jax.eval_shape(jax.grad(mean), *args, numbers)
        values = jax.eval_shape(mean, *args, numbers)
    assert result.dtype == logits_dtype
    assert values.dtype == (np.float64 if logits_dtype == np.float64 else np.float32)
    assert not values.weak_type


# ---- meshes


@pytest.mark.parametrize("classes", [CLASSES, MANY])
@pytest.mark.parametrize("knobs", ["plain", "each"])
@every_loss
def test_the_default_mesh_shards_the_losses(name, kind, knobs, classes):
    """The axes of `jax.make_mesh` are explicit: JAX refuses what it cannot shard."""
    mesh = jax.make_mesh((2,), ("data",))
    logits, labels = drawn(kind, (4,), classes)
    numbers = {} if knobs == "plain" else {each: np.full(4, 0.4) for each in NUMBERS[name]}
    numbers = {each: values.astype(np.float32) for each, values in numbers.items()}
    expected = with_gradient(LOSSES[name], logits, labels, **numbers)

    def place(array):
        return jax.device_put(array, NamedSharding(mesh, P("data")))

    def total(logits, labels, numbers):
        values = LOSSES[name](logits, labels, **numbers)
        return cj.weighted_mean(values) * 4, values

    args = jax.tree.map(place, (logits, labels, numbers))
    gradient, values = jax.jit(jax.grad(total, has_aux=True))(*args)
    assert values.sharding.spec == P("data") and gradient.sharding.spec[0] == "data"
    assert_same((values, gradient), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_the_default_mesh_with_masks_weights_and_channels_first(name):
    mesh = jax.make_mesh((2,), ("data",))
    logits, labels = drawn("probabilities", (4, 3))
    arrays = {
        "logits": np.moveaxis(logits, -1, 1),
        "labels": np.moveaxis(labels, -1, 1),
        "where": np.arange(12).reshape(4, 3) != 5,
        NUMBERS[name][0]: np.full((4, 1), 0.5, np.float32),
    }
    loss = jax.jit(functools.partial(LOSSES[name], axis=1, class_weights=WEIGHTS))
    expected = loss(**arrays)
    placed = {
        key: jax.device_put(array, NamedSharding(mesh, P("data"))) for key, array in arrays.items()
    }
    np.testing.assert_allclose(loss(**placed), expected, rtol=1e-5)


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
    mean = functools.partial(cj.weighted_mean, axis=axis)
    np.testing.assert_allclose(mean(LOSS, weights, where=WHERE), expected, rtol=1e-6)
    np.testing.assert_allclose(mean(LOSS, weights, labels=labels), expected, rtol=1e-6)
    both = mean(LOSS, weights, labels=np.where(WHERE, labels, 3), where=WHERE)
    np.testing.assert_allclose(both, expected, rtol=1e-6)
    whole = mean_by_hand(LOSS, plain, np.full((2, 3), True), axis)
    np.testing.assert_allclose(mean(LOSS, weights), whole, rtol=1e-6)


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
    assert np.isnan(cj.weighted_mean(losses[1:], jnp.array([jnp.nan])))


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


# ---- signatures


@pytest.mark.parametrize("loss", [*SOFTMAX.values(), *MULTILABEL.values(), cj.weighted_mean])
def test_signatures_can_be_read(loss):
    signature = str(inspect.signature(getattr(loss, "func", loss)))
    assert "'Array'" in signature and "'Number" in signature
    assert "Union" not in signature and "jaxlib" not in signature and len(signature) < 420


@pytest.mark.parametrize("name", LOSSES)
def test_an_array_above_the_ceiling_of_gamma_hc_warns_in_any_dtype(name):
    if "gamma_hc" not in NUMBERS[name]:
        pytest.skip("this loss has no gamma_hc")
    logits, labels = drawn("probabilities")
    with pytest.warns(UserWarning, match="is above 3.591"):
        LOSSES[name](logits, labels, gamma_hc=jnp.bfloat16(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LOSSES[name](logits, labels, gamma_hc=jnp.bfloat16(3.5))
