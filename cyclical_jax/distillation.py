"""Distillation from a teacher's logits; its weight and temperature may cycle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax import _checks, _examples, _focal
from cyclical_jax._dtypes import as_array, native
from cyclical_jax._types import Array, Number
from cyclical_jax.losses import Axis, softmax_cross_entropy


def teacher_logits(
    apply: Callable[[Any, Any], Array], variables: Any, images: Any, *, batch_size: int = 1024
) -> np.ndarray:
    """Returns the teacher's logits for a set of images, to be computed once for all epochs.

    Use it if the images do not change from epoch to epoch.

    Args:
      apply: (variables, images) -> [batch, classes]; from any library.
      variables: The teacher's variables.
      images: [n, ...].
      batch_size: Number of images at once, at least 1.

    Returns:
      [n, classes] float32, on the host.

    Raises:
      ValueError: The batch size is not a whole number of at least 1.
    """
    _checks.whole_number("batch_size", batch_size, minimum=1, maximum=2**31 - 1)
    # A part of an array that is spread over devices may not divide among them.
    images = np.asarray(images) if isinstance(images, jax.Array) else images
    variables, compiled = jax.tree.map(native, variables), jax.jit(apply)
    starts = range(0, max(len(images), 1), batch_size)  # of no images too the classes are known
    parts = (
        compiled(variables, as_array(images[start : start + batch_size], name="images"))
        for start in starts
    )
    return np.concatenate([np.asarray(part, np.float32) for part in parts])


def distillation_loss(
    logits: Array,
    teacher_logits: Array,
    *,
    temperature: Number = 1.0,
    axis: Axis = -1,
    where: Array | None = None,
) -> jax.Array:
    """Returns the loss T^2 KL(softmax(teacher / T) || softmax(logits / T)) per example.

    The square keeps the size of the gradient as the temperature T changes. No gradient reaches the
    teacher. With a weight w beside the loss of the labels:

        (1 - w) * softmax_cross_entropy(logits, labels) + w * distillation_loss(logits, teacher)

    Args:
      logits: [..., classes] floats of the model that learns.
      teacher_logits: [..., classes] floats. A class masked by -inf adds nothing to the loss; mask
        it in `logits` too, or training pushes its probability to 0.
      temperature: T, above 0; a scalar or broadcast to the examples, [...]; may be traced.
      axis: The axis or axes of the classes.
      where: Booleans: [...], examples to keep; or with as many axes as `logits`, classes to keep.

    Returns:
      [...] losses, at least float32; 0 where the two distributions are equal.

    Raises:
      ValueError: The shapes differ, or a plain number is out of its range.

    Source: Hinton et al., arXiv 1503.02531. The abstract of arXiv 2202.08835 names knowledge
    distillation; that a high weight w is the easy end is our reading.
    """
    if jnp.shape(logits) != jnp.shape(teacher_logits):
        raise ValueError(
            f"`teacher_logits` must have the shape of `logits`, {jnp.shape(logits)}, got "
            f"{jnp.shape(teacher_logits)}."
        )
    student = _examples.arranged(logits, axis, where)
    student.check_softmax()
    dtype = student.logits.dtype
    scale = student.number("temperature", temperature, above=0)
    teacher = jax.lax.stop_gradient(_examples.arranged(teacher_logits, axis, where).logits)
    teacher = teacher.astype(dtype)
    p = jax.nn.softmax(_focal.divided(teacher, scale))
    cross_entropy = softmax_cross_entropy(student.logits, p, temperature=scale)
    entropy = softmax_cross_entropy(teacher, p, temperature=scale)
    scale = jnp.asarray(scale, dtype)
    return scale * (scale * (cross_entropy - entropy))  # the square of 1e20 would be infinite
