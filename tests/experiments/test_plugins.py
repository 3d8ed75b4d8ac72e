"""Every command that reads a config takes plugins, and gives their entries to all that it does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import commands

ROOT = Path(__file__).parents[2]
PLUGIN = """
from cyclical_jax import losses

def half_squared(logits, labels):
    return losses.softmax_cross_entropy(logits, labels) ** 2 / 2

LOSSES = {"half_squared": half_squared}
"""
TABLE = """
from experiments.arms import Arm, Budget, Table
TABLE = Table(
    about="Small.",
    common={"duration": "10 steps", "loss.name": "half_squared"},
    arms={"none": Arm(), "clipped": Arm({"optimizer.max_norm": 1.0}, control="none")},
    budgets={"digits": Budget(num_seeds=2)},
)
"""
CONFIG = [f"--config={ROOT}/configs/digits.py", "--config.loss.name=half_squared"]
SHORT = "--config.duration=10 steps"
UNKNOWN = "loss.name must be one of 'cross_entropy', "


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def python(tmp_path, cache):
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "small.py").write_text(TABLE)
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)

    def call(*arguments):
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        process = subprocess.run([sys.executable, *arguments], timeout=300, **options)
        return process.returncode, process.stdout, commands.without_waits(process.stderr)

    return call


def test_a_run_and_its_checkpoint(python):
    train = ["-m", "experiments.train", *CONFIG, SHORT, "--workdir=run"]
    code, out, err = python(*train, "--plugin=mine.py")
    assert (code, err) == (0, "") and "test accuracy" in out
    evaluate = ["-m", "experiments.evaluate", "--workdir=run"]
    code, out, err = python(*evaluate, "--plugin=mine.py")
    assert (code, err) == (0, "") and "validation accuracy" in out
    code, out, err = python(*evaluate)
    assert (
        (code, out) == (2, "")
        and "made with plugin mine.py, which must be given" in err
        and len(err.splitlines()) == 1
    )


def test_a_preview(python, tmp_path):
    preview = ["-m", "experiments.preview", *CONFIG, "--workdir=drawn"]
    code, out, err = python(*preview, "--plugin=mine.py")
    assert (code, err) == (0, "") and out.startswith("digits: 720 updates")
    code, out, err = python(*preview)
    assert (code, out) == (2, "") and err.startswith(UNKNOWN)


def test_a_table(python, tmp_path):
    table = ["-m", "experiments.table", "--table=small.py"]
    code, out, err = python(*table, "--workdir=out", "--plugin=mine.py")
    assert (code, err) == (0, "")
    arms = json.loads((tmp_path / "out/small.json").read_text())["datasets"]["digits"]["arms"]
    assert all(None not in arm["test"]["loss"] for arm in arms.values())
    code, out, err = python(*table, "--workdir=other")
    assert (code, out) == (2, "") and err.startswith(f"arm none: {UNKNOWN}")


# What a command makes of its flags, before it trains: the losses of its recipes.
PARSED = {
    "tune": (
        ["--table=small.py"],
        "[trial.recipes() or [arms.recipe_of(trial.base, trial.arm, {}, 0)] "
        "for trial in tune.planned()[1].values()]",
    ),
    "range_test": (
        [*CONFIG, "--knob=optimizer.max_norm", "--low=1", "--high=2"],
        "range_test.recipes_of(command_line.config_of(range_test._CONFIG), "
        "['optimizer.max_norm'], [1.0, 2.0], 1)",
    ),
    "tradeoff": (
        [*CONFIG, "--num_cycles=2", "--num_seeds=1"],
        "[own.recipes for trials in [tradeoff._planned()[2]] "
        "for own in tradeoff.plans_of(trials, tradeoff._lengths(trials), {}).values()]",
    ),
    "demo": ([], "[[demo.recipe_of(variant)] for variant in demo.digits.FOUR]"),
}
CODE = """
import json, sys
from absl import flags
from experiments import arms, command_line, {script}
sys.argv[1:] = command_line._as_set(sys.argv[1:])
flags.FLAGS(sys.argv)
recipes = [recipe for group in {recipes} for recipe in group]
names = [dict(recipe.structure.task[1])["loss.name"] for recipe in recipes]
print(json.dumps([sorted(set(names)), [sorted(dict(r.catalogue.plugins)) for r in recipes]]))
"""


@pytest.mark.parametrize("script", PARSED)
def test_the_recipes_of_a_command(python, script):
    arguments, recipes = PARSED[script]
    code, out, err = python(
        "-c", CODE.format(script=script, recipes=recipes), *arguments, "--plugin=mine.py"
    )
    assert code == 0, err
    names, plugins = json.loads(out)
    assert plugins and plugins == [["mine.py"]] * len(plugins)
    assert names == (["cross_entropy", "cyclical_focal"] if script == "demo" else ["half_squared"])
