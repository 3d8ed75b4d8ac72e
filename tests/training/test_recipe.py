"""A config becomes a recipe, or one line for each problem."""

import pytest
from ml_collections import ConfigDict

from configs import default, digits, fashion_mnist
from cyclical_jax.training.recipe import Curve, Knob, RecipeError, cyclical, parse


def changed(**changes):
    """The default config with `section__key=value` set, whatever the type."""
    config = default.get_config().to_dict()
    for key, value in changes.items():
        *section, name = key.split("__")
        (config[section[0]] if section else config)[name] = value
    return ConfigDict(config)


@pytest.mark.parametrize("module", [digits, fashion_mnist])
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


def test_a_constant_is_a_cycle_of_equal_ends_and_none_is_absent():
    numbers = parse(default.get_config()).numbers
    assert numbers["learning_rate"] == Knob(0.1, 0.1, 2.0)
    assert "max_norm" not in numbers and "gamma" not in numbers


def test_runs_that_differ_in_numbers_alone_have_one_structure():
    plain, cycling = (parse(digits.get_config(name)) for name in ("plain", "weight_decay"))
    assert plain.structure == cycling.structure
    assert hash(plain.structure) == hash(cycling.structure)
    assert plain.numbers != cycling.numbers


def test_a_cycle_without_a_clock_of_its_own_has_that_of_the_config():
    own = cyclical(1.0, 2.0, factor=8, shape="rex", scale="log")
    recipe = parse(
        changed(
            cycle__factor=4.0,
            cycle__shape="cosine",
            optimizer__weight_decay=cyclical(0.1, 0.2),
            optimizer__max_norm=own,
        )
    )
    curves = dict(recipe.structure.curves)
    assert recipe.numbers["weight_decay"] == Knob(0.1, 0.2, 4.0)
    assert curves["weight_decay"] == Curve("cosine", "linear")
    assert recipe.numbers["max_norm"] == Knob(1.0, 2.0, 8.0)
    assert curves["max_norm"] == Curve("rex", "log")


@pytest.mark.parametrize(
    "changes, line",
    [
        (dict(bach_size=3), "bach_size is not a key of a config; nearest: batch_size."),
        (dict(optimizer__momentun=1), "optimizer.momentun is not a key of a config; nearest: "),
        (dict(dataset="digit"), "got 'digit'. Did you mean 'digits'?"),
        (dict(seed=-1), "seed must be a whole number from 0 to 2147483647, got -1."),
        (dict(batch_size=2.5), "batch_size must be a whole number from 1 to 2147483647, got 2.5."),
        (dict(num_epochs="many"), "num_epochs must be a number, got 'many'."),
        (dict(data_dir=3), "data_dir must be a string, got 3."),
        (dict(cycle__factor=0.5), "cycle.factor must be at least 1, got 0.5."),
        (dict(cycle__shape="triangle"), "cycle.shape must be one of 'linear', 'cosine', "),
        (dict(model__hidden_sizes=64), "model.hidden_sizes must be a tuple of whole numbers"),
        (dict(model__hidden_sizes=(0,)), "model.hidden_sizes must be a whole number from 1"),
        (dict(model__batch_norm="yes"), "model.batch_norm must be True or False, got 'yes'."),
        (dict(optimizer__learning_rate=0), "optimizer.learning_rate must be above 0, got 0."),
        (dict(optimizer__learning_rate=None), "optimizer.learning_rate must be a number, got None"),
        (dict(optimizer__max_norm=-1), "optimizer.max_norm must be at least 0, got -1."),
        (dict(optimizer__weight_decay={"easy": 1.0}), "optimizer.weight_decay.hard must be a numb"),
        (
            dict(optimizer__weight_decay={"easy": 1.0, "hrad": 2.0}),
            "optimizer.weight_decay.hrad is not a key of a cycle: easy, hard, factor, shape, scale",
        ),
        (
            dict(optimizer__weight_decay=cyclical(0.0, 1.0, scale="log")),
            "optimizer.weight_decay.easy must be above 0, got 0.0.",
        ),
        (
            dict(loss__temperature=cyclical(0.5, 2.0, factor=0.3)),
            "loss.temperature.factor must be at least 1, got 0.3.",
        ),
        (dict(loss__temperature=cyclical(0.5, 0.0)), "loss.temperature.hard must be above 0"),
        (dict(loss__label_smoothing=1.5), "loss.label_smoothing must be at least 0 and at most 1"),
        (dict(loss__gamma=2.0), "loss.gamma must be None for loss.name 'cross_entropy'."),
        (dict(loss__name="focal"), "loss.gamma needs a value for loss.name 'focal'."),
    ],
)
def test_a_problem_is_one_line_with_the_key_and_the_value(changes, line):
    with pytest.raises(RecipeError) as error:
        parse(changed(**changes))
    assert line in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_all_problems_are_told_at_once():
    config = changed(batch_size=0, loss__temperature=-1, typo=1)
    del config.seed
    with pytest.raises(RecipeError) as error:
        parse(config)
    lines = str(error.value).splitlines()
    assert [line.split()[0] for line in lines] == ["typo", "seed", "batch_size", "loss.temperature"]


def test_a_gamma_that_makes_the_easy_loss_non_monotone_warns():
    config = digits.get_config("focal")
    config.loss.gamma_hc = 6.0
    with pytest.warns(UserWarning, match="`gamma_hc` 6.0 is above 3.591"):
        parse(config)


def test_an_unknown_variant_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'wd' is no variant of this config; it has plain, weight"):
        digits.get_config("wd")
