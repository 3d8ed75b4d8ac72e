"""The keys of a config: their words, and that they agree with each other."""

import re

import pytest

from cyclical_jax.catalogue import CATALOGUE
from cyclical_jax.training import fields
from cyclical_jax.training.durations import Duration
from cyclical_jax.training.fields import Cycle

KEYS = CATALOGUE.keys
NO_NOUN_OR_VERB = "of in on at by for from to with as if where when which that whether and or not"


@pytest.mark.parametrize("key", KEYS)
def test_a_default_passes_its_own_check_and_has_type_and_meaning(key):
    field = KEYS[key]
    field.check(key, field.default)
    assert field.type and field.meaning
    for words in (field.type, field.meaning):
        assert "\n" not in words and words == words.strip() and not words.endswith(".")


@pytest.mark.parametrize("key", KEYS)
def test_a_meaning_starts_with_a_noun_or_a_verb(key):
    first = re.match(r"(the |a |an )?([A-Za-z']+)[ ;,:]", KEYS[key].meaning)
    assert first and first[2].lower() not in NO_NOUN_OR_VERB.split()
    assert "`" not in KEYS[key].meaning


@pytest.mark.parametrize(
    "key, words",
    [
        (
            "dataset",
            "digits, fashion_mnist, cifar10, cifar100, imagenet2012, npz:FILE, csv:FILE, "
            "folder:DIR or tfds:NAME",
        ),
        ("data_dir", "path, or None"),
        (
            "subset",
            "4k, 4k_5_3, 4k_6_2, first_4k, 'balanced N', 'long_tailed N F' or the path of an index "
            "file, or None",
        ),
        ("image_size", "whole number, at least 1, or None"),
        ("loss.gradient_norm", "cross_entropy, or None"),
        ("seed", "whole number, at least 0"),
        ("batch_size", "whole number, at least 1"),
        ("duration", "number of steps, epochs or examples, such as '40 epochs'"),
        ("loop", "resident, stepwise or streamed, or None"),
        ("ema_decay", "number from 0 to 1, or cyclical(easy, hard), or None"),
        ("cycle.factor", "number, at least 1"),
        ("model.hidden_sizes", "tuple of whole numbers, at least 1"),
        ("model.batch_norm", "True or False"),
        ("accumulate", "whole number, at least 1, or cyclical(easy, hard)"),
        ("optimizer.b1", "number, at least 0 and below 1"),
        ("optimizer.learning_rate", "number, above 0, or cyclical(easy, hard)"),
    ],
)
def test_a_type_is_said_in_words(key, words):
    assert KEYS[key].type == words


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
        ("validate_every", "3 steps", Duration(3.0, "steps")),
        ("validate_every", "cycle", "cycle"),
        ("optimizer.learning_rate", 2, Cycle(2.0, 2.0)),
        ("optimizer.max_norm", None, None),
        ("optimizer.max_norm", {"easy": 1, "hard": 2}, Cycle(1.0, 2.0, None, None, "linear")),
        (
            "ema_decay",
            {"easy": 0.5, "hard": 1, "factor": 3, "shape": "rex", "scale": "log"},
            Cycle(0.5, 1.0, 3.0, "rex", "log"),
        ),
        ("loss.hardness", {"easy": 1, "hard": 0, "factor": None}, Cycle(1.0, 0.0)),
        (
            "loss.hardness",
            {"easy": 1, "hard": 0, "shape": ["rex", "early_rex"]},
            Cycle(1.0, 0.0, None, ("rex", "early_rex")),
        ),
        ("cycle.shape", ["rex", "early_rex"], ("rex", "early_rex")),
    ],
)
def test_a_right_value_becomes_what_the_recipe_holds(key, value, expected):
    actual = KEYS[key].check(key, value)
    assert actual == expected
    assert [type(a) for a in _leaves(actual)] == [type(e) for e in _leaves(expected)]


def _leaves(value):
    return list(value) if isinstance(value, tuple) else [value]


def test_the_options_of_a_choice_are_keys_of_its_section():
    choices = {
        key: options for e in CATALOGUE.entries for key, options in (e.options or {}).items()
    }
    names = {"loss.name", "multilabel.loss", "model.name", "optimizer.name"}
    assert choices.keys() == names | {"optimizer.learning_rate_schedule"}
    for choice, options in choices.items():
        words = KEYS[choice].type.removesuffix(", or None")
        extra = ("path/to/file.py:ClassName",) if choice == "model.name" else ()
        assert words == fields.any_of(*options, *extra)
        section = choice.split(".")[0]
        for names in options.values():
            assert {f"{section}.{name}" for name in names} <= KEYS.keys()


def test_the_sections_are_those_of_the_keys():
    own = "semisupervised", "distillation", "curriculum", "running_curriculum", "precision"
    first = "cycle", "task", "loss", "multilabel", "model", "optimizer", "finetuning", "augment"
    assert CATALOGUE.sections == (*first, *own)
    assert all(re.fullmatch(r"(\w+\.)?\w+", key) for key in KEYS)


def test_the_keys_of_earlier_runs_are_marked_and_may_be_none():
    runs = {key for key, field in KEYS.items() if field.is_run}
    assert runs == {"distillation.teacher", "curriculum.scorer", "finetuning.start"}
    assert all(KEYS[key].check(key, None) is None and KEYS[key].default is None for key in runs)


@pytest.mark.parametrize(
    "field, value, lines",
    [
        (
            fields.one_of("a", ("a", "bcd"), ""),
            "bcx",
            ["x must be one of 'a', 'bcd', got 'bcx'. Did"],
        ),
        (
            fields.whole(1, "", minimum=1, maximum=3),
            4,
            ["x must be a whole number from 1 to 3, got 4"],
        ),
        (fields.number(1.0, "", above=0), 0, ["x must be above 0, got 0."]),
        (fields.flag(True, ""), 1, ["x must be True or False, got 1."]),
        (fields.text("", ""), 3, ["x must be a string, got 3."]),
        (fields.earlier_run(""), 3, ["x must be a string, got 3."]),
        (fields.sizes((1,), ""), 3, ["x must be a tuple of whole numbers, such as (64,), got 3."]),
        (fields.names(("a", "b"), ""), "a", ["x must be a tuple, such as ('a',), got 'a'."]),
        (fields.names(("a", "b"), ""), ("c", "a", "d"), ["got 'c'.", "got 'd'."]),
        (
            fields.duration(None, ""),
            "1",
            ["x must be a number above 0 and a unit, such as '1.5 ep"],
        ),
        (fields.knob(1.0, "", minimum=0), {"easy": -1, "hard": -2}, ["x.easy must", "x.hard must"]),
        (fields.constant(1.0, ""), {"easy": 1, "hard": 2}, ["x must be a number, got {"]),
        (fields.whole_knob(1, "", minimum=1), 1.5, ["x must be a whole number from 1"]),
        (
            fields.whole_knob(1, "", minimum=1),
            {"easy": 1.5, "hard": 2.5},
            ["x.easy must be a whole number from 1", "x.hard must be a whole number from 1"],
        ),
        (fields.or_none(fields.flag(True, "")), 0, ["x must be True or False, got 0."]),
    ],
)
def test_a_check_tells_every_problem_in_a_line(field, value, lines):
    with pytest.raises(ValueError) as error:
        field.check("x", value)
    told = str(error.value).replace("`", "").splitlines()
    assert len(told) == len(lines) and all(a in b for a, b in zip(lines, told, strict=True))
