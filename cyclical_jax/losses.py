"""Losses for classification, one value per example; their temperature and hardness may cycle.

With p = softmax(logits / temperature), t the label and y' the smoothed label, each softmax loss is

    -sum_j y'_j w_j log p_j,    y'_t = 1 - label_smoothing + label_smoothing / classes,
                                y'_j = label_smoothing / classes for j != t,

and they differ only in the weights, through which the gradient flows too (h: hardness):

    loss                   w_t                                             w_j, j != t
    softmax_cross_entropy  1                                               1
    focal_loss             (1 - p)^gamma                                   1
    asymmetric_focal_loss  (1 - p)^gamma_pos                               p^gamma_neg
    cyclical_focal_loss    h (1 - p)^gamma_pos + (1 - h) (1 + p)^gamma_hc  h p^gamma_neg + (1 - h)

Labels of an integer dtype, shape [...], are class indices. An index out of range, such as -1, is
ignored: loss 0, gradient 0. Labels of a float dtype, shape [..., classes], are probabilities y:
class j has the weight y_j w_t(p_j) + (1 - y_j) w_j(p_j). A class whose logit is -inf counts as
absent; a label that names it is ignored.

Losses are float32 (float64 for float64 logits). Value and gradient are finite for logits up to 1e30
in size and gammas from 0 to 100. Temperature, hardness, gammas and smoothing are scalars or one
number per example, [...], and may be traced; plain numbers are checked.

Sources: arXiv 2202.08978 and the published code for the cyclical and the asymmetric loss,
arXiv 1708.02002 for the focal loss, arXiv 2009.14119 for the multi-label loss.
"""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cyclical_jax import _checks, _softmax

# 1 / max_p(-p log p / (1 + p)): above it -(1 + p)^gamma log p rises with p somewhere in (0, 1).
_GAMMA_HC_CEILING = 3.591


def softmax_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: ArrayLike = 1.0,
    label_smoothing: ArrayLike = 0.0,
) -> jax.Array:
    """Cross entropy of the tempered softmax, -sum_j y'_j log p_j.

    Args:
      logits: [..., classes] floats.
      labels: [...] class indices or [..., classes] probabilities.
      temperature: Above 0; logits are divided by it. High temperatures are hard in the sense of
        arXiv 2202.08835: the gradient of a logit shrinks as 1 / temperature.
      label_smoothing: Share of the label spread over all classes, 0 to 1.

    Returns:
      [...] losses.

    Raises:
      ValueError: Labels have another shape or dtype, or a plain number is out of its range.
    """
    return _softmax_loss(logits, labels, _Focus(), temperature, label_smoothing)


def focal_loss(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: ArrayLike = 2.0,
    temperature: ArrayLike = 1.0,
    label_smoothing: ArrayLike = 0.0,
) -> jax.Array:
    """Focal loss, -(1 - p_t)^gamma log p_t without label smoothing.

    Args:
      logits: [..., classes] floats.
      labels: [...] class indices or [..., classes] probabilities.
      gamma: At least 0; 0 is cross entropy.
      temperature: Above 0; logits are divided by it.
      label_smoothing: Share of the label spread over all classes, 0 to 1.

    Returns:
      [...] losses.

    Raises:
      ValueError: Labels have another shape or dtype, or a plain number is out of its range.

    Source: Lin et al., arXiv 1708.02002, eq. 4, for the softmax.
    """
    _checks.number("gamma", gamma, minimum=0)
    return _softmax_loss(logits, labels, _Focus(pos=gamma), temperature, label_smoothing)


def asymmetric_focal_loss(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma_pos: ArrayLike,
    gamma_neg: ArrayLike,
    temperature: ArrayLike = 1.0,
    label_smoothing: ArrayLike = 0.0,
) -> jax.Array:
    """Focal loss with a second gamma, for the classes that are not the label.

    Args:
      logits: [..., classes] floats.
      labels: [...] class indices or [..., classes] probabilities.
      gamma_pos: At least 0; the label's weight is (1 - p)^gamma_pos.
      gamma_neg: At least 0; the weight of the other classes is p^gamma_neg. They are part of the
        loss only through label smoothing or soft labels.
      temperature: Above 0; logits are divided by it.
      label_smoothing: Share of the label spread over all classes, 0 to 1.

    Returns:
      [...] losses.

    Raises:
      ValueError: Labels have another shape or dtype, or a plain number is out of its range.

    Source: the single-label loss of the published code of arXiv 2202.08978. It is the cyclical
    focal loss at hardness 1.
    """
    _checks.number("gamma_pos", gamma_pos, minimum=0)
    _checks.number("gamma_neg", gamma_neg, minimum=0)
    focus = _Focus(pos=gamma_pos, neg=gamma_neg)
    return _softmax_loss(logits, labels, focus, temperature, label_smoothing)


