"""A config becomes a recipe, or one line for each problem."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from cyclical_jax.catalogue import CATALOGUE, CUSTOMARY, default_config, parse
from cyclical_jax.schedules import SHAPES
from cyclical_jax.training.durations import Duration
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.recipe import completed, cyclical
from cyclical_jax.training.structure import Curve, Knob

KEYS, SECTIONS = CATALOGUE.keys, CATALOGUE.sections


def changed(changes):
    """The default config with {"section.key": value} set, whatever the type."""
    config = default_config().to_dict()
    for key, value in changes.items():
        *section, name = key.split(".")
        (config[section[0]] if section else config)[name] = value
    return ConfigDict(config)


def lines_of(changes, **kwargs):
    with pytest.raises(RecipeError) as error:
        parse(changed(changes), **kwargs)
    return str(error.value).splitlines()


# ---- what is right


@pytest.mark.parametrize("make", [default_config, default.get_config])
def test_the_default_config_has_every_key_and_is_a_recipe(make):
    config = make()
    keys = {
        f"{name}.{key}" if isinstance(value, ConfigDict) else name
        for name, value in config.items()
        for key in (value if isinstance(value, ConfigDict) else [""])
    }
    assert keys == KEYS.keys()
    recipe = parse(config)
    assert (recipe.dataset, recipe.data_dir, recipe.seed, recipe.loop) == ("digits", None, 0, None)
    assert recipe.subset is recipe.image_size is None
    names = [entry.name for entry, _ in recipe.structure.entries]
    assert names == ["classification", "network", "optimizer", "learning_rate"]
    assert recipe.train_on == "train" and recipe.duration == Duration(40, "epochs")
    assert recipe.log_every == recipe.validate_every == Duration(1, "epochs")


def test_a_change_of_a_default_config_is_not_one_of_the_next():
    default_config().loss.hardness.hard = 0.5
    assert default_config().loss.hardness.hard == 1.0


def test_every_part_of_the_recipe_is_what_the_config_says():
    recipe = parse(
        changed(
            {
                "dataset": "cifar10",
                "data_dir": "/there",
                "train_on": "train+validation",
                "subset": "4k_5_3",
                "seed": 7.0,
                "duration": "9 steps",
                "batch_size": 1e2,
                "accumulate": 3,
                "log_every": "2 steps",
                "validate_every": "300 examples",
                "on_nonfinite": "skip",
                "loop": "streamed",
                "cycle.num_cycles": 2,
                "cycle.span": "restart",
                "model.name": "patch_dense",
                "model.hidden_sizes": [5],
                "model.patch_size": 6,
                "model.stride": 2,
                "model.channels": 3,
                "model.batch_norm": True,
                "model.dropout": 0.25,
                "model.dtype": "bfloat16",
                "optimizer.name": "adamw",
                "optimizer.learning_rate_schedule": "warm_restarts",
                "optimizer.first_cycle": "3 steps",
                "optimizer.restart_multiplier": 1.5,
                "optimizer.warmup": "2 steps",
                "loss.name": "asymmetric_focal",
                "loss.gradient_norm": "cross_entropy",
                "augment.operations": ["crop", "mixup"],
                "augment.strength": cyclical(0, 1),
            }
        ),
        num_devices=4,
    )
    assert (recipe.dataset, recipe.data_dir, recipe.seed) == ("cifar10", "/there", 7)
    assert recipe.duration == Duration(9, "steps") and recipe.loop == "streamed"
    assert (recipe.train_on, recipe.subset) == ("train+validation", "4k_5_3")
    assert recipe.log_every == Duration(2, "steps")
    assert recipe.validate_every == Duration(300, "examples")
    structure = recipe.structure
    assert {entry.name: dict(own) for entry, own in structure.entries} == {
        "augmentation": {"augment.operations": ("crop", "mixup")},
        "classification": {"loss.name": "asymmetric_focal"},
        "network": {
            "model.name": "patch_dense",
            "model.hidden_sizes": (5,),
            "model.patch_size": 6,
            "model.stride": 2,
            "model.channels": 3,
            "model.batch_norm": True,
            "model.batch_norm_group": None,
            "model.dtype": "bfloat16",
        },
        "optimizer": {
            "optimizer.name": "adamw",
            "optimizer.max_norm": None,
            "optimizer.max_delta": None,
            "optimizer.clipping": None,
        },
        "learning_rate": {
            "optimizer.learning_rate_schedule": "warm_restarts",
            "optimizer.restart_multiplier": 1.5,
        },
        "gradient_norm": {"loss.gradient_norm": "cross_entropy"},
    }
    assert structure.accumulate == ((3, 3, 1), ("linear", "linear"))
    assert recipe.numbers["model.dropout"] == (0.25, 0.25, 2)
    assert recipe.durations == (
        ("optimizer.first_cycle", Duration(3, "steps")),
        ("optimizer.warmup", Duration(2, "steps")),
    )
    assert recipe.earlier_runs == structure.beside == ()
    assert dict(structure.curves).keys() == recipe.numbers.keys()
    assert (structure.num_cycles, structure.span, structure.batch_size) == (2, "restart", 100)
    assert (structure.remainder, structure.on_nonfinite) == ("drop", "skip")
    assert structure.as_one_batch is False and recipe.task is structure.task[0]
    assert recipe.catalogue is CATALOGUE


def test_other_sets_of_examples_have_their_batch_size_and_earlier_runs_their_workdir():
    changes = {"subset": "balanced 60", "semisupervised.unlabelled_weight": 1.0}
    changes |= {"semisupervised.batch_size": 16, "finetuning.start": "runs/a"}
    recipe = parse(changed(changes | {"curriculum.scorer": "runs/b"}), num_devices=2)
    assert recipe.structure.beside == (("unlabelled", 16),)
    runs = {"finetuning.start": "runs/a", "curriculum.scorer": "runs/b"}
    assert dict(recipe.earlier_runs) == runs
    assert not runs.keys() & {key for _, own in recipe.structure.entries for key, _ in own}


COMMON = {"optimizer.learning_rate", "optimizer.weight_decay"}
SGD = {"optimizer.momentum"}
SOFTMAX = {"loss.temperature", "loss.label_smoothing"}


@pytest.mark.parametrize(
    "changes, knobs",
    [
        ({}, SGD | SOFTMAX),
        (
            {"optimizer.name": "adamw"},
            SOFTMAX | {"optimizer.b1", "optimizer.b2", "optimizer.eps"},
        ),
        ({"loss.name": "focal"}, SGD | SOFTMAX | {"loss.gamma"}),
        (
            {"loss.name": "asymmetric_focal"},
            SGD | SOFTMAX | {"loss.gamma_pos", "loss.gamma_neg"},
        ),
        (
            {"loss.name": "cyclical_focal"},
            SGD | SOFTMAX | {"loss.hardness", "loss.gamma_hc", "loss.gamma_pos", "loss.gamma_neg"},
        ),
        (
            {"ema_decay": 0.9, "optimizer.max_norm": 1.0},
            SGD | SOFTMAX | {"ema_decay", "optimizer.max_norm"},
        ),
        (
            {"optimizer.max_delta": 0.1, "optimizer.clipping": 0},
            SGD | SOFTMAX | {"optimizer.max_delta", "optimizer.clipping"},
        ),
        (
            {"task.name": "multilabel", "multilabel.loss": "asymmetric"},
            SGD | {"multilabel.gamma_pos", "multilabel.gamma_neg", "multilabel.margin"},
        ),
        (
            {"curriculum.scorer": "runs/a", "running_curriculum.preference": 1},
            SGD
            | SOFTMAX
            | {"curriculum.preference"}
            | {"running_curriculum.preference", "running_curriculum.average_decay"},
        ),
    ],
)
def test_the_numbers_are_those_of_the_knobs_that_are_read(changes, knobs):
    assert parse(changed(changes)).numbers.keys() == COMMON | knobs


def test_a_technique_that_is_none_is_off():
    key = "optimizer.weight_decay"
    assert key in parse(changed({})).numbers and key not in parse(changed({key: None})).numbers


def test_a_constant_is_a_cycle_of_equal_ends_with_the_clock_of_the_config():
    recipe = parse(changed({"cycle.factor": 3, "cycle.shape": "rex"}))
    assert recipe.numbers["optimizer.learning_rate"] == Knob(0.1, 0.1, 3.0)
    assert dict(recipe.structure.curves)["optimizer.learning_rate"] == Curve("rex", "linear")


def test_a_cycle_without_a_clock_of_its_own_has_that_of_the_config():
    own = cyclical(1.0, 2.0, factor=8, shape="rex", scale="log")
    recipe = parse(
        changed(
            {
                "cycle.factor": 4.0,
                "cycle.shape": "cosine",
                "optimizer.weight_decay": cyclical(0.1, 0.2),
                "optimizer.max_norm": own,
            }
        )
    )
    curves = dict(recipe.structure.curves)
    assert recipe.numbers["optimizer.weight_decay"] == Knob(0.1, 0.2, 4.0)
    assert curves["optimizer.weight_decay"] == Curve("cosine", "linear")
    assert recipe.numbers["optimizer.max_norm"] == Knob(1.0, 2.0, 8.0)
    assert curves["optimizer.max_norm"] == Curve("rex", "log")


@pytest.mark.parametrize("pair", [("rex", "early_rex"), ["rex", "early_rex"]])
def test_a_pair_of_shapes_is_one_for_each_way(pair):
    """A list, as JSON has it, makes the same recipe as a tuple."""
    own = cyclical(1.0, 2.0, shape=pair)
    of_config = parse(changed({"cycle.shape": pair, "optimizer.max_norm": 1.0}))
    of_knob = parse(changed({"optimizer.max_norm": own}))
    wanted = Curve(("rex", "early_rex"), "linear")
    for recipe in (of_config, of_knob):
        assert dict(recipe.structure.curves)["optimizer.max_norm"] == wanted
        assert hash(recipe.structure)
    assert dict(of_knob.structure.curves)["optimizer.learning_rate"] == Curve("linear", "linear")


# ---- what is wrong: unknown and missing keys


@pytest.mark.parametrize(
    "key, nearest",
    [
        ("bach_size", "batch_size"),
        ("optimizer.momentun", "optimizer.momentum"),
        ("loss.gama_pos", "loss.gamma_pos"),
        ("optimiser", "optimizer"),
        ("momentum", "optimizer.momentum"),  # the right word in the wrong section
        ("loss.momentum", "optimizer.momentum"),
        ("optimizer.temperature", "loss.temperature"),
        ("factor", "cycle.factor"),
        ("hiden_sizes", "model.hidden_sizes"),
        ("model.gamma_pos", "loss.gamma_pos, multilabel.gamma_pos"),  # of two sections
        ("name", "task.name, loss.name, model.name, optimizer.name"),
        ("multilabel.temperature", "loss.temperature"),
        ("running_curiculum", "running_curriculum"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest(key, nearest):
    assert lines_of({key: 1}) == [f"{key} is not a key of a config; nearest: {nearest}."]


@pytest.mark.parametrize("key", ["qqq", "model.qqq", "x"])
def test_a_key_like_no_other_is_told_with_some_valid_ones(key):
    (line,) = lines_of({key: 1})
    begin, _, nearest = line.removesuffix(".").partition("; nearest: ")
    assert begin == f"{key} is not a key of a config"
    assert nearest and set(nearest.split(", ")) <= {*KEYS, *SECTIONS}


@pytest.mark.parametrize(
    "key, right", [("optimizer.gamma", "loss.gamma"), ("model.batch_size", "batch_size")]
)
def test_the_very_word_of_another_section_is_among_the_nearest(key, right):
    nearest = lines_of({key: 1})[0].removesuffix(".").partition("; nearest: ")[2]
    assert right in nearest.split(", ")


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_is_not_there_is_one_line(key):
    config = default_config()
    *section, name = key.split(".")
    del (config[section[0]] if section else config)[name]
    with pytest.raises(RecipeError) as error:
        parse(config)
    assert str(error.value) == f"{key} is missing."


@pytest.mark.parametrize("section", SECTIONS)
def test_each_key_of_a_section_that_is_not_there_is_one_line(section):
    config = default_config()
    del config[section]
    with pytest.raises(RecipeError) as error:
        parse(config)
    missing = [key for key in KEYS if key.startswith(f"{section}.")]
    assert str(error.value).splitlines() == [f"{key} is missing." for key in missing]


def test_what_is_missing_is_completed_at_its_default_and_the_rest_is_kept():
    config = changed({"seed": 3, "loss.gamma": 2.5})
    del config.optimizer, config.loss.name, config.duration
    whole = completed(config, KEYS)
    assert whole is config and config.loss.gamma == 2.5
    assert whole.to_dict() == changed({"seed": 3, "loss.gamma": 2.5}).to_dict()


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [3, None, "mlp", (1, 2)])
def test_a_section_that_is_a_value_is_told_with_its_keys(section, value):
    keys = ", ".join(key for key in KEYS if key.startswith(f"{section}."))
    line = f"{section} must be a section of {keys}, got {value!r}."
    if isinstance(value, str) and section in CUSTOMARY:
        line = f"{line[:-1]}; {CUSTOMARY[section]}."
    assert lines_of({section: value}) == [line]


def test_the_name_of_a_part_in_place_of_its_section_is_told_its_key():
    for section in ("model", "optimizer", "loss"):
        (line,) = lines_of({section: "adam"})
        assert line.endswith(f", got 'adam'; the {section}'s name is {section}.name.")


@pytest.mark.parametrize("word, meant", CUSTOMARY.items())
def test_a_customary_word_is_told_what_it_is_here(word, meant):
    """Written in capitals too. A word that ends a key of ours needs no other meaning."""
    assert word not in {key.rpartition(".")[2] for key in KEYS} - set(SECTIONS)
    assert meant.split(" is ")[-1] in KEYS or "--" in meant or word == "resume"
    for key in {word, word.upper()} - set(SECTIONS):
        assert lines_of({key: 1}) == [f"{key} is not a key of a config; {meant}."]


def test_a_customary_word_within_a_section_is_told_too():
    line = "optimizer.lr is not a key of a config; the learning rate is optimizer.learning_rate."
    assert lines_of({"optimizer.lr": 0.1}) == [line]


@pytest.mark.parametrize("value", [(1e-4, 2e-3), [1e-4, 2e-3], lambda count: 0.1 * count])
def test_a_tuple_or_a_schedule_for_a_knob_is_told_to_be_a_cycle(value):
    (line,) = lines_of({"optimizer.weight_decay": value})
    assert line.startswith("optimizer.weight_decay must be a number or cyclical(easy, hard), got ")


# ---- what is wrong: values

WHOLE = "must be a whole number from"
DURATION = "must be a number above 0 and a unit, such as '1.5 epochs' or '9 steps', got"


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"dataset": "digit"}, "got 'digit'. Did you mean 'digits'?"),
        ({"dataset": None}, "tfds:NAME, got None."),
        ({"train_on": "validation"}, "'train+validation', got 'validation'. Did you mean "),
        ({"subset": "4k_6"}, "'ImageNet_LT_train.txt', got '4k_6'. Did you mean '4k_6_2'?"),
        ({"subset": 4000}, "'ImageNet_LT_train.txt', got 4000."),
        ({"subset": "4k"}, "subset '4k' has 4000 examples, but digits has 1197 to train on."),
        ({"data_dir": 3}, "data_dir must be a string, got 3."),
        ({"seed": -1}, f"seed {WHOLE} 0 to 2147483647, got -1."),
        ({"seed": 2**31}, f"seed {WHOLE} 0 to 2147483647, got 2147483648."),
        ({"seed": True}, "seed must be a number, got True."),
        ({"seed": None}, "seed must be a number, got None."),
        ({"seed": float("nan")}, f"seed {WHOLE} 0 to 2147483647, got nan."),
        ({"batch_size": 0}, f"batch_size {WHOLE} 1 to 2147483647, got 0."),
        ({"batch_size": 2.5}, f"batch_size {WHOLE} 1 to 2147483647, got 2.5."),
        ({"batch_size": "many"}, "batch_size must be a number, got 'many'."),
        ({"accumulate": 0}, f"accumulate {WHOLE} 1 to 2147483647, got 0."),
        ({"duration": "many"}, f"duration {DURATION} 'many'."),
        ({"duration": 40}, f"duration {DURATION} '40'."),
        ({"duration": None}, f"duration {DURATION} 'None'."),
        ({"duration": "0 epochs"}, f"duration {DURATION} '0 epochs'."),
        ({"log_every": "1 day"}, f"log_every {DURATION} '1 day'."),
        ({"validate_every": "-1 steps"}, f"validate_every {DURATION} '-1 steps'."),
        ({"remainder": "keep"}, "remainder must be one of 'drop', 'pad', got 'keep'."),
        ({"on_nonfinite": "stopp"}, "got 'stopp'. Did you mean 'stop'?"),
        ({"loop": "resistent"}, "got 'resistent'. Did you mean 'resident'?"),
        ({"cycle.factor": 0.5}, "cycle.factor must be at least 1 and at most 1e+09, got 0.5."),
        (
            {"cycle.factor": float("inf")},
            "cycle.factor must be at least 1 and at most 1e+09 and finite, got inf.",
        ),
        ({"cycle.factor": cyclical(1, 2)}, "cycle.factor must be a number, got {"),
        ({"cycle.shape": "triangle"}, "cycle.shape must be one of 'linear', 'cosine', "),
        ({"cycle.num_cycles": 0}, f"cycle.num_cycles {WHOLE} 1 to 32768, got 0."),
        (
            {"loss.temperature": cyclical(0.5, 2.0, factor=0.3)},
            "loss.temperature.factor must be at least 1 and at most 1e+09, got 0.3.",
        ),
        (
            {"optimizer.weight_decay": {"easy": 1.0}},
            "optimizer.weight_decay.hard is missing beside optimizer.weight_decay.easy; "
            "a cycle needs easy and hard.",
        ),
        (
            {"optimizer.weight_decay": {"hard": 1.0, "easy": None}},
            "optimizer.weight_decay.easy is missing beside optimizer.weight_decay.hard; "
            "a cycle needs easy and hard.",
        ),
        (
            {"optimizer.weight_decay": cyclical(0.0, 1.0, scale="log")},
            "above 0, got 0.0.",
        ),
        (  # the other bounds hold on a log scale too
            {"loss.label_smoothing": cyclical(0.5, 2.0, scale="log")},
            "loss.label_smoothing.hard must be at most 1 and above 0, got 2.0.",
        ),
        (
            {"optimizer.weight_decay": cyclical(1.0, 2.0, scale="lin")},
            "optimizer.weight_decay.scale must be one of 'linear', 'log', got 'lin'.",
        ),
        (
            {"optimizer.weight_decay": cyclical(1.0, 2.0, shape="cosin")},
            "got 'cosin'. Did you mean 'cosine'?",
        ),
        (
            {"optimizer.weight_decay": cyclical(1.0, 2.0, shape=("cosine", "rx"))},
            "'late_published_exponential', got 'rx'. Did you mean 'rex'?",
        ),
        (
            {"optimizer.weight_decay": cyclical(1.0, 2.0, shape=["cosine"])},
            "optimizer.weight_decay.shape must be a word or a pair (way up, way back), got "
            "['cosine'].",
        ),
        (
            {"cycle.shape": ("rex", "rex", "rex")},
            "cycle.shape must be a word or a pair (way up, way back), got ('rex', 'rex', 'rex').",
        ),
        (
            {"optimizer.weight_decay": cyclical("a", 2.0)},
            "optimizer.weight_decay.easy must be a number, got 'a'.",
        ),
    ],
)
def test_a_wrong_value_is_one_line_with_the_key_and_the_value(changes, line):
    (actual,) = lines_of(changes)
    assert line in actual
    assert actual.startswith(*changes)
    assert "`" not in actual and actual[-1] in ".?"


def test_every_problem_within_a_cycle_has_its_line():
    cycle = dict(hrad=2.0, easy=-1, factor=0.5, shape="flat", scale="cubic")
    begin = "optimizer.weight_decay"
    assert lines_of({begin: cycle}) == [
        f"{begin}.hrad is not a key of a cycle: easy, hard, factor, shape, scale.",
        f"{begin}.easy must be at least 0, got -1.",
        f"{begin}.hard is missing beside {begin}.easy; a cycle needs easy and hard.",
        f"{begin}.factor must be at least 1 and at most 1e+09, got 0.5.",
        f"{begin}.shape must be one of {', '.join(map(repr, SHAPES))}, got 'flat'.",
        f"{begin}.scale must be one of 'linear', 'log', got 'cubic'.",
    ]


def test_an_empty_cycle_misses_both_ends():
    assert lines_of({"ema_decay": {}}) == [
        "ema_decay.easy is missing; a cycle needs easy and hard.",
        "ema_decay.hard is missing; a cycle needs easy and hard.",
    ]


@pytest.mark.parametrize(
    "key, value",
    [
        ("optimizer.learning_rate", (0.1, 0.2)),
        ("optimizer.learning_rate", ()),
        ("optimizer.learning_rate", [1, [2]]),
        ("batch_size", (64,)),
        ("seed", [1]),
        ("model.dropout", [0.5, 0.1]),
        ("model.hidden_sizes", ((1, 2),)),
        ("loss.temperature", {"easy": (1, 2), "hard": 2}),
        ("loss.temperature", {"easy": 1, "hard": 2, "factor": (1, 2)}),
    ],
)
def test_a_sequence_is_no_number(key, value):
    lines = lines_of({key: value})
    assert lines and all(line.startswith(key) for line in lines)


@pytest.mark.parametrize(
    "key, value",
    [
        ("optimizer.max_norm", 1e39),
        ("loss.temperature", cyclical(1.0, 1e39)),
        ("loss.temperature", 1e-46),
        ("cycle.factor", 1e39),
        ("duration", "3e9 steps"),
    ],
)
def test_a_number_that_no_run_can_hold_is_refused(key, value):
    with pytest.raises(RecipeError, match=key):
        parse(changed({key: value})).timetable(1197)


def test_all_problems_are_told_at_once_a_line_each():
    config = changed(
        {
            "typo": 1,
            "batch_size": 0,
            "remainder": "pad",
            "accumulate": 2,
            "loss.temperature": cyclical(-1, 0),
            "loss.gamma": 3,
        }
    )
    del config.seed, config.model.dtype
    with pytest.raises(RecipeError) as error:
        parse(config)
    lines = str(error.value).splitlines()
    assert [line.split()[0] for line in lines] == [
        "typo",
        "seed",
        "model.dtype",
        "batch_size",
        "loss.temperature.easy",
        "loss.temperature.hard",
        "remainder",
        "loss.gamma",
    ]


def test_keys_that_are_no_words_are_refused():
    with pytest.raises(RecipeError, match="The keys of a config must be words"):
        parse(changed({"loss.temperature": {"easy": 1, 2: 3, "hard": 2}}))


# ---- a config that can be read


@pytest.mark.parametrize("entry", ["easy", "hard", "factor", "shape", "scale"])
def test_an_array_within_a_cycle_is_a_line_that_names_the_entry(entry):
    cycle = {"easy": 1e-4, "hard": 1e-3, entry: np.array([1.0, 2.0])}
    (line,) = lines_of({"optimizer.weight_decay": cycle})
    assert line.startswith(f"optimizer.weight_decay.{entry} must be ")


@pytest.mark.parametrize("junk", [np.array([1.0, 2.0]), np.array(["a", "b"])])
@pytest.mark.parametrize("key", KEYS)
def test_an_array_is_a_recipe_or_a_line_that_names_the_key(key, junk):
    try:
        parse(changed({key: junk}))
    except RecipeError as error:
        assert all(line.split(" ")[0].startswith(key) for line in str(error).splitlines()), error
