"""Learning from examples without labels, whose weight and threshold may cycle."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cyclical_jax import _checks
from cyclical_jax.losses import softmax_cross_entropy


def pseudo_labels(logits: jax.Array, threshold: ArrayLike) -> jax.Array:
    """The class of each example that is predicted with a probability of at least the threshold.

    Args:
      logits: [..., classes] floats, of a weakly augmented view.
      threshold: In [0, 1]; a scalar, which may be traced. 0 takes all.

    Returns:
      [...] class indices, int32; -1, which the losses ignore, of the others. No gradient.

    Raises:
      ValueError: A plain threshold is out of its range.
    """
    _checks.number("threshold", threshold, minimum=0, maximum=1)
    p = jax.nn.softmax(jnp.asarray(logits).astype(jnp.float32))
    return jnp.where(p.max(-1) >= threshold, p.argmax(-1), -1).astype(jnp.int32)


def pseudo_label_loss(
    strong_logits: jax.Array,
    weak_logits: jax.Array,
    threshold: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
) -> jax.Array:
    """Cross entropy of a strongly augmented view with what is predicted of a weak one.

    Args:
      strong_logits: [..., classes] floats.
      weak_logits: [..., classes] floats of the same examples; no gradient reaches them. From the
        forward pass of training, as FixMatch has them, they are predicted under its dropout.
      threshold: As in `pseudo_labels`.
      temperature: Of `strong_logits`, as in `softmax_cross_entropy`.

    Returns:
      [...] losses, float32; 0 where the prediction is below the threshold. FixMatch takes the mean
      over all examples, so that few of them are a small loss.

    Raises:
      ValueError: The shapes differ, or a plain number is out of its range.

    Source: FixMatch, Sohn et al., arXiv 2001.07685, eq. 4. That labels alone are the easy end, and
    those without the hard one, is a reading of ours; arXiv 2202.08835 names semi-supervised
    learning in its abstract.
    """
    if jnp.shape(strong_logits) != jnp.shape(weak_logits):
        raise ValueError(
            f"`weak_logits` must have the shape of `strong_logits`, {jnp.shape(strong_logits)}, "
            f"got {jnp.shape(weak_logits)}."
        )
    labels = pseudo_labels(weak_logits, threshold)
    return softmax_cross_entropy(strong_logits, labels, temperature=temperature)
