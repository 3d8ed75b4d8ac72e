"""Every key of a config, with its default; the configs beside this one change what differs.

A value that may cycle is a number or `cyclical(easy, hard)`; None is off. See
`cyclical_jax/training/recipe.py` for the checks.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from cyclical_jax.training.recipe import cyclical


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.dataset = "digits"
    config.data_dir = placeholder(str)  # where TFDS keeps its datasets; None: its own default
    config.seed = 0  # initial parameters, order of the examples, all randomness
    config.batch_size = 64  # examples an update, over all devices
    config.num_epochs = 40

    config.cycle = ConfigDict()  # the clock of every knob that brings no factor or shape
    config.cycle.factor = 2.0  # the peak is at the fraction 1 / factor of training
    config.cycle.shape = "linear"  # or cosine, exponential, rex
    config.cycle.num_cycles = 1

    config.model = ConfigDict()
    config.model.name = "mlp"
    config.model.hidden_sizes = (64,)
    config.model.batch_norm = False

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # with Nesterov momentum; or adamw
    config.optimizer.momentum = 0.9  # adamw: b1
    config.optimizer.learning_rate = 0.1
    config.optimizer.learning_rate_decay = "cosine"  # times the rate; or None
    config.optimizer.weight_decay = 1e-3  # times the rate; biases do not decay
    config.optimizer.max_norm = placeholder(float)  # of the whole gradient
    config.optimizer.max_delta = placeholder(float)  # of each entry of it
    config.optimizer.clipping = placeholder(float)  # of a unit, relative to its parameters

    config.loss = ConfigDict()
    config.loss.name = "cross_entropy"  # or focal, asymmetric_focal, cyclical_focal
    config.loss.temperature = 1.0  # in training; evaluation has 1
    config.loss.label_smoothing = 0.0
    config.loss.gamma = placeholder(float)  # focal
    config.loss.gamma_pos = placeholder(float)  # asymmetric_focal, cyclical_focal
    config.loss.gamma_neg = placeholder(float)  # asymmetric_focal, cyclical_focal
    config.loss.gamma_hc = placeholder(float)  # cyclical_focal
    config.loss.hardness = placeholder(float)  # cyclical_focal
    return config


def cyclical_focal(**gammas: float) -> dict[str, Any]:
    """The changes that make the loss the cyclical focal loss of the published commands."""
    gammas = {"gamma_hc": 3.0, "gamma_pos": 2.0, "gamma_neg": 2.0} | gammas
    return {
        "loss.name": "cyclical_focal",
        "loss.hardness": cyclical(easy=0.0, hard=1.0),
        "loss.label_smoothing": 0.1,
        **{f"loss.{name}": gamma for name, gamma in gammas.items()},
    }


def with_all(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """`variants` and two more: "plain" changes nothing, "all" makes all their changes."""
    everything = {key: value for changes in variants.values() for key, value in changes.items()}
    return {"plain": {}, **variants, "all": everything}


def vary(config: ConfigDict, variants: Mapping[str, Mapping[str, Any]], variant: str) -> ConfigDict:
    """`config` with the changes, {"section.key": value}, of the `variant` named."""
    if variant not in variants:
        raise ValueError(f"{variant!r} is no variant of this config; it has {', '.join(variants)}.")
    for key, value in variants[variant].items():
        *section, name = key.split(".")
        within = config[section[0]] if section else config
        del within[name]  # else the type of the default would bind
        within[name] = value
    return config
