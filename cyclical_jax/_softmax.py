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

# XLA's CPU backend loops over the last axis in vector instructions, and is slow where that axis is
# short. Up to this many classes they are put first, so that the last axis is one of examples.
_FEW_CLASSES = 24
# In every call it puts [batch, classes] intermediates into new memory. From this many classes on,
# touching that memory costs more than computing a few rows at a time, keeping only their sums, and
# computing the rest again for the gradient.
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


class Weighing(NamedTuple):
    """The weights of the other classes, w_j = h p_j^gamma + (1 - h)."""

    hardness: jax.Array  # scalar or [...]
    gamma: jax.Array  # scalar or [...]


def row_sums(z, labels, weighing):
    """Returns the label's log-odds, the sum of w_j log p_j over the other classes, their number.

    Each is [...]. Without a weighing all w_j are 1. The losses need nothing else of the
    [..., classes] logits, so XLA keeps few arrays of that size.
    """
    num_classes, last = z.shape[-1], functools.partial(_sums, -1)
    is_usual = _FEW_CLASSES < num_classes < _MANY_CLASSES
    if is_usual or _sharding.is_spread(z):  # blocks would gather what is spread
        return last(z, labels, weighing)
    on_cpu = functools.partial(_sums, 0) if num_classes <= _FEW_CLASSES else _sums_in_blocks
    return jax.lax.platform_dependent(z, labels, weighing, cpu=on_cpu, default=last)


def _sums_in_blocks(z, labels, weighing):
    weighing = jax.tree.map(lambda number: jnp.broadcast_to(number, labels.shape), weighing)
    rows = z.reshape(-1, z.shape[-1]), *jax.tree.map(jnp.ravel, (labels, weighing))
    keep = jax.checkpoint_policies.save_only_these_names(_KEPT)
    one_row = jax.checkpoint(functools.partial(_sums, -1), policy=keep)
    sums = jax.lax.map(lambda row: one_row(*row), rows, batch_size=_ROWS_AT_A_TIME)
    return tuple(value.reshape(labels.shape) for value in sums)


def _kept(value):
    return checkpoint_name(value, _KEPT)


class _Rows(NamedTuple):
    """Intermediates of the sums and of their derivatives, with the classes on an axis of choice."""

    is_label: jax.Array
    is_other: jax.Array  # an absent class is neither
    odds: jax.Array  # p_j / (1 - p_t) of the other classes
    log_p: jax.Array  # of the other classes, else 0
    powers: jax.Array  # p_j^gamma of the other classes, else 0
    linear: jax.Array  # [...]; sum of log p_j over them
    powered: jax.Array  # [...]; sum of p_j^gamma log p_j over them


def _sums_and_rows(axis, z, labels, weighing):
    of_label = _kept(at(z, labels))
    z, row = jnp.moveaxis(z, -1, axis), functools.partial(per_class, axis=axis)
    is_label = is_class(labels, z, axis)
    absent = 1e-3 * float(jnp.finfo(z.dtype).min)  # its exp is 0, its multiples are finite
    others = jnp.where(is_label, absent, jnp.maximum(z, absent))
    is_other = others > absent
    num_others = _kept(is_other.sum(axis, dtype=z.dtype))
    top = _kept(jax.lax.stop_gradient(others.max(axis)))
    exp = jnp.exp(others - row(top))
    sum_exp = _kept(exp.sum(axis))  # at least 1, so its square is not 0 in the second derivative
    log_sum = jnp.log(sum_exp)
    log_odds = jnp.where(of_label == -jnp.inf, 0, of_label) - top - log_sum
    log_rest = log_p_and_rest(log_odds)[1]
    log_p = jnp.where(is_other, others - row(top) + row(log_rest - log_sum), 0)
    linear = powered = _kept(log_p.sum(axis))
    powers = is_other.astype(z.dtype)
    if weighing is not None:
        powers = jnp.where(is_other, jnp.exp(row(weighing.gamma) * log_p), 0)
        powered = _kept((powers * log_p).sum(axis))
    rows = _Rows(is_label, is_other, exp / row(sum_exp), log_p, powers, linear, powered)
    return (log_odds, _weighed(weighing, powered, linear), num_others), rows


def _weighed(weighing, powered, linear):
    if weighing is None:
        return linear
    return weighing.hardness * powered + (1 - weighing.hardness) * linear


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sums(axis, z, labels, weighing):
    return _sums_and_rows(axis, z, labels, weighing)[0]


@functools.partial(_sums.defjvp, symbolic_zeros=True)
def _sums_jvp(axis, primals, tangents):
    """Derivatives of the sums; with l_j = log p_j, q_j = p_j^gamma and every sum over j != t:

        d log-odds      = dz_t - sum_j odds_j dz_j
        d sum_j w_j l_j = sum_j c_j dz_j - (sum_j c_j) sum_k p_k dz_k,  c_j = w_j + h gamma q_j l_j

    Written by hand, because this needs no more arrays than the sums do.
    """
    (_, _, weighing), (dz, _, dweighing) = primals, tangents
    sums, rows = _sums_and_rows(axis, *primals)
    dlog_odds = dof_others = jnp.zeros_like(sums[0])
    if not isinstance(dz, SymbolicZero):
        dz = jnp.moveaxis(dz, -1, axis)
        dlog_odds, dof_others = ((s * dz).sum(axis) for s in _slopes(axis, sums, rows, weighing))
    if weighing is not None:
        dh, dgamma = dweighing
        if not isinstance(dh, SymbolicZero):
            dof_others += (rows.powered - rows.linear) * dh
        if not isinstance(dgamma, SymbolicZero):
            of_gamma = (rows.powers * rows.log_p * rows.log_p).sum(axis)
            dof_others += weighing.hardness * of_gamma * dgamma
    return sums, (dlog_odds, dof_others, jnp.zeros_like(sums[2]))


def _slopes(axis, sums, rows, weighing):
    """Returns the derivatives of the log-odds and of the sum by each logit."""
    row = functools.partial(per_class, axis=axis)
    p_label, p_rest = map(jnp.exp, log_p_and_rest(sums[0]))
    slopes = rows.powers
    if weighing is not None:
        h, gamma = map(row, weighing)
        slopes = h * (rows.powers * (1 + gamma * rows.log_p)) + (1 - h)
        slopes = jnp.where(rows.is_other, slopes, 0)
    total = slopes.sum(axis)
    of_sum = slopes - row(p_rest * total) * rows.odds
    return (
        jnp.where(rows.is_label, 1, -rows.odds),
        jnp.where(rows.is_label, row(-p_label * total), of_sum),
    )


def _log_sum_exp(shifted, where):
    """Returns log-sum-exp of the entries where `where` is true; finite if there are none."""
    return jax.nn.logsumexp(jnp.where(where, shifted, -1e30), axis=-1)


def per_class(value, axis=-1):
    """Returns a scalar as it is, and one number per example with an axis for the classes."""
    return value if jnp.ndim(value) == 0 else jnp.expand_dims(value, axis)


def is_class(index, z, axis=-1):
    classes = jax.lax.broadcasted_iota(jnp.int32, z.shape, axis % z.ndim)
    return classes == jnp.expand_dims(index, axis)


def at(values, index):
    """Returns the entry of each row at `index`; some entry where that is out of range."""
    return jnp.take_along_axis(values, index[..., None], -1, mode="clip")[..., 0]
