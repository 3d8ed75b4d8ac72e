"""The score that a task judges by: of recipes and of records, and through whole commands."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cyclical_jax.catalogue import default_config, parse
from experiments import score
from experiments.score import ACCURACY, Score, in_order
from tests import commands
from tests.helpers import stored

ROOT = Path(__file__).parents[2]
LOSS = Score("loss", "min", False)


def recipe_judged_by(name, best):
    recipe = parse(default_config())
    task, own = recipe.structure.task
    pair = dataclasses.replace(task, judged_by=(name, best)), own
    return dataclasses.replace(recipe, structure=dataclasses.replace(recipe.structure, task=pair))


# ---- one score


@pytest.mark.parametrize(
    "name, best, percent",
    [
        ("accuracy", "max", True),
        ("calibration_error", "min", True),
        ("loss", "min", False),
        ("bleu", "max", False),
    ],
)
def test_the_score_of_a_recipe_is_shown_as_the_run_shows_it(name, best, percent):
    recipe = recipe_judged_by(name, best)
    own = Score.of_recipe(recipe)
    assert own == Score(name, best, percent)
    for value in (0.0, 0.12345, 0.99, 12.5, 9999.96, 12345.6, -0.5, -23456.7):
        assert own.shown(value) == recipe.structure.shown(name, value)
    assert own.worth(2.0) == (2.0 if best == "max" else -2.0)


def test_a_record_of_an_earlier_version_is_judged_by_the_accuracy_in_percent():
    assert Score.of_record({"arms": {}}) == ACCURACY == Score("accuracy", "max", True)
    assert list(score.fractions_of_record({})) == ["accuracy", "calibration_error"]


@pytest.mark.parametrize(
    "own", [ACCURACY, LOSS, Score("share", "min", True), Score("accuracy", "max", False)]
)
def test_a_record_holds_the_score_as_json(own):
    percent = [own.name] if own.percent else []
    record = json.loads(json.dumps({"judged_by": own.in_record(), "percent": percent}))
    assert Score.of_record(record) == own


def test_a_difference_has_its_sign_and_the_unit_of_its_score():
    assert [ACCURACY.difference(x) for x in (0.01234, -0.01234, -1e-6)] == [
        "+1.23",
        "-1.23",
        "+0.00",
    ]
    assert [LOSS.difference(x) for x in (0.5, -0.25, -1e-6, 23456.0)] == [
        "+0.5000",
        "-0.2500",
        "+0.0000",
        "+2.35e+04",
    ]


def test_the_names_and_titles():
    assert (ACCURACY.title, ACCURACY.label) == ("accuracy, %", "accuracy, %")
    assert (LOSS.title, LOSS.label) == ("loss (lower is better)", "loss")
    assert Score("mean_share", "min", True).title == "mean share, % (lower is better)"


def test_what_a_task_judges_by_comes_first_then_its_loss():
    names = ["num_examples", "f1", "loss", "accuracy"]
    assert in_order("accuracy", names) == ["accuracy", "loss", "f1"]
    assert in_order("loss", names) == ["loss", "f1", "accuracy"]
    assert in_order("f1", ["f1", "accuracy"]) == ["f1", "accuracy"]


# ---- whole commands, for a task that somebody else wrote

TASK = """
import math

from cyclical_jax import losses
from cyclical_jax.tasks import classification as of_classes
from cyclical_jax.training.technique import LossTerm, Part, Task


def part(site):
    def loss(logits, batch, values):
        return losses.softmax_cross_entropy(logits, batch["label"])

    sureness = ("sureness", lambda logits, *_: logits.max(-1))
    return Part(terms=(LossTerm(loss, measures=(sureness,)),))


def scores(sums):
    loss = of_classes.scores(sums)["loss"]
    return {"loss": loss, "surprise": math.exp(loss)}


TASKS = (
    Task(
        "guessing",
        {},
        part,
        measures=("sureness",),
        offers=of_classes.TASK.offers,
        as_batch=of_classes.as_batch,
        sums=of_classes.sums,
        scores=scores,
        judged_by=("surprise", "min"),
    ),
)
"""
TABLE = """
from experiments.arms import Arm, Budget, Range, Table

