"""A dataset that anyone may have made by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cyclical_jax import data, losses
from cyclical_jax.catalogue import extended, parse
from cyclical_jax.models import from_linen
from cyclical_jax.tasks.classification import as_batch
from cyclical_jax.training import evaluation, loop, run
from cyclical_jax.training.devices import place
from cyclical_jax.training.earlier import prepare
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.population import Population
from cyclical_jax.training.technique import IMAGES, LossTerm, Part, Task, spec_of
from tests.helpers import bright_classes, config_of

WHOLE = bright_classes(40, 12, 12)
BOTH = "train['image'] and train['label']"
IMAGE, LABEL = WHOLE.train["image"], WHOLE.train["label"]


def with_train(**arrays):
    return WHOLE._replace(train={**WHOLE.train, **arrays})


def soft(labels, classes=4):
    return np.eye(classes, dtype=np.float32)[labels]


def nan_at(place):
    image = IMAGE.astype(np.float32)
    image[place] = np.nan
    return image


SOUND = {
    "as it is": WHOLE,
    "floats": WHOLE._replace(
        **{
            split: {"image": one["image"] / 255.0, "label": one["label"]}
            for split, one in zip(("train", "validation", "test"), WHOLE[:3], strict=True)
        }
    ),
    "bfloat16": WHOLE._replace(
        **{
            split: {"image": jnp.asarray(one["image"], jnp.bfloat16), "label": one["label"]}
            for split, one in zip(("train", "validation", "test"), WHOLE[:3], strict=True)
        }
    ),
    "jax arrays": with_train(image=jnp.asarray(IMAGE), label=jnp.asarray(LABEL)),
    "labels of 64 bits": with_train(label=LABEL.astype(np.int64)),
    "labels as bytes": with_train(label=LABEL.astype(np.uint8)),
    "soft labels": with_train(label=soft(LABEL)),
    "more entries": with_train(unlabelled=IMAGE[:7], further=LABEL),
    "no validation": WHOLE._replace(
        validation={key: array[:0] for key, array in WHOLE.validation.items()}
    ),
    "class names": WHOLE._replace(class_names=tuple("abcd")),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_can_be_learned_passes(name):
    data.check(SOUND[name])


WRONG = {
    "train['further'] must be numbers [examples, ...], got |S3 of shape [40].": with_train(
        further=np.array([b"cat"] * 40)
    ),
    "train['further'] must be numbers [examples, ...], got object of shape [40].": with_train(
        further=np.array([None] * 40)
    ),
    "train['further'] must be numbers [examples, ...], got float64 of shape [].": with_train(
        further=np.array(1.0)
    ),
    f"{BOTH} must be equally many, got 20 examples and 40 labels.": with_train(image=IMAGE[:20]),
    f"{BOTH} must be equally many, got 40 examples and 10 labels.": with_train(label=LABEL[:10]),
    "dataset must be a `Dataset`, got a tuple.": tuple(WHOLE),
    "dataset must be a `Dataset`, got None.": None,
    "num_classes must be a whole number from 1, got 0.": WHOLE._replace(num_classes=0),
    "num_classes must be a whole number from 1, got 2.5.": WHOLE._replace(num_classes=2.5),
    "class_names must be 4 names, got 1.": WHOLE._replace(class_names=("a",)),
    "validation must be a dict of arrays, image and label, or a `Stream`, got None. A split "
    "without examples has arrays of length 0.": WHOLE._replace(validation=None),
    "test must be a dict of arrays, image and label, or a `Stream`, got a tuple. A split without "
    "examples has arrays of length 0.": WHOLE._replace(test=(IMAGE, LABEL)),
    "train must have 'label', got 'image', 'labels'.": WHOLE._replace(
        train={"image": IMAGE, "labels": LABEL}
    ),
    "train['image'] must be an array, got a list.": with_train(image=IMAGE.tolist()),
    "train['label'] must be an array, got a list.": with_train(label=LABEL.tolist()),
    "train['further'] must be an array, got a list.": with_train(further=[1]),
    "train must have examples, got none.": with_train(image=IMAGE[:0], label=LABEL[:0]),
    "train['image'] must be uint8 or floats, got int32: use astype(np.uint8) for bytes, or floats, "
    "which are used as they are.": with_train(image=IMAGE.astype(np.int32)),
    "train['image'] must be [examples, ...], got shape [40].": with_train(image=IMAGE[:, 0, 0, 0]),
    "train['image'] must be finite, got nan in example 3 and 8 more.": with_train(image=nan_at(3)),
    "train['image'] must be finite, got inf in example 39.": with_train(
        image=np.where(np.arange(360).reshape(40, 3, 3, 1) == 358, np.inf, 1.0)
    ),
    "train['label'] must be 0 to 3, got -1 to 3.": with_train(
        label=np.where(LABEL == 1, -1, LABEL)
    ),
    "train['label'] must be 0 to 3, got 0 to 4.": with_train(label=np.where(LABEL == 1, 4, LABEL)),
    "train['label'] must be 0 to 3, got 0 to 9.": with_train(label=np.stack([LABEL, 3 * LABEL], 1)),
    "train['label'] must be finite, got nan in example 0 and 159 more.": with_train(
        label=soft(LABEL) * np.nan
    ),
    "train['label'] must be whole numbers [examples, ...], or floats [examples, ..., 4], got "
    "float64 of shape [40].": with_train(label=LABEL * 1.0),
    "train['label'] must be whole numbers [examples, ...], or floats [examples, ..., 4], got "
    "float32 of shape [40, 5].": with_train(label=soft(LABEL, 5)),
    "train['label'] must be whole numbers [examples, ...], or floats [examples, ..., 4], got bool "
    "of shape [40, 3, 3].": with_train(label=IMAGE[..., 0] > 9),
    "train['label'] must be whole numbers [examples, ...], or floats [examples, ..., 4], got int64 "
    "of shape [].": with_train(label=np.array(3)),
    "the images of all splits must be bytes, or all floats, got train floats, validation bytes, "
    "test bytes.": with_train(image=IMAGE / 255.0),
    "the images of all splits must have one shape, got train [3, 2, 1], validation [3, 3, 1], "
    "test [3, 3, 1].": with_train(image=IMAGE[:, :, :2]),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_cannot_be_learned_is_a_line(line):
    with pytest.raises(ValueError) as error:
        data.check(WRONG[line])
    assert str(error.value) == line


def test_all_problems_are_told_at_once():
    wrong = with_train(label=LABEL - 1)._replace(validation=None, test={"image": IMAGE})
    assert len(list(data.problems(wrong))) == 3


PIXELS = IMAGE[..., 0].astype(np.int32) % 4

# What is sound, but no classes of whole images: {the line of our tasks: the dataset}.
OF_OTHER_TASKS = {
    "train['label'] must be whole numbers [examples], or floats [examples, 4] from 0 to 1, got "
    "int32 of shape [40, 3, 3].": with_train(label=PIXELS),
    "train['label'] must be whole numbers [examples], or floats [examples, 4] from 0 to 1, got "
    "float32 of shape [40, 3, 3, 4].": with_train(label=soft(PIXELS)),
    "train['label'] must be whole numbers [examples], or floats [examples, 4] from 0 to 1, got "
    "int32 of shape [40, 1].": with_train(label=LABEL[:, None]),
    "train['label'] must be 0 to 1, got 0.0 to 2.0.": with_train(label=soft(LABEL) * 2),
    "train['label'] must be 0 to 1, got -1.0 to 0.0.": with_train(label=soft(LABEL) - 1),
}


@pytest.mark.parametrize("line", OF_OTHER_TASKS)
def test_what_another_task_may_learn_passes(line):
    data.check(OF_OTHER_TASKS[line])


SMALL = dict(batch_size=4, duration="2 steps", model__hidden_sizes=(4,))


def recipe(task="classification"):
    return parse(config_of(None, task__name=task, **SMALL))


ENTRANCES = {
    "train": lambda wrong: loop.train(recipe(), wrong, report=lambda row: None),
    "plan": lambda wrong: run.plan(recipe(), wrong),
    "begin": lambda wrong: run.begin(recipe(), wrong),
    "prepare": lambda wrong: prepare(recipe(), wrong),
    "population": lambda wrong: Population(recipe(), wrong),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("line", WRONG)
def test_a_dataset_is_checked_wherever_it_enters(entrance, line):
    with pytest.raises(RecipeError) as error:
        ENTRANCES[entrance](WRONG[line])
    assert str(error.value).splitlines()[0] == line


@pytest.mark.parametrize("task", ["classification", "multilabel"])
@pytest.mark.parametrize("line", OF_OTHER_TASKS)
def test_what_our_tasks_cannot_learn_is_a_line(task, line):
    wrong, made = OF_OTHER_TASKS[line], recipe(task)
    for enter in (run.plan, prepare):
        with pytest.raises(RecipeError) as error:
            enter(made, wrong)
        assert str(error.value) == line
    variables = place(run.begin(made, WHOLE).state.evaluated)
    with pytest.raises(RecipeError) as error:
        evaluation.evaluate(made.structure, spec_of(WHOLE), variables, wrong.train)
    assert str(error.value) == line.replace("train", "the split")


def test_every_split_is_one_that_the_task_can_learn():
    wrong = {split: {**getattr(WHOLE, split)} for split in ("validation", "test")}
    for arrays in wrong.values():
        arrays["label"] = arrays["label"][:, None]
    with pytest.raises(RecipeError) as error:
        run.plan(recipe(), WHOLE._replace(**wrong))
    assert [line.partition("[")[0] for line in str(error.value).splitlines()] == [*wrong]


def scores_of_pixels(sums):
    names = ("loss", "accuracy", "number")
    loss, right, number = (float(np.sum([of[name] for of in sums])) for name in names)
    return {"loss": loss / number, "accuracy": right / number}


def pixels():
    """A task that tells the class of each pixel."""

    def loss(logits, batch):
        return losses.softmax_cross_entropy(logits, batch["label"]).mean((1, 2))

    def sums(site, model, variables, batch):
        logits, _ = model.apply(*variables, batch["image"], train=False)
        right, mask = (logits.argmax(-1) == batch["label"]).mean((1, 2)), batch["mask"]
        found = {"loss": loss(logits, batch), "accuracy": right, "number": 1.0}
        return {name: (values * mask).sum() for name, values in found.items()}

    term = LossTerm(lambda logits, batch, values: loss(logits, batch))
    return Task(
        "pixels",
        {},
        lambda site: Part(terms=(term,)),
        model=lambda site, before: from_linen(nn.Conv(site.spec.num_outputs, (1, 1))),
        offers=frozenset({IMAGES}),
        as_batch=as_batch,
        sums=sums,
        scores=scores_of_pixels,
        judged_by=("accuracy", "max"),
    )


def test_a_task_of_ones_own_learns_a_class_for_each_pixel():
    bright = [{**one, "label": (one["image"][..., 0] > 127).astype(np.int32)} for one in WHOLE[:3]]
    catalogue = extended(tasks=(pixels(),))
    changes = {"task.name": "pixels", "duration": "20 epochs", "optimizer.learning_rate": 0.5}
    config, rows = config_of(None, changes, batch_size=4), []
    dataset = data.Dataset(*bright, num_classes=2)
    loop.train(parse(config, catalogue=catalogue), dataset, report=rows.append)
    assert rows[-1]["val_accuracy"] > 0.9


def test_a_split_is_checked_where_it_is_evaluated():
    made, spec = recipe(), spec_of(WHOLE)
    variables = place(run.begin(made, WHOLE).state.evaluated)

    def line_of(**arrays):
        split = {**WHOLE.test, **arrays}
        with pytest.raises(RecipeError) as error:
            evaluation.evaluate(made.structure, spec, variables, split)
        return str(error.value)

    image, label = WHOLE.test["image"], WHOLE.test["label"]
    assert line_of(label=label[:3]).endswith(" must be equally many, got 12 examples and 3 labels.")
    assert line_of(label=label + 9) == "the split['label'] must be 0 to 3, got 9 to 12."
    assert line_of(image=image[:0], label=label[:0]) == "the split must have examples, got none."
    assert line_of(image=image[:, :2]) == "the split's examples must be [3, 3, 1], got [2, 3, 1]."
    scores = evaluation.evaluate(made.structure, spec, variables, WHOLE.test)
    assert scores["num_examples"] == 12
