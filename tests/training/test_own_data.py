"""What a config with data of the user's own is told, before anything is loaded."""

import os

import numpy as np
import PIL.Image
import pytest

from cyclical_jax import data
from cyclical_jax.catalogue import CATALOGUE, parse
from cyclical_jax.data import dataset as datasets
from cyclical_jax.training import recipe as recipes
from cyclical_jax.training import run
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.inputs import identities
from cyclical_jax.training.recipe import cyclical, load_dataset
from tests.helpers import config_of

LABELS = np.arange(60) % 3
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 1), np.uint8)


@pytest.fixture
def images(tmp_path):
    np.savez(tmp_path / "images.npz", image=IMAGES, label=LABELS)
    return f"npz:{tmp_path / 'images.npz'}"


@pytest.fixture
def table(tmp_path):
    features = np.random.default_rng(0).normal(size=(60, 5))
    np.savez(tmp_path / "table.npz", image=features, label=LABELS)
    return f"npz:{tmp_path / 'table.npz'}"


@pytest.fixture
def folder(tmp_path):
    for index, image in enumerate(IMAGES):
        path = tmp_path / "folder" / str(index % 3) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image[..., 0]).resize((5, 4)).save(path)
    return f"folder:{tmp_path / 'folder'}"


def lines_of(**changes):
    with pytest.raises(RecipeError) as error:
        parse(config_of(None, batch_size=8, **changes))
    return str(error.value).splitlines()


def test_what_is_not_there_is_a_line_beside_all_other_problems(tmp_path):
    name = f"npz:{tmp_path}/mine.npz"
    lines = lines_of(
        dataset=name,
        optimizer__momentum=2,
        subset="balanced 9",
        loss__class_weights=(1, 2),
        semisupervised__unlabelled_weight=1.0,
    )
    assert lines[0].startswith("optimizer.momentum must be")
    assert lines[1:] == [f"dataset {name!r}: there is no file {tmp_path}/mine.npz."]


def test_every_problem_of_a_file_is_a_line(tmp_path):
    np.savez(tmp_path / "mine.npz", image=IMAGES > 3, label=LABELS[:9])
    lines = lines_of(dataset=f"npz:{tmp_path}/mine.npz", seed=-1)
    assert len(lines) == 3 and lines[0].startswith("seed ")
    assert all(line.startswith(f"dataset 'npz:{tmp_path}/mine.npz': ") for line in lines[1:])


def test_what_it_needs_to_know_is_that_of_the_file(images, table):
    (line,) = lines_of(dataset=images, loss__class_weights=(1, 2))
    assert line == f"loss.class_weights must have 3 numbers for {images!r}, got 2."
    (line,) = lines_of(dataset=images, subset="balanced 60")
    assert line == f"subset 'balanced 60' has 60 examples, but {images} has 48 to train on."
    (line,) = lines_of(dataset=images, image_size=8)
    assert line == f"image_size must be None for {images!r}, whose images have one, got 8."
    parse(config_of(None, dataset=images, loss__class_weights="balanced", subset="balanced 9"))


def test_tables_have_no_height_and_width(table):
    (line,) = lines_of(dataset=table, augment__operations=("flip",), augment__strength=1.0)
    assert line == f"augment.strength must be None for {table!r}: it needs images, not a table."
    changes = {"semisupervised__unlabelled_weight": 1.0, "subset": "balanced 9"}
    (line,) = lines_of(dataset=table, semisupervised__batch_size=8, **changes)
    assert line.startswith(f"semisupervised.unlabelled_weight must be None for {table!r}")


def test_a_network_for_images_does_not_take_a_table(table):
    (line,) = lines_of(dataset=table, model__name="cnn")
    assert line == f"model.name must be 'mlp' for {table!r}, a table, got 'cnn'."


def test_what_is_streamed_is_known(folder, monkeypatch):
    parse(config_of(None, dataset=folder, loss__class_weights="balanced"))
    monkeypatch.setattr(datasets, "RESIDENT_BYTES", 100)
    (line,) = lines_of(dataset=folder)
    assert "too much to keep in memory: set image_size, e.g. to" in line
    sized = {"dataset": folder, "image_size": 4}
    assert parse(config_of(None, **sized)).dataset == folder
    (line,) = lines_of(**sized, loop="resident")
    assert line == f"loop must be None or 'streamed' for {folder!r}, got 'resident'."
    (line,) = lines_of(**sized, loss__class_weights="balanced")
    start = "loss.class_weights needs a dataset that fits in memory; leave it at None for "
    assert line == f"{start}{folder!r}."


def test_a_recipe_of_data_that_is_gone_can_be_read(tmp_path):
    config = config_of(None, dataset=f"csv:{tmp_path}/gone.csv", loss__class_weights=(1, 2))
    recipe = recipes.parse(CATALOGUE, config, needs_data=False)
    assert recipe.dataset == config.dataset
    with pytest.raises(data.DatasetNotFoundError, match="there is no file"):
        load_dataset(recipe)


def test_a_problem_that_only_loading_shows_is_a_line_without_quotes(tmp_path):
    np.savez(tmp_path / "mine.npz", image=IMAGES * 2.0 + np.inf, label=LABELS)
    recipe = parse(config_of(None, dataset=f"npz:{tmp_path}/mine.npz"))
    with pytest.raises(RecipeError) as error:
        load_dataset(recipe)
    line = f"dataset 'npz:{tmp_path}/mine.npz': image must be finite, got inf in example 0 and 959 "
    assert str(error.value) == f"{line}more."


def test_the_content_of_a_file_and_the_files_of_a_folder_tell_it_apart(images, folder, tmp_path):
    def of(name):
        return identities(parse(config_of(None, dataset=name, batch_size=8)))

    before = of(images)
    assert before.keys() == {"dataset"} and before["dataset"].startswith("content ")
    (tmp_path / "copy.npz").write_bytes((tmp_path / "images.npz").read_bytes())
    assert of(f"npz:{tmp_path / 'copy.npz'}") == before
    np.savez(tmp_path / "images.npz", image=255 - IMAGES, label=LABELS)
    assert of(images) != before
    before = of(folder)
    assert before["dataset"].startswith("files ") and of(folder) == before
    os.utime(tmp_path / "folder" / "1" / "1.png", ns=(1, 1))
    assert of(folder) != before


@pytest.mark.parametrize("value", [0.1, cyclical(0.05, 0.2)])
def test_a_table_may_cycle_as_images_do(table, value):
    config = config_of(None, dataset=table, batch_size=8, optimizer__learning_rate=value)
    recipe = parse(config)
    assert run.plan(recipe, load_dataset(recipe), num_devices=1).total_steps == 240


@pytest.mark.parametrize("word", ["brightness", "mix"])
def test_what_needs_to_know_black_is_a_line_for_floats(word):
    floats = {"image": IMAGES / np.float32(255), "label": LABELS}
    dataset = data.Dataset(floats, floats, floats, num_classes=3)
    changes = {"augment.operations": ("flip", word), "augment.strength": 0.5}
    recipe = parse(config_of(None, changes, batch_size=8))
    with pytest.raises(RecipeError) as error:
        run.begin(recipe, dataset)
    line = f"augment.operations has {word}, which needs images of bytes, whose black is known: use"
    assert str(error.value).startswith(line) and len(str(error.value).splitlines()) == 1
    as_bytes = {"image": IMAGES, "label": LABELS}
    run.begin(recipe, data.Dataset(as_bytes, as_bytes, as_bytes, num_classes=3))
