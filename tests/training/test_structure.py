"""Which recipes have one structure, how long a run is, and what a catalogue refuses."""

import itertools

import pytest

from cyclical_jax.accumulation import uniform_windows
from cyclical_jax.catalogue import CATALOGUE, TASKS, TECHNIQUES, default_config, parse
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.fields import RecipeError, flag
from cyclical_jax.training.recipe import cyclical, put
from cyclical_jax.training.structure import Catalogue
from cyclical_jax.training.technique import Task, Technique


def changed(changes):
    """Returns the default config with {"section.key": value} set, whatever the type."""
    config = default_config()
    with config.ignore_type():
        for key, value in changes.items():
            put(config, key, value)
    return config


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.weight_decay": cyclical(1e-4, 2e-3, factor=3)},
        {"optimizer.learning_rate": 0.3, "cycle.factor": 5.0},
        {"seed": 3, "duration": "9 epochs", "log_every": "1 step", "loop": "streamed"},
        {"dataset": "cifar10", "subset": "4k"},
    ],
)
def test_runs_that_differ_in_numbers_or_lengths_alone_have_one_structure(changes):
    plain, other = parse(changed({})), parse(changed(changes))
    assert plain != other
    assert plain.structure == other.structure
    assert hash(plain.structure) == hash(other.structure)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.max_norm": 1.0},
        {"optimizer.nesterov": False},
        {"model.hidden_sizes": (63,)},
        {"optimizer.weight_decay": cyclical(1e-4, 1e-3, scale="log")},
        {"cycle.shape": "cosine"},
        {"cycle.num_cycles": 2},
        {"accumulate": 2},
        {"remainder": "pad"},
        {"on_nonfinite": "skip"},
        {"loss.gradient_norm": "cross_entropy"},
        {"task.name": "multilabel"},
        {"distillation.teacher": "runs/a"},
        {"ema_decay": 0.9},
        {"model.dropout": 0.1},
        {"optimizer.warmup": "2 steps"},
    ],
)
def test_what_is_compiled_differently_is_another_structure(changes):
    plain, other = parse(changed({})).structure, parse(changed(changes)).structure
    assert plain != other and len({plain, other, parse(changed(changes)).structure}) == 2


def test_earlier_runs_and_lengths_of_techniques_are_no_part_of_the_structure():
    runs = [
        parse(changed({"distillation.teacher": f"runs/{n}", "optimizer.warmup": f"{n} steps"}))
        for n in (2, 3)
    ]
    assert runs[0].structure == runs[1].structure
    assert [run.earlier_runs for run in runs] == [
        (("distillation.teacher", "runs/2"),),
        (("distillation.teacher", "runs/3"),),
    ]
    assert [dict(run.durations)["optimizer.warmup"].amount for run in runs] == [2, 3]


# ---- a recipe in words is its identity

DIFFERENT = [
    {},
    {"seed": 1},
    {"dataset": "cifar10"},
    {"train_on": "train+validation"},
    {"subset": "balanced 60"},
    {"dataset": "cifar10", "data_dir": "/there"},
    {"loop": "stepwise"},
    {"duration": "41 epochs"},
    {"duration": "40 steps"},
    {"log_every": "2 epochs"},
    {"accumulate": 2},
    {"accumulate": cyclical(2, 1)},
    {"optimizer.momentum": 0.9000001},
    {"optimizer.momentum": cyclical(0.9, 0.9, factor=3)},
    {"optimizer.momentum": cyclical(0.9, 0.9, shape="rex")},
    {"optimizer.warmup": "2 steps"},
    {"optimizer.warmup": "3 steps"},
    {"distillation.teacher": "runs/a"},
    {"distillation.teacher": "runs/b"},
    {"finetuning.start": "runs/a"},
    {"curriculum.scorer": "runs/a"},
    {"running_curriculum.preference": 4},
    {"ema_decay": 0.9},
    {"loss.class_weights": "balanced"},
    {"loss.class_weights": (1,) * 10},
    {"task.name": "multilabel"},
    {"task.name": "multilabel", "multilabel.loss": "asymmetric"},
]