def cyclical_focal_loss(
    logits: jax.Array,
    labels: jax.Array,
    hardness: ArrayLike,
    *,
    gamma_hc: ArrayLike = 3.0,
    gamma_pos: ArrayLike = 2.0,
    gamma_neg: ArrayLike = 2.0,
    temperature: ArrayLike = 1.0,
    label_smoothing: ArrayLike = 0.1,
) -> jax.Array:
    """Confident examples count most at hardness 0, unconfident ones at hardness 1.

    The weight of the label is h (1 - p)^gamma_pos + (1 - h) (1 + p)^gamma_hc; the weight of another
    class is h p^gamma_neg + (1 - h). With all gammas 0 this is label-smoothed cross entropy at
    every hardness; at hardness 1 it is `asymmetric_focal_loss`.

    Args:
      logits: [..., classes] floats.
      labels: [...] class indices or [..., classes] probabilities.
      hardness: h in [0, 1], e.g. `hardness_schedule(...)(step)`.
      gamma_hc: At least 0, for highly confident examples. Above 3.591 the easy loss is not
        monotone: in an interval of p_t its gradient pushes p_t down. Such a value gives a warning,
        unless it is traced.
      gamma_pos: At least 0, for the label in the hard loss.
      gamma_neg: At least 0, for the other classes in the hard loss. They are part of the loss only
        through label smoothing or soft labels.
      temperature: Above 0; logits are divided by it.
      label_smoothing: Share of the label spread over all classes, 0 to 1; always 0.1 in the
        published code.

    Returns:
      [...] losses.

    Raises:
      ValueError: Labels have another shape or dtype, or a plain number is out of its range.

    Source: L. N. Smith, Cyclical Focal Loss, arXiv 2202.08978, as in its published code. That code
    uses only the largest entry of a soft label; this function uses all of them.

    Examples:
      >>> logits, labels = jnp.array([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), jnp.array([0, 0])
      >>> for hardness in (0.0, 1.0):
      ...     loss = cyclical_focal_loss(logits, labels, hardness, label_smoothing=0.0)
      ...     print([f"{value:.4f}" for value in loss])
      ['0.2728', '2.7617']
      ['0.0000', '0.9635']
    """
    focus = _cyclical_focus(hardness, gamma_hc, gamma_pos, gamma_neg)
    warn_above_ceiling(gamma_hc)  # called here, so that it names the caller's line
    return _softmax_loss(logits, labels, focus, temperature, label_smoothing)


def asymmetric_multilabel_loss(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma_pos: ArrayLike = 1.0,
    gamma_neg: ArrayLike = 4.0,
    margin: ArrayLike = 0.05,
) -> jax.Array:
    """Asymmetric loss of independent labels, summed over the classes.

    With p = sigmoid(logits) and p_m = max(p - margin, 0), it is the sum over classes of

        -y (1 - p)^gamma_pos log p - (1 - y) p_m^gamma_neg log(1 - p_m).

    Args:
      logits: [..., classes] floats; -inf makes a class absent.
      labels: [..., classes], y in [0, 1]; any real or boolean dtype.
      gamma_pos: At least 0.
      gamma_neg: At least 0.
      margin: In [0, 1): a negative label with p below it costs nothing.

    Returns:
      [...] losses.

    Raises:
      ValueError: Labels have another shape, or a plain number is out of its range.

    Source: Ridnik et al., arXiv 2009.14119, eqs. 4-7.
    """
    _checks.number("gamma_pos", gamma_pos, minimum=0)
    _checks.number("gamma_neg", gamma_neg, minimum=0)
    return _multilabel_loss(logits, labels, _Focus(pos=gamma_pos, neg=gamma_neg), margin)


