"""What a config file may return, and what is said of one that returns nothing of use."""

import pytest
from ml_collections import FrozenConfigDict

from cyclical_jax.catalogue import CATALOGUE, default_config
from cyclical_jax.training.fields import RecipeError
from experiments import config_files

NESTED = """
from cyclical_jax.training.recipe import cyclical

def get_config(variant="x"):
    return {
        "dataset": "digits",
        "optimizer": {"learning_rate": 0.3, "weight_decay": cyclical(1e-4, 1e-3)},
        "loss": {"name": variant, "temperature": {"easy": 0.5, "hard": 2.0}},
        "batch_size": 32,
    }
"""
FLAT = """
def get_config():
    return {"optimizer.learning_rate": 0.3, "batch_size": 32}
"""


def loaded(tmp_path, text, variant=""):
    file = tmp_path / "mine.py"
    file.write_text(text)
    return config_files.load(f"{file}{variant}", CATALOGUE)


def line_of(tmp_path, text):
    with pytest.raises(RecipeError) as error:
        loaded(tmp_path, text)
    (line,) = str(error.value).splitlines()
    return line.replace(str(tmp_path), "there")


def test_a_dict_changes_the_default_config(tmp_path):
    config = loaded(tmp_path, NESTED, ":focal").to_dict()
    expected = default_config().to_dict()
    expected["optimizer"] |= {
        "learning_rate": 0.3,
        "weight_decay": {"easy": 1e-4, "hard": 1e-3, "scale": "linear"},
    }
    expected["loss"] |= {"name": "focal", "temperature": {"easy": 0.5, "hard": 2.0}}
    assert config == expected | {"batch_size": 32}


def test_the_keys_of_a_dict_may_be_whole(tmp_path):
    config = loaded(tmp_path, FLAT)
    assert config.optimizer.learning_rate == 0.3 and config.optimizer.momentum == 0.9


@pytest.mark.parametrize("name", ["ConfigDict", "FrozenConfigDict"])
def test_a_config_without_some_keys_has_their_defaults(tmp_path, name):
    text = (
        f"from ml_collections import {name}\n"
        f"def get_config():\n    return {name}({{'seed': 3, 'model': {{'name': 'cnn'}}}})\n"
    )
    config = loaded(tmp_path, text)
    assert not isinstance(config, FrozenConfigDict)
    expected = default_config().to_dict()
    expected["model"]["name"] = "cnn"
    assert config.to_dict() == expected | {"seed": 3}


@pytest.mark.parametrize("of", ["dict", "ConfigDict"])
def test_a_word_for_a_section_is_not_lost(tmp_path, of):
    text = (
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return {of}({{'optimizer': 'adam'}})\n"
    )
    assert loaded(tmp_path, text).optimizer == "adam"  # which `parse` refuses


@pytest.mark.parametrize(
    "text, line",
    [
        ("x = 1\n", "has no function get_config() that returns a config."),
        ("get_config = {}\n", "has no function get_config() that returns a config."),
        (
            "TABLE = None\n",
            "has no function get_config(); it is a file for "
            "python -m experiments.table --table=there/mine.py.",
        ),
        (
            "LOSSES = {}\n",
            "has no function get_config(); it is a file for --plugin=there/mine.py.",
        ),
        (
            "def get_config():\n    pass\n",
            ": get_config must return a dict, not NoneType.",
        ),
        (
            "def get_config():\n    return {1: 2}\n",
            ": the keys of a config must be words, got 1.",
        ),
    ],
)
def test_a_file_that_gives_no_config_is_a_line(tmp_path, text, line):
    joint = "" if line.startswith(":") else " "
    assert line_of(tmp_path, text) == f"--config there/mine.py{joint}{line}"
