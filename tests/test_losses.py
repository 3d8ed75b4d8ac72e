import functools
import itertools
import json
import pathlib
import warnings

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import pytest

import cyclical_jax as cj

PUBLISHED = json.loads(
    (pathlib.Path(__file__).parent / "reference" / "published_values.json").read_text()
)["losses"]
SOFTMAX_CASES = [case for case in PUBLISHED if case["kind"] != "asymmetric_multilabel"]
MULTILABEL_CASES = [case for case in PUBLISHED if case["kind"] == "asymmetric_multilabel"]
MANY_CLASSES = 4099  # so many that a CPU takes blocks of rows
STEP = 1e-30  # of derivatives along the imaginary axis, where nothing cancels

# ---- the formulas by hand, in float64; complex numbers pass through


def log1p(x):
    """Returns log(1 + x) for a number on or near the real axis, |x| <= 1."""
    return np.log1p(x.real) + 1j * x.imag / (1 + x.real) if np.iscomplexobj(x) else np.log1p(x)


def log_sigmoid(x):
    return np.where(x.real > 0, 0, x) - log1p(np.exp(np.where(x.real > 0, -x, x)))


def log_sum_exp(z):
    top = z.real.max(-1, keepdims=True)
    return top + np.log(np.exp(z - top).sum(-1, keepdims=True))


def log_p_and_rest(z):
    """Returns log p and log(1 - p), where 1 - p is the sum over all other classes."""
    is_top = np.arange(z.shape[-1]) == z.real.argmax(-1)[..., None]
    top = z.real.max(-1, keepdims=True)
    exp = np.exp(z - top)
    log_sum_of_others = np.where(
        is_top,
        log_sum_exp(np.where(is_top, -np.inf, z)),
        top + np.log(exp.sum(-1, keepdims=True) - np.where(is_top, 0, exp)),
    )
    return log_sigmoid(z - log_sum_of_others), log_sigmoid(log_sum_of_others - z)


def as_probabilities(labels, num_classes):
    if np.issubdtype(labels.dtype, np.floating):
        return labels.astype(np.float64)
    return (labels[..., None] == np.arange(num_classes)).astype(np.float64)


def loss_by_hand(
    logits,
    labels,
    *,
    hardness=1.0,
    gamma_hc=0.0,
    gamma_pos=0.0,
    gamma_neg=0.0,
    temperature=1.0,
    label_smoothing=0.0,
):
    """Returns the cyclical focal loss; each number is a scalar or one per example."""
    knobs = hardness, gamma_hc, gamma_pos, gamma_neg, temperature, label_smoothing
    h, hc, pos, neg, temperature, smoothing = (np.asarray(knob)[..., None] for knob in knobs)
    y = as_probabilities(labels, logits.shape[-1])
    log_p, log_rest = log_p_and_rest(logits / temperature)
    of_label = h * np.exp(pos * log_rest) + (1 - h) * np.exp(hc * log1p(np.exp(log_p)))
    of_others = h * np.exp(neg * log_p) + (1 - h)
    smoothed = (1 - smoothing) * y + smoothing / logits.shape[-1]
    return -(smoothed * (y * of_label + (1 - y) * of_others) * log_p).sum(-1)


def multilabel_by_hand(
    logits, labels, *, hardness=1.0, gamma_hc=0.0, gamma_pos=1.0, gamma_neg=4.0, margin=0.05
):
    """Returns the multi-label loss; where p_m > 0, 1 - p_m is margin + (1 - p)."""
    knobs = hardness, gamma_hc, gamma_pos, gamma_neg, margin
    h, hc, pos, neg, margin = (np.asarray(knob)[..., None] for knob in knobs)
    log_p, log_rest = log_sigmoid(logits), log_sigmoid(-logits)
    p, rest = np.exp(log_p), np.exp(log_rest)
    costs = p.real > margin.real
    p_m = np.where(costs, p - margin, 1)
    log_rest_m = np.where(margin == 0, log_rest, np.log(np.where(margin == 0, 1, margin + rest)))
    positive = -(h * np.exp(pos * log_rest) + (1 - h) * (1 + p) ** hc) * log_p
    negative = np.where(costs, -(h * np.exp(neg * np.log(p_m)) + 1 - h) * log_rest_m, 0)
    return (labels * positive + (1 - labels) * negative).sum(-1)


def gradient_by_hand(loss, logits, *args, **kwargs):
    units = 1j * STEP * np.eye(logits.shape[-1])
    return np.stack([loss(logits + u, *args, **kwargs).imag for u in units], -1) / STEP


# ---- the losses under test


@functools.partial(jax.jit, static_argnums=(0, 4))
def derived(loss, logits, labels, knobs, argnums):
    """Returns values per example, and derivatives of their sum by the logits and traced numbers."""

    def total(logits, knobs):
        values = loss(logits, labels, **knobs)
        return values.sum(), values

    (_, values), slopes = jax.value_and_grad(total, argnums, has_aux=True)(logits, knobs)
    return values, *slopes


def evaluated(loss, logits, labels, *, dtype=np.float32, by_knobs=False, **knobs):
    """Returns values, gradient and, if `by_knobs`, a dict of slopes; computed in `dtype`."""
    if labels.dtype.kind == "f":
        labels = labels.astype(dtype)
    knobs = {name: np.asarray(value, dtype) for name, value in knobs.items()}
    argnums = (0, 1) if by_knobs else (0,)
    with jax.enable_x64(dtype == np.float64):
        results = derived(loss, np.asarray(logits, dtype), labels, knobs, argnums)
        assert results[0].dtype == dtype and not results[0].weak_type
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), results)


