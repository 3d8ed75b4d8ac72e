"""What the engine finds wrong between the values of a config, a line each."""

import dataclasses

import jax.numpy as jnp
import pytest

from cyclical_jax.catalogue import CATALOGUE, TASKS, TECHNIQUES, default_config, parse
from cyclical_jax.models import Model
from cyclical_jax.training.assembly import assemble_model
from cyclical_jax.training.fields import RecipeError, flag, one_of, or_none, shown, text
from cyclical_jax.training.recipe import cyclical, put
from cyclical_jax.training.structure import Catalogue
from cyclical_jax.training.technique import IN_MEMORY, Spec, Task, Technique

IMAGENET = {"dataset": "imagenet2012", "image_size": 32}


def changed(changes, catalogue=CATALOGUE):
    """Returns the default config with {"section.key": value} set, whatever the type."""
    config = default_config(catalogue)
    with config.ignore_type():
        for key, value in changes.items():
            put(config, key, value)
    return config


def lines_of(changes, catalogue=CATALOGUE, **options):
    with pytest.raises(RecipeError) as error:
        parse(changed(changes, catalogue), catalogue=catalogue, **options)
    return str(error.value).splitlines()


def test_a_subset_of_train_and_validation_has_both_to_be_filled_from():
    changes = {"subset": "4k_6_2", "train_on": "train+validation"}
    line = "subset '4k_6_2' has 4000 examples, but digits has 1397 to train on."
    assert lines_of(changes) == [line]
    assert parse(changed(changes | {"dataset": "cifar100"})).subset == "4k_6_2"


@pytest.mark.parametrize("wrong", [{"dataset": "digit"}, {"train_on": "all"}, {"subset": "5k"}])
def test_a_subset_beside_a_wrong_value_is_not_judged(wrong):
    (line,) = lines_of({"subset": "4k"} | wrong)
    assert line.startswith(*wrong)


# ---- what is wrong between values


def test_one_of_several_switches_turns_a_technique_on():
    keys = {f"mine.{word}": or_none(text(None, "a word")) for word in "abc"}
    keys["mine.more"] = flag(False, "more")
    mine = Technique("mine", keys, switch=("mine.a", "mine.b"), needs=frozenset({"sounds"}))
    catalogue = Catalogue(TASKS, (*TECHNIQUES, mine))
    off = parse(changed({}, catalogue), catalogue=catalogue)
    assert mine not in [entry for entry, _ in off.structure.entries]
    for key in ("mine.more", "mine.c"):
        value = True if key == "mine.more" else "word"
        assert lines_of({key: value}, catalogue) == [
            f"{key} is read where mine.a or mine.b is set, not None; leave it at "
            f"{keys[key].default!r}."
        ]
    assert lines_of({"mine.b": "word", "mine.more": True}, catalogue) == [
        "mine.b must be None where task.name is 'classification': it needs sounds."
    ]
    with pytest.raises(RecipeError, match="mine has no key mine.d, which is its switch"):
        Catalogue(TASKS, (dataclasses.replace(mine, switch=("mine.a", "mine.d")),))


@pytest.mark.parametrize("num_devices, is_wrong", [(1, False), (2, False), (4, False), (3, True)])
def test_the_devices_share_a_batch_evenly(num_devices, is_wrong):
    if is_wrong:
        line = "batch_size must be a multiple of the number of devices, 3, got 64."
        assert lines_of({}, num_devices=num_devices) == [line]
    else:
        parse(changed({}), num_devices=num_devices)


@pytest.mark.parametrize("remainder, accumulate", [("pad", 1), ("drop", 2)])
def test_padding_or_accumulation_alone_is_right(remainder, accumulate):
    structure = parse(changed({"remainder": remainder, "accumulate": accumulate})).structure
    assert (structure.remainder, structure.accumulate.least) == (remainder, accumulate)


def test_padding_and_accumulation_exclude_each_other():
    assert lines_of({"remainder": "pad", "accumulate": 2}) == [
        "remainder must be 'drop' where accumulate is above 1: a padded batch would weigh as "
        "much as a full one."
    ]


@pytest.mark.parametrize(
    "changes, line",
    [
        (
            {"accumulate_as": "one_batch"},
            "accumulate_as is 'one_batch', but accumulate is 1: there is nothing to join.",
        ),
        (
            {"accumulate_as": "one_batch", "accumulate": 2, "loop": "streamed"},
            "accumulate_as must be 'micro_steps' where loop is 'streamed'.",
        ),
        (
            {"image_size": 32},
            "image_size must be None for 'digits', whose images have one, got 32.",
        ),
        (
            IMAGENET | {"loop": "resident"},
            "loop must be None or 'streamed' for 'imagenet2012', got 'resident'.",
        ),
    ],
)
def test_what_the_engine_cannot_run_is_one_line(changes, line):
    assert lines_of(changes) == [line]


# ---- options of what is not chosen


NEEDED = {"warm_restarts": {"optimizer.first_cycle": "1 epoch"}}  # which has no value by default
CHOICES = {key: options for e in CATALOGUE.entries for key, options in (e.options or {}).items()}


@pytest.mark.parametrize("choice, chosen", [(c, word) for c in CHOICES for word in CHOICES[c]])
def test_an_option_that_is_not_read_may_stand_at_its_default(choice, chosen):
    section = choice.split(".")[0]
    names = {name for options in CHOICES[choice].values() for name in options}
    keys = [f"{section}.{name}" for name in names]
    defaults = {key: CATALOGUE.keys[key].default for key in keys}
    task = {"task.name": "multilabel" if section == "multilabel" else "classification"}
    recipe = parse(changed(task | defaults | {choice: chosen} | NEEDED.get(chosen, {})))
    read = {key for _, own in recipe.structure.entries for key, _ in own} | recipe.numbers.keys()
    read |= dict(recipe.durations).keys()
    assert read & {*keys} == {f"{section}.{name}" for name in CHOICES[choice][chosen]}


