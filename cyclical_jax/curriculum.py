"""Curricula: weights of examples by their difficulty; the preference for easy ones may cycle."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cyclical_jax import _checks

_MOST = 100.0


def difficulty_ranks(difficulty: jax.Array) -> jax.Array:
    """Returns the rank of each example, from the easiest, 1 / 2n, to the hardest, 1 - 1 / 2n.

    Args:
      difficulty: [n], such as losses by an earlier model; values that are not finite rank hardest.

    Returns:
      [n] ranks, float32: (place from 0 + 1/2) / n. Equal difficulties get the mean of their places.
    """
    values = jnp.asarray(difficulty, jnp.float32)
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    ordered = jnp.sort(values)
    below, up_to = (jnp.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(values))


def sample_weights(ranks: jax.Array, preference: ArrayLike) -> jax.Array:
    """Returns weights c exp(-c r) / (1 - exp(-c)) of ranks r; c is the preference for easy ones.

    Their mean over uniform ranks is 1. At c = 0 all are 1; for c < 0 hard examples weigh more.

    Args:
      ranks: [...] in [0, 1], such as the result of `difficulty_ranks`.
      preference: c, a scalar in [-100, 100], which may be traced.

    Returns:
      [...] weights, float32.

    Raises:
      ValueError: A plain preference is out of its range.

    Source: our extension of arXiv 2202.08835, whose abstract does not name curricula: c goes from,
    for example, 4 at the easy ends to 0 or below at the peak. Curricula: Bengio et al. 2009.
    """
    _checks.number("preference", preference, minimum=-_MOST, maximum=_MOST)
    c = jnp.asarray(preference, jnp.float32)
    ranks = jnp.asarray(ranks, jnp.float32)
    # By symmetry only a positive c is needed, so that no exponential is large.
    size, places = jnp.abs(c), jnp.where(c < 0, 1 - ranks, ranks)
    is_small = size < 1e-3
    safe = jnp.where(is_small, 1.0, size)
    weights = safe * jnp.exp(-safe * places) / -jnp.expm1(-safe)
    near_uniform = 1 + size * (0.5 - places)  # to c^2 / 12
    return jnp.where(is_small, near_uniform, weights)


def update_difficulty(
    difficulty: jax.Array, index: jax.Array, losses: jax.Array, *, decay: ArrayLike = 0.9
) -> jax.Array:
    """Returns the running average of each example's loss, after a batch.

    Args:
      difficulty: [n] averages so far; one that is not finite starts anew.
      index: [batch] positions of the batch's examples. The losses of an example that occurs several
        times are averaged; a position out of range is ignored.
      losses: [batch] losses of these examples.
      decay: Weight of the average so far, in [0, 1].

    Returns:
      [n] averages.

    Raises:
      ValueError: A plain decay is out of its range, or the numbers of losses and positions differ.
    """
    _checks.number("decay", decay, minimum=0, maximum=1)
    if jnp.shape(index) != jnp.shape(losses):
        raise ValueError(
            f"`losses` must have the shape of `index`, {jnp.shape(index)}, got {jnp.shape(losses)}."
        )
    # Only arrays of the batch's size are made, since there may be millions of examples.
    is_same = index[:, None] == index[None]
    losses = jnp.where(is_same, losses[None], 0).sum(1) / is_same.sum(1)
    index = jnp.where(index < 0, len(difficulty), index)  # JAX would count it from the end
    so_far = difficulty.at[index].get(mode="clip")
    so_far = jnp.where(jnp.isfinite(so_far), so_far, losses)
    new = decay * so_far + (1 - decay) * losses
    return difficulty.at[index].set(new.astype(difficulty.dtype), mode="drop")