NO_KNOBS = dict.fromkeys(("gamma_hc", "gamma_pos", "gamma_neg", "label_smoothing"), 0.0)
NO_KNOBS |= dict(hardness=1.0, temperature=1.0)
NUM_ROWS = 240


def cyclical(logits, labels, *, dtype=np.float32, **knobs):
    """Returns `evaluated` of the cyclical loss, compiled once for any number of examples.

    Every knob, a number of the loss, has one value per example.
    """
    number = len(logits)
    knobs = {name: np.broadcast_to(knob, number) for name, knob in {**NO_KNOBS, **knobs}.items()}
    chunks = np.resize(np.arange(number), (-(-number // NUM_ROWS), NUM_ROWS))
    results = [
        evaluated(
            cj.cyclical_focal_loss,
            logits[rows],
            labels[rows],
            dtype=dtype,
            by_knobs=True,
            **{name: knob[rows] for name, knob in knobs.items()},
        )
        for rows in chunks
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:number], *results)


def assert_close(actual, expected, tolerance):
    """Compares values relative to their size, if above 1, and gradients to their largest entry."""
    (values, gradient, *_), (expected_values, expected_gradient, *_) = actual, expected
    largest = np.abs(expected_gradient).max(-1)
    scale = np.maximum(1, np.maximum(largest, np.abs(expected_values)))
    np.testing.assert_array_less(np.abs(values - expected_values) / scale, tolerance)
    allowed = np.maximum(tolerance * largest, 1e-35)[..., None]  # the end of float32
    np.testing.assert_array_less(np.abs(gradient - expected_gradient) / allowed, 1)


def assert_slopes_close(slopes, expected, tolerance):
    for name, slope in slopes.items():
        np.testing.assert_allclose(
            slope, expected[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


both_dtypes = pytest.mark.parametrize(
    "dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-10)], ids=["float32", "float64"]
)

# ---- the published code, whose values are given to 12 digits


def by_kind(case):
    return f"{case['kind']}-{len(case['logits'])}x{len(case['logits'][0])}"


@both_dtypes
@pytest.mark.parametrize("case", SOFTMAX_CASES, ids=by_kind)
def test_the_published_softmax_losses(case, dtype, tolerance):
    loss = {"cyclical_focal": cj.cyclical_focal_loss, "asymmetric": cj.asymmetric_focal_loss}
    names = "gamma_hc", "gamma_pos", "gamma_neg", "label_smoothing", "hardness"
    knobs = {name: case[name] for name in names if name in case}
    args = loss[case["kind"]], np.array(case["logits"]), np.array(case["labels"])
    actual = evaluated(*args, **knobs, dtype=dtype)
    assert_close(actual, (np.array(case["loss"]), np.array(case["grad"])), tolerance)


@both_dtypes
@pytest.mark.parametrize("case", MULTILABEL_CASES, ids=by_kind)
def test_the_published_multilabel_loss(case, dtype, tolerance):
    knobs = dict(gamma_pos=case["gamma_pos"], gamma_neg=case["gamma_neg"], margin=case["clip"])
    args = cj.asymmetric_multilabel_loss, np.array(case["logits"]), np.array(case["labels"])
    values, gradient = evaluated(*args, **knobs, dtype=dtype)
    largest = np.abs(case["grad"]).max(-1)
    assert abs(values.sum() - case["loss"]) <= tolerance * max(1, largest.max())
    np.testing.assert_array_less(np.abs(gradient - case["grad"]) / largest[:, None], tolerance)


# ---- the softmax losses against the formula, every knob traced and drawn for each example


def drawn(num_rows, num_classes, seed=0):
    """Returns logits, labels of both kinds, and the numbers of the cyclical focal loss."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(num_rows, num_classes)).astype(np.float32)
    labels = {
        "indices": rng.integers(0, num_classes, num_rows).astype(np.int32),
        "probabilities": rng.dirichlet([0.4] * num_classes, num_rows).astype(np.float32),
    }
    knobs = {name: rng.uniform(0, 3, num_rows) for name in ("gamma_hc", "gamma_pos", "gamma_neg")}
    knobs |= {name: rng.uniform(0, 1, num_rows) for name in ("hardness", "label_smoothing")}
    knobs |= {"temperature": rng.uniform(0.4, 2.5, num_rows)}
    return logits, labels, {name: knob.astype(np.float32) for name, knob in knobs.items()}


def in_float64(logits, labels, knobs):
    knobs = {name: np.asarray(knob, np.float64) for name, knob in knobs.items()}
    return logits.astype(np.float64), as_probabilities(labels, logits.shape[-1]), knobs


def expected_of(*case):
    """Returns values and gradient by hand."""
    logits, labels, knobs = in_float64(*case)
    gradient = gradient_by_hand(loss_by_hand, logits, labels, **knobs)
    return loss_by_hand(logits, labels, **knobs), gradient


def slopes_of(*case):
    """Returns derivatives by the numbers of the loss, by hand."""
    logits, labels, knobs = in_float64(*case)
    return {
        name: loss_by_hand(logits, labels, **{**knobs, name: knob + 1j * STEP}).imag / STEP
        for name, knob in knobs.items()
    }


LOGITS, LABELS, KNOBS = drawn(NUM_ROWS, 5)
every_label = pytest.mark.parametrize("kind", LABELS)


@pytest.mark.parametrize(
    "dtype, tolerance",
    [(np.float32, 1e-5), pytest.param(np.float64, 1e-10, marks=pytest.mark.slow)],
    ids=["float32", "float64"],
)
@every_label
def test_the_cyclical_loss_and_all_its_slopes(kind, dtype, tolerance):
    labels = LABELS[kind]
    actual = cyclical(LOGITS, labels, **KNOBS, dtype=dtype)
    assert_close(actual, expected_of(LOGITS, labels, KNOBS), tolerance)
    assert_slopes_close(actual[2], slopes_of(LOGITS, labels, KNOBS), 10 * tolerance)


@every_label
@pytest.mark.parametrize(
    "loss, own",
    [
        (cj.softmax_cross_entropy, {}),
        (cj.focal_loss, {"gamma": "gamma_pos"}),
        (cj.asymmetric_focal_loss, {"gamma_pos": "gamma_pos", "gamma_neg": "gamma_neg"}),
    ],
)
def test_the_other_softmax_losses(loss, own, kind):
    names = {**own, "temperature": "temperature", "label_smoothing": "label_smoothing"}
    knobs = {ours: KNOBS[name] for ours, name in names.items()}
    values = jax.jit(loss)(LOGITS, LABELS[kind], **knobs)
    knobs = {name: KNOBS[name] for name in names.values()}
    expected, _ = expected_of(LOGITS, LABELS[kind], knobs)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "loss, args, knobs",
    [
        (cj.softmax_cross_entropy, (), {}),
        (cj.focal_loss, (), dict(gamma_pos=2)),
        (
            cj.cyclical_focal_loss,
            (0.3,),
            dict(hardness=0.3, gamma_hc=3, gamma_pos=2, gamma_neg=2, label_smoothing=0.1),
        ),
    ],
)
def test_the_defaults(loss, args, knobs):
    values = jax.jit(lambda logits: loss(logits, LABELS["indices"], *args))(LOGITS)
    expected, _ = expected_of(LOGITS, LABELS["indices"], knobs)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


# ---- far out, where p rounds to 0 and to 1; ties, where a maximum has no derivative

SIZES = [0, 1, 5, 17, 20, 40, 88, 104, 200, 1.5e3, 1e4]


def far_logits():
    patterns = [[1, 0, 0, 0, 0], [-1, 0, 0, 0, 0], [1, 0, 1, 0, 0], [1, -1, 1, -1, 1]]
    patterns += [[-1, -1, -1, -1, -1], [1, 0.5, 0, -0.5, -1], [0, 0.25, 1, 0.999, -0.3]]
    return np.array([np.multiply(size, pattern) for size in SIZES for pattern in patterns])


def far_case():
    """Returns every pattern with the labels 0 and 2, under 156 sets of numbers."""
    gammas = [0, 1e-3, 0.5, 1, 2, 8]
    rng = np.random.default_rng(0)
    triples = [(gamma,) * 3 for gamma in gammas] + rng.choice(gammas, (20, 3)).tolist()
    numbers = itertools.product(triples, [0, 0.3, 1], [0, 0.1])
    numbers = np.array([(*triple, h, smoothing) for triple, h, smoothing in numbers], np.float32)
    logits = np.repeat(far_logits(), 2, 0)
    labels = np.resize(np.array([0, 2], np.int32), len(logits))
    row, number = np.indices((len(logits), len(numbers))).reshape(2, -1)
    names = "gamma_hc", "gamma_pos", "gamma_neg", "hardness", "label_smoothing"
    return logits[row], labels[row], dict(zip(names, numbers[number].T, strict=True))


@functools.cache
def far_expectation(dtype):
    """Returns values and gradient by hand, for the logits as rounded to `dtype`."""
    logits, labels, knobs = far_case()
    return expected_of(np.asarray(logits, dtype).astype(np.float64), labels, knobs)


def assert_finite(tree):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("kind", ["indices", "one-hot"])
def test_far_out(kind):
    logits, labels, knobs = far_case()
    if kind == "one-hot":
        labels = np.eye(5, dtype=np.float32)[labels]
    actual = cyclical(logits, labels, **knobs)
    assert_finite(actual)
    assert_close(actual, far_expectation(np.float32), 1e-5)


def test_far_out_in_bfloat16():
    logits, labels, knobs = far_case()
    args = jnp.asarray(logits, jnp.bfloat16), labels, knobs, (0,)
    values, gradient = derived(cj.cyclical_focal_loss, *args)
    assert values.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    actual = np.asarray(values, np.float64), np.asarray(gradient, np.float64)
    assert_finite(actual)
    assert_close(actual, far_expectation(jnp.bfloat16), 5e-3)


PLAIN = [
    dict(hardness=h, gamma_hc=hc, gamma_pos=pos, gamma_neg=neg, label_smoothing=smoothing)
    for h, hc, pos, neg, smoothing in [
        (0, 3, 0, 2, 0.1),
        (0.3, 0.5, 0.5, 0.5, 0),
        (1.0, 3.0, 2.0, 0.001, 1.0),
        (0.7, 0, 0, 0, 0.1),
    ]
]


@pytest.mark.parametrize("kind", ["indices", "one-hot"])
def test_plain_numbers_far_out(kind):
    logits = np.concatenate([np.repeat(far_logits(), 2, 0), LOGITS[:30]]).astype(np.float32)
    indices = np.resize(np.array([0, 2], np.int32), len(logits))
    labels = indices if kind == "indices" else np.eye(5, dtype=np.float32)[indices]

    @jax.jit
    def all_derived(logits, labels):
        return [
            derived(functools.partial(cj.cyclical_focal_loss, **knobs), logits, labels, {}, (0,))
            for knobs in PLAIN
        ]

    for knobs, actual in zip(PLAIN, all_derived(logits, labels), strict=True):
        assert_finite(actual)
        assert_close(actual, expected_of(logits, indices, knobs), 1e-5)


@pytest.mark.parametrize("num_classes", [2, 10])
def test_equal_logits(num_classes):
    """A last layer of zeros gives such logits; for two classes p is exactly 1/2."""
    logits, labels = np.zeros((1, num_classes), np.float32), np.array([1], np.int32)
    _, gradient = evaluated(cj.softmax_cross_entropy, logits, labels)
    np.testing.assert_allclose(gradient, 1 / num_classes - np.eye(num_classes)[1:2], rtol=1e-6)


# ---- derivatives by finite differences


def check_derivatives(loss, logits, labels, knobs, modes=("fwd", "rev")):
    with jax.enable_x64(True):
        names = list(knobs)

        @jax.jit
        def total(logits, *values):
            return loss(logits, labels, **dict(zip(names, values, strict=True)))

        args = jnp.asarray(logits, jnp.float64), *map(jnp.float64, knobs.values())
        jax.test_util.check_grads(total, args, order=2, modes=modes, atol=1e-5, rtol=1e-5)


DIFFERENTIABLE = dict(hardness=0.3, gamma_hc=2.5, gamma_pos=1.5, gamma_neg=1.2, temperature=0.8)


@pytest.mark.slow
@every_label
def test_the_derivatives_of_second_order(kind):
    loss = functools.partial(cj.cyclical_focal_loss, label_smoothing=0.1)
    labels = LABELS[kind][:3]
    labels = labels if kind == "indices" else labels.astype(np.float64)
    check_derivatives(loss, LOGITS[:3] / 3, labels, DIFFERENTIABLE)


@pytest.mark.slow
def test_the_derivatives_of_second_order_with_many_classes():
    logits, labels, _ = drawn(3, MANY_CLASSES)
    loss = functools.partial(cj.cyclical_focal_loss, label_smoothing=0.1)
    check_derivatives(loss, logits / 3, labels["indices"], DIFFERENTIABLE)


@pytest.mark.slow
def test_the_derivatives_of_second_order_of_the_multilabel_loss():
    labels = (LABELS["probabilities"][:3] > 0.3).astype(np.float64)
    knobs = dict(gamma_pos=1.5, gamma_neg=2.5)
    check_derivatives(cj.asymmetric_multilabel_loss, LOGITS[:3] / 3, labels, knobs)


# ---- many classes, which a CPU takes in blocks of rows


def embedded(logits, num_classes, seed=0):
    """Spreads rows over `num_classes`, the others absent; returns them and their places."""
    rng = np.random.default_rng(seed)
    few = logits.shape[-1]
    places = np.sort(np.stack([rng.permutation(num_classes)[:few] for _ in logits]), -1)
    wide = np.full((len(logits), num_classes), -np.inf, np.float32)
    np.put_along_axis(wide, places, logits, -1)
    return wide, places


def embedded_labels(labels, places, num_classes):
    if labels.ndim == 1:
        return np.take_along_axis(places, labels[:, None], -1)[:, 0].astype(np.int32)
    wide = np.zeros((len(labels), num_classes), np.float32)
    np.put_along_axis(wide, places, labels, -1)
    return wide


@pytest.mark.parametrize(
    "kind, num_classes", [("indices", 5), ("probabilities", 5), ("indices", MANY_CLASSES)]
)
def test_an_absent_class_is_as_if_it_were_removed(kind, num_classes):
    logits, labels, knobs = drawn(NUM_ROWS, 3, seed=1)
    wide, places = embedded(logits, num_classes)
    wide_labels = embedded_labels(labels[kind], places, num_classes)
    values, gradient, slopes = cyclical(wide, wide_labels, **knobs)
    kept = np.take_along_axis(gradient, places, -1)
    assert_close((values, kept), expected_of(logits, labels[kind], knobs), 1e-5)
    assert np.count_nonzero(gradient) == np.count_nonzero(kept)
    assert_slopes_close(slopes, slopes_of(logits, labels[kind], knobs), 1e-4)


def test_many_classes_in_rows_that_fill_no_block():
    shape = 3, 5
    logits, labels, knobs = drawn(15, MANY_CLASSES)
    labels = labels["indices"]
    shaped = {name: knob.reshape(shape) for name, knob in knobs.items()}
    args = logits.reshape(*shape, -1), labels.reshape(shape)
    values, gradient = evaluated(cj.cyclical_focal_loss, *args, **shaped)
    assert values.shape == shape and gradient.shape == (*shape, MANY_CLASSES)
    logits, labels, knobs = in_float64(logits, labels, knobs)
    expected = loss_by_hand(logits, labels, **knobs)
    np.testing.assert_allclose(values.ravel(), expected, rtol=1e-5)
    for direction in (np.random.default_rng(1).normal(size=logits.shape), labels, logits):
        expected = loss_by_hand(logits + 1j * STEP * direction, labels, **knobs).imag / STEP
        slope = (gradient.reshape(logits.shape) * direction).sum(-1)
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-4)


# ---- labels


def test_one_hot_labels_are_class_indices():
    one_hot = np.eye(5, dtype=np.float32)[LABELS["indices"]]
    indices = cyclical(LOGITS, LABELS["indices"], **KNOBS)
    assert_close(cyclical(LOGITS, one_hot, **KNOBS), indices, 1e-5)


def test_soft_labels_are_used_whole():
    logits = np.array([[2.0, -1.0, 0.5, 0.1, 1.0]] * 2, np.float32)
    mixed = np.array([[0.6, 0.4, 0, 0, 0], [0.51, 0.49, 0, 0, 0]], np.float32)
    knobs = dict(hardness=0.6, gamma_hc=3, gamma_pos=2, gamma_neg=4, label_smoothing=0.1)
    actual = cyclical(logits, mixed, **knobs)
    assert_close(actual, expected_of(logits, mixed, knobs), 1e-5)
    assert actual[0][1] - actual[0][0] > 0.05


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32])
def test_labels_of_every_integer_type(dtype):
    """There are more classes than the type can count."""
    logits, labels, _ = drawn(20, 300)
    labels = labels["indices"] % 127
    values = jax.jit(cj.softmax_cross_entropy)(logits, labels.astype(dtype))
    np.testing.assert_allclose(values, expected_of(logits, labels, {})[0], rtol=1e-5)


@pytest.mark.parametrize("num_classes", [5, MANY_CLASSES])
def test_ignored_labels_cost_nothing(num_classes):
    """Negative labels and one of an absent class, among usual rows."""
    wide, places = embedded(LOGITS, num_classes)
    labels = embedded_labels(LABELS["indices"], places, num_classes)
    ignored = {3: -1, 4: -2, 17: -100, 18: -(2**31), 30: -num_classes, 47: 2}
    rows, others = list(ignored), np.delete(np.arange(NUM_ROWS), list(ignored))
    labels[rows] = list(ignored.values())
    wide[47, 2], wide[18, 0] = -np.inf, 1e4
    values, gradient, slopes = cyclical(wide, labels, **KNOBS)
    np.testing.assert_array_equal(values[rows], np.zeros(6))
    np.testing.assert_array_equal(gradient[rows], np.zeros((6, num_classes)))
    for slope in slopes.values():
        np.testing.assert_array_equal(slope[rows], np.zeros(6))
    actual = values[others], np.take_along_axis(gradient, places, -1)[others]
    expected = expected_of(LOGITS, LABELS["indices"], KNOBS)
    assert_close(actual, [leaf[others] for leaf in expected], 1e-5)


@every_label
def test_the_only_present_class_costs_nothing(kind):
    """A row without any class costs nothing either."""
    logits = np.full((3, 5), -np.inf, np.float32)
    logits[0, 1] = logits[1, 2] = 7.0
    labels = np.array([1, 0, 3], np.int32)
    if kind == "probabilities":
        labels = np.eye(5, dtype=np.float32)[labels]
    knobs = {name: knob[:3] for name, knob in KNOBS.items()}
    actual = cyclical(logits, labels, **knobs)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, np.zeros_like(leaf)), actual)


# ---- reductions to known losses


def smoothed_cross_entropy(logits, labels, smoothing):
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot, smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_gammas_it_is_smoothed_cross_entropy_at_every_hardness(smoothing):
    def total(logits):
        values = smoothed_cross_entropy(logits, LABELS["indices"], smoothing)
        return values.sum(), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(LOGITS)
    for hardness in (0.0, 0.3, 1.0):
        knobs = dict(hardness=hardness, label_smoothing=smoothing)
        actual = cyclical(LOGITS, LABELS["indices"], **knobs)
        np.testing.assert_allclose(actual[0], values, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(actual[1], gradient, rtol=1e-5, atol=1e-6)


ASYMMETRIC_KNOBS = "gamma_pos", "gamma_neg", "temperature", "label_smoothing"


@every_label
def test_at_hardness_one_it_is_the_asymmetric_focal_loss(kind):
    knobs = {name: KNOBS[name] for name in ASYMMETRIC_KNOBS}
    values, *_ = cyclical(LOGITS, LABELS[kind], **knobs, gamma_hc=3.0, hardness=1.0)
    asymmetric = jax.jit(cj.asymmetric_focal_loss)(LOGITS, LABELS[kind], **knobs)
    np.testing.assert_allclose(values, asymmetric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gamma", [0, jnp.float32(0)], ids=repr)
def test_the_focal_loss_of_gamma_zero_is_cross_entropy(gamma):
    @jax.jit
    def both(logits):
        labels = LABELS["indices"]
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return cj.focal_loss(logits, labels, gamma=gamma), cross_entropy

    np.testing.assert_allclose(*both(LOGITS), rtol=1e-5, atol=1e-6)


def test_gamma_neg_is_inert_without_label_smoothing():
    def at(gamma_neg, smoothing):
        knobs = dict(gamma_pos=2.0, gamma_neg=gamma_neg, label_smoothing=smoothing)
        return cyclical(LOGITS, LABELS["indices"], **knobs)

    jax.tree.map(np.testing.assert_array_equal, at(0.0, 0.0)[:2], at(8.0, 0.0)[:2])
    assert (np.abs(at(0.0, 0.1)[0] - at(8.0, 0.1)[0]) > 1e-3).all()


@every_label
def test_the_temperature_divides_the_logits(kind):
    knobs = {name: KNOBS[name] for name in KNOBS if name != "temperature"}
    values, gradient = expected_of(LOGITS / 2, LABELS[kind], knobs)
    actual = cyclical(LOGITS, LABELS[kind], **knobs, temperature=2.0)
    assert_close(actual, (values, gradient / 2), 1e-5)


@every_label
def test_numbers_for_each_example_are_the_scalars_row_by_row(kind):
    together, *_ = cyclical(LOGITS, LABELS[kind], **KNOBS)
    loss = jax.jit(cj.cyclical_focal_loss)
    for row in range(0, 48, 7):
        scalars = {name: knob[row] for name, knob in KNOBS.items()}
        alone = loss(LOGITS, LABELS[kind], **scalars)
        np.testing.assert_allclose(alone[row], together[row], rtol=1e-6, atol=1e-7)


def test_a_higher_gamma_hc_than_3_591_is_not_monotone():
    """At 3.59 the loss falls with the label's logit everywhere; at 3.7 it rises somewhere."""
    p = np.linspace(1e-3, 1 - 1e-3, 4001)
    logits = np.full((4001, 5), -np.inf)
    logits[:, 0], logits[:, 1] = np.log(p / (1 - p)), 0
    for gamma_hc, is_monotone in ((3.59, True), (3.7, False)):
        knobs = dict(hardness=0.0, gamma_hc=gamma_hc)
        _, gradient, _ = cyclical(logits, np.zeros(4001, np.int32), **knobs)
        assert (gradient[:, 0] < 0).all() == is_monotone


# ---- transformations


def per_example(logits, labels):
    return cj.cyclical_focal_loss(logits, labels, 0.4, gamma_neg=0.5)


def scanned(logits, labels):
    return jax.lax.scan(lambda _, row: (None, per_example(*row)), None, (logits, labels))[1]


def on_two_devices(logits, labels):
    halves = (np.stack(np.split(np.asarray(x), 2)) for x in (logits, labels))
    return jax.pmap(per_example)(*halves).reshape(-1)


@pytest.mark.parametrize(
    "way, kind",
    [
        (per_example, "indices"),
        (jax.jit(per_example), "indices"),
        (jax.jit(jax.vmap(per_example)), "indices"),
        (jax.jit(jax.vmap(per_example)), "probabilities"),
        (jax.jit(scanned), "indices"),
        (on_two_devices, "indices"),
    ],
    ids=["eager", "jit", "vmap", "vmap-soft", "scan", "pmap"],
)
def test_every_way_to_call_it_gives_the_same(way, kind):
    knobs = dict(hardness=0.4, gamma_hc=3, gamma_pos=2, gamma_neg=0.5, label_smoothing=0.1)
    values = way(LOGITS, LABELS[kind])
    assert values.dtype == jnp.float32 and values.shape == (NUM_ROWS,)
    expected, _ = expected_of(LOGITS, LABELS[kind], knobs)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def test_leading_dimensions():
    shape = 2, 40, 3
    knobs = {name: knob.reshape(shape) for name, knob in KNOBS.items()}
    labels = LABELS["indices"].reshape(shape)
    values = jax.jit(cj.cyclical_focal_loss)(LOGITS.reshape(*shape, 5), labels, **knobs)
    expected, _ = expected_of(LOGITS, LABELS["indices"], KNOBS)
    np.testing.assert_allclose(values, expected.reshape(shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize(
    "loss",
    [
        cj.softmax_cross_entropy,
        cj.focal_loss,
        functools.partial(cj.asymmetric_focal_loss, gamma_pos=1, gamma_neg=2),
        functools.partial(cj.cyclical_focal_loss, hardness=0.5),
    ],
)
def test_losses_are_float32(loss, dtype):
    for labels in LABELS.values():
        result = jax.eval_shape(loss, jax.ShapeDtypeStruct((NUM_ROWS, 5), dtype), labels)
        assert result.dtype == jnp.float32 and result.shape == (NUM_ROWS,) and not result.weak_type
    result = jax.eval_shape(
        cj.asymmetric_multilabel_loss,
        jax.ShapeDtypeStruct((NUM_ROWS, 5), dtype),
        LABELS["probabilities"],
    )
    assert result.dtype == jnp.float32 and result.shape == (NUM_ROWS,)


def test_nothing_is_compiled_anew_when_the_numbers_change():
    traces = []

    @jax.jit
    def loss(hardness, knobs):
        traces.append(1)
        return cj.cyclical_focal_loss(LOGITS, LABELS["indices"], hardness, **knobs)

    for number in (0.0, 0.5, 1.0):
        names = "gamma_hc", "gamma_pos", "gamma_neg", "temperature", "label_smoothing"
        loss(jnp.float32(number), dict.fromkeys(names, jnp.float32(number)))
    assert len(traces) == 1


# ---- the multi-label loss


def multilabel_case():
    rng = np.random.default_rng(3)
    num_rows = 200
    logits = rng.normal(scale=3, size=(num_rows, 7))
    far = [*SIZES, *(-np.array(SIZES)), -87.5, -720]
    logits[:100] = rng.choice(far, (100, 7))
    labels = rng.integers(0, 2, (num_rows, 7))
    knobs = {
        "gamma_pos": rng.choice([0, 1e-3, 0.5, 1, 2, 8], num_rows),
        "gamma_neg": rng.choice([0, 1e-3, 0.5, 1, 4, 8], num_rows),
        "margin": rng.choice([0, 0.05, 0.4], num_rows),
    }
    return logits.astype(np.float32), labels, {k: v.astype(np.float32) for k, v in knobs.items()}


def multilabel_expected(logits, labels, knobs):
    logits = np.asarray(logits, np.float64)
    knobs = {name: knob.astype(np.float64) for name, knob in knobs.items()}
    values = multilabel_by_hand(logits, labels, **knobs)
    return values, gradient_by_hand(multilabel_by_hand, logits, labels, **knobs)


@both_dtypes
def test_the_multilabel_formula(dtype, tolerance):
    logits, labels, knobs = multilabel_case()
    args = cj.asymmetric_multilabel_loss, logits, labels
    *actual, slopes = evaluated(*args, **knobs, dtype=dtype, by_knobs=True)
    assert_close(actual, multilabel_expected(logits, labels, knobs), tolerance)
    del slopes["margin"]  # not differentiable at 0
    assert_finite(slopes)


@both_dtypes
def test_the_cyclical_multilabel_formula(dtype, tolerance):
    logits, labels, knobs = multilabel_case()
    rng = np.random.default_rng(5)
    more = {
        "hardness": rng.choice([0, 0.3, 0.5, 1], len(logits)),
        "gamma_hc": rng.choice([0, 1, 3], len(logits)),
    }
    knobs |= {name: values.astype(np.float32) for name, values in more.items()}

    def loss(logits, labels, *, hardness, **knobs):
        return cj.cyclical_multilabel_loss(logits, labels, hardness, **knobs)

    *actual, slopes = evaluated(loss, logits, labels, **knobs, dtype=dtype, by_knobs=True)
    assert_close(actual, multilabel_expected(logits, labels, knobs), tolerance)
    del slopes["margin"]  # not differentiable at 0
    assert_finite(slopes)


def test_the_ends_of_the_cyclical_multilabel_loss():
    logits, labels, _ = multilabel_case()
    hard = cj.cyclical_multilabel_loss(logits, labels, 1.0)
    np.testing.assert_array_equal(hard, cj.asymmetric_multilabel_loss(logits, labels))
    zeros = dict(gamma_hc=0.0, gamma_pos=0.0, gamma_neg=0.0, margin=0.0)
    expected = optax.sigmoid_binary_cross_entropy(jnp.asarray(logits), labels).sum(-1)
    for hardness in (0.0, 0.4, 1.0):
        plain = cj.cyclical_multilabel_loss(logits, labels, hardness, **zeros)
        np.testing.assert_allclose(plain, expected, rtol=1e-5)


@pytest.mark.parametrize("name, value", [("hardness", 1.5), ("gamma_hc", -1), ("margin", 1)])
def test_knobs_of_the_cyclical_multilabel_loss_are_checked(name, value):
    knobs = {"hardness": 0.5, name: value}
    with pytest.raises(ValueError, match=f"`{name}` must be .*, got {value}"):
        cj.cyclical_multilabel_loss(LOGITS, LOGITS, knobs.pop("hardness"), **knobs)
    with pytest.warns(UserWarning, match="the easy loss is not monotone"):
        cj.cyclical_multilabel_loss(LOGITS, LOGITS, 0.5, gamma_hc=4.0)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, np.float32, jnp.bfloat16])
def test_multilabel_labels_of_every_type(dtype):
    logits, labels, _ = multilabel_case()
    values = jax.jit(cj.asymmetric_multilabel_loss)(logits, labels.astype(dtype))
    expected = multilabel_by_hand(logits.astype(np.float64), labels)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_multilabel_labels_may_be_soft():
    labels = np.random.default_rng(0).uniform(size=(NUM_ROWS, 5)).astype(np.float32)
    values, _ = evaluated(cj.asymmetric_multilabel_loss, LOGITS, labels)
    expected = multilabel_by_hand(LOGITS.astype(np.float64), labels)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_an_absent_label_costs_nothing():
    logits, labels = LOGITS.copy(), LABELS["indices"][:, None] == np.arange(5)
    logits[:, 1:3] = -np.inf
    actual = evaluated(cj.asymmetric_multilabel_loss, logits, labels)
    kept = [0, 3, 4]
    expected = evaluated(cj.asymmetric_multilabel_loss, LOGITS[:, kept], labels[:, kept])
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(actual[1][:, kept], expected[1], rtol=1e-6)
    np.testing.assert_array_equal(actual[1][:, 1:3], np.zeros((NUM_ROWS, 2)))


# ---- what is refused

Z = np.zeros((4, 3), np.float32)
Y = np.zeros(4, np.int32)
NAN = float("nan")


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros(3, np.int32),
        np.zeros((4, 3), np.int32),
        np.zeros((4, 1), np.int32),
        np.zeros(4, np.float32),
        np.zeros((4, 2), np.float32),
        np.zeros((1, 3), np.float32),
        np.zeros(4, bool),
        np.zeros((4, 3), bool),
        0,
    ],
    ids=lambda labels: f"{np.shape(labels)}",
)
def test_labels_of_another_shape_or_type_are_refused(labels):
    with pytest.raises(ValueError, match=r"`labels` .*\(4,\).*\(4, 3\)"):
        cj.softmax_cross_entropy(Z, labels)
    with pytest.raises(ValueError, match="`labels`"):
        cj.cyclical_focal_loss(Z, labels, 0.5)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (1, 3), (3,)])
