"""Every config and every variant of it is a recipe."""

import pytest

from configs import (
    cifar10,
    cifar10_4k,
    cifar100,
    digits,
    fashion_mnist,
    fashion_mnist_4k,
    imagenet,
)
from cyclical_jax.catalogue import parse
from cyclical_jax.training.durations import Duration
from cyclical_jax.training.structure import Knob

CONFIGS = [digits, fashion_mnist, fashion_mnist_4k, cifar10, cifar10_4k, cifar100, imagenet]


def own_of(recipe):
    """Returns {key: value} of all that decides the program and is no knob."""
    return {key: value for _, own in recipe.structure.entries for key, value in own}


@pytest.mark.parametrize("module", CONFIGS)
@pytest.mark.parametrize("variant", digits.FOUR)
def test_every_variant_of_every_config_is_a_recipe(module, variant):
    recipe = parse(module.get_config(variant))
    constant = {name for name, knob in recipe.numbers.items() if knob.easy == knob.hard}
    cycling = recipe.numbers.keys() - constant
    assert (
        cycling
        == {
            "plain": set(),
            "weight_decay": {"optimizer.weight_decay"},
            "clipping": {"optimizer.max_norm"},
            "temperature": {"loss.temperature"},
            "focal": {"loss.hardness"},
            "all": {
                "optimizer.weight_decay",
                "optimizer.max_norm",
                "loss.temperature",
                "loss.hardness",
            },
        }[variant]
    )


@pytest.mark.parametrize("module, variant", [(m, v) for m in CONFIGS for v in m.VARIANTS])
def test_every_other_variant_is_a_recipe_and_changes_the_plain_one(module, variant):
    recipe, plain = parse(module.get_config(variant)), parse(module.get_config())
    assert (recipe != plain) == (repr(recipe) != repr(plain)) == (variant != "plain")


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
    assert (recipe.dataset, recipe.subset) == (dataset, subset)
    assert own_of(recipe)["model.name"] == model
    assert recipe.train_on == "train"


@pytest.mark.parametrize("module", [cifar10, cifar10_4k, cifar100])
def test_the_configs_of_cifar_have_the_published_numbers(module):
    recipe = parse(module.get_config("all"))
    assert recipe.structure.batch_size == 384 and recipe.duration == Duration(200, "epochs")
    own = own_of(recipe)
    assert own["optimizer.name"] == "sgd" and own["optimizer.nesterov"]
    assert own["optimizer.learning_rate_schedule"] == "cosine"
    published = {
        "optimizer.learning_rate": 0.15,
        "optimizer.momentum": 0.9,
        "loss.label_smoothing": 0.1,
        "loss.gamma_hc": 3,
        "loss.gamma_pos": 2,
        "loss.gamma_neg": 2,
    }
    cycles = {"optimizer.weight_decay": (1e-5, 8e-5), "optimizer.max_norm": (0.5, 2.0)}
    cycles |= {"loss.temperature": (0.5, 2.0), "loss.hardness": (0.0, 1.0)}
    cycles |= {key: (n, n) for key, n in published.items()}
    assert recipe.numbers == {key: Knob(*ends, 4.0) for key, ends in cycles.items()}
    plain = parse(module.get_config()).numbers
    assert plain["optimizer.weight_decay"] == Knob(5e-4, 5e-4, 4.0)


@pytest.mark.parametrize("module", CONFIGS)
def test_an_unknown_variant_is_named_with_those_there_are(module):
    with pytest.raises(ValueError, match="'wd' is not a variant of this config; it has plain, "):
        module.get_config("wd")
