"""Scores of what a run has left behind."""

import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from cyclical_jax.catalogue import parse
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.structure import Recipe
from experiments import evaluate
from tests import commands


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
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return workdir, json.loads((workdir / "result.json").read_text()), list(map(json.loads, lines))


def test_the_newest_is_the_end_of_the_run(run):
    workdir, result, rows = run
    test, step = evaluate.scores_of(workdir, "test")
    assert step == rows[-1]["step"] == 72
    assert test == pytest.approx({name: result[f"test_{name}"] for name in test}, rel=1e-5)
    validation, _ = evaluate.scores_of(workdir, "validation")
    assert validation["loss"] == pytest.approx(rows[-1]["val_loss"], rel=1e-5)


def test_the_best_is_that_of_the_validation(run):
    workdir, result, rows = run
    best, step = evaluate.scores_of(workdir, "validation", best=True)
    assert step == max(rows, key=lambda row: row["val_accuracy"])["step"]
    assert best["accuracy"] == result["best_val_accuracy"] > rows[-1]["val_accuracy"]
    of_rows = max(rows, key=lambda row: row["val_accuracy"])["val_loss"]
    assert best["loss"] == pytest.approx(of_rows, rel=1e-5)


def test_what_is_not_there_is_one_line(run, tmp_path):
    workdir, _, _ = run
    with pytest.raises(RecipeError, match=f"^--workdir: {tmp_path} has no run that can be used"):
        evaluate.scores_of(tmp_path, "test")
    other = tmp_path / "run"
    other.mkdir()
    config = json.loads((workdir / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="^--workdir: there is no .*checkpoints"):
        evaluate.scores_of(other, "test")
    (other / "config.json").write_text(json.dumps(config | {"train_on": "train+validation"}))
    with pytest.raises(RecipeError, match="^--split: .* validation is empty"):
        evaluate.scores_of(other, "validation")


def test_the_score_of_the_task_is_told_first_and_in_its_unit(run):
    config = json.loads((run[0] / "config.json").read_text())
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


@pytest.mark.slow
def test_the_command_says_it_in_a_line(run):
    workdir, result, _ = run
    process = commands.in_a_process("evaluate", f"--workdir={workdir}", "--split=test")
    assert process.returncode == 0, process.stderr
    (line,) = process.stdout.splitlines()
    start = f"newest of the checkpoints that {workdir} has kept, after 72 updates: test accuracy "
    assert line.startswith(f"{start}{result['test_accuracy']:.2%}, ") and line.endswith(
        "on 400 examples"
    )
