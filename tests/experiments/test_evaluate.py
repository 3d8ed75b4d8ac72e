"""Scores of what a run has left behind."""

import csv
import dataclasses
import io
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from cyclical_jax import data, load_run
from cyclical_jax.catalogue import CATALOGUE, parse
from cyclical_jax.data import crops
from cyclical_jax.trained import LoadedRun, read_run
from cyclical_jax.training import evaluation, files
from cyclical_jax.training.earlier import TrainedModel
from cyclical_jax.training.facts import facts_of
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.run import begin
from cyclical_jax.training.structure import Recipe
from cyclical_jax.training.technique import spec_of
from experiments import class_scores, evaluate
from tests import commands
from tests.helpers import bright_classes, recipe_of, stored


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, result, rows) of a run that is best on validation before its end."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    process = commands.in_this_process(
        "train",
        "--config=configs/digits.py",
        f"--workdir={workdir}",
        "--save_every=1000",
        "--config.duration=4 epochs",
        "--config.ema_decay=0.5",
        "--config.optimizer.learning_rate=cyclical(0.05, 4, factor=1)",
        "--config.optimizer.learning_rate_schedule=None",
    )
    assert process.returncode == 0, process.stderr
    return workdir, stored(workdir / "result.json"), stored(workdir / "metrics.jsonl")


def scores_of(workdir, split, checkpoint="newest"):
    """Returns the scores of a checkpoint, and its update."""
    loaded = read_run("--workdir", workdir, CATALOGUE, checkpoint=checkpoint)
    return evaluate.scores_of(loaded, evaluate.split_of(loaded, split)), loaded.step


def test_the_newest_is_the_end_of_the_run(run):
    workdir, result, rows = run
    test, step = scores_of(workdir, "test")
    assert step == rows[-1]["step"] == 72
    assert test == pytest.approx({name: result[f"test_{name}"] for name in test}, rel=1e-5)
    validation, _ = scores_of(workdir, "validation")
    assert validation["loss"] == pytest.approx(rows[-1]["val_loss"], rel=1e-5)


def test_the_best_is_that_of_the_validation(run):
    workdir, result, rows = run
    best, step = scores_of(workdir, "validation", "best")
    assert step == max(rows, key=lambda row: row["val_accuracy"])["step"]
    assert best["accuracy"] == result["best_val_accuracy"] > rows[-1]["val_accuracy"]
    of_rows = max(rows, key=lambda row: row["val_accuracy"])["val_loss"]
    assert best["loss"] == pytest.approx(of_rows, rel=1e-5)


def test_what_is_not_there_is_one_line(run, tmp_path):
    workdir, _, _ = run
    with pytest.raises(RecipeError, match=f"^--workdir: {tmp_path} has no run that can be used"):
        scores_of(tmp_path, "test")
    other = tmp_path / "run"
    other.mkdir()
    config = stored(workdir / "config.json")
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="^--workdir: there is no .*checkpoints"):
        scores_of(other, "test")
    shutil.copytree(workdir / "checkpoints", other / "checkpoints")
    (other / "config.json").write_text(json.dumps(config | {"train_on": "train+validation"}))
    with pytest.raises(RecipeError, match="^--split: .* validation is empty"):
        scores_of(other, "validation")


def test_the_score_of_the_task_is_told_first_and_in_its_unit(run):
    config = stored(run[0] / "config.json")
    recipe = parse(ConfigDict(config, type_safe=False))
    scores = {"loss": 0.25, "accuracy": 0.975, "calibration_error": 0.0123, "num_examples": 1400}
    assert evaluate.told(recipe, scores) == (
        "accuracy 97.50%, loss 0.2500, calibration error 1.23%, on 1,400 examples"
    )
    assert evaluate.told(judged_by(recipe, "surprise"), {"surprise": 3.0} | scores).startswith(
        "surprise 3.0000, loss 0.2500, accuracy 97.50%, "
    )
    assert evaluate.told(judged_by(recipe, "loss"), scores).startswith("loss 0.2500, accuracy 97.")


def judged_by(recipe: Recipe, name: str) -> Recipe:
    task, own = recipe.structure.task
    pair = dataclasses.replace(task, judged_by=(name, "min")), own
    return dataclasses.replace(recipe, structure=dataclasses.replace(recipe.structure, task=pair))


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """(what the command printed, its files) on the test split, by the best checkpoint."""
    folder = tmp_path_factory.mktemp("files")
    files = {name: folder / f"it.{suffix}" for name, suffix in FILES.items()}
    chosen = (f"--{name}={path}" for name, path in files.items())
    ended = command(run[0], "--split=test", "--checkpoint=best", *chosen)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines(), files


