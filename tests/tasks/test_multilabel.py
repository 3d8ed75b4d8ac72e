"""Labels of several classes: the loss by name, and scores of one sigmoid a class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import cyclical_jax as cj
from cyclical_jax.models import Model
from cyclical_jax.tasks.multilabel import TASK, multi_hot
from cyclical_jax.training.technique import Site, Spec

KNOBS = {"gamma_pos": 1.5, "gamma_neg": 2.5, "margin": 0.1}
INDICES = np.int32([0, 2, 1, -1])
SEVERAL = np.float32([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
LOGITS = np.float32([[1, 2, -1], [0, 0.5, 3], [0, 1, 0.5], [2, 0, 1]])  # the classes 1, 2, 1, 0


def site_of(name):
    return Site({"multilabel.loss": name}, Spec(20, 3, (2, 2, 1)))


@pytest.mark.parametrize(
    "name, loss, knobs",
    [
        ("asymmetric", cj.asymmetric_multilabel_loss, KNOBS),
        ("cyclical", cj.cyclical_multilabel_loss, KNOBS | {"hardness": 0.3, "gamma_hc": 2.5}),
    ],
)
def test_each_loss_gets_the_knobs_it_names(name, loss, knobs):
    assert set(TASK.options["multilabel.loss"][name]) == set(knobs)
    values = {f"multilabel.{key}": value for key, value in knobs.items()}
    (term,) = TASK.part(site_of(name)).terms
    ((measure, accuracy),) = term.measures
    assert measure == "accuracy" == TASK.measures[0]
    hot = np.eye(3, dtype=np.float32)[INDICES] * (INDICES >= 0)[:, None]
    for labels, as_hot, right in ((SEVERAL, SEVERAL, [0, 1, 1, 0]), (INDICES, hot, [0, 1, 1, 0])):
        found = term.loss(jnp.asarray(LOGITS), {"label": jnp.asarray(labels)}, values)
        np.testing.assert_allclose(found, loss(LOGITS, as_hot, **knobs), rtol=1e-5)
        assert accuracy(jnp.asarray(LOGITS), {"label": jnp.asarray(labels)}, {}).tolist() == right


def test_an_index_is_one_class_against_all_others():
    logits = jnp.zeros((4, 3))
    np.testing.assert_array_equal(multi_hot(jnp.asarray(INDICES), logits)[:3], np.eye(3)[[0, 2, 1]])
    assert multi_hot(SEVERAL, logits) is SEVERAL
    dense = multi_hot(jnp.zeros((2, 5), jnp.int32), jnp.zeros((2, 5, 3)))
    assert dense.shape == (2, 5, 3) and (dense[..., 0] == 1).all()


def test_scores_are_means_of_what_is_no_padding():
    """The loss is the binary cross entropy, summed over the classes; a confidence is a sigmoid."""
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(24, 3)).astype(np.float32)
    labels = rng.integers(0, 2, (24, 3)).astype(np.float32)
    mask = (rng.uniform(size=24) > 0.3).astype(np.float32)
    model = Model(None, lambda params, state, image, train: (params, state))
    sums = []
    for start in range(0, 24, 8):
        part = slice(start, start + 8)
        batch = {"image": np.zeros((8, 1, 1, 1)), "label": labels[part], "mask": mask[part]}
        sums.append(TASK.sums(site_of("cyclical"), model, (logits[part], {}), batch))
    scores = TASK.scores(jax.device_get(sums))
    p, real = expit(logits.astype(float)), mask > 0
    losses = -(labels * np.log(p) + (1 - labels) * np.log1p(-p)).sum(-1)
    right = labels[np.arange(24), logits.argmax(-1)]
    bins, gaps = np.ceil(p.max(-1) * 15), (right - p.max(-1))
    error = sum(abs(gaps[real & (bins == one)].sum()) for one in range(1, 16)) / real.sum()
    expected = dict(loss=losses[real].mean(), accuracy=right[real].mean(), calibration_error=error)
    assert scores == pytest.approx(expected | {"num_examples": real.sum()}, rel=1e-5)
    assert TASK.worth(scores) == scores["accuracy"]