def test_the_default_of_an_option_may_be_written_in_another_way():
    parse(changed({"loss.hardness": cyclical(0, 1), "model.widths": [32, 64], "loss.gamma": 2}))


# ---- what is of another task, or is not offered by it


@pytest.mark.parametrize("chosen", TASKS, ids=str)
@pytest.mark.parametrize("other", TASKS, ids=str)
def test_keys_of_a_task_that_is_not_chosen_stay_at_their_defaults(chosen, other):
    recipe = parse(changed({"task.name": chosen.name}))
    assert recipe.task is chosen and not {*TASKS} & {e for e, _ in recipe.structure.techniques}
    for key, field in other.keys.items() if chosen != other else ():
        assert key not in recipe.numbers
        value = 0.5 if "number" in field.type else field.type.split(" or ")[-1]
        (line,) = lines_of({"task.name": chosen.name, key: value})
        why = f"read where task.name is {other.name!r}, not {chosen.name!r}"
        assert line == f"{key} is {why}; leave it at {shown(field.default)}."


def scaled(site, before):
    """Returns a model of one parameter."""
    return Model(
        lambda key, inputs: ({"scale": jnp.ones([])}, {}),
        lambda params, state, inputs, **_: (params["scale"] * inputs, state),
    )


BARE = Catalogue((*TASKS, Task("bare", {}, model=scaled)), TECHNIQUES)  # it offers nothing


def test_a_technique_without_a_switch_is_off_where_the_task_does_not_offer_its_needs():
    config = changed({"task.name": "bare", "optimizer.max_norm": cyclical(1, 2)}, BARE)
    recipe = parse(config, catalogue=BARE)
    assert [entry.name for entry, _ in recipe.structure.techniques] == [
        "optimizer",
        "learning_rate",
    ]
    read = {key for _, own in recipe.structure.entries for key, _ in own} | recipe.numbers.keys()
    assert {key.split(".")[0] for key in read} == {"optimizer"}
    params, _ = assemble_model(recipe.structure, Spec(9, 2, (3,))).init(None, None)
    assert params == {"scale": 1}


@pytest.mark.parametrize(
    "changes, line",
    [
        (
            {"model.name": "cnn"},
            "model.name is not read where task.name is 'bare'; leave it at 'mlp'.",
        ),
        (
            {"model.channels": 3},
            "model.channels is not read where task.name is 'bare'; leave it at 32.",
        ),
        (
            {"model.dropout": 0.5},
            "model.dropout is not read where task.name is 'bare'; leave it at None.",
        ),
        (
            {"loss.gamma": 1.0},
            "loss.gamma is read where task.name is 'classification', not 'bare'; leave it at 2.0.",
        ),
        (
            {"loss.class_weights": "balanced"},
            "loss.class_weights must be None where task.name is 'bare': it needs labels.",
        ),
        (
            {"loss.gradient_norm": "cross_entropy"},
            "loss.gradient_norm must be None where task.name is 'bare': it needs class logits and "
            "labels.",
        ),
    ],
)
def test_what_a_task_does_not_offer_is_refused(changes, line):
    assert lines_of({"task.name": "bare"} | changes, BARE) == [line]


def test_what_is_on_always_and_needs_examples_in_memory_names_itself():
    keys = {"mine.on": flag(True, "turns it on")}
    mine = Technique("mine", keys, needs=frozenset({IN_MEMORY}))
    catalogue = Catalogue(TASKS, (*TECHNIQUES, mine))
    assert parse(default_config(catalogue), catalogue=catalogue).structure.techniques[-1][0] is mine
    line = "dataset must fit in memory, which mine needs, got 'imagenet2012'."
    assert lines_of(IMAGENET, catalogue) == [line]


def test_a_technique_that_is_on_by_default_can_be_turned_off():
    keys = {"mine.mode": or_none(text("x", "its mode")), "mine.more": flag(False, "does more")}
    catalogue = Catalogue(TASKS, (*TECHNIQUES, Technique("mine", keys, switch="mine.mode")))
    for mode, is_on in (("x", True), (None, False)):
        recipe = parse(changed({"mine.mode": mode}, catalogue), catalogue=catalogue)
        assert ("mine" in [entry.name for entry, _ in recipe.structure.techniques]) == is_on
    line = "mine.more is read where mine.mode is set, not None; leave it at False."
    assert lines_of({"mine.mode": None, "mine.more": True}, catalogue) == [line]


def test_a_choice_decides_about_the_words_of_its_own_section():
    modes = one_of("a", ("a", "b"), "its mode")
    keys = {"mine.mode": modes} | {f"{s}.more": flag(False, "does more") for s in ("mine", "yours")}
    mine = Technique("mine", keys, options={"mine.mode": {"a": (), "b": ("more",)}})
    catalogue = Catalogue(TASKS, (*TECHNIQUES, mine))
    recipe = parse(changed({"yours.more": True}, catalogue), catalogue=catalogue)
    assert dict(recipe.structure.techniques[-1][1]) == {"mine.mode": "a", "yours.more": True}
    line = "mine.more is read where mine.mode is 'b', not 'a'; leave it at False."
    assert lines_of({"mine.more": True}, catalogue) == [line]
