"""The running averages of the examples' losses, and the weights by them, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata

from cyclical_jax.training.recipe import cyclical
from tests.techniques.helpers import CLASSES, cross_entropies, logits_of, step_and_state

pytestmark = pytest.mark.usefixtures("fast_compilation")


def test_a_running_average_weighs_the_examples_of_a_batch(batch):
    step, state = step_and_state(
        running_curriculum__average_decay=cyclical(0.5, 0.9),
        running_curriculum__preference=cyclical(4, -2),
        loss__temperature=2.0,  # the average is of the loss at 1
        num_train=8,
    )
    found = state.memory["running_curriculum"]
    np.testing.assert_allclose(found, np.full(8, np.log(CLASSES)), rtol=1e-6)
    so_far = np.float32([5, 1, 2, 2, 0, 7, 3, 4])
    batch |= {"index": np.array([7, 1, 2, 0, 3, 5]), "mask": np.float32([1, 1, 1, 1, 1, 0])}
    memory = {"running_curriculum": jnp.asarray(so_far)}
    new, metrics = step(state._replace(memory=memory), batch)
    logits = logits_of(state, batch["image"])
    ranks = (rankdata(so_far[batch["index"]]) - 0.5) / 6
    weights = np.exp(-ranks) / (1 - np.exp(-1))
    weights /= weights[:5].mean()
    expected = (weights * cross_entropies(logits / 2, batch["label"]))[:5].mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert metrics["average_decay"] == np.float32(0.7) and metrics["preference"] == 1
    averages = so_far.copy()
    seen = batch["index"][:5]
    averages[seen] = 0.7 * so_far[seen] + 0.3 * cross_entropies(logits, batch["label"])[:5]
    np.testing.assert_allclose(new.memory["running_curriculum"], averages, rtol=1e-5)
