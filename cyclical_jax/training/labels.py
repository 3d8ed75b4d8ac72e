"""Labels of three kinds: indices of classes, probabilities, or a 1 for each class that is one."""

import jax
import jax.numpy as jnp


def is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the class with the largest logit is the label, or one of the likeliest.

    Args:
      logits: [..., classes].
      labels: [...] indices, or [..., classes] numbers, where none above 0 is nobody's label.

    Returns:
      [...] float32, 1 or 0.
    """
    predicted = logits.argmax(-1)
    if labels.ndim < logits.ndim:
        return (predicted == labels).astype(jnp.float32)
    of_predicted = jnp.take_along_axis(labels, predicted[..., None], -1)[..., 0]
    is_right = (of_predicted == labels.max(-1)) & (of_predicted > 0)
    return is_right.astype(jnp.float32)


def multi_hot(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """[..., classes] of indices; labels that have an axis of classes as they are."""
    is_index = labels.ndim < logits.ndim
    return jax.nn.one_hot(labels, logits.shape[-1]) if is_index else labels
