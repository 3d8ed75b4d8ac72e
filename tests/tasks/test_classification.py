"""The loss by name, who is right, and the scores: loss, accuracy and calibration error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

import cyclical_jax as cj
from cyclical_jax.models import Model
from cyclical_jax.tasks.classification import TASK, Loss, as_loss, is_correct, task
from cyclical_jax.training.fields import RecipeError, knob
from cyclical_jax.training.technique import Site, Spec
from tests.helpers import calibration_error_by_hand

# ---- who is right

LOGITS = np.float32([[0, 2, 1], [3, 0, 1], [-1, -2, -3]])  # the classes 1, 0, 0


@pytest.mark.parametrize(
    "labels, expected",
    [
        (np.int32([1, 2, 0]), [1, 0, 1]),
        (np.int32([-1, -1, -1]), [0, 0, 0]),  # nobody's
        (np.float32([[0.2, 0.6, 0.2], [0.3, 0.3, 0.4], [0.4, 0.4, 0.2]]), [1, 0, 1]),  # a tie
        (np.float32([[0, 0, 0], [1, 0, 1], [0, 1, 1]]), [0, 1, 0]),  # no label, or several
        (np.int32([[0, 0, 0], [1, 0, 1], [0, 1, 1]]), [0, 1, 0]),
    ],
)
def test_right_is_the_label_or_one_of_the_likeliest(labels, expected):
    found = is_correct(jnp.asarray(LOGITS), jnp.asarray(labels))
    assert found.tolist() == expected and found.dtype == jnp.float32
    wide = is_correct(jnp.stack([LOGITS, LOGITS]), jnp.stack([labels, labels]))
    assert wide.tolist() == [expected, expected]


# ---- the loss


def site_of(name, schedules=None):
    return Site({"loss.name": name}, Spec(20, 3, (2, 2, 1)), schedules=schedules or {})


@pytest.mark.parametrize(
    "name, gammas, loss",
    [
        ("cross_entropy", {}, cj.softmax_cross_entropy),
        ("focal", {"gamma": 1.5}, cj.focal_loss),
        ("asymmetric_focal", {"gamma_pos": 1.5, "gamma_neg": 2.5}, cj.asymmetric_focal_loss),
        (
            "cyclical_focal",
            {"hardness": 0.3, "gamma_hc": 2.5, "gamma_pos": 1.5, "gamma_neg": 3.5},
            cj.cyclical_focal_loss,
        ),
    ],
)
def test_each_loss_gets_the_knobs_it_names(name, gammas, loss):
    knobs = {"temperature": 2.0, "label_smoothing": 0.2, **gammas}
    assert set(TASK.options["loss.name"][name]) == set(knobs)
    logits, labels = jnp.array([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]]), jnp.array([0, 2])
    values = {f"loss.{key}": value for key, value in knobs.items()} | {"loss.other": 7.0}
    (term,) = TASK.part(site_of(name)).terms
    actual = term.loss(logits, {"label": labels}, values)
    np.testing.assert_allclose(actual, loss(logits, labels, **knobs), rtol=1e-5)
    ((measure, accuracy),) = term.measures
    soft = 0.6 * jax.nn.one_hot(labels, 3) + 0.4 / 3
    assert measure == "accuracy" == TASK.measures[0]
    for of in (labels, soft):
        assert accuracy(logits, {"label": of}, values).tolist() == [0, 1]


def test_a_loss_of_somebody_else_brings_its_own_knobs():
    def hinge(logits, labels, temperature, reach):
        return reach * temperature + 0 * logits[:, 0]

    own = as_loss("hinge", Loss(hinge, {"loss.reach": knob(1.0, "reach")}))
    mine = task({"hinge": own})
    assert own.knobs == ("temperature", "reach") == mine.options["loss.name"]["hinge"]
    assert "loss.reach" in mine.keys and "loss.reach" not in TASK.keys
    (term,) = mine.part(site_of("hinge")).terms
    values = {"loss.temperature": 2.0, "loss.reach": 3.0}
    assert term.loss(jnp.ones((2, 3)), {"label": jnp.array([0, 1])}, values).tolist() == [6, 6]
    with pytest.raises(RecipeError, match="loss 'hinge' takes 'reach', which has no key"):
        as_loss("hinge", hinge)
    with pytest.raises(RecipeError, match="loss 'no' must be a function or a Loss, got 3."):
        as_loss("no", 3)


# ---- the scores


MODEL = Model(None, lambda params, state, image, train: (params, state))  # gives its parameters


def score_logits(logits, label, mask):
    """The scores of a model that gives these logits, in batches of 8."""
    sums = jax.jit(lambda *inputs: TASK.sums(site_of("focal"), MODEL, inputs[:2], inputs[2]))
    found = []
    for start in range(0, len(label), 8):
        part = slice(start, start + 8)
        batch = {"image": np.zeros((8, 1, 1, 1)), "label": label[part], "mask": mask[part]}
        found.append(sums(logits[part], {}, batch))
    return TASK.scores(jax.device_get(found))


def test_loss_and_accuracy_are_means_of_what_is_no_padding():
    """The loss is the plain cross entropy, whatever is learned."""
    rng = np.random.default_rng(6)
    logits, label = rng.normal(size=(24, 3)).astype(np.float32), rng.integers(0, 3, 24)
    mask = (rng.uniform(size=24) > 0.3).astype(np.float32)
    scores = score_logits(logits, label, mask)
    losses = logsumexp(logits, axis=-1) - logits[np.arange(24), label]
    assert scores["loss"] == pytest.approx(losses[mask > 0].mean(), rel=1e-5)
    assert scores["accuracy"] == pytest.approx((logits.argmax(-1) == label)[mask > 0].mean())
    assert scores["num_examples"] == mask.sum() < 24 and TASK.worth(scores) == scores["accuracy"]
    soft = 0.6 * np.eye(3, dtype=np.float32)[label] + 0.4 / 3
    assert score_logits(logits, soft, mask)["accuracy"] == scores["accuracy"]


def logits_of(confidences, num_classes=2):
    """Of class 1, in float32; the others share what is left."""
    confidences = np.asarray(confidences, np.float64)
    rest = np.log((1 - confidences) / (num_classes - 1))
    logits = np.repeat(rest[:, None], num_classes, 1)
    logits[:, 1] = np.log(confidences)
    return logits.astype(np.float32)


def test_the_calibration_error_is_as_published():
    """With padding that is sure of itself, half of the time wrongly; bins of several batches."""
    rng = np.random.default_rng(4)
    confidence, is_right = rng.uniform(0.34, 0.99, 48), rng.integers(0, 3, 48) > 0
    mask = (rng.uniform(size=48) > 0.3).astype(np.float32)
    confidence[mask == 0] = 0.999
    label = np.where(is_right, 1, 2).astype(np.int32)
    scores = score_logits(logits_of(confidence, num_classes=3), label, mask)
    expected = calibration_error_by_hand(confidence[mask > 0], is_right[mask > 0])
    assert scores["calibration_error"] == pytest.approx(expected, rel=1e-5)
    assert scores["num_examples"] == mask.sum() < 48


def test_what_is_as_often_right_as_it_is_sure_is_calibrated():
    """In bins of four, five and three examples; the first ones come in two batches."""
    confidence = np.repeat([0.75, 0.6, 2 / 3, 0.75], [2, 5, 3, 2])
    is_right = np.array([1, 1] + [1, 0, 1, 0, 1] + [1, 0, 1] + [1, 0])
    padding = np.zeros(4)
    confidence, label = np.append(confidence, padding + 0.9), np.append(is_right, padding)
    mask = np.repeat([1, 0], [12, 4]).astype(np.float32)
    scores = score_logits(logits_of(confidence), label.astype(np.int32), mask)
    assert scores["calibration_error"] == pytest.approx(0, abs=1e-6)
    # All are wrong now: it is the mean confidence.
    scores = score_logits(logits_of(confidence), 0 * label.astype(np.int32), mask)
    assert scores["calibration_error"] == pytest.approx(confidence[:12].mean(), rel=1e-5)


@pytest.mark.parametrize("is_right", [True, False])
def test_a_confidence_of_one_is_in_the_last_bin(is_right):
    """With one of 0.95, in the same bin: gaps of opposite sign cancel."""
    logits = np.concatenate([np.float32([[0, 200]] * 6), logits_of([0.95, 0.95])])
    label = np.repeat([is_right, not is_right], [6, 2]).astype(np.int32)
    scores = score_logits(logits, label, np.ones(8, np.float32))
    confidence = np.repeat([1, 0.95], [6, 2])
    expected = abs((label - confidence).mean())
    assert scores["calibration_error"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("num_classes", [3, 5])
def test_an_edge_belongs_to_the_bin_below_it(num_classes):
    """Equal logits have the confidence 1 / classes, the edge of a bin: 5/15, 3/15.

    The others are wrong and in the bin above: gaps would cancel if the edge fell into that one.
    """
    logits = np.zeros((8, num_classes), np.float32)
    above = 1 / num_classes + 0.03
    logits[4:] = logits_of(np.full(4, above), num_classes)
    label = np.repeat([0, 2], 4).astype(np.int32)
    scores = score_logits(logits, label, np.ones(8, np.float32))
    expected = ((1 - 1 / num_classes) + above) / 2
    assert scores["calibration_error"] == pytest.approx(expected, rel=1e-5)