def cyclical_multilabel_loss(
    logits: jax.Array,
    labels: jax.Array,
    hardness: ArrayLike,
    *,
    gamma_hc: ArrayLike = 3.0,
    gamma_pos: ArrayLike = 1.0,
    gamma_neg: ArrayLike = 4.0,
    margin: ArrayLike = 0.05,
) -> jax.Array:
    """Cyclical focal loss of independent labels, summed over the classes.

    With p = sigmoid(logits), p_m = max(p - margin, 0) and hardness h, it is the sum over classes of

        -y (h (1 - p)^gamma_pos + (1 - h) (1 + p)^gamma_hc) log p
        - (1 - y) (h p_m^gamma_neg + 1 - h) log(1 - p_m).

    At hardness 1 this is `asymmetric_multilabel_loss`. With all gammas and the margin 0 it is
    binary cross entropy at every hardness.

    Args:
      logits: [..., classes] floats; -inf makes a class absent.
      labels: [..., classes], y in [0, 1]; any real or boolean dtype.
      hardness: h in [0, 1], e.g. `hardness_schedule(...)(step)`.
      gamma_hc: At least 0; above 3.591 the easy loss is not monotone, as in `cyclical_focal_loss`.
      gamma_pos: At least 0.
      gamma_neg: At least 0.
      margin: In [0, 1): a negative label with p below it costs nothing.

    Returns:
      [...] losses.

    Raises:
      ValueError: Labels have another shape, or a plain number is out of its range.

    Source: our own extension. It mixes the weights of arXiv 2009.14119 and 2202.08978 by the rule
    of the latter, whose own loss is for single labels.
    """
    focus = _cyclical_focus(hardness, gamma_hc, gamma_pos, gamma_neg)
    warn_above_ceiling(gamma_hc)  # called here, so that it names the caller's line
    return _multilabel_loss(logits, labels, focus, margin)


def warn_above_ceiling(gamma_hc: ArrayLike) -> None:
    """Warns, at the caller's caller, if the easy loss of this `gamma_hc` is not monotone."""
    is_traced = isinstance(gamma_hc, jax.core.Tracer)
    if not is_traced and (np.asarray(gamma_hc) > _GAMMA_HC_CEILING).any():
        warnings.warn(
            f"`gamma_hc` {gamma_hc} is above {_GAMMA_HC_CEILING}: the easy loss is not monotone.",
            stacklevel=3,
        )


class _Focus(NamedTuple):
    """The numbers in which the softmax losses differ; the defaults are cross entropy."""

    hardness: ArrayLike = 1.0
    hc: ArrayLike = 0.0
    pos: ArrayLike = 0.0
    neg: ArrayLike = 0.0

    def of_label(self, log_p, log_rest):
        """Returns w_t, from log p and log(1 - p)."""
        confident = _power(jnp.log1p(jnp.exp(log_p)), self.hc)
        return _mix(self.hardness, _power(log_rest, self.pos), confident)

    def of_others(self, log_p):
        """Returns w_j, from log p."""
        return _mix(self.hardness, _power(log_p, self.neg), 1.0)


def _softmax_loss(logits, labels, focus, temperature, label_smoothing):
    _checks.number("temperature", temperature, above=0)
    _checks.number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    logits, labels = _as_float(logits), jnp.asarray(labels)
    _check_one_an_example(logits, temperature, label_smoothing, *focus)
    loss = _loss_for(labels, logits)
    losses = loss(_divided(logits, temperature), labels, focus, label_smoothing)
    return losses.astype(logits.dtype)


def _loss_for(labels, logits):
    """Returns the loss for class indices or for probabilities, by dtype and shape of the labels."""
    indices, probabilities = logits.shape[:-1], logits.shape
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == indices:
        return _index_loss
    if jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == probabilities:
        return _probability_loss
    raise ValueError(
        f"`labels` must be integers of shape {indices} or floats of shape {probabilities}, "
        f"got {labels.dtype} of shape {labels.shape}."
    )


def _index_loss(z, labels, focus, smoothing):
    labels = labels.astype(jnp.int32)
    sums = _softmax.row_sums(z, labels, jnp.asarray(focus.neg, z.dtype))
    log_odds, linear, powered, num_others = sums
    log_p, log_rest = _softmax.log_p_and_rest(log_odds)
    of_label = -focus.of_label(log_p, log_rest) * log_p
    of_others = -_mix(focus.hardness, linear if _is(focus.neg, 0) else powered, linear)
    share = smoothing / jnp.maximum(num_others + 1, 1)
    loss = of_label if _is(smoothing, 0) else (1 - smoothing + share) * of_label + share * of_others
    return jnp.where(_names_present_class(z, labels), loss, 0)


