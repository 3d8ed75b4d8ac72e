"""The list of all keys: its sections, and what is said about each key."""

import re

import pytest

from configs import digits
from cyclical_jax.catalogue import CATALOGUE, default_config, describe, extended
from cyclical_jax.training.fields import number
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.technique import Technique

KEYS = CATALOGUE.keys


def config_of(variant="plain", **changes):
    config = digits.get_config(variant)
    with config.ignore_type():
        config.update(changes)
    return config


def read(told):
    """Returns {key: (value, meaning, allowed)} of a list of keys, with each text in one line."""
    found = {}
    for line in told.splitlines():
        if match := re.match(r"([\w.]+) = (.*)", line):
            found[match[1]] = [match[2], "", ""]
            texts, at = found[match[1]], 1
        elif line.startswith("    "):
            at = 2 if line.startswith("    allowed: ") else at
            texts[at] = f"{texts[at]} {line.strip()}".strip()
    return {key: tuple(texts) for key, texts in found.items()}


def headings(told):
    return [line for line in told.splitlines() if line.startswith("----")]


def test_every_key_is_listed_once_with_value_meaning_and_what_is_allowed():
    found = read(describe(default_config()))
    assert list(found) == list(KEYS)
    for key, (value, meaning, allowed) in found.items():
        assert meaning == KEYS[key].meaning and allowed == f"allowed: {KEYS[key].type}", key
        assert value.startswith("cyclical(") or eval(value) == KEYS[key].default


def test_a_value_that_is_not_the_default_stands_beside_the_default():
    momentum = cyclical(0.85, 0.95, factor=4, scale="log")
    config = config_of("weight_decay", seed=3)
    config.optimizer.momentum = momentum
    found = read(describe(config))
    assert found["seed"][0] == "3"
    assert found["seed"][2] == "allowed: whole number, at least 0; default: 0"
    assert found["optimizer.weight_decay"][0] == "cyclical(easy=0.0001, hard=0.002)"
    assert found["optimizer.weight_decay"][2].endswith("or None; default: 0.001")
    assert found["optimizer.momentum"][2].endswith("; default: 0.9")
    for entry in ("easy=0.85", "hard=0.95", "factor=4", "scale='log'"):
        assert entry in found["optimizer.momentum"][0]
    assert not found["loss.hardness"][2].count("default")


def test_lines_fit_a_page():
    lines = describe(default_config()).splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("      ") for line in lines)  # a list that goes on


def test_each_section_begins_with_its_name_and_a_sentence():
    told = describe(default_config())
    assert "\n\n\n" not in told
    blocks = told.split("\n\n")
    names = ["data", "training", "cycle", "task", *(entry.name for entry in CATALOGUE.entries)]
    for name, heading, keys in zip(names, blocks[::2], blocks[1::2], strict=True):
        title, sentence = heading.splitlines()
        assert title.startswith(f"---- {name} ") and title.endswith(" ----")
        assert re.fullmatch(r"[A-Z].*\.", sentence) and " = " in keys.partition("\n")[0]


@pytest.mark.parametrize(
    "changes, on, off",
    [
        ({}, "classification", "multilabel (off; task.name = 'multilabel' turns it on)"),
        (
            {"task": {"name": "multilabel"}},
            "multilabel",
            "classification (off; task.name = 'classification' turns it on)",
        ),
        (
            {"ema_decay": 0.9},
            "moving_average",
            "gradient_norm (off; loss.gradient_norm turns it on)",
        ),
    ],
)
def test_a_section_that_is_off_says_what_turns_it_on(changes, on, off):
    found = headings(describe(config_of(**changes)))
    assert f"---- {on} ----" in found and f"---- {off} ----" in found


def test_a_technique_without_a_sentence_is_listed_too():
    mine = Technique("mine", {"mine.size": number(1.5, "size in pixels", minimum=1)})
    catalogue = extended(techniques=[mine])
    told = describe(default_config(catalogue), catalogue)
    own = "---- mine ----\n\nmine.size = 1.5\n    size in pixels\n    allowed: number, at least 1"
    assert told.endswith(own)
