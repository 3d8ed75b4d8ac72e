"""Models as two functions of pytrees, and the table of networks with names."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from cyclical_jax import _checks
from cyclical_jax.models.cnn import CNN
from cyclical_jax.models.mlp import MLP
from cyclical_jax.models.patch_dense import PatchDense
from cyclical_jax.models.resnet import RESNETS
from cyclical_jax.models.tresnet import TResNetM

_TABLE_WIDTH = 120  # characters
_NOT_OPTIONS = {"num_classes", "axis_name", "parent", "name"}


class Network(NamedTuple):
    """A network and what can be chosen about it.

    Attributes:
      module: Returns the network; takes the keywords `num_classes`, `axis_name` and the options.
      options: Names of its other keywords.
    """

    module: Callable[..., nn.Module]
    options: tuple[str, ...]


def network_of(module_class: type[nn.Module]) -> Network:
    """Returns the network of a linen module class; its attributes are the options.

    Args:
      module_class: A class with at least the attributes `num_classes` and `axis_name`, which are
        not options.
    """
    names = [field.name for field in dataclasses.fields(module_class)]
    return Network(module_class, tuple(name for name in names if name not in _NOT_OPTIONS))


_OPTIONS = ("dtype", "stochastic_depth", "batch_norm_group")
_PUBLISHED: dict[str, Callable[..., nn.Module]] = {**RESNETS, "tresnet_m": TResNetM}
NETWORKS: Mapping[str, Network] = {
    "mlp": network_of(MLP),
    "patch_dense": network_of(PatchDense),
    "cnn": network_of(CNN),
    **{name: Network(module, _OPTIONS) for name, module in _PUBLISHED.items()},
}
MODELS = tuple(NETWORKS)
MODEL_OPTIONS = {name: network.options for name, network in NETWORKS.items()}
# On a CPU a convolution inside a compiled loop is 10 times slower than outside of it.
CONVOLUTIONAL = frozenset({"cnn", *_PUBLISHED})


class Model(NamedTuple):
    """A model of any library, as the two functions that the train step needs.

    In training, `apply` gets a key and returns the new `model_state`, whose structure, shapes and
    dtypes stay the same. In an evaluation it gets no key, and its new `model_state` is dropped.

    Attributes:
      init: (key, images [batch, height, width, channels]) -> params, model_state.
      apply: (params, model_state, images, *, train, key, **knobs) -> logits [batch, classes],
        model_state.
      knobs: Names of the knobs that `apply` takes, where a run is given the model.
      name: What a message calls it.
      table: (inputs of one example) -> its layers, as text.
    """

    init: Callable[[jax.Array, jax.Array], tuple[Any, Any]]
    apply: Callable[..., tuple[jax.Array, Any]]
    knobs: tuple[str, ...] = ()
    name: str = "model"
    table: Callable[[Any], str] | None = None


def make_model(
    name: str,
    *,
    num_classes: int,
    axis_name: str | None,
    networks: Mapping[str, Network] = NETWORKS,
    **options: Any,
) -> Model:
    """Returns the model of that name.

    Args:
      name: A key of `networks`; by default one of `MODELS`.
      num_classes: Number of logits.
      axis_name: Mapped axis over which BatchNorm averages; None outside of one.
      networks: The networks to choose from, e.g. `{**NETWORKS, "mine": network_of(Mine)}`.
      **options: Options of that network, such as `hidden_sizes`; see `MODEL_OPTIONS`.

    Raises:
      ValueError: There is no such model, or it has no such option.
    """
    _checks.one_of("model", name, networks)
    module, allowed = networks[name]
    for option in options:
        _checks.one_of(f"option of {name}", option, allowed)
    return from_linen(module(num_classes=num_classes, axis_name=axis_name, **options))


def _takes_train(module_class: type[nn.Module]) -> bool:
    call: Callable[..., Any] = module_class.__call__
    parameters = inspect.signature(call).parameters.values()
    return any(p.name == "train" or p.kind is p.VAR_KEYWORD for p in parameters)


def from_linen(module: nn.Module) -> Model:
    """Returns the `Model` of a linen module.

    It is called as `module(images, train=...)`, or as `module(images)` where it does not take
    `train`. In training, dropout draws from the key, and all collections but "params" are updated.
    The keyword arguments `knobs` of `apply` replace attributes of the module in that call; their
    values may be traced.
    """

    takes_train = _takes_train(type(module))

    def mode(train):
        return {"train": train} if takes_train else {}

    def init(key, images):
        variables = dict(module.init(key, images, **mode(False)))
        return variables.pop("params", {}), variables

    def apply(params, model_state, images, *, train, key=None, **knobs):
        variables = {"params": params, **model_state}
        if not train:
            return module.apply(variables, images, **mode(False)), model_state
        rngs = {} if key is None else {"dropout": key}
        changed = module.clone(**knobs) if knobs else module
        mutable = [*model_state]
        return changed.apply(variables, images, **mode(True), rngs=rngs, mutable=mutable)

    def table(images):
        console = {"force_terminal": False, "width": _TABLE_WIDTH}
        return module.tabulate(jax.random.key(0), images, console_kwargs=console, **mode(False))

    return Model(init, apply, table=table)
