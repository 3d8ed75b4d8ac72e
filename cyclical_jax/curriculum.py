"""Curricula: weights of examples by their difficulty. The preference for easy ones may cycle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax import _checks, _sharding
from cyclical_jax._dtypes import as_array, widened
from cyclical_jax._types import Array, Number

_MOST = 100.0


def difficulty_ranks(difficulty: Array) -> jax.Array:
    """Returns the rank of each example, from the easiest, 1 / 2n, to the hardest, 1 - 1 / 2n.

    Args:
      difficulty: [n], such as losses by an earlier model; values that are not finite rank hardest.

    Returns:
      [n] ranks, float32: (place from 0 + 1/2) / n. Equal difficulties get the mean of their places.

    Raises:
      ValueError: The difficulties have another shape.
    """
    if np.ndim(difficulty) != 1:
        raise ValueError(f"`difficulty` must have shape [n], got {np.shape(difficulty)}.")
    given = as_array(difficulty, jnp.float32, name="difficulty")
    values = _sharding.replicated(jnp.where(jnp.isfinite(given), given, jnp.inf))
    ordered = jnp.sort(values)
    below, up_to = (jnp.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    ranks = (below + up_to).astype(jnp.float32) / (2 * len(values))
    return _sharding.spread_like(ranks, given)


def sample_weights(ranks: Array, preference: Number) -> jax.Array:
    """Returns weights c exp(-c r) / (1 - exp(-c)) of ranks r; c is the preference for easy ones.

    Their mean over uniform ranks is 1. At c = 0 all are 1; for c < 0 hard examples weigh more.

    Args:
      ranks: [...] in [0, 1], such as the result of `difficulty_ranks`.
      preference: c, a scalar in [-100, 100], which may be traced.

    Returns:
      [...] weights, float32.

    Raises:
      ValueError: The preference is not a scalar, or a plain one is out of its range.

    Source: our extension of arXiv 2202.08835, whose abstract does not name curricula: c goes from,
    for example, 4 at the easy ends to 0 or below at the peak. Curricula: Bengio et al. 2009.
    """
    _checks.number("preference", preference, minimum=-_MOST, maximum=_MOST)
    c = jnp.asarray(preference, jnp.float32)
    ranks = as_array(ranks, jnp.float32, name="ranks")
    # By symmetry only a positive c is needed, so that no exponential is large.
    size, places = jnp.abs(c), jnp.where(c < 0, 1 - ranks, ranks)
    is_small = size < 1e-3
    safe = jnp.where(is_small, 1.0, size)
    weights = safe * jnp.exp(-safe * places) / -jnp.expm1(-safe)
    near_uniform = 1 + size * (0.5 - places)  # to c^2 / 12
    return jnp.where(is_small, near_uniform, weights)


def update_difficulty(
    difficulty: Array, index: Array, losses: Array, *, decay: Number = 0.9
) -> jax.Array:
    """Returns the running average of each example's loss, after a batch.

    Args:
      difficulty: [n] averages so far, floats; one that is not finite starts anew.
      index: [batch] positions of the batch's examples. The losses of an example that occurs several
        times are averaged; a position out of range is ignored.
      losses: [batch] losses of these examples.
      decay: Weight of the average so far, a scalar in [0, 1]; may be traced.

    Returns:
      [n] averages, in the dtype of the old ones.

    Raises:
      ValueError: The decay is not a scalar, or a plain one is out of its range; `difficulty` are
        not floats, `index` are not integers, or the numbers of losses and positions differ.
    """
    _checks.number("decay", decay, minimum=0, maximum=1)
    difficulty = as_array(difficulty, name="difficulty")
    index, losses = as_array(index, name="index"), as_array(losses, name="losses")
    _check_difficulty(difficulty, index, losses)
    if not len(difficulty):  # every position is out of range
        return difficulty
    # 1 - 0.9 is taken of Python's numbers: in float32 it would be rounded.
    decay = decay if _checks.is_plain(decay) else widened(decay)
    shares = (jnp.asarray(share, jnp.float32) for share in (decay, 1 - decay))
    return _updated(difficulty, index, losses, *shares)


@jax.jit  # eager gathers and scatters do not mix arrays on a mesh with others
def _updated(difficulty, index, losses, of_old, of_new):
    index = _sharding.replicated(index.astype(jnp.int32))
    losses = _sharding.replicated(losses.astype(jnp.float32))
    # Only arrays of the batch's size are made, since there may be millions of examples.
    is_same = index[:, None] == index[None]
    losses = jnp.where(is_same, losses[None], 0).sum(1) / is_same.sum(1).astype(jnp.float32)
    index = jnp.where(index < 0, len(difficulty), index)  # JAX would count it from the end
    so_far = _sharding.taken(difficulty, index).astype(jnp.float32)
    so_far = jnp.where(jnp.isfinite(so_far), so_far, losses)
    new = of_old * so_far + of_new * losses
    return _sharding.put(difficulty, index, new.astype(difficulty.dtype))


def _check_difficulty(difficulty: jax.Array, index: jax.Array, losses: jax.Array) -> None:
    if not jnp.issubdtype(difficulty.dtype, jnp.floating) or difficulty.ndim != 1:
        raise ValueError(
            f"`difficulty` must be floats of shape [n], got {difficulty.dtype} of shape "
            f"{difficulty.shape}."
        )
    if not jnp.issubdtype(index.dtype, jnp.integer) or index.ndim != 1:
        raise ValueError(
            f"`index` must be integers of shape [batch], got {index.dtype} of shape {index.shape}."
        )
    if index.shape != losses.shape:
        raise ValueError(
            f"`losses` must have the shape of `index`, {index.shape}, got {losses.shape}."
        )