def test_two_recipes_are_told_apart_by_their_words():
    recipes = [parse(changed(changes)) for changes in DIFFERENT]
    for one, other in itertools.combinations(recipes, 2):
        assert one != other and repr(one) != repr(other)
    for recipe, changes in zip(recipes, DIFFERENT, strict=True):
        again = parse(changed(changes))
        assert recipe == again and repr(recipe) == repr(again) and "0x" not in repr(recipe)
        assert hash(recipe.structure) == hash(again.structure)


def test_what_is_written_in_another_way_is_the_same_recipe():
    one = {"loss.name": "cyclical_focal", "loss.hardness": cyclical(0, 1), "batch_size": 64.0}
    other = {"loss.name": "cyclical_focal", "model.hidden_sizes": [64], "duration": "40 epoch"}
    recipes = [parse(changed(changes)) for changes in (one, other)]
    assert recipes[0] == recipes[1] and repr(recipes[0]) == repr(recipes[1])


# ---- columns of the log


def test_a_column_is_the_last_word_of_a_knob_unless_two_have_it():
    both = {"curriculum.scorer": "runs/a", "running_curriculum.preference": 4}
    columns = parse(changed(both)).structure.columns
    assert columns.pop("curriculum.preference") == "curriculum.preference"
    assert columns.pop("running_curriculum.preference") == "running_curriculum.preference"
    assert columns == {key: key.rpartition(".")[2] for key in columns} and len(columns) == 6


def test_the_words_that_two_knobs_of_ours_share():
    """All others are columns in every run."""
    knobs = [key for key, field in CATALOGUE.keys.items() if field.may_cycle]
    words = [key.rpartition(".")[2] for key in knobs]
    shared = {word for word in words if words.count(word) > 1}
    assert shared == {"preference", "hardness", "gamma_hc", "gamma_pos", "gamma_neg"}
    assert len(knobs) == 35


# ---- the catalogue


def mine(name="mine", *keys, **options):
    return Technique(name, {key: flag(False, "turns it on") for key in keys}, **options)


@pytest.mark.parametrize(
    "tasks, techniques, line",
    [
        ((), [mine(), mine()], "Two tasks or techniques have the name 'mine'."),
        ((), [mine("optimizer")], "Two tasks or techniques have the name 'optimizer'."),
        ((), [mine("multilabel")], "Two tasks or techniques have the name 'multilabel'."),
        ([Task("optimizer", {})], (), "Two tasks or techniques have the name 'optimizer'."),
        ((), [mine("a", "x.y"), mine("b", "x.y")], "a and b both have the key x.y."),
        ((), [mine("mine", "ema_decay")], "moving_average and mine both have the key ema_decay."),
        ((), [mine("mine", "loss.name")], "classification and mine both have the key loss.name."),
        ((), [mine("mine", "seed")], "the engine and mine both have the key seed."),
        ((), [mine("mine", "cycle.factor")], "the engine and mine both have the key cycle.factor."),
        ((), [mine("mine", "task.name")], "the engine and mine both have the key task.name."),
        (
            (),
            [mine("mine", "mine.on", switch="mine.no")],
            "mine has no key mine.no, which is its switch.",
        ),
    ],
)
def test_entries_that_collide_are_refused_in_a_line(tasks, techniques, line):
    with pytest.raises(RecipeError) as error:
        Catalogue((*TASKS, *tasks), (*TECHNIQUES, *techniques))
    assert str(error.value) == line


def test_a_catalogue_is_named_by_its_entries_and_finds_what_it_has():
    catalogue = Catalogue(TASKS, (*TECHNIQUES, mine("mine", "mine.on")))
    assert repr(catalogue) == f"{CATALOGUE!r}, mine" and catalogue != CATALOGUE
    assert catalogue.keys.keys() - CATALOGUE.keys.keys() == {"mine.on"}
    assert catalogue.owners["mine.on"].name == "mine" and catalogue.sections[-1] == "mine"
    assert catalogue.task("multilabel") is TASKS[1]
    recipe = parse(default_config(catalogue), catalogue=catalogue)
    assert dict(recipe.structure.techniques[-1][1]) == {"mine.on": False}
    assert recipe.catalogue is catalogue and recipe != parse(default_config())


