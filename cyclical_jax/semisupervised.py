"""Learning from examples without labels; their weight and threshold may cycle."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cyclical_jax import _examples
from cyclical_jax._types import Array, Number
from cyclical_jax.losses import Axis, softmax_cross_entropy


def pseudo_labels(
    logits: Array, threshold: Number, axis: Axis = -1, where: Array | None = None
) -> jax.Array:
    """Returns the predicted class of each example whose probability reaches the threshold.

    Args:
      logits: [..., classes] floats, of a weakly augmented view.
      threshold: Least probability, in [0, 1]; a scalar or broadcast to the examples, [...]; may be
        traced. 0 takes all examples.
      axis: The axis or axes of the classes.
      where: Booleans: [...], examples to keep; or with as many axes as `logits`, classes to keep.

    Returns:
      [...] class indices, int32; -1, which the losses ignore, for the other examples. No gradient
      flows through them.

    Raises:
      ValueError: A shape or dtype is not as above, or a plain threshold is out of its range.
    """
    examples = _examples.arranged(logits, axis, where)
    examples.check_softmax()
    threshold = examples.number("threshold", threshold, minimum=0, maximum=1)
    p = jax.nn.softmax(examples.logits)
    return jnp.where(p.max(-1) >= threshold, p.argmax(-1), -1).astype(jnp.int32)


def pseudo_label_loss(
    strong_logits: Array,
    weak_logits: Array,
    threshold: Number,
    *,
    temperature: Number = 1.0,
    axis: Axis = -1,
    where: Array | None = None,
) -> jax.Array:
    """Returns the cross entropy of a strong view with the class that is predicted for a weak view.

    The views are two augmentations of the same examples, a strong and a weak one.

    Args:
      strong_logits: [..., classes] floats.
      weak_logits: [..., classes] floats of the same examples; no gradient reaches them. FixMatch
        takes them from the forward pass of training, so dropout acts on them.
      threshold: As in `pseudo_labels`.
      temperature: Divides `strong_logits`, as in `softmax_cross_entropy`.
      axis: The axis or axes of the classes.
      where: Booleans: [...], examples to keep; or with as many axes as `logits`, classes to keep.

    Returns:
      [...] losses, float32; 0 where the prediction is below the threshold. FixMatch takes the mean
      over all examples, so the loss is small when few predictions reach the threshold.

    Raises:
      ValueError: The shapes differ, or a plain number is out of its range.

    Source: FixMatch, Sohn et al., arXiv 2001.07685, eq. 4. The abstract of arXiv 2202.08835 names
    semi-supervised learning; that labelled examples are the easy end, and unlabelled ones the hard
    end, is our reading.
    """
    if jnp.shape(strong_logits) != jnp.shape(weak_logits):
        raise ValueError(
            f"`weak_logits` must have the shape of `strong_logits`, {jnp.shape(strong_logits)}, "
            f"got {jnp.shape(weak_logits)}."
        )
    labels = pseudo_labels(weak_logits, threshold, axis, where)
    return softmax_cross_entropy(strong_logits, labels, axis, where, temperature=temperature)
