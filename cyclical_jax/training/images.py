"""From images as bytes to the batch that a step sees."""

from typing import Any

import jax
import jax.numpy as jnp

from cyclical_jax.training.devices import share


def as_batch(examples: dict[str, Any]) -> dict[str, jax.Array]:
    """`examples` with their bytes as floats in [-1, 1]."""
    return examples | {"image": examples["image"].astype(jnp.float32) / 127.5 - 1}


def send_batch(split: dict[str, Any], selection: dict[str, Any]) -> dict[str, jax.Array]:
    """The examples at `selection["index"]`, as bytes, shared by the devices."""
    examples = {name: array[selection["index"]] for name, array in split.items()}
    return share(examples | selection)


def take_examples(split: dict[str, Any], selection: dict[str, Any]) -> dict[str, jax.Array]:
    """The examples at `selection["index"]`, as bytes; with `selection`'s mask, if any."""
    index = selection["index"]
    return {"image": split["image"][index], "label": split["label"][index], **selection}


def take_batch(split: dict[str, Any], selection: dict[str, Any]) -> dict[str, jax.Array]:
    """The batch of the examples at `selection["index"]`."""
    return as_batch(take_examples(split, selection))
