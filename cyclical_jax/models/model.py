"""Models as two functions of pytrees, and the models that a recipe can name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from cyclical_jax.models.mlp import MLP

_MODULES: dict[str, type[nn.Module]] = {"mlp": MLP}
MODELS = tuple(_MODULES)


class Model(NamedTuple):
    """What the train step needs of a model, whatever library it was written with."""

    # (key, images [batch, height, width, channels]) -> params, model_state
    init: Callable[[jax.Array, jax.Array], tuple[Any, Any]]
    # (params, model_state, images, *, train, key) -> logits [batch, classes], model_state
    apply: Callable[..., tuple[jax.Array, Any]]


def make_model(name: str, *, num_classes: int, axis_name: str | None, **options: Any) -> Model:
    """The model of that name.

    Args:
      name: One of `MODELS`.
      num_classes: Number of logits.
      axis_name: Mapped axis over which BatchNorm averages; None outside of one.
      **options: Attributes of the module, such as `hidden_sizes`.
    """
    return from_linen(_MODULES[name](num_classes=num_classes, axis_name=axis_name, **options))


def from_linen(module: nn.Module) -> Model:
    """A `Model` of a linen module that is called as `module(images, train=...)`."""

    def init(key, images):
        variables = dict(module.init(key, images, train=False))
        return variables.pop("params"), variables

    def apply(params, model_state, images, *, train, key=None):
        variables = {"params": params, **model_state}
        if not train:
            return module.apply(variables, images, train=False), model_state
        rngs = {"dropout": key}
        return module.apply(variables, images, train=True, rngs=rngs, mutable=[*model_state])

    return Model(init, apply)
