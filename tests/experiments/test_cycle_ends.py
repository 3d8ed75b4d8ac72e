"""Scores of the kept ends of cycles, alone and together, against NumPy."""

import dataclasses
import shutil

import numpy as np
import pytest

from cyclical_jax import data, load_run
from cyclical_jax.catalogue import CATALOGUE
from cyclical_jax.tasks import classification, multilabel
from cyclical_jax.training.ensemble import evaluate_together
from cyclical_jax.training.fields import RecipeError
from experiments import cycle_ends, evaluate
from tests import commands
from tests.helpers import calibration_error_by_hand, stored

pytestmark = pytest.mark.usefixtures("fast_compilation")

ENDS = 18, 54, 126


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    ended = commands.in_this_process(
        "train",
        "--config=configs/digits.py",
        f"--workdir={workdir}",
        "--keep_cycle_ends",
        "--config.model.hidden_sizes=(8,)",
        "--config.optimizer.learning_rate_schedule=warm_restarts",
        "--config.optimizer.first_cycle=1 epoch",
        "--config.duration=7 epochs",
        "--config.validate_every=cycle",
    )
    assert ended.returncode == 0, ended.stderr
    return workdir


@pytest.fixture(scope="module")
def test_split():
    return data.load("digits").test


@pytest.fixture(scope="module")
def logits(run, test_split):
    """[ends, examples, classes]."""
    return np.stack([load_run(run, end).logits(test_split["image"]) for end in ENDS]).astype(float)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_hand(probabilities, labels):
    of_label = probabilities[np.arange(len(labels)), labels]
    is_right = probabilities.argmax(-1) == labels
    error = calibration_error_by_hand(probabilities.max(-1), is_right)
    return {
        "accuracy": is_right.mean(),
        "loss": -np.log(of_label).mean(),
        "calibration_error": error,
        "num_examples": len(labels),
    }


def evaluated(run, *arguments):
    return commands.in_this_process("evaluate", f"--workdir={run}", *arguments)


def test_the_scores_are_those_of_the_mean_of_the_probabilities(run, logits, test_split):
    ends = cycle_ends.read_ends("--workdir", run, CATALOGUE)
    assert ends.epochs == {18: 1, 54: 3, 126: 7}
    found = cycle_ends.scores_of(ends, test_split)
    probabilities, labels = softmax(logits), test_split["label"]
    for own, alone in zip(found.each, probabilities, strict=True):
        assert own == pytest.approx(by_hand(alone, labels), rel=1e-4)
    for m, own in zip((2, 3), found.together, strict=True):
        assert own == pytest.approx(by_hand(probabilities[-m:].mean(0), labels), rel=1e-4)
        of_logits = by_hand(softmax(logits[-m:].mean(0)), labels)["loss"]
        assert abs(own["loss"] - of_logits) > 1e-3 * of_logits  # another ensemble


def test_the_rows_of_the_log_are_the_scores_of_the_ends(run):
    ends = cycle_ends.read_ends("--workdir", run, CATALOGUE)
    split = evaluate.split_of(ends.runs[0], "validation")
    rows = [row for row in stored(run / "metrics.jsonl") if "val_loss" in row]
    assert [row["step"] for row in rows] == [*ENDS]
    for row, own in zip(rows, cycle_ends.scores_of(ends, split).each, strict=True):
        assert own["accuracy"] == row["val_accuracy"]
        assert own["loss"] == pytest.approx(row["val_loss"], rel=1e-5)


def test_the_command_prints_a_row_for_each(run, logits, test_split):
    ended = evaluated(run, "--checkpoint=cycle_ends", "--split=test")
    assert ended.returncode == 0, ended.stderr
    first, head, *rows, last = ended.stdout.splitlines()
    assert first == f"3 ends of cycles of {run}, test, on 400 examples"
    assert head.split() == ["updates", "epochs", "accuracy", "loss", "calibration", "error"]
    places = [["18", "1"], ["54", "3"], ["126", "7"], ["last", "2", "together"]]
    places.append(["last", "3", "together"])
    probabilities = [*softmax(logits), *(softmax(logits)[-m:].mean(0) for m in (2, 3))]
    for row, place, alone in zip(rows, places, probabilities, strict=True):
        accuracy = by_hand(alone, test_split["label"])["accuracy"]
        assert row.split()[: len(place)] == place
        assert row.split()[len(place)] == f"{accuracy:.2%}"
    assert last == "together: by the mean of their probabilities, a snapshot ensemble"


