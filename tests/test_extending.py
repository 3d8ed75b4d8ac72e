"""The files of examples/plugins, which docs/extending.md shows, work."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from cyclical_jax.catalogue import (
    CATALOGUE,
    default_config,
    describe,
    extended,
    parse,
    with_plugins,
)
from cyclical_jax.testing import Case, check
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.inputs import identities
from cyclical_jax.training.recipe import cyclical, put
from tests import commands
from tests.helpers import stored

pytestmark = pytest.mark.usefixtures("fast_compilation")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "plugins"
# (file, entry, how it is turned on, whether it draws numbers)
PLUGINS = [
    ("temporal_ensemble", "temporal_ensemble", {"temporal_ensemble.consistency": 2.0}, False),
    ("denoising", "denoising", {"task.name": "denoising"}, True),
    ("residual_mlp", "network", {"model.name": "residual_mlp", "model.depth": 1}, False),
    (
        "poly_loss",
        "classification",
        {"loss.name": "poly", "loss.epsilon": cyclical(0, 2), "loss.label_smoothing": 0.1},
        False,
    ),
]


@pytest.mark.parametrize("file, entry, changes, is_random", PLUGINS)
def test_the_examples_pass_every_trial(file, entry, changes, is_random):
    catalogue = with_plugins([FOLDER / f"{file}.py"])
    check(Case(entry, changes, catalogue, is_random))


def test_all_at_once_are_one_catalogue():
    paths = sorted(FOLDER.glob("*.py"))
    catalogue = with_plugins(paths)
    assert with_plugins(paths) is catalogue
    names = {entry.name for entry in catalogue.entries}
    assert names == {entry.name for entry in CATALOGUE.entries} | {
        "temporal_ensemble",
        "denoising",
    }
    config = default_config(catalogue)
    config.loss.name, config.model.name = "poly", "residual_mlp"
    config.temporal_ensemble.consistency = cyclical(0, 1)
    recipe = parse(config, catalogue=catalogue)
    assert {"loss.epsilon", "temporal_ensemble.consistency"} <= recipe.numbers.keys()
    assert identities(recipe).keys() == {f"plugin {path.name}" for path in paths}


def of_file(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))


def test_the_poly_loss_is_by_its_formula():
    logits, labels = np.float32([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]]), np.array([0, 2])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p = p[np.arange(2), labels]
    found = of_file("poly_loss")["poly_loss"](logits, labels, epsilon=0.7, label_smoothing=0.0)
    np.testing.assert_allclose(found, -np.log(p) + 0.7 * (1 - p), rtol=1e-5)


def test_what_is_added_by_an_argument_is_what_a_file_adds():
    own = of_file("poly_loss")
    catalogue = extended(
        losses=own["LOSSES"], techniques=of_file("temporal_ensemble")["TECHNIQUES"]
    )
    assert {"loss.epsilon", "temporal_ensemble.consistency"} <= catalogue.keys.keys()
    assert "poly" in describe(default_config(catalogue), catalogue)


def config_of(catalogue, **changes):
    config = default_config(catalogue)
    small = {"subset": "balanced 60", "batch_size": 12, "model.hidden_sizes": (6,)}
    for key, value in (small | {"duration": "1 epoch", "task.name": "classification"}).items():
        put(config, key, value)
    for key, value in changes.items():
        put(config, key.replace("__", "."), value)
    return config


def run_with(plugin, workdir, **changes):
    catalogue = with_plugins([plugin])
    config = config_of(catalogue, **changes)
    recipe = parse(config, num_devices=2, catalogue=catalogue)
    with commands.as_if_new():
        from experiments import train

        return train.run(config, recipe, workdir)


def test_a_run_by_a_plugin_goes_on_and_refuses_a_changed_file(tmp_path):
    plugin, workdir = tmp_path / "mine.py", tmp_path / "run"
    plugin.write_text((FOLDER / "temporal_ensemble.py").read_text())
    changes = {"temporal_ensemble__consistency": 1.0}
    result = run_with(plugin, workdir, **changes)
    assert 0 <= result["test_accuracy"] <= 1
    assert stored(workdir / "inputs.json").keys() == {"plugin mine.py"}
    row = stored(workdir / "metrics.jsonl")[-1]
    assert row["consistency"] == 1.0
    assert run_with(plugin, workdir, **changes) == result
    plugin.write_text(plugin.read_text() + "# another line\n")
    with pytest.raises(WorkdirError, match="plugin mine.py: 'content"):
        run_with(plugin, workdir, **changes)


def test_a_task_of_ones_own_is_judged_by_its_own_score(tmp_path):
    changes = {"task__name": "denoising", "model__hidden_sizes": (64,)}
    result = run_with(FOLDER / "denoising.py", tmp_path / "run", **changes)
    assert result["best_val_loss"] > 0 and "test_accuracy" not in result
    assert result["test_loss"] < 1


TECHNIQUE = """
from cyclical_jax.training.fields import knob, or_none
from cyclical_jax.training.technique import Technique
TECHNIQUES = (Technique({name!r}, {{{key!r}: or_none(knob(None, "a knob"))}}, switch={key!r}),)
"""


@pytest.mark.parametrize(
    "text, line",
    [
        ("LOSSES = {'focal': lambda logits, labels: 0}", "The loss 'focal' exists already"),
        ("MODELS = {'mlp': None}", "model 'mlp' must be a linen module class or a Network"),
        ("LOSSES = {'mine': lambda x, y, *, new: 0}", "loss 'mine' takes 'new', which has no key"),
        (TECHNIQUE.format(name="distillation", key="mine.knob"), "have the name 'distillation'"),
        (TECHNIQUE.format(name="mine", key="loss.gamma"), "and mine both have the key loss.gamma"),
        (TECHNIQUE.format(name="mine", key="batch_size"), "and mine both have the key batch_size"),
        ("TECHNIQUES = (1,)", "TECHNIQUES must be a tuple of Techniques"),
        ("x = 1", "defines none of TECHNIQUES, TASKS, MODELS, LOSSES"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x = (", "SyntaxError"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_one_line(tmp_path, text, line):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        with_plugins([path])
    assert line in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_two_plugins_of_one_name_or_one_loss_are_an_error(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text("LOSSES = {'own': lambda logits, labels: 0}")
    (tmp_path / "other.py").write_text("LOSSES = {'own': lambda logits, labels: 0}")
    one, two, other = tmp_path / "a/mine.py", tmp_path / "b/mine.py", tmp_path / "other.py"
    with pytest.raises(RecipeError, match="files of different names, got mine.py, mine.py"):
        with_plugins([one, two])
    with pytest.raises(RecipeError, match="The loss 'own' exists already"):
        with_plugins([one, other])
