"""The network that makes logits of images, by name, with dropout and stochastic depth as knobs."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from flax import linen as nn

from cyclical_jax.models import NETWORKS, Model, Network, make_model, network_of
from cyclical_jax.training.fields import (
    Field,
    RecipeError,
    flag,
    knob,
    one_of,
    or_none,
    sizes,
    whole,
)
from cyclical_jax.training.technique import IMAGES, LOGITS, Own, Site, Technique

NAME = "model.name"
KNOBS = ("model.dropout", "model.stochastic_depth")
_OPTIONS: dict[str, Field] = {
    "model.hidden_sizes": sizes((64,), "widths of the hidden dense layers"),
    "model.patch_size": whole(8, "side of a patch, in pixels", minimum=1),
    "model.stride": whole(4, "pixels from one patch to the next", minimum=1),
    "model.channels": whole(32, "outputs of the layer that all patches share", minimum=1),
    "model.widths": sizes((32, 64), "channels of the convolutions"),
    "model.batch_norm": flag(
        False, "normalises each hidden layer over the whole batch, on all devices"
    ),
    "model.dropout": or_none(
        knob(
            None,
            "share of the inputs of a dense layer that are set to 0; pixels never are",
            minimum=0,
            maximum=1,
        )
    ),
    "model.stochastic_depth": or_none(
        knob(
            None,
            "rate at which an image skips the last residual block; the rate grows linearly with "
            "the depth of the block",
            minimum=0,
            maximum=1,
        )
    ),
    "model.dtype": one_of(
        "float32", ("float32", "bfloat16"), "dtype of the computation; parameters stay in float32"
    ),
}


def problems(checked: Own) -> Iterator[str]:
    if checked.get(NAME) == "mlp" and checked.get("model.hidden_sizes") == ():
        for key in ("model.batch_norm", "model.dropout"):
            if checked.get(key):
                default = _OPTIONS[key].default
                yield f"{key} is read where model.hidden_sizes has a layer; leave it at {default}."


class NetworkWithKeys(NamedTuple):
    """A network, and {"model.<option>": Field} of the options that no other network has."""

    network: Network
    keys: Mapping[str, Field] = {}


def as_network(name: str, network: Any) -> NetworkWithKeys:
    """Returns a network that somebody else names, or a linen module class, with its keys.

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


def technique(further: Mapping[str, NetworkWithKeys] | None = None) -> Technique:
    """Returns the technique for our networks and further ones."""
    added = dict(further or {})
    networks = {**NETWORKS, **{name: of.network for name, of in added.items()}}
    keys = {key: field for of in added.values() for key, field in of.keys.items()}
    names = tuple(networks)

    def model(site: Site, before: Model | None) -> Model:
        options = {key: value for key, value in site.own.items() if key not in (NAME, *KNOBS)}
        return make_model(
            site.own[NAME],
            num_classes=site.spec.num_outputs,
            axis_name=site.axis_name,
            networks=networks,
            **{key.removeprefix("model."): value for key, value in options.items()},
        )

    return Technique(
        "network",
        {NAME: one_of(names[0], names, "the network; see cyclical_jax/models")} | _OPTIONS | keys,
        model=model,
        model_knobs=KNOBS,
        options={NAME: {name: of.options for name, of in networks.items()}},
        needs=frozenset({IMAGES, LOGITS}),
        problems=problems,
    )


TECHNIQUE = technique()
