"""A run is loaded without its dataset, and gives what a plain forward pass gives."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cyclical_jax
from cyclical_jax import data, load_run, trained
from cyclical_jax.catalogue import CATALOGUE, default_config, parse, with_plugins
from cyclical_jax.data import Dataset, Normalisation
from cyclical_jax.training import loop, workdirs
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.earlier import read_trained
from cyclical_jax.training.facts import facts_of, read_facts
from cyclical_jax.training.files import CHECKPOINTS, DATASET, WorkdirError
from cyclical_jax.training.keeper import Keeper
from tests.helpers import CLASSES, bright_classes, config_of, stored

pytestmark = pytest.mark.usefixtures("fast_compilation")

ROOT = Path(__file__).parents[1]
DENOISING = ROOT / "examples" / "plugins" / "denoising.py"
NAMES = ("dark", "dim", "light", "bright")
MLP = {"model.hidden_sizes": (5,), "batch_size": 20, "duration": "3 epochs"}
MEAN, STD = np.array([2000.0, -5.0]), np.array([0.5, 40.0])


def train(workdir, dataset, changes, catalogue=CATALOGUE):
    """Does what experiments.train does, with a dataset that has no name."""
    config = config_of(default_config(catalogue), MLP | changes)
    recipe = parse(config, catalogue=catalogue)
    facts = facts_of("mine", dataset).as_json()
    with (
        workdirs.opened_workdir(workdir, config.to_dict(), catalogue, {}, facts),
        Checkpoints(workdir / CHECKPOINTS) as checkpoints,
    ):
        keeper = Keeper(checkpoints, every=0)
        loop.train(recipe, dataset, report=lambda row: None, keeper=keeper)
    return workdir


@pytest.fixture(scope="module")
def dataset():
    return bright_classes(200, 60, 40)._replace(class_names=NAMES)


@pytest.fixture(scope="module")
def run_on_bytes(tmp_path_factory, dataset):
    """One that gets worse, so that the best is not the newest; it averages its parameters."""
    changes = {
        "duration": "6 epochs",
        "ema_decay": 0.5,
        "optimizer.learning_rate": {"easy": 0.05, "hard": 3.0, "factor": 1.0},
        "optimizer.learning_rate_schedule": None,
    }
    return train(tmp_path_factory.mktemp("runs") / "bytes", dataset, changes)


@pytest.fixture(scope="module")
def features():
    """Raw features [n, 2] whose means differ by far, and labels."""
    rng = np.random.default_rng(3)
    raw = rng.normal(size=(100, 2)) * STD + MEAN
    return raw, (raw[:, 0] > MEAN[0]).astype(np.int32)


def of_features(raw, labels, normalisation):
    image = raw.astype(np.float32) if normalisation is None else normalisation(raw)
    parts = (slice(60), slice(60, 80), slice(80, 100))
    splits = ({"image": image[part], "label": labels[part]} for part in parts)
    return Dataset(*splits, num_classes=2, normalisation=normalisation)


@pytest.fixture(scope="module")
def run_on_features(tmp_path_factory, features):
    dataset = of_features(*features, Normalisation(MEAN, STD))
    return train(tmp_path_factory.mktemp("runs") / "features", dataset, {"loss.temperature": 2.0})


def logits_by_hand(run, inputs):
    """In float64: dense, ReLU, dense."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), run.params)
    x = inputs.reshape(len(inputs), -1)
    x = np.maximum(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"], 0)
    return x @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def softmax_by_hand(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


# ---- what is predicted


def test_bytes_are_predicted_as_they_were_trained(run_on_bytes, dataset):
    run, images = load_run(run_on_bytes), dataset.test["image"]
    logits = logits_by_hand(run, images / 127.5 - 1)
    np.testing.assert_allclose(run.logits(images), logits, rtol=1e-5, atol=1e-5)
    found = run.predict(images)
    np.testing.assert_allclose(found, softmax_by_hand(logits), rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32 and run.class_names == NAMES
    assert (found.argmax(-1) == dataset.test["label"]).mean() > 0.6
    assert run.config["ema_decay"] == 0.5 and str(run_on_bytes) not in repr(run)
    for same in (jnp.asarray(images), images.astype(np.int64), images.tolist()):
        np.testing.assert_array_equal(run.predict(same), found)


def test_raw_features_are_normalised(run_on_features, features):
    run, (raw, labels) = load_run(str(run_on_features)), features
    expected = softmax_by_hand(logits_by_hand(run, (raw - MEAN) / STD))
    np.testing.assert_allclose(run.predict(raw), expected, rtol=1e-5, atol=1e-6)
    assert (run.predict(raw).argmax(-1) == labels).mean() > 0.8
    whole = np.round(raw).astype(int)  # numbers of any kind are normalised
    np.testing.assert_array_equal(run.predict(whole), run.predict(whole.astype(np.float64)))
    applied = jax.jit(run.apply)(run.params, run.model_state, raw)
    np.testing.assert_allclose(applied, run.logits(raw), rtol=1e-2, atol=1e-2)  # in float32


def test_other_floats_are_used_as_they_are(tmp_path, features):
    raw, labels = features
    dataset = of_features(raw / 1000, labels, None)
    run = load_run(train(tmp_path / "run", dataset, {}))
    expected = logits_by_hand(run, raw / 1000)
    np.testing.assert_allclose(run.logits(raw / 1000), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="^images must be floats, as the dataset's are, got int64"):
        run.predict(np.ones((3, 2), np.int64))
    with pytest.raises(ValueError, match="^images must be finite, got NaN or infinity in image 0"):
        run.predict(np.full((3, 2), 1e300))


@pytest.mark.parametrize("number", [0, 1, 3, 8, 9, 40])
def test_any_number_of_images_goes_in_parts(run_on_bytes, dataset, monkeypatch, number):
    run, images = load_run(run_on_bytes), dataset.test["image"]
    whole = run.predict(images)
    monkeypatch.setattr(trained, "_LARGEST_PART", 8)
    found = run.predict(images[:number])
    assert found.shape == (number, CLASSES)
    np.testing.assert_allclose(found, whole[:number], rtol=1e-5, atol=1e-7)


def test_few_programs_serve_all_numbers(run_on_bytes, dataset, count_compilations):
    run = load_run(run_on_bytes)
    for number in (1, 2, 4, 8):
        run.predict(dataset.test["image"][:number])
    with count_compilations() as compilations:
        for number in (1, 3, 5, 6, 7, 8):
            run.predict(dataset.test["image"][:number])
    assert not compilations


def test_apply_is_pure_and_has_gradients(run_on_bytes, dataset):
    run, images = load_run(run_on_bytes), dataset.test["image"]
    labels = dataset.test["label"]

    @jax.jit
    def loss(params):
        logits = run.apply(params, run.model_state, images)
        return cyclical_jax.softmax_cross_entropy(logits, labels).mean()

    logits = logits_by_hand(run, images / 127.5 - 1)
    expected = -np.log(softmax_by_hand(logits)[np.arange(len(labels)), labels]).mean()
    np.testing.assert_allclose(loss(run.params), expected, rtol=1e-4)
    # The gradient of a bias of the last layer: the mean of p - y.
    found = jax.grad(loss)(run.params)["Dense_1"]["bias"]
    by_hand = (softmax_by_hand(logits) - np.eye(CLASSES)[labels]).mean(0)
    np.testing.assert_allclose(found, by_hand, rtol=1e-3, atol=1e-5)


def test_classes_that_are_not_exclusive_have_a_sigmoid_each(tmp_path, dataset):
    workdir = train(tmp_path / "run", dataset, {"task.name": "multilabel"})
    run, images = load_run(workdir), dataset.test["image"]
    expected = 1 / (1 + np.exp(-logits_by_hand(run, images / 127.5 - 1)))
    np.testing.assert_allclose(run.predict(images), expected, rtol=1e-5, atol=1e-6)


# ---- which checkpoint


def test_the_best_and_the_newest(run_on_bytes, dataset):
    best, newest = (load_run(run_on_bytes, which) for which in ("best", "newest"))
    assert best.step < newest.step == 60

    def num_right(run):
        split = dataset.validation
        return (run.predict(split["image"]).argmax(-1) == split["label"]).sum()

    assert num_right(best) > num_right(newest)


def test_neither_dataset_nor_end_is_needed(run_on_bytes, dataset, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the dataset was opened")

    monkeypatch.setattr(data, "load", refuse)
    shutil.copytree(run_on_bytes, tmp_path / "~moved")
    monkeypatch.setenv("HOME", str(tmp_path))
    run = load_run("~/~moved", "newest")
    assert run.predict(dataset.test["image"]).shape == (40, CLASSES)


# ---- what is wrong is one line

RAW = np.zeros((2, 3, 3, 1), np.uint8)
NOT_FINITE = np.array([[1.0, 2.0], [np.nan, 1.0]])


@pytest.mark.parametrize(
    "images, line",
    [
        (RAW[0], r"images must have the shape \[n, 3, 3, 1\], .* a single one is images\[None\]"),
        (RAW[..., 0], r"images must .* got \[2, 3, 3\]; images\[\.\.\., None\] has the axis of ch"),
        (RAW[:, :2], r"images must have the shape \[n, 3, 3, 1\], as the dataset's, got \[2, 2, 3"),
        (np.uint8(1), r"images must have the shape .*, got \[\]\."),
        (RAW / 255, "images must be uint8, 0 to 255, as the dataset's, got float64"),
        (RAW > 0, "images must be uint8, 0 to 255, as the dataset's, got bool"),
        (RAW.astype(int) - 1, "images must be 0 to 255, got -1 to -1"),
        (RAW.astype(np.uint16) + 256, "images must be 0 to 255, got 256 to 256"),
    ],
)
def test_bytes_of_another_kind(run_on_bytes, images, line):
    run = load_run(run_on_bytes)
    for function in (run.predict, run.logits):
        with pytest.raises(ValueError, match=f"^{line}") as caught:
            function(images)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "images, line",
    [
        (NOT_FINITE, "images must be finite, got NaN or infinity in image 1"),
        (NOT_FINITE[0], r"images must have the shape \[n, 2\], .*; a single one is images\[None\]"),
        (NOT_FINITE > 0, "images must be numbers, got bool"),
        (NOT_FINITE.astype(str), "images must be numbers, got <U"),
        (NOT_FINITE.astype(complex), "images must be numbers, got complex128"),
    ],
)
def test_features_of_another_kind(run_on_features, images, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        load_run(run_on_features).predict(images)


def test_traced_images_are_for_apply(run_on_bytes):
    run = load_run(run_on_bytes)
    with pytest.raises(ValueError, match="^images must have values here; within jit .* `apply`"):
        jax.jit(run.predict)(RAW)
    with pytest.raises(ValueError, match="^images must be uint8"):
        jax.jit(run.apply)(run.params, run.model_state, RAW / 255)


def changed(workdir, path, change):
    """Copies a run, and lets `change` do something to the file or directory at `path`."""
    shutil.copytree(ROOT / workdir, path)
    change(path)
    return path


@pytest.mark.parametrize(
    "change, line",
    [
        (shutil.rmtree, "has no run that can be used: there is no such directory"),
        (lambda path: (path / "config.json").unlink(), "has no run .* there is no config.json in"),
        (lambda path: (path / "config.json").write_text("[]"), "has no run that can be used"),
        (lambda path: (path / DATASET).write_text("{"), r"dataset\.json is damaged: Expecting"),
        (lambda path: (path / DATASET).write_text("{}"), r"dataset\.json is damaged: it has no"),
        (lambda path: shutil.rmtree(path / CHECKPOINTS), "there is no .*checkpoints"),
        (
            lambda path: [shutil.rmtree(step) for step in (path / CHECKPOINTS).glob("[0-9]*")],
            "no checkpoint in .* was saved after a validation: use the newest",
        ),
    ],
)
def test_what_is_no_run(run_on_bytes, tmp_path, change, line):
    path = changed(run_on_bytes, tmp_path / "run", change)
    with pytest.raises(ValueError, match=f"^workdir: .*{line}") as caught:
        load_run(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workdir", ["gs://bucket/run", "", "~nobody-has-this-name/run"])
def test_what_is_no_place_on_this_machine(workdir):
    with pytest.raises(ValueError, match="^`workdir` must be a path"):
        load_run(workdir)


def test_without_a_validation_there_is_no_best(tmp_path, dataset):
    empty = {name: array[:0] for name, array in dataset.validation.items()}
    workdir = train(tmp_path / "run", dataset._replace(validation=empty), {})
    assert load_run(workdir, "newest").step == 30
    with pytest.raises(ValueError, match="^workdir: no checkpoint .* use the newest"):
        load_run(workdir)
    with pytest.raises(ValueError, match="^checkpoint must be 'best', 'newest' or .*, got 'last'"):
        load_run(workdir, "last")


def test_a_task_without_classes_predicts_none(tmp_path, dataset):
    catalogue = with_plugins([DENOISING])
    changes = {"task.name": "denoising", "denoising.width": 4, "model.hidden_sizes": (64,)}
    workdir = train(tmp_path / "run", dataset, changes, catalogue)
    run = load_run(workdir, plugins=[DENOISING])
    assert run.params["Dense_0"]["kernel"].shape == (9, 4)
    calls = (
        lambda: run.predict(RAW),
        lambda: run.logits(RAW),
        lambda: run.apply(run.params, {}, RAW),
        run.export,
    )
    for call in calls:
        with pytest.raises(ValueError, match="^the outputs of the task denoising are of no class"):
            call()
    with pytest.raises(ValueError, match="^workdir: "):
        load_run(workdir)


# ---- the facts about the dataset


def test_the_workdir_describes_the_data(run_on_bytes, run_on_features):
    assert stored(run_on_bytes / DATASET) == {
        "source": "mine",
        "num_classes": 4,
        "class_names": list(NAMES),
        "shape": [3, 3, 1],
        "dtype": "uint8",
        "normalisation": None,
        "num_examples": {"train": 200, "validation": 60, "test": 40},
        "inputs": "x / 127.5 - 1 of each byte x",
    }
    of_features = stored(run_on_features / DATASET)
    assert of_features["normalisation"] == {"mean": MEAN.tolist(), "std": STD.tolist()}
    assert of_features["inputs"] == "(x - mean) / std, with the statistics of the training split"
    assert of_features["dtype"] == "float32" and of_features["shape"] == [2]


def test_runs_of_earlier_versions_have_datasets_with_names(tmp_path):
    dataset = data.load("digits")
    workdir = train(tmp_path / "run", dataset, {"duration": "1 epochs"})
    expected = load_run(workdir).predict(dataset.test["image"])
    (workdir / DATASET).unlink()
    run = load_run(workdir)
    np.testing.assert_array_equal(run.predict(dataset.test["image"]), expected)
    assert run.facts.spec.num_train == 1197


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "cifar10", "cifar100"])
def test_the_shapes_of_earlier_datasets(tmp_path, name):
    recipe = parse(config_of(dataset=name))
    facts = read_facts("a run", tmp_path, recipe)
    height, width, channels = facts.shape
    assert height == width == {"digits": 8, "fashion_mnist": 28}.get(name, 32)
    assert channels == (3 if name.startswith("cifar") else 1)
    assert facts.num_classes == data.num_classes(name)


def test_a_run_does_not_go_on_with_other_data(run_on_features, features, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run_on_features, workdir)
    (raw, labels), config = features, stored(workdir / "config.json")
    other_rounding = Normalisation(MEAN * (1 + 1e-15), STD)
    facts = facts_of("mine", of_features(raw, labels, other_rounding)).as_json()
    with workdirs.opened_workdir(workdir, config, CATALOGUE, {}, facts):
        pass
    facts["num_examples"] = facts["num_examples"] | {"train": 61}
    line = r"of other data; choose another --workdir:\n  num_examples\.train: 60 there, 61 here$"
    with (
        pytest.raises(WorkdirError, match=line),
        workdirs.opened_workdir(workdir, config, CATALOGUE, {}, facts),
    ):
        pass


def test_a_model_is_not_used_on_inputs_that_are_normalised_otherwise(run_on_features, features):
    def use(normalisation):
        dataset = of_features(*features, normalisation)
        return read_trained("a key", str(run_on_features), dataset, CATALOGUE)

    assert use(Normalisation(MEAN * (1 + 1e-12), STD)).step == 9
    line = f"^a key: {run_on_features} was trained on images with another normalisation"
    for other in (Normalisation(MEAN + 1, STD), Normalisation(MEAN, STD * 2), None):
        with pytest.raises(ValueError, match=line):
            use(other)


def test_bytes_and_floats_are_not_seen_alike(dataset):
    floats = dataset._replace(
        train=dataset.train | {"image": dataset.train["image"].astype(np.float32)}
    )
    one, two = facts_of("bytes", dataset), facts_of("floats", floats)
    assert one.is_seen_like(one) and two.is_seen_like(two) and not one.is_seen_like(two)


# ---- a program without this package

WITHOUT_US = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("cyclical_jax", "flax", "orbax", "ml_collections"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Nothing())
import jax, numpy as np

program, images, found = sys.argv[1:]
exported = jax.export.deserialize(open(program, "rb").read())
assert exported.platforms == ("cpu", "cuda", "tpu")
images = np.load(images)
np.save(found, np.concatenate([exported.call(images[:1]), exported.call(images[1:])]))
assert not [name for name in sys.modules if name.startswith("cyclical_jax")]
"""


@pytest.fixture
def call_without_us(tmp_path):
    pytest.importorskip("flatbuffers")

    def call(program, images):
        paths = [tmp_path / name for name in ("program", "images.npy", "found.npy")]
        paths[0].write_bytes(program)
        np.save(paths[1], images)
        command = [sys.executable, "-W", "error", "-c", WITHOUT_US, *map(str, paths)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return np.load(paths[2])

    return call


def test_an_exported_program_needs_jax_alone(run_on_bytes, dataset, call_without_us):
    run, images = load_run(run_on_bytes), dataset.test["image"]
    found = call_without_us(run.export(), images)
    np.testing.assert_allclose(found, run.predict(images), rtol=1e-5, atol=1e-6)


def test_an_exported_program_normalises(run_on_features, features, call_without_us):
    run, raw = load_run(run_on_features), features[0].astype(np.float32)
    found = call_without_us(run.export(), raw)
    np.testing.assert_allclose(found, run.predict(raw), rtol=1e-3, atol=1e-4)


def test_what_cannot_be_exported_is_one_line(run_on_bytes):
    with pytest.raises(ValueError, match="platform.*'nowhere'") as caught:
        load_run(run_on_bytes).export(platforms=["nowhere"])
    assert "\n" not in str(caught.value)


# ---- the name in the package


def test_the_name_is_found_when_it_is_asked_for():
    assert cyclical_jax.load_run is trained.load_run
    with pytest.raises(AttributeError, match="has no attribute 'load_runs'"):
        _ = cyclical_jax.load_runs