def test_one_end_alone_is_no_ensemble(run, tmp_path, test_split):
    workdir = shutil.copytree(run, tmp_path / "run")
    for micro_step in (54, 126):
        shutil.rmtree(workdir / "checkpoints" / str(micro_step))
    lines = evaluated(workdir, "--checkpoint=cycle_ends").stdout.splitlines()
    assert lines[0].startswith("1 end of a cycle of ") and len(lines) == 3


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--confusion=it.png"], "--confusion needs one checkpoint, got --checkpoint=cycle_ends."),
        (["--export=it"], "--export needs one checkpoint, got --checkpoint=cycle_ends."),
    ],
)
def test_files_of_one_model_are_refused(run, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    arguments = [argument.replace("=it", f"={tmp_path}/it") for argument in arguments]
    ended = evaluated(run, "--checkpoint=cycle_ends", *arguments)
    assert (ended.returncode, ended.stderr.splitlines()) == (2, [line])


def test_a_run_that_kept_no_end_is_one_line(run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    for micro_step in (18, 54):
        shutil.rmtree(workdir / "checkpoints" / str(micro_step))
    (workdir / "checkpoints" / "126").rename(workdir / "checkpoints" / "damaged-126")
    shutil.copytree(run / "checkpoints" / "18", tmp_path / "18")
    about = tmp_path / "18" / "about" / "metadata"
    content = about.read_text().replace('"cycle_end": 18', '"cycle_end": null')
    about.write_text(content.partition(', "checksum"')[0] + "}")
    (tmp_path / "18").rename(workdir / "checkpoints" / "18")
    ended = evaluated(workdir, "--checkpoint=cycle_ends")
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        [
            f"--workdir: {workdir} keeps no end of a cycle; --keep_cycle_ends of "
            "experiments.train keeps them, where the learning rate restarts."
        ],
    )


def test_load_run_takes_the_updates_of_an_end(run):
    assert [load_run(run, end).step for end in (*ENDS, np.int64(54))] == [*ENDS, 54]
    with pytest.raises(ValueError) as error:
        load_run(run, 17)
    line = "keeps no end of a cycle after 17 updates; there are 18, 54, 126."
    assert str(error.value) == f"workdir: {run / 'checkpoints'} {line}"
    with pytest.raises(RecipeError, match="checkpoint must be .*, got True"):
        load_run(run, True)


def test_a_task_without_an_average_has_the_rows_alone(run, test_split):
    ends = cycle_ends.read_ends("--workdir", run, CATALOGUE)
    trained = ends.runs[0].trained
    task, own = trained.structure.task
    other = dataclasses.replace(task, averaged=None)
    structure = dataclasses.replace(trained.structure, task=(other, own))
    states = [one.trained.variables for one in ends.runs]
    found = evaluate_together(structure, trained.spec, states, test_split)
    assert found.together == [] and found.each == cycle_ends.scores_of(ends, test_split).each
    lines = cycle_ends.told(ends, found, test_split, "it, test").splitlines()
    assert len(lines) == 6 and lines[-1] == (
        "not scored together: the task classification says no way to average its outputs"
    )


# ---- averages


@pytest.mark.parametrize("scale", [1, 30])
def test_the_softmax_of_the_averaged_logits_is_the_mean_of_the_softmax(scale):
    z = scale * np.random.default_rng(3).normal(size=(4, 7, 5)).astype(np.float32)
    expected = softmax(z.astype(float)).mean(0)
    np.testing.assert_allclose(softmax(classification.averaged(z)), expected, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("scale", [1, 30])
def test_the_sigmoid_of_the_averaged_logits_is_the_mean_of_the_sigmoid(scale):
    z = scale * np.random.default_rng(4).normal(size=(3, 7, 5)).astype(np.float32)
    expected = (1 / (1 + np.exp(-z.astype(float)))).mean(0)
    found = 1 / (1 + np.exp(-np.float64(multilabel.averaged(z))))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-30)


def test_what_no_model_thinks_possible_has_a_finite_loss():
    z = np.float32([[[0.0, 300.0]], [[0.0, 200.0]]])
    averaged = np.asarray(classification.averaged(z))
    assert np.isfinite(averaged).all() and averaged[0, 0] < -199
