"""The formulas of the focal losses: z, [..., classes], are logits over the temperature.

A logit of -inf makes its class absent. Numbers are scalars or broadcast to the examples, [...].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cyclical_jax import _checks, _softmax


class Focus(NamedTuple):
    """The numbers in which the losses differ; the defaults are cross entropy."""

    hardness: Any = 1.0
    hc: Any = 0.0
    pos: Any = 0.0
    neg: Any = 0.0

    def of_label(self, log_p, log_rest):
        """Returns w_t, from log p and log(1 - p)."""
        confident = _power(jnp.log1p(jnp.exp(log_p)), self.hc)
        return _mix(self.hardness, _power(log_rest, self.pos), confident)

    def of_others(self, log_p):
        """Returns w_j, from log p."""
        return _mix(self.hardness, _power(log_p, self.neg), 1.0)


def index_loss(z, labels, focus, smoothing, class_weights):
    """Returns the softmax losses for class indices, [...] int32."""
    if class_weights is None:
        losses = _loss_of_sums(z, labels, focus, smoothing)
    elif _is(smoothing, 0):
        losses = _loss_of_sums(z, labels, focus, smoothing) * _softmax.at(class_weights, labels)
    else:
        one_hot = _softmax.is_class(labels, z).astype(z.dtype)
        losses = probability_loss(z, one_hot, focus, smoothing, class_weights)
    is_named = (labels >= 0) & (_softmax.at(z, labels) != -jnp.inf)
    return jnp.where(labels >= z.shape[-1], jnp.nan, jnp.where(is_named, losses, 0))


def _loss_of_sums(z, labels, focus, smoothing):
    weighing = None
    if not _is(focus.neg, 0):
        weighing = _softmax.Weighing(
            *(jnp.asarray(n, z.dtype) for n in (focus.hardness, focus.neg))
        )
    log_odds, of_others, num_others = _softmax.row_sums(z, labels, weighing)
    log_p, log_rest = _softmax.log_p_and_rest(log_odds)
    of_label = focus.of_label(log_p, log_rest) * log_p
    share = smoothing / jnp.maximum(num_others + 1, 1)
    return (
        -of_label if _is(smoothing, 0) else -(1 - smoothing + share) * of_label - share * of_others
    )


def probability_loss(z, labels, focus, smoothing, class_weights):
    """Returns the softmax losses for probabilities, [..., classes]."""
    present = z != -jnp.inf
    log_p, log_rest = _softmax.log_probabilities(z)
    focus = Focus(*map(_softmax.per_class, focus))
    weight = labels * focus.of_label(log_p, log_rest) + (1 - labels) * focus.of_others(log_p)
    share = smoothing / jnp.maximum(present.sum(-1), 1).astype(z.dtype)
    smoothed = (1 - _softmax.per_class(smoothing)) * labels + _softmax.per_class(share)
    terms = smoothed * weight * log_p
    return -jnp.where(present, _weighted(terms, class_weights), 0).sum(-1)


def multilabel_loss(z, labels, focus, margin, alpha, class_weights):
    """Returns the losses of independent labels, [..., classes], summed over the classes."""
    present = z != -jnp.inf
    focus = Focus(*map(_softmax.per_class, focus))
    log_p, log_rest = _softmax.log_p_and_rest(jnp.where(present, z, 0))
    positive = labels * (-focus.of_label(log_p, log_rest) * log_p)
    negative = (1 - labels) * _beyond_margin(log_p, log_rest, focus, _softmax.per_class(margin))
    if alpha is not None:
        alpha = _softmax.per_class(alpha)
        positive, negative = alpha * positive, (1 - alpha) * negative
    return jnp.where(present, _weighted(positive + negative, class_weights), 0).sum(-1)


def _beyond_margin(log_p, log_rest, focus, margin):
    """Returns -w(p_m) log(1 - p_m) for p_m = max(p - margin, 0), and 0 at p_m = 0."""
    beyond = jnp.exp(log_p) > margin
    log_p, log_rest = jnp.where(beyond, log_p, 0), jnp.where(beyond, log_rest, -1)
    below = margin * jnp.exp(jnp.minimum(-log_p, 80))  # margin / p; the bound matters at margin 0
    log_p_m = log_p + jnp.log1p(-jnp.minimum(below, 1 - jnp.finfo(log_p.dtype).eps))
    log_rest_m = jnp.logaddexp(log_rest, jnp.log(jnp.asarray(margin, log_p.dtype)))
    return jnp.where(beyond, -focus.of_others(log_p_m) * log_rest_m, 0)


def divided(logits, temperature):
    """Returns `logits / temperature`; absent classes add nothing to the temperature's gradient."""
    if _is(temperature, 1):
        return logits
    absent = logits == -jnp.inf
    return jnp.where(
        absent, -jnp.inf, jnp.where(absent, 0, logits) / _softmax.per_class(temperature)
    )


def _weighted(terms: jax.Array, class_weights: jax.Array | None) -> jax.Array:
    return terms if class_weights is None else class_weights * terms


def _power(log_base, exponent):
    """Returns base^exponent from log base; 1 for the exponent 0, whatever the base."""
    return 1.0 if _is(exponent, 0) else jnp.exp(exponent * log_base)


def _mix(hardness, hard, easy):
    """Returns (1 - h) easy + h hard; for a plain h = 1 without computing the easy term."""
    if _is(hardness, 1):
        return hard
    return hardness * hard + (1 - hardness) * easy


def _is(value, number) -> bool:
    return _checks.is_plain(value) and value == number
