"""The base of the models: their attributes, and the layers from features to logits."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from cyclical_jax import _checks
from cyclical_jax.models.batch_norm import batch_norm


class Classifier(nn.Module):
    """The base of the models; a subclass turns images into features and ends with `classify`.

    Attributes:
      num_classes: Number of logits.
      hidden_sizes: Width of each hidden dense layer.
      batch_norm: Whether BatchNorm precedes the ReLU of each layer but the last.
      axis_name: Mapped axis over which BatchNorm averages; None outside of one.
      batch_norm_group: Number of devices on that axis that share BatchNorm's statistics; None is
        all.
      dropout: Probability with which, in training, each input of a dense layer other than a pixel
        is set to 0; the others are scaled to keep the mean. 0 for none; may be traced.
      dtype: Dtype of the computation. Parameters, BatchNorm's statistics and logits are float32.
    """

    num_classes: int
    hidden_sizes: tuple[int, ...] = ()
    batch_norm: bool = False
    batch_norm_group: int | None = None
    axis_name: str | None = None
    dropout: ArrayLike = 0.0
    dtype: Any = jnp.float32

    def classify(self, features: jax.Array, train: bool) -> jax.Array:
        """Returns logits [batch, num_classes], float32, of features [batch, features]."""
        for size in self.hidden_sizes:
            features = nn.Dense(size, dtype=self.dtype)(features)
            features = self.drop(self.activate(features, train), train)
        # float32: a bfloat16 logit of 10 would be off by up to 0.03, and so would the loss.
        return nn.Dense(self.num_classes, dtype=jnp.float32)(features)

    def activate(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns the ReLU of `x`, [batch, ..., channels], after BatchNorm if it is on."""
        if self.batch_norm:
            norm = batch_norm(
                train, axis_name=self.axis_name, group=self.batch_norm_group, dtype=self.dtype
            )
            x = norm(x)
        return nn.relu(x)

    def drop(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns `x` after dropout of each number by itself, in training."""
        _checks.number("dropout", self.dropout, minimum=0, maximum=1)
        return dropped(self, x, self.dropout, x.shape) if train else x


def dropped(module: nn.Module, x: jax.Array, rate: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """Returns `x` with entries set to 0 with probability `rate`; the others keep the mean.

    There is one draw for each entry of `shape`, which broadcasts to that of `x`. Unlike in linen's
    dropout, the rate may be traced.
    """
    if _checks.is_plain(rate) and rate == 0:
        return x
    keep = 1 - jnp.asarray(rate, jnp.float32)
    is_kept = jax.random.bernoulli(module.make_rng("dropout"), keep, shape)
    scale = 1 / jnp.maximum(keep, jnp.finfo(jnp.float32).tiny)
    return jnp.where(is_kept, x * scale, 0).astype(x.dtype)