FILES = {"confusion": "png", "predictions": "csv"}


def command(workdir, *arguments):
    return commands.in_this_process("evaluate", f"--workdir={workdir}", *arguments)


def of_the_best(run):
    """(probabilities, labels, [label, predicted] by hand) of the test split."""
    loaded, split = load_run(run[0]), data.load("digits").test
    probabilities, labels = loaded.predict(split["image"]), split["label"]
    predicted = probabilities.argmax(-1)
    matrix = [[((labels == i) & (predicted == j)).sum() for j in range(10)] for i in range(10)]
    return probabilities, labels, np.array(matrix)


def test_the_command_says_the_scores_in_a_line_and_then_those_of_each_class(run, written):
    (first, _, head, *rows), _ = written
    probabilities, labels, matrix = of_the_best(run)
    accuracy = (probabilities.argmax(-1) == labels).mean()
    in_five = np.mean([y in np.argsort(-p)[:5] for p, y in zip(probabilities, labels, strict=True)])
    start = f"best checkpoint kept in {run[0]}, after "
    told = f"test accuracy {accuracy:.2%}, top-5 accuracy {in_five:.2%}, loss "
    assert first.startswith(start) and told in first and first.endswith("on 400 examples")
    assert head.split() == ["class", "number", "precision", "recall", *map(str, range(10))]
    for number, row in enumerate(rows):
        name, count, precision, recall, *counts = row.split()
        assert [int(cell.replace(".", "0")) for cell in counts] == matrix[number].tolist()
        assert (name, int(count)) == (str(number), (labels == number).sum())
        assert recall == f"{matrix[number, number] / matrix[number].sum():.2%}"
        column = matrix[:, number].sum()  # 0 where nothing was predicted as this class
        assert precision == (f"{matrix[number, number] / column:.2%}" if column else "–")
    assert len(rows) == 10


def test_every_example_is_a_row_of_the_file(run, written):
    probabilities, labels, _ = of_the_best(run)
    with written[1]["predictions"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(400))
    assert [int(row["label"]) for row in rows] == labels.tolist()
    for row, expected in zip(rows, probabilities, strict=True):
        order = [row["predicted"], *(row[f"class_{place}"] for place in range(2, 6))]
        found = [row["probability"], *(row[f"probability_{place}"] for place in range(2, 6))]
        np.testing.assert_allclose(np.float64(found), np.sort(expected)[:-6:-1], rtol=1e-4)
        np.testing.assert_allclose(expected[np.int64(order)], np.float64(found), rtol=1e-4)


def test_the_picture_is_a_picture(written):
    picture = Image.open(written[1]["confusion"])
    assert picture.format == "PNG" and min(picture.size) > 400
    colours = picture.convert("RGB").getcolors(maxcolors=10**6)
    assert len(colours) > 10


def test_the_training_split_is_scored_too(run):
    ended = command(run[0], "--split=train")
    assert "train accuracy " in ended.stdout and "on 1,197 examples" in ended.stdout


def test_the_exported_program_is_that_of_the_checkpoint(run, tmp_path):
    pytest.importorskip("flatbuffers")
    assert command(run[0], "--checkpoint=best", f"--export={tmp_path / 'it'}").returncode == 0
    exported = jax.export.deserialize((tmp_path / "it").read_bytes())
    images = data.load("digits").test["image"]
    np.testing.assert_allclose(exported.call(images), of_the_best(run)[0], rtol=1e-4, atol=1e-6)


def test_without_flatbuffers_the_command_that_installs_it_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax._src.export.serialization", None)  # it imports them
    ended = command(run[0], f"--export={tmp_path / 'it'}")
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("--export: ") and 'pip install ".[train]"' in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option, line",
    [
        ("--confusion={}/it.jpg", "--confusion must be a .png file, got {}/it.jpg."),
        ("--predictions={}/it", "--predictions must be a .csv file, got {}/it."),
        ("--export={}", "--export {} cannot be written: it is a directory."),
        (
            "--export={}/no/it",
            "--export {0}/no/it cannot be written: there is no directory {0}/no.",
        ),
        ("--split=all", "--split"),
    ],
)
def test_what_cannot_be_written_is_one_line_before_anything_is_read(tmp_path, option, line):
    ended = command(tmp_path / "none", option.format(tmp_path))
    assert ended.returncode == 2 and ended.stdout == ""
    assert line.format(tmp_path) in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_task_without_one_class_an_example_has_scores_alone(run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run[0], workdir)
    config = stored(workdir / "config.json")
    config["task"]["name"] = "multilabel"
    (workdir / "config.json").write_text(json.dumps(config))
    assert len(command(workdir).stdout.splitlines()) == 1
    for name, suffix in FILES.items():
        ended = command(workdir, f"--{name}={tmp_path / 'it'}.{suffix}")
        line = f"--{name} needs one class per example, but the task is multilabel.\n"
        assert (ended.returncode, ended.stderr) == (2, line)


