"""The network that maps images to logits, by name, with dropout and stochastic depth as knobs."""

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from cyclical_jax import data
from cyclical_jax.models import MODEL_OPTIONS, NETWORKS, Model, Network, make_model, network_of
from cyclical_jax.training.attributes import field_of
from cyclical_jax.training.fields import (
    Field,
    RecipeError,
    any_of,
    flag,
    knob,
    one_of,
    or_none,
    sizes,
    whole,
)
from cyclical_jax.training.own_files import Found, find
from cyclical_jax.training.technique import IMAGES, LOGITS, Own, Site, Technique

NAME = "model.name"
_GROUP = "model.batch_norm_group"
KNOBS = ("model.dropout", "model.stochastic_depth")
_OPTIONS: dict[str, Field] = {
    "model.hidden_sizes": sizes((64,), "widths of the hidden dense layers"),
    "model.patch_size": whole(8, "side of a patch, in pixels", minimum=1),
    "model.stride": whole(4, "distance from one patch to the next, in pixels", minimum=1),
    "model.channels": whole(32, "number of outputs of the layer that all patches share", minimum=1),
    "model.widths": sizes((32, 64), "numbers of channels of the convolutions"),
    "model.batch_norm": flag(
        False, "normalisation of each hidden layer over the whole batch, on all devices"
    ),
    _GROUP: or_none(
        whole(
            None,
            "number of devices that share BatchNorm's statistics; None is all, 1 is each by itself",
            minimum=1,
        )
    ),
    "model.dropout": or_none(
        knob(
            None,
            "share of a dense layer's inputs that are set to 0; pixels are never dropped",
            minimum=0,
            maximum=1,
        )
    ),
    "model.stochastic_depth": or_none(
        knob(
            None,
            "probability that an image skips the last residual block; for earlier blocks it is "
            "lower, in proportion to their depth",
            minimum=0,
            maximum=1,
        )
    ),
    "model.dtype": one_of(
        "float32",
        ("float32", "bfloat16"),
        "number type of the computation; parameters stay in float32",
    ),
}


def problems(checked: Own) -> Iterator[str]:
    name, dataset = checked.get(NAME), checked.get("dataset")
    if checked.get(_GROUP) is not None and checked.get("model.batch_norm") is False:
        if "batch_norm" in MODEL_OPTIONS.get(str(name), ()):
            yield f"{_GROUP} is read where model.batch_norm is True; leave it at None."
    if name in NETWORKS and name != "mlp" and dataset is not None:
        if data.is_table(dataset, data_dir=checked.get("data_dir")):
            yield f"{NAME} must be 'mlp' for {dataset!r}, a table, got {name!r}."
    if checked.get(NAME) == "mlp" and checked.get("model.hidden_sizes") == ():
        for key in ("model.batch_norm", "model.dropout"):
            if checked.get(key):
                default = _OPTIONS[key].default
                yield f"{key} is read where model.hidden_sizes has a layer; leave it at {default}."


class NetworkWithKeys(NamedTuple):
    """A network whose options need keys of their own.

    Attributes:
      network: The network.
      keys: `{"model.<option>": Field}` of the options that no other network has.
    """

    network: Network
    keys: Mapping[str, Field] = {}


def as_network(name: str, network: Any) -> NetworkWithKeys:
    """Returns a network of your own, or a linen module class, with its keys.

    Raises:
      RecipeError: It is neither, or an option has no key.
    """
    if isinstance(network, type) and issubclass(network, nn.Module):
        if not {"num_classes", "axis_name"} <= {field.name for field in fields(network)}:
            raise RecipeError(f"model {name!r} must have the attributes num_classes and axis_name.")
        network = network_of(network)
    keyed = network if isinstance(network, NetworkWithKeys) else NetworkWithKeys(network)
    if not isinstance(keyed.network, Network):
        raise RecipeError(f"model {name!r} must be a linen module class or a Network.")
    for option in keyed.network.options:
        if f"model.{option}" not in {**_OPTIONS, **keyed.keys}:
            raise RecipeError(
                f"model {name!r} has the option {option!r}, which has no key: give "
                f"NetworkWithKeys(network, {{'model.{option}': ...}})."
            )
    return keyed


# ---- a linen module class that a config names by its place


_PLACE = "path/to/file.py:ClassName"
_GIVEN = ("num_classes", "axis_name")  # attributes that the engine gives, where a class has them
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class OwnNetwork:
    """A class that a config names, and its attributes."""

    name: str  # as model.name has it
    keyed: NetworkWithKeys
    knobs: tuple[str, ...]  # keys that may cycle
    required: tuple[str, ...]  # keys without a default
    file: tuple[str, str]  # its name, and the digest of its content


@functools.lru_cache(maxsize=32)
def _own_network(name: str, found: Found) -> OwnNetwork:
    """Returns the network of a class.

    Raises:
      RecipeError: It is not a linen module class, or cannot be called as one; a line.
    """
    what, module = f"{NAME} {name!r}", found.value
    _check_class(what, module)
    keys, required = _keys_of(what, module)
    options = tuple(key.removeprefix("model.") for key in keys)
    network = Network(functools.partial(_constructed, module), options)
    knobs = tuple(key for key, field in keys.items() if field.may_cycle)
    file = f"{found.file}:{module.__name__}", found.digest
    return OwnNetwork(name, NetworkWithKeys(network, keys), knobs, required, file)