def test_multilabel_labels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"`labels` .*\(4, 3\)"):
        cj.asymmetric_multilabel_loss(Z, np.zeros(shape, np.int32))


@pytest.mark.parametrize("logits", [np.zeros((4, 3), np.int32), np.zeros((4, 3), bool), 1.0])
def test_logits_that_are_not_floats_are_refused(logits):
    for loss in (cj.softmax_cross_entropy, cj.asymmetric_multilabel_loss):
        with pytest.raises(ValueError, match="`logits`"):
            loss(logits, Y)


@pytest.mark.parametrize("value", [-1, -1e-6, NAN, float("inf"), "2", None, True])
@pytest.mark.parametrize(
    "loss, name",
    [
        (cj.focal_loss, "gamma"),
        (cj.asymmetric_focal_loss, "gamma_pos"),
        (cj.asymmetric_focal_loss, "gamma_neg"),
        (functools.partial(cj.cyclical_focal_loss, hardness=0.5), "gamma_hc"),
        (functools.partial(cj.cyclical_focal_loss, hardness=0.5), "gamma_pos"),
        (functools.partial(cj.cyclical_focal_loss, hardness=0.5), "gamma_neg"),
    ],
)
def test_gammas_out_of_range_are_refused(loss, name, value):
    gammas = {name: value}
    if loss is cj.asymmetric_focal_loss:
        gammas = {"gamma_pos": 1, "gamma_neg": 1, name: value}
    with pytest.raises(ValueError, match=rf"`{name}` .*{value}"):
        loss(Z, Y, **gammas)


