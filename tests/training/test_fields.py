"""The table of keys: its words, and that its entries agree with each other."""

import re

import pytest

from cyclical_jax.training.durations import Duration
from cyclical_jax.training.fields import FIELDS, OPTIONS, SECTIONS, Cycle


@pytest.mark.parametrize("key", FIELDS)
def test_a_default_passes_its_own_check_and_has_type_and_meaning(key):
    field = FIELDS[key]
    field.check(key, field.default)
    assert field.type and field.meaning
    for words in (field.type, field.meaning):
        assert "\n" not in words and words == words.strip() and not words.endswith(".")


@pytest.mark.parametrize(
    "key, words",
    [
        ("dataset", "digits or fashion_mnist or cifar10 or cifar100 or imagenet2012"),
        ("data_dir", "string, or None"),
        (
            "subset",
            "4k or 4k_5_3 or 4k_6_2 or first_4k, or 'balanced N', or 'long_tailed N F', or an "
            "index file's path, or None",
        ),
        ("image_size", "whole number, at least 1, or None"),
        ("loss.gradient_norm", "cross_entropy, or None"),
        ("seed", "whole number, at least 0"),
        ("batch_size", "whole number, at least 1"),
        ("duration", "number and steps, epochs or examples"),
        ("loop", "resident or stepwise or streamed, or None"),
        ("ema_decay", "number at least 0 and at most 1, or cyclical(easy, hard), or None"),
        ("cycle.factor", "number at least 1 and at most 1e+09"),
        ("model.hidden_sizes", "tuple of whole numbers, at least 1"),
        ("model.batch_norm", "True or False"),
        ("accumulate", "whole number at least 1, or cyclical(easy, hard)"),
        (
            "model.dropout",
            "number at least 0 and at most 1, or cyclical(easy, hard), or None",
        ),
        ("optimizer.learning_rate", "number above 0, or cyclical(easy, hard)"),
    ],
)
def test_a_type_is_said_in_words(key, words):
    assert FIELDS[key].type == words


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("seed", 1e4, 10_000),
        ("batch_size", 32.0, 32),
        ("model.hidden_sizes", [7, 5.0], (7, 5)),
        ("model.hidden_sizes", (), ()),
        ("model.batch_norm", True, True),
        ("model.dropout", 0, Cycle(0.0, 0.0)),
        ("model.dropout", None, None),
        ("accumulate", 3, Cycle(3.0, 3.0)),
        ("accumulate", {"easy": 8, "hard": 1}, Cycle(8.0, 1.0)),
        ("data_dir", None, None),
        ("data_dir", "/there", "/there"),
        ("loop", "streamed", "streamed"),
        ("subset", "4k_5_3", "4k_5_3"),
        ("loss.gradient_norm", "cross_entropy", "cross_entropy"),
        ("duration", "3 steps", Duration(3.0, "steps")),
        ("optimizer.learning_rate", 2, Cycle(2.0, 2.0)),
        ("optimizer.max_norm", None, None),
        ("optimizer.max_norm", {"easy": 1, "hard": 2}, Cycle(1.0, 2.0, None, None, "linear")),
        (
            "ema_decay",
            {"easy": 0.5, "hard": 1, "factor": 3, "shape": "rex", "scale": "log"},
            Cycle(0.5, 1.0, 3.0, "rex", "log"),
        ),
        ("loss.hardness", {"easy": 1, "hard": 0, "factor": None}, Cycle(1.0, 0.0)),
    ],
)
def test_a_right_value_becomes_what_the_recipe_holds(key, value, expected):
    actual = FIELDS[key].check(key, value)
    assert actual == expected
    assert [type(a) for a in _leaves(actual)] == [type(e) for e in _leaves(expected)]


def _leaves(value):
    return list(value) if isinstance(value, tuple) else [value]


def test_a_word_names_one_knob():
    """The recipe's knobs have no section."""
    knobs = [key.split(".")[-1] for key, field in FIELDS.items() if "cyclical(" in field.type]
    assert len(knobs) == len(set(knobs)) == 27


def test_the_options_of_a_choice_are_keys_of_its_section():
    for choice, options in OPTIONS.items():
        assert " or ".join(options) == FIELDS[choice].type.removesuffix(", or None")
        section = choice.split(".")[0]
        for names in options.values():
            assert {f"{section}.{name}" for name in names} <= FIELDS.keys()


def test_the_sections_are_those_of_the_keys():
    own = "semisupervised", "distillation", "curriculum", "finetuning"
    assert SECTIONS == ("augment", "cycle", "model", "optimizer", "loss", *own)
    assert all(re.fullmatch(r"(\w+\.)?\w+", key) for key in FIELDS)