def _keys_of(what: str, module: type) -> tuple[dict[str, Field], tuple[str, ...]]:
    """Returns the keys of a class's attributes, and those of them that have no default."""
    keys: dict[str, Field] = {}
    required: list[str] = []
    hints = _hints(module)
    for attribute in fields(module):
        if attribute.name in (*_GIVEN, "parent", "name") or not attribute.init:
            continue
        field, has_default = _key_of(module, attribute, hints)
        key = f"model.{attribute.name}"
        keys |= {key: field} if field else {}
        required += [] if has_default else [key]
        if field is None and not has_default:
            raise RecipeError(
                f"{what}: its attribute {attribute.name} has no default, and no key can express "
                "its type; give it a default."
            )
    return keys, tuple(required)


def _check_class(what: str, module: Any) -> None:
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        kind = "another class" if isinstance(module, type) else f"a {type(module).__name__}"
        raise RecipeError(f"{what} must be a class that inherits flax.linen.Module, got {kind}.")
    call: Callable[..., Any] = module.__call__
    _, *parameters = inspect.signature(call).parameters.values()
    several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in several]
    needed = [name for name in needed if name != "train"]
    if len(needed) > 1 or not parameters:
        raise RecipeError(
            f"{what} is called as module(images, train=...) or module(images), but its __call__ "
            f"takes {', '.join(needed) or 'nothing'}."
        )


def _hints(module: type) -> dict[str, Any]:
    """Returns {attribute: type}; {} if an annotation names something unknown."""
    try:
        return typing.get_type_hints(module)
    except Exception:
        return {}


def _key_of(module: type, attribute: Any, hints: Mapping[str, Any]) -> tuple[Field | None, bool]:
    """Returns the key of an attribute, if it can have one, and whether it has a default."""
    default, meaning = attribute.default, f"attribute {attribute.name} of {module.__name__}"
    if attribute.default_factory is not MISSING:
        default = attribute.default_factory()
    has_default = default is not MISSING
    if attribute.name == "dtype":
        return _dtype_key(default if has_default else jnp.float32, meaning), True
    if f"model.{attribute.name}" == _GROUP:
        return _OPTIONS[_GROUP]._replace(default=default if has_default else None), True
    annotation = hints.get(attribute.name, attribute.type)
    if not has_default:  # an evaluation could not do without a value that cycles
        return field_of(annotation, None, meaning, may_cycle=False), False
    return field_of(annotation, default, meaning), True


def _dtype_key(default: Any, meaning: str) -> Field:
    """Returns a key for the dtype, where None is the class's own default."""
    names = [name for name in _DTYPES if default is not None and default == jnp.dtype(name)]
    return or_none(one_of(names[0] if names else None, _DTYPES, meaning))


def _constructed(module: type[nn.Module], **attributes: Any) -> nn.Module:
    """Returns the module with those attributes of the engine that its class has."""
    its = {attribute.name for attribute in fields(module)}
    kept = {name: value for name, value in attributes.items() if name in its}
    dtype = {"dtype": getattr(jnp, kept["dtype"])} if kept.get("dtype") else {}
    without = {name: value for name, value in kept.items() if name != "dtype"}
    return module(**without, **dtype)


# ---- the technique


def technique(further: Mapping[str, NetworkWithKeys] | None = None) -> Technique:
    """Returns the technique for our networks, further ones, and one that a config names."""

    def of_config(values: Own) -> Technique:
        name = values.get(NAME)
        if not isinstance(name, str) or ":" not in name:
            return made(None)
        return made(_own_network(name, find(NAME, name)))

    @functools.lru_cache(maxsize=32)
    def made(own: OwnNetwork | None) -> Technique:
        return _technique(dict(further or {}), own, of_config)

    return made(None)


def _technique(
    added: dict[str, NetworkWithKeys],
    own: OwnNetwork | None,
    of_config: Callable[[Own], Technique],
) -> Technique:
    added |= {own.name: own.keyed} if own else {}
    networks = {**NETWORKS, **{name: of.network for name, of in added.items()}}
    keys = {key: field for of in added.values() for key, field in of.keys.items()}

    def model(site: Site, before: Model | None) -> Model:
        name = site.own[NAME]
        is_own = own is not None and name == own.name
        left = (NAME,) if is_own else (NAME, *KNOBS)
        options = {key: value for key, value in site.own.items() if key not in left}
        made = make_model(
            name,
            num_classes=site.spec.num_outputs,
            axis_name=site.axis_name,
            networks=networks,
            **{key.removeprefix("model."): value for key, value in options.items()},
        )
        return made._replace(name=f"{NAME} {name!r}") if is_own else made

    def all_problems(checked: Own) -> Iterator[str]:
        yield from problems(checked)
        for key in own.required if own else ():
            words = keys[key].type.removesuffix(", or None")
            if checked.get(key, 0) is None:
                yield f"{key} must be set to a {words}: the class has no default for it."

    return Technique(
        "network",
        {NAME: _name_key(tuple(networks), own)} | _OPTIONS | keys,
        model=model,
        model_knobs=tuple(dict.fromkeys((*KNOBS, *(own.knobs if own else ())))),
        device_groups=(_GROUP,),
        options={NAME: {name: of.options for name, of in networks.items()}},
        needs=frozenset({IMAGES, LOGITS}),
        problems=all_problems,
        of_config=of_config,
        files=(own.file,) if own else (),
        about="Builds the network; dropout and stochastic depth may cycle.",
    )


def _name_key(names: tuple[str, ...], own: OwnNetwork | None) -> Field:
    default = own.name if own else names[0]
    field = one_of(default, names, "network; see cyclical_jax/models")
    words = any_of(*(name for name in names if own is None or name != own.name), _PLACE)

    def check(key, value):
        if isinstance(value, str) and value not in names and ("/" in value or ".py" in value):
            raise ValueError(f"{key} must be {_PLACE}, or one of our networks, got {value!r}.")
        return field.check(key, value)

    return field._replace(check=check, type=words)


TECHNIQUE = technique()