# ---- the timetable

# 1197 examples in batches of 64: 18 full ones and a rest of 45.
DEFAULT = dict(micro_steps=720, every=1, micro_steps_per_epoch=18)
EVERY = dict(log_every=18, validate_every=18)
ALL = ("micro_steps", "log_every", "validate_every")


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, DEFAULT | EVERY),
        ({"duration": "7 steps"}, DEFAULT | dict.fromkeys(ALL, 7)),  # no interval is longer
        ({"duration": "2.5 epochs"}, DEFAULT | EVERY | {"micro_steps": 45}),
        ({"duration": "1000 examples"}, DEFAULT | dict.fromkeys(ALL, 16)),
        (
            {"log_every": "5 steps", "validate_every": "0.5 epochs"},
            DEFAULT | {"log_every": 5, "validate_every": 9},
        ),
        (
            {"log_every": "0.01 epochs", "validate_every": "65 examples"},
            DEFAULT | {"log_every": 1, "validate_every": 2},
        ),
        (
            {"duration": "7 steps", "accumulate": 3, "log_every": "2 steps"},
            dict(
                micro_steps=21,
                every=3,
                micro_steps_per_epoch=18,
                log_every=6,
                validate_every=18,
            ),
        ),
        (
            {"duration": "2 epochs", "remainder": "pad"},
            dict(micro_steps=38, every=1, micro_steps_per_epoch=19)
            | dict(log_every=19, validate_every=19),
        ),
        (
            {"remainder": "pad", "batch_size": 2000, "duration": "3 epochs"},
            dict(micro_steps=3, every=1, micro_steps_per_epoch=1)
            | dict(log_every=1, validate_every=1),
        ),
        (  # there is no rest
            {"remainder": "pad", "batch_size": 399, "duration": "3 epochs"},
            dict(micro_steps=9, every=1, micro_steps_per_epoch=3)
            | dict(log_every=3, validate_every=3),
        ),
        (
            {"batch_size": 1197, "duration": "3 epochs"},
            dict(micro_steps=3, every=1, micro_steps_per_epoch=1)
            | dict(log_every=1, validate_every=1),
        ),
    ],
)
def test_durations_become_micro_steps(changes, expected):
    windows = uniform_windows(expected.pop("micro_steps"), expected.pop("every"))
    assert parse(changed(changes)).timetable(1197) == Timetable(windows, **expected)


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"batch_size": 1198}, "batch_size 1198 is more than the 1197 training examples."),
        (
            {"duration": "1 step"},
            "duration must make more updates than cycle.num_cycles 1, got 1 of 1197 training "
            "examples.",
        ),
        (
            {"duration": "3 steps", "cycle.num_cycles": 3},
            "duration must make more updates than cycle.num_cycles 3, got 3 of 1197 training "
            "examples.",
        ),
        (  # 18 micro steps
            {"duration": "1 epoch", "accumulate": 18},
            "duration must make more updates than cycle.num_cycles 1, got 1 of 1197 training "
            "examples.",
        ),
    ],
)
def test_data_that_is_too_little_is_told(changes, line):
    with pytest.raises(RecipeError) as error:
        parse(changed(changes)).timetable(1197)
    assert str(error.value) == line


@pytest.mark.parametrize(
    "changes, total_steps",
    [
        ({"duration": "4 steps", "cycle.num_cycles": 3}, 4),
        ({"duration": "1 epoch", "accumulate": 17}, 2),  # the last of one micro step
        ({"duration": "2 steps", "accumulate": 100}, 2),  # of many epochs
    ],
)
def test_a_cycle_turns_from_two_updates_on(changes, total_steps):
    assert parse(changed(changes)).timetable(1197).total_steps == total_steps
