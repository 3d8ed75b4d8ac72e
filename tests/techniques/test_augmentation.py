"""Augmentation within a step, by hand: its strength, and all that is mixed with the images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from cyclical_jax import augment
from cyclical_jax.training.recipe import cyclical
from tests.techniques.helpers import (
    CLASSES,
    choices,
    cross_entropies,
    logits_of,
    step_and_state,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")


def test_class_weights_are_mixed_as_labels_are(batch):
    step, state = step_and_state(
        loss__class_weights="balanced", augment__operations=("mixup",), augment__strength=1.0
    )
    batch |= {"weight": np.arange(6, dtype=np.float32)}
    _, metrics = step(state, batch)
    key = jax.random.split(jax.random.fold_in(jax.random.fold_in(state.key, 0), 0), 2)[0]
    labels = {"label": jax.nn.one_hot(batch["label"], CLASSES), "weight": batch["weight"]}
    mixture = jax.random.split(key, 1)[0]
    images, mixed = augment.mixup(mixture, jnp.asarray(batch["image"]), labels, 1.0)
    log_p = log_softmax(logits_of(state, np.asarray(images)), axis=-1)
    expected = (-(mixed["label"] * log_p).sum(-1) * mixed["weight"]).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_the_strength_cycles_from_images_that_stay(batch):
    step, state = step_and_state(
        augment__operations=("flip",), augment__strength=cyclical(0, 1), count=0
    )
    mirrored = batch["image"][:, :, ::-1]
    each = [
        cross_entropies(logits_of(state, images), batch["label"])
        for images in (batch["image"], mirrored)
    ]
    found = []
    for count in (0, 2):
        _, metrics = step(state._replace(step=jnp.int32(count)), batch)
        assert metrics["strength"] == count / 2
        found.append(float(metrics["loss"]))
    assert found[0] == pytest.approx(each[0].mean(), rel=1e-5)
    assert found[1] != pytest.approx(each[0].mean(), rel=1e-3)
    assert np.abs(choices(*each).mean(-1) - found[1]).min() < 1e-5
