"""log p and log(1 - p) of a softmax, and sums of them, accurate and finite for all finite logits.

1 - p is never rounded. For a class whose p can be near 1, both logs are computed from its log-odds
d, its logit minus the log-sum-exp of the others: log p = -softplus(-d), log(1 - p) = -softplus(d).
Here z are the logits divided by the temperature, [..., classes]; -inf makes a class absent.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from cyclical_jax import _sharding

# In every call XLA's CPU backend puts [batch, classes] intermediates into new memory. From this
# many classes on, touching that memory costs more than computing a few rows at a time, keeping only
# their sums, and computing the rest again for the gradient.
_MANY_CLASSES = 4096
_ROWS_AT_A_TIME = 8
_KEPT = "sum over classes"


@jax.custom_jvp
def log_p_and_rest(log_odds):
    """Returns log p and log(1 - p) for p = sigmoid(log_odds)."""
    shared = jnp.log1p(jnp.exp(-jnp.abs(log_odds)))
    return jnp.minimum(log_odds, 0) - shared, jnp.minimum(-log_odds, 0) - shared


@log_p_and_rest.defjvp
def _log_p_and_rest_jvp(primals, tangents):
    """Written by hand, because abs and minimum have no derivative at even odds."""
    log_p, log_rest = log_p_and_rest(*primals)
    return (log_p, log_rest), (jnp.exp(log_rest) * tangents[0], -jnp.exp(log_p) * tangents[0])


def log_probabilities(z):
    """Returns log p and log(1 - p) of every class, [..., classes]; 0 where a class is absent.

    Only the largest p can round to 1, so only that class is computed from its log-odds.
    """
    present = z != -jnp.inf
    top = jnp.argmax(z, -1).astype(jnp.int32)
    is_top = is_class(top, z)
    shifted = jnp.where(present, z - jax.lax.stop_gradient(at(z, top))[..., None], 0)
    log_sum = _log_sum_exp(shifted, present & ~is_top)
    top_log_p, top_log_rest = log_p_and_rest(at(shifted, top) - log_sum)
    log_p = shifted + (top_log_rest - log_sum)[..., None]
    log_p = jnp.where(is_top, top_log_p[..., None], jnp.where(present, log_p, 0))
    log_rest = jnp.log1p(-jnp.exp(jnp.where(is_top | ~present, -jnp.inf, log_p)))
    return log_p, jnp.where(is_top, top_log_rest[..., None], log_rest)


def row_sums(z, labels, gamma):
    """Returns the label's log-odds and three sums over the other classes, each [...].

    The sums are of log p, of p^gamma log p, and of 1. The losses need nothing else of the
    [..., classes] logits, so XLA keeps few arrays of that size.
    """
    if z.shape[-1] < _MANY_CLASSES or _sharding.is_spread(z):  # blocks would gather it
        return _sums(z, labels, gamma)
    gamma = jnp.broadcast_to(gamma, labels.shape)
    return jax.lax.platform_dependent(z, labels, gamma, cpu=_sums_in_blocks, default=_sums)


def _sums_in_blocks(z, labels, gamma):
    rows = z.reshape(-1, z.shape[-1]), labels.reshape(-1), gamma.reshape(-1)
    keep = jax.checkpoint_policies.save_only_these_names(_KEPT)
    one_row = jax.checkpoint(_sums, policy=keep)
    sums = jax.lax.map(lambda row: one_row(*row), rows, batch_size=_ROWS_AT_A_TIME)
    return tuple(value.reshape(labels.shape) for value in sums)


def _kept(value):
    return checkpoint_name(value, _KEPT)


class _Rows(NamedTuple):
    """Intermediates of the sums and of their derivatives; shifted_j - log_sum is l_j = log p_j."""

    is_label: jax.Array  # [..., classes]
    is_other: jax.Array  # [..., classes]; an absent class is neither
    shifted: jax.Array  # [..., classes]; z - max z, 0 for an absent class
    odds: jax.Array  # [..., classes]; p_j / (1 - p_t) of the other classes, else 0
    powers: jax.Array  # [..., classes]; p_j^gamma of the other classes, else 0
    sum_powers: jax.Array  # [...]
    log_sum: jax.Array  # [...]


def _sums_and_rows(z, labels, gamma):
    present, is_label = z != -jnp.inf, is_class(labels, z)
    is_other = present & ~is_label
    shifted = jnp.where(present, z - _kept(z.max(-1))[..., None], 0)
    exp = jnp.where(is_other, jnp.exp(shifted), 0)
    sum_exp = _kept(jnp.maximum(exp.sum(-1), jnp.finfo(z.dtype).tiny))
    of_label = _kept(at(shifted, labels))
    log_sum_others = jnp.log(sum_exp)
    log_odds = of_label - log_sum_others
    log_sum = log_sum_others - log_p_and_rest(log_odds)[1]
    powers = jnp.exp(per_class(gamma) * (shifted - log_sum[..., None]))
    powers = jnp.where(is_other, powers, 0)
    num_others = _kept((present.sum(-1) - 1).astype(z.dtype))
    linear = _kept(shifted.sum(-1)) - of_label - num_others * log_sum
    sum_powers = _kept(powers.sum(-1))
    powered = _kept((powers * shifted).sum(-1)) - sum_powers * log_sum
    # The quotient exp / sum_exp has a second derivative with a square that overflows.
    odds = jnp.where(is_other, jnp.exp(shifted - log_sum_others[..., None]), 0)
    rows = _Rows(is_label, is_other, shifted, odds, powers, sum_powers, log_sum)
    return (log_odds, linear, powered, num_others), rows


@jax.custom_jvp
def _sums(z, labels, gamma):
    return _sums_and_rows(z, labels, gamma)[0]


@functools.partial(_sums.defjvp, symbolic_zeros=True)
def _sums_jvp(primals, tangents):
    """Derivatives of the sums; with q_j = p_j^gamma and every sum over the classes j != t:

        d log-odds  = dz_t - sum_j odds_j dz_j
        d sum_j l_j = sum_j dz_j - (number of others) dlse,     dlse = sum_k p_k dz_k
        d sum_j q_j l_j = sum_j c_j dz_j - (sum_j c_j) dlse,    c_j = q_j (1 + gamma l_j)

    Written by hand, because this needs no more arrays than the sums do.
    """
    z, _, gamma = primals
    dz, _, dgamma = (None if isinstance(t, SymbolicZero) else t for t in tangents)
    sums, row = _sums_and_rows(*primals)
    log_odds, _, powered, num_others = sums
    log_p = row.shifted - row.log_sum[..., None]
    log_p_label, log_rest_label = log_p_and_rest(log_odds)
    p = row.odds * jnp.exp(log_rest_label)[..., None]
    p = jnp.where(row.is_label, jnp.exp(log_p_label)[..., None], p)
    slopes = (
        jnp.where(row.is_label, 1, -row.odds),
        jnp.where(row.is_other, 1, 0) - p * num_others[..., None],
        row.powers * (1 + per_class(gamma) * log_p)
        - p * (row.sum_powers + gamma * powered)[..., None],
    )
    dsums = [jnp.zeros_like(log_odds) if dz is None else (slope * dz).sum(-1) for slope in slopes]
    if dgamma is not None:
        dsums[2] += (row.powers * log_p**2).sum(-1) * dgamma
    return sums, (*dsums, jnp.zeros_like(num_others))


def _log_sum_exp(shifted, where):
    """Returns log-sum-exp of the entries where `where` is true; finite if there are none."""
    return jax.nn.logsumexp(jnp.where(where, shifted, -1e30), axis=-1)


def per_class(value):
    """Returns a scalar as it is, and one number per example with an axis for the classes."""
    return value if jnp.ndim(value) == 0 else jnp.expand_dims(value, -1)


def is_class(index, z):
    classes = jax.lax.broadcasted_iota(jnp.int32, z.shape, z.ndim - 1)
    return classes == index[..., None]


def at(values, index):
    """Returns the entry of each row at `index`; some entry where that is out of range."""
    return jnp.take_along_axis(values, index[..., None], -1, mode="clip")[..., 0]
