"""A multilayer perceptron on flattened images."""

import jax
from flax import linen as nn

from cyclical_jax.models.classifier import Classifier


class MLP(Classifier):
    """Dense layers with ReLU; [batch, height, width, channels] -> logits [batch, num_classes].

    Its attributes are those of `Classifier`.
    """

    hidden_sizes: tuple[int, ...] = (64,)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        return self.classify(images.reshape(len(images), -1), train)
