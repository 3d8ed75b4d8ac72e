"""A teacher: its loss by hand, when it is asked, and one that cannot teach."""

import numpy as np
import pytest

from cyclical_jax.tasks.classification import as_batch
from cyclical_jax.training.earlier import Earlier, TrainedModel, prepare, read_trained
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.recipe import cyclical
from tests.techniques.helpers import (
    CLASSES,
    assert_same,
    choices,
    cross_entropies,
    digits,
    divergences,
    logits_of,
    recipe,
    step_and_state,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")

KEY = "distillation.teacher"
CHANGING = dict(augment__operations=("flip",), augment__strength=1.0)


def teacher_of(earlier_runs) -> TrainedModel:
    run = recipe(distillation__teacher=earlier_runs["plain"])
    return read_trained(KEY, earlier_runs["plain"], digits(), run.catalogue)


def test_a_teacher_leads_and_falls_silent(batch):
    step, state = step_and_state(
        distillation__teacher="there",
        distillation__teacher_weight=cyclical(0.9, 0.3),
        distillation__teacher_temperature=cyclical(1, 5),
    )
    teacher = np.random.default_rng(1).normal(size=(6, CLASSES)).astype(np.float32)
    _, metrics = step(state, batch | {"teacher": teacher})
    logits = logits_of(state, batch["image"])
    labelled = cross_entropies(logits, batch["label"])
    expected = 0.4 * labelled + 0.6 * divergences(teacher, logits, 3.0)
    np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-5)


def test_a_teacher_that_is_asked_sees_the_changed_images(batch, earlier_runs):
    teacher = teacher_of(earlier_runs)
    step, state = step_and_state(
        distillation__teacher="there",
        distillation__teacher_weight=1.0,
        distillation__teacher_temperature=1.0,
        given={"distillation": teacher},
        **CHANGING,
    )
    _, metrics = step(state, batch)
    views = batch["image"], batch["image"][:, :, ::-1]
    own = [(np.asarray(teacher.outputs(images)), logits_of(state, images)) for images in views]
    losses = choices(*(divergences(*logits) for logits in own)).mean(-1)
    assert np.abs(losses - metrics["loss"]).min() < 1e-5


def test_logits_are_made_once_where_images_do_not_change(earlier_runs):
    own = dict(distillation__teacher=earlier_runs["plain"])
    dataset, earlier = prepare(recipe(**own), digits())
    assert earlier == Earlier({"distillation": None}, None)
    teacher = teacher_of(earlier_runs)
    images = as_batch({"image": digits().train["image"]})["image"]
    np.testing.assert_allclose(
        dataset.train["teacher"], teacher.outputs(images), rtol=1e-4, atol=1e-5
    )
    dataset, earlier = prepare(recipe(**own, **CHANGING), digits())
    assert "teacher" not in dataset.train
    assert_same(earlier.given["distillation"].variables, teacher.variables)


def test_a_teacher_of_another_library_gives_its_logits_by_hand(batch):
    logits = np.random.default_rng(1).normal(size=(60, CLASSES)).astype(np.float32)
    given = digits()._replace(train=digits().train | {"teacher": logits})
    run = recipe(distillation__teacher="a run that is nowhere")
    dataset, earlier = prepare(run, given)
    assert dataset.train["teacher"] is logits
    assert earlier == Earlier({"distillation": None}, None)
    with pytest.raises(RecipeError, match=KEY):  # they do not follow images that change
        prepare(recipe(distillation__teacher="nowhere", **CHANGING), given)


def test_a_teacher_that_cannot_teach_is_one_line_with_the_key(unfit):
    workdir, dataset, reason = unfit
    with pytest.raises(RecipeError) as caught:
        prepare(recipe(distillation__teacher=workdir), dataset)
    message = str(caught.value)
    assert message.startswith(KEY) and "\n" not in message and workdir in message
    assert reason in message


def test_a_network_of_other_widths_may_teach(earlier_runs):
    dataset, _ = prepare(recipe(distillation__teacher=earlier_runs["wide"]), digits())
    assert dataset.train["teacher"].shape == (60, CLASSES)
