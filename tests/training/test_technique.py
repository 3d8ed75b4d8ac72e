"""What techniques and tasks are made of: the names of their knobs, and what a task judges by."""

import dataclasses

import numpy as np
import pytest

from cyclical_jax.data import Dataset
from cyclical_jax.training.fields import knob
from cyclical_jax.training.structure import Accumulation, Curve, Knob, Structure
from cyclical_jax.training.technique import Spec, Task, Technique, columns, spec_of
from tests.helpers import structure_of


@pytest.mark.parametrize(
    "keys, taken, expected",
    [
        (["a.rate", "ema_decay"], (), ["rate", "ema_decay"]),
        (["a.rate", "b.rate", "b.decay"], (), ["a.rate", "b.rate", "decay"]),
        (["a.rate", "rate"], (), ["a.rate", "rate"]),
        (["a.loss", "a.rate"], ("loss",), ["a.loss", "rate"]),
        (["a.b.rate", "c.b.rate"], (), ["a.b.rate", "c.b.rate"]),
        ([], ("loss",), []),
    ],
)
def test_a_column_is_the_last_word_of_a_key_unless_another_has_it(keys, taken, expected):
    assert columns(keys, taken) == dict(zip(keys, expected, strict=True))


def test_no_knob_has_the_name_of_what_is_measured_or_logged():
    """Whatever the step and the log measure: of all runs, of the task, and of a technique."""
    measured = ("loss", "grad_norm", "num_examples", "skipped", "step", "epoch", "seconds")
    words = (*measured, "images_per_second", "val_loss", "val_score", "share", "own")
    curve, constant = Curve("linear", "linear"), Knob(1, 1, 1)
    task = Task("task", {}, measures=("own",), judged_by=("score", "max"))
    structure = Structure(
        task=(task, ()),
        techniques=((Technique("mine", {}, measures=("share",)), ()),),
        curves=tuple((f"mine.{word}", curve) for word in (*words, "rate")),
        num_cycles=1,
        span="run",
        batch_size=4,
        beside=(),
        accumulate=Accumulation(constant, curve),
        as_one_batch=False,
        remainder="drop",
        on_nonfinite="stop",
    )
    assert structure.measures == ("own", "share")
    assert structure.columns == {f"mine.{word}": f"mine.{word}" for word in words} | {
        "mine.rate": "rate"
    }


def test_a_technique_names_the_columns_of_its_knobs_and_of_further_schedules():
    """A knob that is off has no column, and another knob of that name has its whole key."""
    keys = {f"mine.{word}": knob(0.0, "a number") for word in ("rate", "size", "off")}
    keys["mine.size"] = keys["mine.size"]._replace(is_whole=True)
    named = {"mine.rate": "my_rate", "mine.off": "my_off", "mine.cost": "my_cost"}
    mine = Technique("mine", keys, columns=named)
    others = ("mine.rate", "mine.size", "other.my_rate")
    structure = dataclasses.replace(
        structure_of(Task("task", {}), mine),
        curves=tuple((key, Curve("linear", "linear")) for key in others),
    )
    assert structure.columns == {
        "mine.size": "size",
        "other.my_rate": "other.my_rate",
        "mine.rate": "my_rate",
        "mine.cost": "my_cost",
    }
    assert structure.whole == {"size"}


def test_more_of_what_a_task_judges_by_is_better():
    task = Task("task", {}, judged_by=("score", "max"))
    scores = {"loss": 0.5, "score": 0.25}
    assert task.worth(scores) == 0.25
    assert dataclasses.replace(task, judged_by=("loss", "min")).worth(scores) == -0.5
    assert Task("task", {}).worth(scores) == -0.5


def test_entries_have_their_names_and_are_equal_only_to_themselves():
    one, other = Technique("mine", {}), Technique("mine", {})
    assert repr(one) == "mine" and one == one != other and len({one, other}) == 2


def test_a_spec_is_of_the_training_split():
    splits = [
        {"image": np.zeros((number, 3, 4, 2), np.uint8), "label": np.zeros(number, np.int32)}
        for number in (7, 2, 1)
    ]
    assert spec_of(Dataset(*splits, 5)) == Spec(num_train=7, num_outputs=5, shape=(3, 4, 2))
