"""From images that rest on the device as bytes to the batch that a step sees."""

from typing import Any

import jax
import jax.numpy as jnp


def take_batch(split: dict[str, Any], indices: jax.Array) -> dict[str, jax.Array]:
    """The examples at `indices`, [batch]: image as floats in [-1, 1], label, index."""
    image = split["image"][indices].astype(jnp.float32) / 127.5 - 1
    return {"image": image, "label": split["label"][indices], "index": indices}
