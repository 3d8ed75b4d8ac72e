"""Models as two functions of pytrees, and the models that a recipe can name."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from cyclical_jax import _checks
from cyclical_jax.models.cnn import CNN
from cyclical_jax.models.mlp import MLP
from cyclical_jax.models.patch_dense import PatchDense
from cyclical_jax.models.resnet import RESNETS
from cyclical_jax.models.tresnet import TResNetM

_OF_ANY_SHAPE: dict[str, type[nn.Module]] = {"mlp": MLP, "patch_dense": PatchDense, "cnn": CNN}
_PUBLISHED: dict[str, Callable[..., nn.Module]] = {**RESNETS, "tresnet_m": TResNetM}
_MODULES: dict[str, Callable[..., nn.Module]] = {**_OF_ANY_SHAPE, **_PUBLISHED}
_NOT_OPTIONS = {"num_classes", "axis_name", "parent", "name"}

MODELS = tuple(_MODULES)
MODEL_OPTIONS: dict[str, tuple[str, ...]] = {
    name: tuple(f.name for f in dataclasses.fields(module) if f.name not in _NOT_OPTIONS)
    for name, module in _OF_ANY_SHAPE.items()
} | dict.fromkeys(_PUBLISHED, ("dtype", "stochastic_depth"))
# On a CPU a convolution inside a compiled loop is 10 times slower than one outside.
CONVOLUTIONAL = frozenset({"cnn", *_PUBLISHED})


class Model(NamedTuple):
    """What the train step needs of a model, whatever library it was written with."""

    # (key, images [batch, height, width, channels]) -> params, model_state
    init: Callable[[jax.Array, jax.Array], tuple[Any, Any]]
    # (params, model_state, images, *, train, key, **knobs) -> logits [batch, classes], model_state
    apply: Callable[..., tuple[jax.Array, Any]]


def make_model(name: str, *, num_classes: int, axis_name: str | None, **options: Any) -> Model:
    """The model of that name.

    Args:
      name: One of `MODELS`.
      num_classes: Number of logits.
      axis_name: Mapped axis over which BatchNorm averages; None outside of one.
      **options: Those of `MODEL_OPTIONS[name]`, attributes of the module such as `hidden_sizes`.

    Raises:
      ValueError: There is no such model, or it has no such option.
    """
    _checks.one_of("model", name, MODELS)
    for option in options:
        _checks.one_of(f"option of {name}", option, MODEL_OPTIONS[name])
    return from_linen(_MODULES[name](num_classes=num_classes, axis_name=axis_name, **options))


def from_linen(module: nn.Module) -> Model:
    """A `Model` of a linen module that is called as `module(images, train=...)`.

    In training its dropout draws from the key; all of its collections but "params" are updated. A
    knob is an attribute of the module that has another value, which may be traced, in this call.
    """

    def init(key, images):
        variables = dict(module.init(key, images, train=False))
        return variables.pop("params"), variables

    def apply(params, model_state, images, *, train, key=None, **knobs):
        variables = {"params": params, **model_state}
        if not train:
            return module.apply(variables, images, train=False), model_state
        rngs = {} if key is None else {"dropout": key}
        changed = module.clone(**knobs) if knobs else module
        return changed.apply(variables, images, train=True, rngs=rngs, mutable=[*model_state])

    return Model(init, apply)
