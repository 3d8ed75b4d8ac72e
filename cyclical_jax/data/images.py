"""Images as bytes, and as the floats that models take."""

import jax
import jax.numpy as jnp


def as_floats(images: jax.Array) -> jax.Array:
    """Returns bytes 0 .. 255 as float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1
