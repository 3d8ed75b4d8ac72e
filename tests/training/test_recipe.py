"""A config becomes a recipe, or one line for each problem."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import (
    cifar10,
    cifar10_4k,
    cifar100,
    default,
    digits,
    fashion_mnist,
    fashion_mnist_4k,
)
from cyclical_jax.accumulation import uniform_windows
from cyclical_jax.training.durations import Duration, Timetable
from cyclical_jax.training.fields import FIELDS, OPTIONS, SECTIONS
from cyclical_jax.training.recipe import (
    Curve,
    Knob,
    RecipeError,
    cyclical,
    default_config,
    describe,
    parse,
)


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

CONFIGS = [digits, fashion_mnist, fashion_mnist_4k, cifar10, cifar10_4k, cifar100]


@pytest.mark.parametrize("module", CONFIGS)
@pytest.mark.parametrize("variant", digits.VARIANTS)
def test_every_variant_of_every_config_is_a_recipe(module, variant):
    recipe = parse(module.get_config(variant))
    constant = {name for name, knob in recipe.numbers.items() if knob.easy == knob.hard}
    cycling = recipe.numbers.keys() - constant
    assert (
        cycling
        == {
            "plain": set(),
            "weight_decay": {"weight_decay"},
            "clipping": {"max_norm"},
            "temperature": {"temperature"},
            "focal": {"hardness"},
            "all": {"weight_decay", "max_norm", "temperature", "hardness"},
        }[variant]
    )


@pytest.mark.parametrize(
    "config, dataset, subset, model",
    [
        (fashion_mnist_4k.get_config(), "fashion_mnist", "4k", "mlp"),
        (fashion_mnist_4k.get_config("all"), "fashion_mnist", "4k", "mlp"),
        (fashion_mnist_4k.get_config("imbalanced"), "fashion_mnist", "4k_6_2", "mlp"),
        (fashion_mnist_4k.get_config("cnn"), "fashion_mnist", "4k", "cnn"),
        (fashion_mnist_4k.get_config("imbalanced_cnn"), "fashion_mnist", "4k_6_2", "cnn"),
        (cifar10.get_config(), "cifar10", None, "tresnet_m"),
        (cifar10_4k.get_config(), "cifar10", "4k", "tresnet_m"),
        (cifar10_4k.get_config("imbalanced"), "cifar10", "4k_6_2", "tresnet_m"),
        (cifar100.get_config(), "cifar100", None, "tresnet_m"),
    ],
)
def test_a_small_dataset_is_a_subset_of_a_large_one(config, dataset, subset, model):
    recipe = parse(config)
    assert (recipe.dataset, recipe.subset, recipe.structure.model) == (dataset, subset, model)
    assert recipe.train_on == "train"


@pytest.mark.parametrize("module", [cifar10, cifar10_4k, cifar100])
def test_the_configs_of_cifar_have_the_published_numbers(module):
    recipe = parse(module.get_config("all"))
    assert recipe.structure.batch_size == 384 and recipe.duration == Duration(200, "epochs")
    assert recipe.structure.optimizer == "sgd" and recipe.structure.nesterov
    assert recipe.structure.learning_rate_schedule == "cosine"
    published = {
        "learning_rate": 0.15,
        "momentum": 0.9,
        "label_smoothing": 0.1,
        "gamma_hc": 3,
        "gamma_pos": 2,
        "gamma_neg": 2,
    }
    cycles = {"weight_decay": (1e-5, 8e-5), "max_norm": (0.5, 2.0), "temperature": (0.5, 2.0)}
    cycles |= {"hardness": (0.0, 1.0)} | {name: (n, n) for name, n in published.items()}
    assert recipe.numbers == {name: Knob(*ends, 4.0) for name, ends in cycles.items()}
    assert parse(module.get_config()).numbers["weight_decay"] == Knob(5e-4, 5e-4, 4.0)


@pytest.mark.parametrize("make", [default_config, default.get_config])
def test_the_default_config_has_every_key_and_is_a_recipe(make):
    config = make()
    keys = {
        f"{name}.{key}" if isinstance(value, ConfigDict) else name
        for name, value in config.items()
        for key in (value if isinstance(value, ConfigDict) else [""])
    }
    assert keys == FIELDS.keys()
    recipe = parse(config)
    assert (recipe.dataset, recipe.data_dir, recipe.seed, recipe.loop) == ("digits", None, 0, None)
    assert recipe.subset is recipe.structure.gradient_norm is None
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
                "optimizer.num_restarts": 3,
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
    structure = dataclasses.asdict(recipe.structure)
    assert dict(structure.pop("model_options")) == dict(
        hidden_sizes=(5,),
        batch_norm=True,
        dtype="bfloat16",
        patch_size=6,
        stride=2,
        channels=3,
    )
    assert structure.pop("accumulate") == ((3, 3, 1), ("linear", "linear"))
    assert recipe.numbers["dropout"] == (0.25, 0.25, 2)
    assert recipe.warmup == Duration(2, "steps")
    assert dict(structure.pop("curves")).keys() == recipe.numbers.keys()
    assert structure == dict(
        model="patch_dense",
        optimizer="adamw",
        nesterov=True,
        learning_rate_schedule="warm_restarts",
        num_restarts=3,
        loss="asymmetric_focal",
        augmentation=("crop", "mixup"),
        weak=(),
        strong=(),
        unlabelled_batch_size=0,
        new_head=False,
        as_one_batch=False,
        gradient_norm="cross_entropy",
        num_cycles=2,
        batch_size=100,
        remainder="drop",
        on_nonfinite="skip",
    )


COMMON = {"learning_rate", "weight_decay", "temperature", "label_smoothing"}


@pytest.mark.parametrize(
    "changes, knobs",
    [
        ({}, {"momentum"}),
        ({"optimizer.name": "adamw"}, {"b1", "b2", "eps"}),
        ({"loss.name": "focal"}, {"momentum", "gamma"}),
        ({"loss.name": "asymmetric_focal"}, {"momentum", "gamma_pos", "gamma_neg"}),
        (
            {"loss.name": "cyclical_focal"},
            {"momentum", "hardness", "gamma_hc", "gamma_pos", "gamma_neg"},
        ),
        ({"ema_decay": 0.9, "optimizer.max_norm": 1.0}, {"momentum", "ema_decay", "max_norm"}),
        (
            {"optimizer.max_delta": 0.1, "optimizer.clipping": 0},
            {"momentum", "max_delta", "clipping"},
        ),
    ],
)
def test_the_numbers_are_those_of_the_knobs_that_are_read(changes, knobs):
    assert parse(changed(changes)).numbers.keys() == COMMON | knobs


def test_a_technique_that_is_none_is_off():
    assert "weight_decay" not in parse(changed({"optimizer.weight_decay": None})).numbers


def test_a_constant_is_a_cycle_of_equal_ends_with_the_clock_of_the_config():
    recipe = parse(changed({"cycle.factor": 3, "cycle.shape": "rex"}))
    assert recipe.numbers["learning_rate"] == Knob(0.1, 0.1, 3.0)
    assert dict(recipe.structure.curves)["learning_rate"] == Curve("rex", "linear")


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
    assert recipe.numbers["weight_decay"] == Knob(0.1, 0.2, 4.0)
    assert curves["weight_decay"] == Curve("cosine", "linear")
    assert recipe.numbers["max_norm"] == Knob(1.0, 2.0, 8.0)
    assert curves["max_norm"] == Curve("rex", "log")


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
    ],
)
def test_what_is_compiled_differently_is_another_structure(changes):
    assert parse(changed({})).structure != parse(changed(changes)).structure


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
    ],
)
def test_an_unknown_key_is_told_with_the_nearest(key, nearest):
    assert lines_of({key: 1}) == [f"{key} is not a key of a config; nearest: {nearest}."]


@pytest.mark.parametrize("key", ["qqq", "model.qqq", "x"])
def test_a_key_like_no_other_is_told_with_some_valid_ones(key):
    (line,) = lines_of({key: 1})
    begin, _, nearest = line.removesuffix(".").partition("; nearest: ")
    assert begin == f"{key} is not a key of a config"
    assert nearest and set(nearest.split(", ")) <= {*FIELDS, *SECTIONS}


@pytest.mark.parametrize(
    "key, right", [("optimizer.gamma", "loss.gamma"), ("model.batch_size", "batch_size")]
)
def test_the_very_word_of_another_section_is_among_the_nearest(key, right):
    nearest = lines_of({key: 1})[0].removesuffix(".").partition("; nearest: ")[2]
    assert right in nearest.split(", ")


@pytest.mark.parametrize("key", FIELDS)
def test_a_key_that_is_not_there_is_one_line(key):
    config = default_config()
    *section, name = key.split(".")
    del (config[section[0]] if section else config)[name]
    with pytest.raises(RecipeError) as error:
        parse(config)
    assert str(error.value) == f"{key} is missing."


@pytest.mark.parametrize("section", ["cycle", "model", "optimizer", "loss"])
@pytest.mark.parametrize("value", [3, None, "mlp", (1, 2)])
def test_a_section_that_is_a_value_is_told_with_its_keys(section, value):
    keys = ", ".join(key for key in FIELDS if key.startswith(f"{section}."))
    line = f"{section} must be a section of {keys}, got {value!r}."
    assert lines_of({section: value}) == [line]


# ---- what is wrong: values

WHOLE = "must be a whole number from"
DURATION = "must be a number above 0 and a unit, such as '1.5 epochs' or '9 steps', got"


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"dataset": "digit"}, "got 'digit'. Did you mean 'digits'?"),
        ({"dataset": None}, "'imagenet2012', got None."),
        ({"train_on": "validation"}, "'train+validation', got 'validation'. Did you mean "),
        ({"subset": "4k_6"}, "'ImageNet_LT_train.txt', got '4k_6'. Did you mean '4k_6_2'?"),
        ({"subset": 4000}, "'ImageNet_LT_train.txt', got 4000."),
        ({"subset": "4k"}, "subset '4k' has 4000 examples, but digits has 1197 to train on."),
        ({"loss.gradient_norm": "focal"}, "must be one of 'cross_entropy', got 'focal'."),
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
        ({"ema_decay": 1.5}, "ema_decay must be at least 0 and at most 1, got 1.5."),
        ({"cycle.factor": 0.5}, "cycle.factor must be at least 1 and at most 1e+09, got 0.5."),
        (
            {"cycle.factor": float("inf")},
            "cycle.factor must be at least 1 and at most 1e+09 and finite, got inf.",
        ),
        ({"cycle.factor": cyclical(1, 2)}, "cycle.factor must be a number, got {"),
        ({"cycle.shape": "triangle"}, "cycle.shape must be one of 'linear', 'cosine', "),
        ({"cycle.num_cycles": 0}, f"cycle.num_cycles {WHOLE} 1 to 32768, got 0."),
        ({"model.name": "mpl"}, "model.name must be one of 'mlp', 'patch_dense', 'cnn', 'res"),
        (
            {"model.hidden_sizes": 64},
            "model.hidden_sizes must be a tuple of whole numbers, say (64,), got 64.",
        ),
        ({"model.hidden_sizes": (0,)}, f"model.hidden_sizes {WHOLE} 1 to 2147483647, got 0."),
        ({"model.hidden_sizes": (3, "a")}, "model.hidden_sizes must be a number, got 'a'."),
        ({"model.batch_norm": "yes"}, "model.batch_norm must be True or False, got 'yes'."),
        ({"model.batch_norm": 1}, "model.batch_norm must be True or False, got 1."),
        ({"model.dropout": 1.1}, "model.dropout must be at least 0 and at most 1, got 1.1."),
        ({"model.dtype": "float16"}, "got 'float16'. Did you mean 'bfloat16'?"),
        ({"optimizer.name": "adam"}, "got 'adam'. Did you mean 'adamw'?"),
        ({"optimizer.learning_rate": 0}, "optimizer.learning_rate must be above 0, got 0."),
        (
            {"optimizer.learning_rate": float("nan")},
            "optimizer.learning_rate must be above 0 and finite, got nan.",
        ),
        (
            {"optimizer.learning_rate": None},
            "optimizer.learning_rate must be a number, got None.",
        ),
        (
            {"optimizer.learning_rate": "0.1"},
            "optimizer.learning_rate must be a number or cyclical(easy, hard), got '0.1'.",
        ),
        ({"optimizer.learning_rate_schedule": "linear"}, "'warm_restarts', got 'linear'."),
        ({"optimizer.max_norm": -1}, "optimizer.max_norm must be at least 0, got -1."),
        ({"optimizer.momentum": 1.1}, "optimizer.momentum must be at least 0 and at most 1, got"),
        ({"loss.temperature": 0}, "loss.temperature must be above 0, got 0."),
        ({"augment.operations": ("crop",)}, "('crop',), but augment.strength is None: set both."),
        (
            {"augment.strength": 0.5},
            "augment.strength is set, but augment.operations is (): ",
        ),
        ({"augment.strength": cyclical(0, 2)}, "augment.strength.hard must be at least 0 and at"),
        (
            {"augment.operations": "crop"},
            "augment.operations must be a tuple, say ('crop',), got 'crop'.",
        ),
        ({"augment.operations": ("flop",)}, "got 'flop'. Did you mean 'flip'?"),
        ({"loss.temperature": -2.0}, "loss.temperature must be above 0, got -2.0."),
        ({"loss.temperature": cyclical(0.5, 0.0)}, "loss.temperature.hard must be above 0, got 0"),
        ({"loss.label_smoothing": 1.5}, "loss.label_smoothing must be at least 0 and at most 1, "),
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


def test_a_subset_of_train_and_validation_has_both_to_be_filled_from():
    changes = {"subset": "4k_6_2", "train_on": "train+validation"}
    line = "subset '4k_6_2' has 4000 examples, but digits has 1397 to train on."
    assert lines_of(changes) == [line]
    assert parse(changed(changes | {"dataset": "cifar100"})).subset == "4k_6_2"


@pytest.mark.parametrize("wrong", [{"dataset": "digit"}, {"train_on": "all"}, {"subset": "5k"}])
def test_a_subset_beside_a_wrong_value_is_not_judged(wrong):
    (line,) = lines_of({"subset": "4k"} | wrong)
    assert line.startswith(*wrong)


def test_every_problem_within_a_cycle_has_its_line():
    cycle = dict(hrad=2.0, easy=-1, factor=0.5, shape="flat", scale="cubic")
    begin = "optimizer.weight_decay"
    assert lines_of({begin: cycle}) == [
        f"{begin}.hrad is not a key of a cycle: easy, hard, factor, shape, scale.",
        f"{begin}.easy must be at least 0, got -1.",
        f"{begin}.hard is missing beside {begin}.easy; a cycle needs easy and hard.",
        f"{begin}.factor must be at least 1 and at most 1e+09, got 0.5.",
        f"{begin}.shape must be one of 'linear', 'cosine', 'exponential', 'rex', got 'flat'.",
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


# ---- what is wrong between values


@pytest.mark.parametrize("num_devices, is_wrong", [(1, False), (2, False), (4, False), (3, True)])
def test_the_devices_share_a_batch_evenly(num_devices, is_wrong):
    if is_wrong:
        line = "batch_size must be a multiple of the 3 devices, got 64."
        assert lines_of({}, num_devices=num_devices) == [line]
    else:
        parse(changed({}), num_devices=num_devices)


@pytest.mark.parametrize("remainder, accumulate", [("pad", 1), ("drop", 2)])
def test_padding_or_accumulation_alone_is_right(remainder, accumulate):
    structure = parse(changed({"remainder": remainder, "accumulate": accumulate})).structure
    assert (structure.remainder, structure.accumulate.least) == (remainder, accumulate)


def test_padding_and_accumulation_exclude_each_other():
    assert lines_of({"remainder": "pad", "accumulate": 2}) == [
        "remainder must be 'drop' where accumulate is above 1: a part would weigh as a whole."
    ]


@pytest.mark.parametrize(
    "changes, line",
    [
        (
            {"loss.gamma": 3.0},
            "loss.gamma is read where loss.name is 'focal', not 'cross_entropy'; leave it at 2.0.",
        ),
        (
            {"loss.name": "focal", "loss.gamma_pos": 1},
            "loss.gamma_pos is read where loss.name is 'asymmetric_focal' or 'cyclical_focal' or "
            "'asymmetric_multilabel' or 'cyclical_multilabel', not 'focal'; leave it at 2.0.",
        ),
        (
            {"loss.hardness": 0.5},
            "loss.hardness is read where loss.name is 'cyclical_focal' or 'cyclical_multilabel', "
            "not 'cross_entropy'; leave it at cyclical(easy=0.0, hard=1.0).",
        ),
        (
            {"optimizer.name": "adamw", "optimizer.nesterov": False},
            "optimizer.nesterov is read where optimizer.name is 'sgd', not 'adamw'; "
            "leave it at True.",
        ),
        (
            {"optimizer.b1": 0.8},
            "optimizer.b1 is read where optimizer.name is 'adamw', not 'sgd'; leave it at 0.9.",
        ),
        (
            {"model.widths": (32,)},
            "model.widths is read where model.name is 'cnn', not 'mlp'; leave it at (32, 64).",
        ),
        (
            {"model.name": "cnn", "model.stride": 1},
            "model.stride is read where model.name is 'patch_dense', not 'cnn'; leave it at 4.",
        ),
    ],
)
def test_an_option_of_what_was_not_chosen_is_not_ignored(changes, line):
    assert lines_of(changes) == [line]


@pytest.mark.parametrize("choice", OPTIONS)
def test_an_option_that_is_not_read_may_stand_at_its_default(choice):
    section = choice.split(".")[0]
    for chosen in OPTIONS[choice]:
        names = {name for options in OPTIONS[choice].values() for name in options}
        defaults = {f"{section}.{name}": FIELDS[f"{section}.{name}"].default for name in names}
        needed = {"curriculum.scorer": "runs/a"} if chosen == "earlier_run" else {}
        parse(changed(defaults | needed | {choice: chosen}))


def test_the_default_of_an_option_may_be_written_in_another_way():
    parse(changed({"loss.hardness": cyclical(0, 1), "model.widths": [32, 64], "loss.gamma": 2}))


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


@pytest.mark.parametrize("value", [6.0, cyclical(6.0, 2.0), cyclical(2.0, 6.0)])
def test_a_gamma_that_makes_the_easy_loss_non_monotone_warns(value):
    config = digits.get_config("focal")
    config.loss.gamma_hc = value
    with pytest.warns(UserWarning, match="`gamma_hc` 6.0 is above 3.591"):
        parse(config)


@pytest.mark.parametrize("module", CONFIGS)
def test_an_unknown_variant_is_named_with_those_there_are(module):
    with pytest.raises(ValueError, match="'wd' is no variant of this config; it has plain, weight"):
        module.get_config("wd")


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


# ---- a config that can be read


def test_every_key_is_described_with_value_default_type_and_meaning():
    config = digits.get_config("weight_decay")
    config.optimizer.momentum = cyclical(0.85, 0.95, factor=4, scale="log")
    config.seed = 3
    lines = describe(config).splitlines()
    assert len(lines) == 2 * len(FIELDS)
    for (key, field), line, meaning in zip(FIELDS.items(), lines[::2], lines[1::2], strict=True):
        assert line.startswith(f"{key} = ") and f"[{field.type}" in line
        assert meaning == f"    {field.meaning}"
    for line in (
        "seed = 3  [whole number, at least 0; default 0]",
        "duration = '40 epochs'  [number and steps, epochs or examples]",
        "ema_decay = None  [number at least 0 and at most 1, or cyclical(easy, hard), or None]",
        "optimizer.weight_decay = cyclical(easy=0.0001, hard=0.002)  "
        "[number at least 0, or cyclical(easy, hard), or None; default 0.001]",
        "loss.hardness = cyclical(easy=0.0, hard=1.0)  "
        "[number at least 0 and at most 1, or cyclical(easy, hard)]",
    ):
        assert line in lines
    (momentum,) = (line for line in lines if line.startswith("optimizer.momentum"))
    assert momentum.endswith("default 0.9]")
    for entry in ("easy=0.85", "hard=0.95", "factor=4", "scale='log'"):
        assert entry in momentum


@pytest.mark.parametrize("junk", [np.array([1.0, 2.0]), np.array(["a", "b"])])
@pytest.mark.parametrize("key", FIELDS)
def test_an_array_is_a_recipe_or_a_line_that_names_the_key(key, junk):
    try:
        parse(changed({key: junk}))
    except RecipeError as error:
        assert all(line.split(" ")[0].startswith(key) for line in str(error).splitlines()), error