def _probability_loss(z, labels, focus, smoothing):
    present = z != -jnp.inf
    log_p, log_rest = _softmax.log_probabilities(z)
    focus = _Focus(*map(_softmax.per_class, focus))
    weight = labels * focus.of_label(log_p, log_rest) + (1 - labels) * focus.of_others(log_p)
    share = smoothing / jnp.maximum(present.sum(-1), 1)
    smoothed = (1 - _softmax.per_class(smoothing)) * labels + _softmax.per_class(share)
    return -jnp.where(present, smoothed * weight * log_p, 0).sum(-1)


def _as_float(logits):
    """Returns `logits` in at least float32; raises ValueError unless they are floats."""
    logits = jnp.asarray(logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating) or logits.ndim == 0:
        raise ValueError(
            f"`logits` must be floats of shape [..., classes], got {logits.dtype} "
            f"of shape {logits.shape}."
        )
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _check_one_an_example(logits, *knobs):
    """Raises ValueError for another shape, which would be broadcast over examples unseen."""
    for shape in map(jnp.shape, knobs):
        if shape not in ((), logits.shape[:-1]):
            raise ValueError(
                f"temperature, hardness, gammas and smoothing must be scalars or of shape "
                f"{logits.shape[:-1]}, got shape {shape}."
            )


def _divided(logits, temperature):
    """Returns `logits / temperature`; absent classes add nothing to the temperature's gradient."""
    if _is(temperature, 1):
        return logits
    absent = logits == -jnp.inf
    return jnp.where(
        absent, -jnp.inf, jnp.where(absent, 0, logits) / _softmax.per_class(temperature)
    )


def _names_present_class(z, labels):
    in_range = (labels >= 0) & (labels < z.shape[-1])
    return in_range & (_softmax.at(z, labels) != -jnp.inf)


def _cyclical_focus(hardness, gamma_hc, gamma_pos, gamma_neg) -> _Focus:
    """Checks the numbers of a cyclical loss and returns its weights."""
    _checks.number("hardness", hardness, minimum=0, maximum=1)
    for name, gamma in dict(gamma_hc=gamma_hc, gamma_pos=gamma_pos, gamma_neg=gamma_neg).items():
        _checks.number(name, gamma, minimum=0)
    return _Focus(hardness, gamma_hc, gamma_pos, gamma_neg)


def _multilabel_loss(logits, labels, focus, margin):
    _checks.number("margin", margin, minimum=0, maximum=0.999)
    logits = _as_float(logits)
    labels = jnp.asarray(labels, logits.dtype)
    if labels.shape != logits.shape:
        raise ValueError(f"`labels` must have shape {logits.shape}, got {labels.shape}.")
    _check_one_an_example(logits, *focus, margin)
    present = logits != -jnp.inf
    focus = _Focus(*map(_softmax.per_class, focus))
    log_p, log_rest = _softmax.log_p_and_rest(jnp.where(present, logits, 0))
    positive = -focus.of_label(log_p, log_rest) * log_p
    negative = _beyond_margin(log_p, log_rest, focus, _softmax.per_class(margin))
    losses = labels * positive + (1 - labels) * negative
    return jnp.where(present, losses, 0).sum(-1).astype(logits.dtype)


def _beyond_margin(log_p, log_rest, focus, margin):
    """Returns -w(p_m) log(1 - p_m) for p_m = max(p - margin, 0), and 0 at p_m = 0."""
    beyond = jnp.exp(log_p) > margin
    log_p, log_rest = jnp.where(beyond, log_p, 0), jnp.where(beyond, log_rest, -1)
    below = margin * jnp.exp(jnp.minimum(-log_p, 80))  # margin / p; the bound matters at margin 0
    log_p_m = log_p + jnp.log1p(-jnp.minimum(below, 1 - jnp.finfo(log_p.dtype).eps))
    log_rest_m = jnp.logaddexp(log_rest, jnp.log(jnp.asarray(margin, log_p.dtype)))
    return jnp.where(beyond, -focus.of_others(log_p_m) * log_rest_m, 0)


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
