"""A multilayer perceptron on flattened images."""

import jax
from flax import linen as nn


class MLP(nn.Module):
    """Dense layers with ReLU; [batch, height, width, channels] -> [batch, num_classes].

    Attributes:
      num_classes: Number of logits.
      hidden_sizes: Width of each hidden layer.
      batch_norm: Whether each hidden layer is normalised before its ReLU.
      axis_name: Mapped axis over which BatchNorm averages; None outside of one.
    """

    num_classes: int
    hidden_sizes: tuple[int, ...] = (64,)
    batch_norm: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images.reshape(len(images), -1)
        for size in self.hidden_sizes:
            x = nn.Dense(size)(x)
            if self.batch_norm:
                x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(x)
            x = nn.relu(x)
        return nn.Dense(self.num_classes)(x)
