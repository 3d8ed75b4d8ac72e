"""Runs on photographs that are read as they are needed: the same run whoever reads them."""

import functools
import io
import itertools

import jax
import numpy as np
import PIL.Image
import pytest

from configs import imagenet
from cyclical_jax import data
from cyclical_jax.data import crops
from cyclical_jax.training import evaluation, loop, ways
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.keeper import Keeper, StoppedError
from cyclical_jax.training.population import Population
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.run import begin
from cyclical_jax.training.technique import spec_of
from tests.helpers import recipe_of, without_times

SIZE, CLASSES = 6, 4


def photograph(label, rng):
    """Classes differ in brightness; no two photographs are of one size."""
    height, width = rng.integers(9, 30, 2)
    pixels = rng.integers(0, 100, (height, width, 3)) + 50 * label
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return {"image": buffer.getvalue(), "label": label, "file_name": b"a.png"}


@functools.cache
def examples():
    rng = np.random.default_rng(0)
    return [photograph(int(label), rng) for label in rng.integers(0, CLASSES, 60)]


def dataset(broken=None):
    own = list(examples())
    if broken is not None:
        own[broken] = own[broken] | {"image": b""}
    stream = functools.partial(data.Stream, "here", functools.partial(list, own))
    return data.Dataset(
        stream(range(40), SIZE, True),
        stream(range(40, 53), SIZE, False),
        stream(range(53, 60), SIZE, False),
        num_classes=CLASSES,
    )


def recipe(**changes):
    small = dict(
        seed=5,
        dataset="imagenet2012",
        image_size=SIZE,
        batch_size=12,
        duration="3 epochs",
        log_every="2 steps",
        model__hidden_sizes=(6,),
        optimizer__max_norm=cyclical(0.5, 2.0),
    )
    return recipe_of(num_devices=2, **small | changes)


def train(run, source=None, **options):
    rows = []
    state = loop.train(run, source or dataset(), report=rows.append, **options)
    return jax.device_get(state._replace(key=0)), without_times(rows)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one[0], other[0])
    assert one[1] == other[1]


@pytest.mark.parametrize("remainder", ["drop", pytest.param("pad", marks=pytest.mark.slow)])
def test_any_number_of_workers_makes_the_same_run(remainder):
    run = recipe(remainder=remainder)
    state, rows = alone = train(run)
    assert len(rows) == 6 and rows[-1]["val_accuracy"] > 0
    assert_same(train(run, num_workers=2), alone)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    run, rows = recipe(log_every="7 steps", validate_every="9 steps"), []
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        asked = itertools.count()
        keeper = Keeper(checkpoints, is_stopping=lambda: next(asked) == 0)
        with pytest.raises(StoppedError):
            loop.train(run, dataset(), report=rows.append, keeper=keeper, num_workers=1)
        start = checkpoints.restore(begin(run, dataset()))
    assert int(start.state.micro_step) == 1 and int(start.totals.num_examples) == 12
    whole_state, whole_rows = train(run)
    state, rest = train(run, start=start)
    assert_same((state, rest), (whole_state, whole_rows[len(rows) :]))


def test_evaluation_is_that_of_the_cropped_images():
    state = begin(recipe(seed=0), dataset()).state
    cropped = {
        "image": np.stack([crops.centre_crop(e["image"], SIZE) for e in examples()[53:]]),
        "label": np.array([e["label"] for e in examples()[53:]], np.int32),
    }
    streamed, resident = (
        evaluation.evaluate(recipe().structure, spec_of(dataset()), state.evaluated, split)
        for split in (dataset().test, cropped)
    )
    assert streamed == resident and streamed["num_examples"] == 7


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_image_ends_the_run_with_its_name(num_workers):
    with pytest.raises(RuntimeError, match="example 17 of here, a.png, cannot be read"):
        train(recipe(), dataset(broken=17), num_workers=num_workers)


def test_the_way_is_said_or_chosen():
    assert ways.way_of(recipe(), dataset()) == "streamed"
    assert ways.way_of(recipe(loop="streamed"), dataset()) == "streamed"


@pytest.mark.parametrize(
    "changes, line",
    [
        (dict(image_size=None), "The images of 'imagenet2012' differ in size: set image_size"),
        (dict(dataset="cifar10"), "image_size must be None for 'cifar10', whose images have one"),
        (dict(loop="resident"), "loop must be None or 'streamed' for 'imagenet2012', got 'res"),
        (dict(image_size=0), "image_size must be a whole number from 1 to 4096, got 0."),
        (
            dict(subset="long_tailed 10 20"),
            "subset must be 'long_tailed N F' with a whole number N",
        ),
        (dict(subset="none.txt"), "subset 'none.txt': this file cannot be read: No such file"),
    ],
)
def test_what_cannot_be_is_one_line(changes, line):
    with pytest.raises(RecipeError) as error:
        recipe(**changes)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_a_population_needs_its_data_in_memory():
    with pytest.raises(RecipeError, match="loop is 'streamed' for imagenet2012"):
        Population(recipe(batch_size=12), dataset())


def test_the_config_of_imagenet_has_the_published_numbers():
    run = recipe_of(imagenet.get_config("all"), num_devices=4)
    own = {key: value for _, values in run.structure.entries for key, value in values}
    assert own["model.name"] == "tresnet_m" and run.structure.batch_size == 4 * 384
    assert run.numbers["optimizer.learning_rate"].easy == 0.6
    assert run.numbers["optimizer.weight_decay"].factor == 4
    assert data.num_train("imagenet2012", subset="long_tailed 700 100") == sum(
        int(round(700 * 100 ** (-k / 999), 9)) for k in range(1000)
    )