def test_images_of_a_stream_are_cropped_at_their_centre_and_read_once(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 23).tolist()
    photographs = [photograph(rng, label) for label in labels]
    stream = data.Stream("here", lambda: photographs, range(23), 6, True)
    dataset = data.Dataset(stream, stream, stream, num_classes=4)
    recipe = recipe_of(dataset="imagenet2012", image_size=6, model__hidden_sizes=(5,), batch_size=4)
    monkeypatch.setattr(evaluate, "load_dataset", lambda recipe: dataset)
    monkeypatch.setattr(evaluation, "_BATCH_SIZE", 4)
    variables = begin(recipe, dataset).state.evaluated
    trained = TrainedModel(recipe.structure, spec_of(dataset), variables)
    run = LoadedRun(trained, facts_of("photographs", dataset), recipe, {})
    reader = class_scores.Reader()
    examples = evaluate.split_of(run, "train")
    scores = evaluate.scores_of(run, examples, look=reader.look)
    found = reader.predictions()
    images = np.stack([crops.centre_crop(photo["image"], 6) for photo in photographs])
    expected = run.predict(images)
    assert found.label.tolist() == labels and found.index.tolist() == list(range(23))
    assert found.predicted.tolist() == expected.argmax(-1).tolist()
    np.testing.assert_allclose(found.probability, -np.sort(-expected), rtol=1e-4)
    assert scores["accuracy"] == pytest.approx((found.predicted == labels).mean())


def photograph(rng, label):
    """No two photographs are of one size."""
    height, width = rng.integers(9, 30, 2)
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"image": buffer.getvalue(), "label": label, "file_name": b"a.png"}


def test_another_dataset_than_that_of_the_run_is_one_line(run, monkeypatch):
    loaded = read_run("--workdir", run[0], CATALOGUE, checkpoint="newest")
    monkeypatch.setattr(evaluate, "load_dataset", lambda recipe: bright_classes(20, 10))
    line = (
        r"--workdir: the run was trained on images \[8, 8, 1\] of 10 classes, but its dataset has "
        r"images \[3, 3, 1\] of 4 classes\."
    )
    with pytest.raises(RecipeError, match=f"^{line}"):
        evaluate.split_of(loaded, "train")
    digits = data.load("digits")
    floats = {name: array.astype(np.float32) for name, array in digits.train.items()}
    monkeypatch.setattr(evaluate, "load_dataset", lambda recipe: digits._replace(train=floats))
    with pytest.raises(RecipeError, match="^--workdir: the run's dataset is not normalised as"):
        evaluate.split_of(loaded, "test")


def test_a_folder_of_datasets_of_no_use_is_allowed_only_where_an_earlier_run_has_it(run, tmp_path):
    line = "data_dir must be None for 'digits', which is not a dataset of TFDS, got '/there'."
    with pytest.raises(RecipeError) as error:
        recipe_of(dataset="digits", data_dir="/there")
    assert str(error.value) == line
    workdir = shutil.copytree(run[0], tmp_path / "run")
    files.write(workdir / "config.json", files.read(workdir / "config.json") | {"data_dir": "/x"})
    loaded = read_run("--workdir", workdir, CATALOGUE, checkpoint="newest")
    assert data.num_examples(evaluate.split_of(loaded, "test")) == 400
    with pytest.raises(RecipeError) as error:
        evaluate.split_of(loaded, "test", data_dir="/there")
    assert str(error.value) == f"--{line}"


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own(run):
    ended = commands.in_a_process("evaluate", f"--workdir={run[0]}", "--split=test")
    assert ended.returncode == 0, ended.stderr
    assert all(line.startswith("importing JAX") for line in ended.stderr.splitlines())
    start = f"newest checkpoint kept in {run[0]}, after 72 updates: test accuracy "
    assert ended.stdout.startswith(f"{start}{run[1]['test_accuracy']:.2%}, ")