@pytest.mark.parametrize("name", ["gamma_pos", "gamma_neg", "margin"])
@pytest.mark.parametrize("value", [-0.1, NAN, "1"])
def test_multilabel_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` .*{value}"):
        cj.asymmetric_multilabel_loss(Z, Z, **{name: value})


def test_a_margin_of_one_is_refused():
    with pytest.raises(ValueError, match="`margin` .*1"):
        cj.asymmetric_multilabel_loss(Z, Z, margin=1)


@pytest.mark.parametrize(
    "name, value",
    [
        *[("hardness", value) for value in (-0.01, 1.01, NAN, "0", None, True, [0.2, 2, 0, 0])],
        *[("temperature", value) for value in (0, 0.0, -1, NAN, float("inf"), "1", None)],
        *[("label_smoothing", value) for value in (-0.1, 1.1, NAN, "0", None)],
    ],
)
def test_other_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError) as error:
        cj.cyclical_focal_loss(Z, Y, **{"hardness": 0.5, name: value})
    assert f"`{name}`" in str(error.value) and str(value) in str(error.value)
    if name != "hardness":
        with pytest.raises(ValueError, match=f"`{name}`"):
            cj.softmax_cross_entropy(Z, Y, **{name: value})


@pytest.mark.parametrize("gamma_hc", [3.592, 4, np.float32(5)])
def test_a_gamma_hc_above_its_ceiling_warns(gamma_hc):
    with pytest.warns(UserWarning, match=f"`gamma_hc` {gamma_hc}") as warned:
        jax.eval_shape(lambda z: cj.cyclical_focal_loss(z, Y, 0.5, gamma_hc=gamma_hc), Z)
    assert len(warned) == 1 and warned[0].filename == __file__


@pytest.mark.parametrize("gamma_hc", [jnp.float32(4), np.full(4, 5.0)], ids=str)
def test_an_array_above_the_ceiling_warns_too(gamma_hc):
    with pytest.warns(UserWarning, match="`gamma_hc` .* is above 3.591"):
        jax.eval_shape(lambda z: cj.cyclical_focal_loss(z, Y, 0.5, gamma_hc=gamma_hc), Z)


@pytest.mark.parametrize("gamma_hc", [3.59, 3, jnp.float32(3.5)], ids=str)
def test_gamma_hc_below_its_ceiling_does_not_warn(gamma_hc):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(lambda z: cj.cyclical_focal_loss(z, Y, 0.5, gamma_hc=gamma_hc), Z)


def test_a_traced_gamma_hc_does_not_warn():
    def loss(z, gamma_hc):
        return cj.cyclical_focal_loss(z, Y, 0.5, gamma_hc=gamma_hc)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(loss, Z, 9.0)


@pytest.mark.parametrize("knob", ["hardness", "gamma_hc", "gamma_pos", "temperature"])
def test_a_knob_that_would_broadcast_over_examples_is_refused(knob):
    knobs = {"hardness": 0.5, knob: np.ones((4, 1), np.float32)}
    with pytest.raises(ValueError, match=rf"`{knob}` must .*\(4,\), got shape \(4, 1\)"):
        cj.cyclical_focal_loss(jnp.zeros((4, 3)), jnp.zeros(4, int), **knobs)


@pytest.mark.parametrize("labels", [np.zeros(3, int), np.full((3, 3), [0.9, 0.1, 0.0])])
def test_second_derivatives_are_finite_far_out(labels):
    def slope(z):
        return jax.grad(lambda z: cj.cyclical_focal_loss(z, labels, 0.3).sum())(z)

    logits = np.array([[lead, 0.0, 1.0] for lead in (60, 200, 1e4)], np.float32)
    direction = np.full((3, 3), [1.0, 2.0, 1.0], np.float32)
    curvature = jax.jit(lambda z, dz: jax.jvp(slope, (z,), (dz,))[1])
    assert_finite(curvature(logits, direction))
