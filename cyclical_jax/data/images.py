"""Inputs as they are kept, and as the floats that models take."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LIMITS = (-1.0, 1.0)  # of the floats that bytes become


class Normalisation(NamedTuple):
    """Statistics of a training split, by which its raw numbers were made inputs.

    Attributes:
      mean: Mean of each feature.
      std: Standard deviation of each feature; 1 where a feature is constant.
    """

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Returns (raw - mean) / std, float32."""
        return ((np.asarray(raw, np.float64) - self.mean) / self.std).astype(np.float32)


def as_floats(images: jax.Array) -> jax.Array:
    """Returns bytes 0 .. 255 as float32 in [-1, 1]; floats are used as they are, in float32."""
    floats = images.astype(jnp.float32)
    return floats / 127.5 - 1 if jnp.issubdtype(images.dtype, jnp.integer) else floats