rate = {"optimizer.learning_rate": Range(0.001, 0.5)}
TABLE = Table(
    about="Small.",
    common={"duration": "2 epochs", "model.hidden_sizes": (8,), "task.name": "guessing"},
    arms={"none": Arm(search=rate), "clipped": Arm({"optimizer.max_norm": 1.0}, rate, "none")},
    budgets={"digits": Budget(num_seeds=2, num_trials=3, seeds_a_trial=2)},
)
"""


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Calls a script with the plugin, in a directory with the table."""
    directory = tmp_path_factory.mktemp("guessing")
    (directory / "guessing.py").write_text(TASK)
    (directory / "guesses.py").write_text(TABLE)
    environment = os.environ | {"XDG_CACHE_HOME": str(directory), "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)

    def run(script, *arguments):
        command = [sys.executable, "-m", f"experiments.{script}", *arguments]
        options = {"cwd": directory, "env": environment, "capture_output": True, "text": True}
        process = subprocess.run(command, timeout=300, **options)
        assert (process.returncode, commands.without_waits(process.stderr)) == (0, "")
        return directory, process.stdout

    return run


PLUGIN = "--plugin=guessing.py"
SMALL = (f"--config={ROOT}/configs/digits.py", "--config.task.name=guessing", PLUGIN)


def test_a_table_is_tuned_compared_and_shown_by_the_score_of_its_task(call):
    directory, out = call("table", "--table=guesses.py", "--workdir=out", PLUGIN)
    record = json.loads((directory / "out/guesses.json").read_text())
    digits = record["datasets"]["digits"]
    assert digits["judged_by"] == {"name": "surprise", "best": "min"} and digits["percent"] == []
    for arm in digits["arms"].values():
        means = [sum(trial["val_surprise"]) for trial in arm["tuning"]["trials"]]
        assert means[arm["tuning"]["chosen"]] == min(means) < max(means)
        assert list(arm["test"]) == ["surprise", "loss"]
        for surprise, loss in zip(*arm["test"].values(), strict=True):
            assert surprise == pytest.approx(math.exp(loss))
        assert {"val_surprise", "val_loss", "loss", "grad_norm", "sureness"} < set(arm["curves"])
        assert "sureness" not in arm["knobs"] and "learning_rate" in arm["knobs"]
    ours, control = (digits["arms"][name]["test"]["surprise"] for name in ("clipped", "none"))
    difference = digits["arms"]["clipped"]["comparison"]["difference"]
    assert difference == pytest.approx(sum(ours) / 2 - sum(control) / 2)
    assert "| test surprise (lower is better) | difference [95 %] | p (Holm) | loss |" in out
    _, page = call("report", "--results=out/guesses.json", "--output=guesses.html")
    page = (directory / "guesses.html").read_text()
    assert "test surprise (lower is better)" in page and "validation surprise" in page
    assert "accuracy" not in out
    _, out = call("tune", "--table=guesses.py", "--workdir=out", PLUGIN)
    tuning = digits["arms"]["none"]["tuning"]
    chosen = sum(tuning["trials"][tuning["chosen"]]["val_surprise"]) / 2
    assert f"(validation surprise {chosen:.4f})" in out


def test_a_run_and_its_checkpoint_are_judged_by_the_score_of_the_task(call):
    directory, out = call("train", *SMALL, "--workdir=run", "--config.duration=2 epochs")
    result = stored(directory / "run/result.json")
    assert result["test_surprise"] == pytest.approx(math.exp(result["test_loss"]))
    test = f"surprise {result['test_surprise']:.4f}, loss {result['test_loss']:.4f}"
    assert f"test {test}, on 400 examples after 36 updates\n" in out
    assert f"best validation surprise {result['best_val_surprise']:.4f}, after" in out
    arguments = ("--workdir=run", "--checkpoint=best", PLUGIN)
    line, *of_classes = call("evaluate", *arguments)[1].splitlines()
    assert f"validation surprise {result['best_val_surprise']:.4f}, loss " in line
    assert line.endswith("on 200 examples") and "accuracy" not in out + line
    assert of_classes[0].startswith("a row for each class")


def test_a_range_test_draws_the_score_of_the_task(call):
    grid = ["--knob=optimizer.weight_decay", "--low=1e-3", "--high=10", "--num=2", "--num_seeds=2"]
    directory, _ = call("range_test", *SMALL, *grid, "--duration=20 steps", "--workdir=range")
    record = json.loads((directory / "range/range_test.json").read_text())
    assert {name for name in record if name.startswith("val_")} == {"val_loss", "val_surprise"}
    for losses, surprises in zip(record["val_loss"], record["val_surprise"], strict=True):
        assert surprises == pytest.approx([math.exp(loss) for loss in losses])
    assert (directory / "range/range_test.png").stat().st_size > 1000
