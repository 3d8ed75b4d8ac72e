"""A moving average of a tree, such as the variables of a model, for evaluation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cyclical_jax import _checks
from cyclical_jax._dtypes import as_array, standard_promotion, widened
from cyclical_jax._types import Number


@standard_promotion
def moving_average(
    average: Any, new: Any, decay: Number, *, step: Number, is_update: Number = True
) -> Any:
    """Returns the moving average after a step: `d average + (1 - d) new`.

    Here d is min(decay, (1 + step) / (10 + step)). The bound on d lets the average forget the
    initial values soon: d is 0.1 at step 0, 0.5 at 8.

    Args:
      average: The tree of averages so far; at first a copy of the initial values.
      new: A tree of the same structure and shapes.
      decay: In [0, 1], a scalar; may be traced.
      step: Updates before this one, a whole number, a scalar; may be traced.
      is_update: Whether the average moves, a scalar; may be traced. It is False, for example, in a
        step in which an optimizer only accumulates gradients.

    Returns:
      The tree of averages. A floating leaf is averaged and has the dtype of the old average; any
      other leaf, such as a count or a random key, is the new one. If `is_update` is False, all
      leaves are the old ones; then the floats of `new` must be finite.

    Raises:
      ValueError: A number is not a scalar, a plain one is out of its range, or two leaves differ in
        shape.

    Source: Polyak & Juditsky 1992; the bound is that of TensorFlow's ExponentialMovingAverage.
    """
    _checks.number("decay", decay, minimum=0, maximum=1)
    _checks.whole_number("step", step, minimum=0, maximum=2**31 - 1)
    _checks.scalar("is_update", is_update)
    step = widened(step)  # 1 + step may be above int32
    decay = jnp.minimum(widened(decay), (1 + step) / (10 + step))
    step_size = jnp.where(is_update, 1 - decay, 0)

    def average_of(value, old):
        value, old = as_array(value, name="new"), as_array(old, name="average")
        _checks.same_shape("new", value, old.shape)
        if jnp.issubdtype(value.dtype, jnp.floating):
            return optax.incremental_update(value, old, step_size).astype(old.dtype)
        return jnp.where(is_update, value, old)

    return jax.tree.map(average_of, new, average)
