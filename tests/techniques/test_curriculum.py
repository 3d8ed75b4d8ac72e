"""Easy examples first: their weights by hand, and the ranks by an earlier run."""

import numpy as np
import pytest

from cyclical_jax.tasks.classification import as_batch
from cyclical_jax.training.earlier import Earlier, prepare, read_trained
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.recipe import cyclical
from tests.techniques.helpers import (
    cross_entropies,
    digits,
    logits_of,
    recipe,
    step_and_state,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")

KEY = "curriculum.scorer"


def test_weights_follow_ranks_and_classes(batch):
    step, state = step_and_state(curriculum__scorer="there", curriculum__preference=cyclical(4, -2))
    batch |= {
        "rank": np.linspace(0, 1, 6, dtype=np.float32),
        "weight": np.float32([1, 2, 1, 3, 0, 1]),
    }
    _, metrics = step(state, batch)
    losses = cross_entropies(logits_of(state, batch["image"]), batch["label"])
    easy_first = np.exp(-batch["rank"]) / (1 - np.exp(-1))
    expected = (losses * easy_first * batch["weight"]).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert metrics["preference"] == 1


def test_ranks_are_of_the_losses_of_the_earlier_run(earlier_runs):
    run = recipe(curriculum__scorer=earlier_runs["wide"])
    dataset, earlier = prepare(run, digits())
    scorer = read_trained(KEY, earlier_runs["wide"], digits(), run.catalogue)
    images, labels = as_batch({"image": digits().train["image"]})["image"], digits().train["label"]
    losses = cross_entropies(np.asarray(scorer.outputs(images)), labels)
    np.testing.assert_array_equal(np.argsort(dataset.train["rank"]), np.argsort(losses))
    assert earlier == Earlier({"curriculum": None}, None)


def test_ranks_that_are_there_are_kept():
    ranks = np.linspace(0, 1, 60, dtype=np.float32)
    given = digits()._replace(train=digits().train | {"rank": ranks})
    dataset, _ = prepare(recipe(curriculum__scorer="a run that is nowhere"), given)
    assert dataset.train["rank"] is ranks


def test_a_scorer_that_cannot_score_is_one_line_with_the_key(unfit):
    workdir, dataset, reason = unfit
    with pytest.raises(RecipeError) as caught:
        prepare(recipe(curriculum__scorer=workdir), dataset)
    message = str(caught.value)
    assert message.startswith(KEY) and "\n" not in message and workdir in message
    assert reason in message
