"""Images without labels: their loss by hand, their batches, and where they come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from cyclical_jax import data
from cyclical_jax.data.batches import part_of
from cyclical_jax.techniques import semisupervised
from cyclical_jax.training import run as of_run
from cyclical_jax.training.earlier import Earlier, prepare
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.technique import Site, Spec
from tests.techniques.helpers import (
    CLASSES,
    SHAPE,
    assert_same,
    choices,
    cross_entropies,
    digits,
    logits_of,
    recipe,
    some_bytes,
    step_and_state,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")

ON = dict(semisupervised__unlabelled_weight=1.0, semisupervised__batch_size=8)


def test_labels_and_confident_predictions_make_the_loss(batch):
    step, state = step_and_state(
        semisupervised__unlabelled_weight=cyclical(0, 3),
        semisupervised__threshold=cyclical(0.0, 0.375),
        semisupervised__weak=(),
        semisupervised__strong=("flip",),
    )
    in_bytes, unlabelled = some_bytes()
    batch |= {"unlabelled": in_bytes, "mask": np.array([1, 1, 0, 1, 1, 0], np.float32)}
    _, metrics = step(state, batch)
    predicted, mirrored = (
        logits_of(state, images) for images in (unlabelled, unlabelled[:, :, ::-1])
    )
    is_taken = softmax(predicted, axis=-1).max(-1) >= 0.1875
    assert 0 < is_taken.sum() < 10
    labelled = cross_entropies(logits_of(state, batch["image"]), batch["label"])
    labelled = (labelled * batch["mask"]).sum() / 4

    # Which images are mirrored is random: the loss is that of one of the combinations.
    each = [is_taken * cross_entropies(v, predicted.argmax(-1)) for v in (predicted, mirrored)]
    combinations = labelled + 1.5 * choices(*each).mean(-1)
    assert np.abs(combinations - metrics["loss"]).min() < 1e-6
    assert metrics["unlabelled_weight"] == 1.5 and metrics["threshold"] == 0.1875
    assert metrics["confident"] == pytest.approx(is_taken.mean())
    assert metrics["num_examples"] == 4


def test_the_share_of_confident_predictions_is_of_the_weak_view():
    own = recipe(**ON).structure
    (values,) = (dict(own) for entry, own in own.techniques if entry is semisupervised.TECHNIQUE)
    site = Site(values, Spec(60, CLASSES, SHAPE), schedules={semisupervised.WEIGHT: None})
    (term,) = semisupervised.TECHNIQUE.part(site).terms
    ((name, measure),) = term.measures
    assert (name,) == semisupervised.TECHNIQUE.measures == ("confident",)
    views = {view: jnp.zeros((4, CLASSES)) for view in term.views}
    views["weak"] = views["weak"].at[0, 3].set(9.0)
    found = measure(*[views[view] for view in term.views], {}, {semisupervised.THRESHOLD: 0.9})
    np.testing.assert_array_equal(found, [True, False, False, False])


def test_without_operations_the_views_are_the_images(batch):
    step, state = step_and_state(
        semisupervised__unlabelled_weight=2.0,
        semisupervised__threshold=0.0,
        semisupervised__weak=(),
        semisupervised__strong=(),
    )
    in_bytes, unlabelled = some_bytes()
    _, metrics = step(state, batch | {"unlabelled": in_bytes})
    predicted = logits_of(state, unlabelled)
    labelled = cross_entropies(logits_of(state, batch["image"]), batch["label"]).mean()
    expected = labelled + 2 * cross_entropies(predicted, predicted.argmax(-1)).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_unlabelled_are_all_the_others():
    everything = data.load("digits").train["image"]
    train = data.load("digits", subset="balanced 60", unlabelled=True).train
    assert len(train["image"]) == 60 and len(train["unlabelled"]) == 1137
    both = np.concatenate([train["image"], train["unlabelled"]]).reshape(1197, -1)
    np.testing.assert_array_equal(np.sort(both, 0), np.sort(everything.reshape(1197, -1), 0))
    assert "unlabelled" not in data.load("digits", subset="balanced 60").train
    with pytest.raises(ValueError, match="unlabelled images are those that `subset` leaves out"):
        data.load("digits", unlabelled=True)


def test_what_the_subset_leaves_out_is_prepared_unless_it_is_there():
    prepared, earlier = prepare(recipe(**ON), digits(unlabelled=False))
    train = data.load("digits", subset="balanced 60", unlabelled=True).train
    assert_same(prepared.train, train)
    assert earlier == Earlier({"semisupervised": None}, None)
    kept, _ = prepare(recipe(**ON), digits())
    assert kept.train["unlabelled"] is digits().train["unlabelled"]


def test_unlabelled_batches_have_epochs_of_their_own():
    structure = recipe(**ON).structure
    select = of_run.select_of(structure, digits(), seed=0)
    found = select(start=0, stop=24)
    assert found["index"].shape == (24, 12) and found["unlabelled_index"].shape == (24, 8)
    for epoch in (found["unlabelled_index"][:12], found["unlabelled_index"][12:]):
        assert len(np.unique(epoch)) == 96  # 12 batches of 8 of 100
    assert not np.array_equal(found["unlabelled_index"][:12], found["unlabelled_index"][12:])
    as_many = digits()._replace(train=jax.tree.map(lambda array: array[:60], digits().train))
    own = of_run.select_of(structure, as_many, seed=0)(start=0, stop=5)
    assert not np.array_equal(own["index"].ravel()[:40], own["unlabelled_index"].ravel())
    later = select(start=7, stop=15)
    np.testing.assert_array_equal(later["unlabelled_index"], found["unlabelled_index"][7:15])
    halves = [part_of(found, number, 2)["unlabelled_index"] for number in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), found["unlabelled_index"])
