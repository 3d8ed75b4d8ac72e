"""Losses for classification, one value per example; their temperature and hardness may cycle.

With p = softmax(logits / temperature), t the label and y' the smoothed label, each softmax loss is

    -sum_j c_j y'_j w_j log p_j,    y'_t = 1 - label_smoothing + label_smoothing / classes,
                                    y'_j = label_smoothing / classes for j != t.

c are the class weights, 1 unless given. The losses differ only in the focal weights w, through
which the gradient flows too (h: hardness):

    loss                   w_t                                             w_j, j != t
    softmax_cross_entropy  1                                               1
    focal_loss             (1 - p)^gamma                                   1
    asymmetric_focal_loss  (1 - p)^gamma_pos                               p^gamma_neg
    cyclical_focal_loss    h (1 - p)^gamma_pos + (1 - h) (1 + p)^gamma_hc  h p^gamma_neg + (1 - h)

Shapes. The classes are on `axis`, the last one unless given; [...] is the shape of the logits
without it, and of the losses. Labels of an integer dtype, [...], are class indices. Labels of a
float dtype, with the shape of the logits, are probabilities y: class j has the weight
y_j w_t(p_j) + (1 - y_j) w_j(p_j).

Left out. A negative label is ignored: loss 0, gradient 0. A label that is not below the number of
classes is an error of the caller: the loss is NaN, as in Optax. Where 255 or another number marks
pixels without a label, pass `where=labels != 255`. Examples where `where` is false have the loss 0.
A class where `where` is false, or whose logit is -inf, counts as absent; a label that names it is
ignored. `weighted_mean` takes the mean without the ignored examples.

Numbers. Temperature, hardness, gammas, smoothing, alpha and margin are scalars or broadcast to
[...] as in NumPy, and may be traced. Plain numbers are checked: they are 0 or, in size, from
1.2e-38 to 3.4e38, which float32 can hold. With logits [batch, length, classes], one number per
sequence, [batch], is given as `number[:, None]`. Losses and numbers are float32 (float64 for
float64 logits). Value and gradient are finite for logits up to 1e30 in size
and gammas from 0 to 100. Log-probabilities may be given as logits, since their softmax is the
probabilities.

The multi-label losses are for labels that do not exclude each other. They sum over `axis`, as
`jnp.sum` does. With `axis=()` they sum over nothing and return one loss for each logit: these are
the binary losses, for a model with one logit per example or pixel.

Sources: arXiv 2202.08978 and the published code for the cyclical and the asymmetric loss,
arXiv 1708.02002 for the focal loss, arXiv 2009.14119 for the multi-label loss.
"""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax import _examples, _focal
from cyclical_jax._dtypes import as_array
from cyclical_jax._focal import Focus
from cyclical_jax._types import Array, Number

# 1 / max_p(-p log p / (1 + p)): above it -(1 + p)^gamma log p rises with p somewhere in (0, 1).
_GAMMA_HC_CEILING = 3.591
Axis = int | tuple[int, ...] | None


def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    axis: Axis = -1,
    where: Array | None = None,
    *,
    temperature: Number = 1.0,
    label_smoothing: Number = 0.0,
    class_weights: Array | None = None,
) -> jax.Array:
    """Returns the cross entropy of the tempered softmax, -sum_j y'_j log p_j, per example.

    Args:
      logits: [..., classes] floats.
      labels: [...] class indices or [..., classes] probabilities.
      temperature: Above 0; logits are divided by it. High temperatures are hard in the sense of
        arXiv 2202.08835: the gradient of a logit shrinks as 1 / temperature.
      label_smoothing: Share of the label spread over all classes, 0 to 1.
      axis: The axis of the classes; or several, over which the softmax is taken together, with
        labels that are indices into their flattened shape.
      where: Booleans: [...], examples to keep; or with as many axes as `logits`, classes to keep.
      class_weights: [classes], at least 0: c_j multiplies the term of class j, as in PyTorch.

    Returns:
      [...] losses.

    Raises:
      ValueError: A shape or dtype is not as above, or a plain number is out of its range.
    """
    examples = _examples.arranged(logits, axis, where)
    return _softmax_loss(examples, labels, Focus(), temperature, label_smoothing, class_weights)


def focal_loss(
    logits: Array,
    labels: Array,
    *,
    gamma: Number = 2.0,
    temperature: Number = 1.0,
    label_smoothing: Number = 0.0,
    axis: Axis = -1,
    where: Array | None = None,
    class_weights: Array | None = None,
) -> jax.Array:
    """Returns the focal loss per example: -(1 - p_t)^gamma log p_t without label smoothing.

    Args:
      logits: [..., classes] floats.
      labels: [...] class indices or [..., classes] probabilities.
      gamma: At least 0; 0 is cross entropy.
      temperature: Above 0; logits are divided by it.
      label_smoothing: Share of the label spread over all classes, 0 to 1.
      axis: The axis of the classes; or several, over which the softmax is taken together, with
        labels that are indices into their flattened shape.
      where: Booleans: [...], examples to keep; or with as many axes as `logits`, classes to keep.
      class_weights: [classes], at least 0: c_j multiplies the term of class j, as in PyTorch.

    Returns:
      [...] losses.

    Raises:
      ValueError: A shape or dtype is not as above, or a plain number is out of its range.

    Source: Lin et al., arXiv 1708.02002, eq. 4, for the softmax.
    """
    examples = _examples.arranged(logits, axis, where)
    focus = Focus(pos=examples.number("gamma", gamma, minimum=0))
    return _softmax_loss(examples, labels, focus, temperature, label_smoothing, class_weights)


def asymmetric_focal_loss(
    logits: Array,
    labels: Array,
    *,
    gamma_pos: Number,
    gamma_neg: Number,
    temperature: Number = 1.0,
    label_smoothing: Number = 0.0,
    axis: Axis = -1,
    where: Array | None = None,
    class_weights: Array | None = None,
) -> jax.Array:
    """Returns the focal loss per example, with a second gamma for classes that are not the label.

    Args:
      logits: [..., classes] floats.
      labels: [...] class indices or [..., classes] probabilities.
      gamma_pos: At least 0; the label's weight is (1 - p)^gamma_pos.
      gamma_neg: At least 0; the weight of the other classes is p^gamma_neg. They are part of the
        loss only through label smoothing or soft labels.
      temperature: Above 0; logits are divided by it.
      label_smoothing: Share of the label spread over all classes, 0 to 1.
      axis: The axis of the classes; or several, over which the softmax is taken together, with
        labels that are indices into their flattened shape.
      where: Booleans: [...], examples to keep; or with as many axes as `logits`, classes to keep.
      class_weights: [classes], at least 0: c_j multiplies the term of class j, as in PyTorch.

    Returns:
      [...] losses.

    Raises:
      ValueError: A shape or dtype is not as above, or a plain number is out of its range.

    Source: the single-label loss of the published code of arXiv 2202.08978. It is the cyclical
    focal loss at hardness 1.
    """
    examples = _examples.arranged(logits, axis, where)
    focus = Focus(
        pos=examples.number("gamma_pos", gamma_pos, minimum=0),
        neg=examples.number("gamma_neg", gamma_neg, minimum=0),
    )
    return _softmax_loss(examples, labels, focus, temperature, label_smoothing, class_weights)


def cyclical_focal_loss(
    logits: Array,
    labels: Array,
    hardness: Number,
    *,
    gamma_hc: Number = 3.0,
    gamma_pos: Number = 2.0,
    gamma_neg: Number = 2.0,
    temperature: Number = 1.0,
    label_smoothing: Number = 0.1,
    axis: Axis = -1,
    where: Array | None = None,
    class_weights: Array | None = None,
) -> jax.Array:
    """Returns the cyclical focal loss per example.

    Confident examples count most at hardness 0, and unconfident ones at hardness 1.
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
      axis: The axis of the classes; or several, over which the softmax is taken together, with
        labels that are indices into their flattened shape.
      where: Booleans: [...], examples to keep; or with as many axes as `logits`, classes to keep.
      class_weights: [classes], at least 0: c_j multiplies the term of class j, as in PyTorch.

    Returns:
      [...] losses.

    Raises:
      ValueError: A shape or dtype is not as above, or a plain number is out of its range.

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
    examples = _examples.arranged(logits, axis, where)
    focus = _cyclical_focus(examples, hardness, gamma_hc, gamma_pos, gamma_neg)
    warn_above_ceiling(gamma_hc)  # called here, so that it names the caller's line
    return _softmax_loss(examples, labels, focus, temperature, label_smoothing, class_weights)


def asymmetric_multilabel_loss(
    logits: Array,
    labels: Array,
    *,
    gamma_pos: Number = 1.0,
    gamma_neg: Number = 4.0,
    margin: Number = 0.05,
    alpha: Number | None = None,
    axis: Axis = -1,
    where: Array | None = None,
    class_weights: Array | None = None,
) -> jax.Array:
    """Returns the asymmetric loss of independent labels, summed over the classes.

    With p = sigmoid(logits) and p_m = max(p - margin, 0), it is the sum over classes of

        -y (1 - p)^gamma_pos log p - (1 - y) p_m^gamma_neg log(1 - p_m).

    Args:
      logits: [..., classes] floats; -inf makes a class absent.
      labels: [..., classes], y in [0, 1]; any real or boolean dtype.
      gamma_pos: At least 0.
      gamma_neg: At least 0.
      margin: In [0, 1): a negative label with p below it costs nothing.
      alpha: In [0, 1]: multiplies the terms of y, and 1 - alpha those of 1 - y, as in arXiv
        1708.02002. None multiplies by nothing.
      axis: The axes to sum over, as in `jnp.sum`; () gives one loss for each logit.
      where: Booleans: [...], examples to keep; or with as many axes as `logits`, labels to keep.
      class_weights: [classes], at least 0: multiply the terms of their classes.

    Returns:
      [...] losses.

    Raises:
      ValueError: A shape or dtype is not as above, or a plain number is out of its range.

    Source: Ridnik et al., arXiv 2009.14119, eqs. 4-7.
    """
    examples = _examples.arranged(logits, axis, where)
    focus = Focus(
        pos=examples.number("gamma_pos", gamma_pos, minimum=0),
        neg=examples.number("gamma_neg", gamma_neg, minimum=0),
    )
    return _multilabel_loss(examples, labels, focus, margin, alpha, class_weights)


def cyclical_multilabel_loss(
    logits: Array,
    labels: Array,
    hardness: Number,
    *,
    gamma_hc: Number = 3.0,
    gamma_pos: Number = 1.0,
    gamma_neg: Number = 4.0,
    margin: Number = 0.05,
    alpha: Number | None = None,
    axis: Axis = -1,
    where: Array | None = None,
    class_weights: Array | None = None,
) -> jax.Array:
    """Returns the cyclical focal loss of independent labels, summed over the classes.

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
      alpha: In [0, 1]: multiplies the terms of y, and 1 - alpha those of 1 - y, as in arXiv
        1708.02002. None multiplies by nothing.
      axis: The axes to sum over, as in `jnp.sum`; () gives one loss for each logit.
      where: Booleans: [...], examples to keep; or with as many axes as `logits`, labels to keep.
      class_weights: [classes], at least 0: multiply the terms of their classes.

    Returns:
      [...] losses.

    Raises:
      ValueError: A shape or dtype is not as above, or a plain number is out of its range.

    Source: our own extension. It mixes the weights of arXiv 2009.14119 and 2202.08978 by the rule
    of the latter, whose own loss is for single labels.
    """
    examples = _examples.arranged(logits, axis, where)
    focus = _cyclical_focus(examples, hardness, gamma_hc, gamma_pos, gamma_neg)
    warn_above_ceiling(gamma_hc)  # called here, so that it names the caller's line
    return _multilabel_loss(examples, labels, focus, margin, alpha, class_weights)


def weighted_mean(
    losses: Array,
    *,
    weights: Number | None = None,
    labels: Array | None = None,
    where: Array | None = None,
    axis: Axis = None,
) -> jax.Array:
    """Returns the mean of the losses that are not ignored, sum(weights * losses) / sum(weights).

    The sums are over the losses whose label is not negative and for which `where` is true; the
    others are left out even if they are NaN. If nothing is left, or all weights are 0, the mean is
    0 and so is its gradient. Without weights, labels and mask it is the plain mean.

    Args:
      losses: [...] floats.
      weights: At least 0; a scalar or broadcast to the losses.
      labels: [...] class indices, as given to the loss; negative ones are left out.
      where: Booleans that broadcast to the losses.
      axis: The axis or axes of the mean; None is all of them.

    Returns:
      The mean over `axis`, in at least float32.

    Raises:
      ValueError: A shape or dtype is not as above, or a plain weight is negative.

    Examples:
      >>> labels = jnp.array([2, -1, 0])
      >>> losses = softmax_cross_entropy(jnp.zeros((3, 4)), labels)
      >>> print(f"{losses.mean():.3f} {weighted_mean(losses, labels=labels):.3f}")
      0.924 1.386
    """
    losses = _examples.floats("losses", losses)
    axes = _examples.axes_of(axis, "losses", losses.shape)
    weights = 1.0 if weights is None else weights
    given = weights if isinstance(weights, jax.Array) else np.asarray(weights)
    if given.dtype == bool:
        raise ValueError("`weights` must be numbers, got booleans: pass booleans as `where`.")
    limits = {"minimum": 0, "relative": True}
    weights = _examples.number("weights", weights, losses.shape, losses.dtype, **limits)
    kept = _kept(losses, labels, where)
    weights = jnp.where(kept, jnp.broadcast_to(weights, losses.shape), 0).astype(losses.dtype)
    total = weights.sum(axes)
    summed = (weights * jnp.where(kept, losses, 0)).sum(axes)
    return jnp.where(total == 0, 0, summed / jnp.where(total == 0, 1, total))


def warn_above_ceiling(gamma_hc: Number) -> None:
    """Warns, at the caller's caller, if the easy loss of this `gamma_hc` is not monotone."""
    is_traced = isinstance(gamma_hc, jax.core.Tracer)
    if not is_traced and (np.asarray(gamma_hc) > _GAMMA_HC_CEILING).any():
        warnings.warn(
            f"`gamma_hc` {gamma_hc} is above {_GAMMA_HC_CEILING}: the easy loss is not monotone.",
            stacklevel=3,
        )


def _softmax_loss(examples, labels, focus, temperature, label_smoothing, class_weights):
    examples.check_softmax()
    temperature = examples.number("temperature", temperature, above=0)
    smoothing = examples.number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    labels, class_weights = examples.labels(labels), examples.class_weights(class_weights)
    loss = _focal.index_loss if labels.shape == examples.shape else _focal.probability_loss
    z = _focal.divided(examples.logits, temperature)
    return loss(z, labels, focus, smoothing, class_weights)


def _multilabel_loss(examples, labels, focus, margin, alpha, class_weights):
    margin = examples.number("margin", margin, minimum=0, maximum=0.999)
    if alpha is not None:
        alpha = examples.number("alpha", alpha, minimum=0, maximum=1)
    labels, class_weights = examples.multilabels(labels), examples.class_weights(class_weights)
    return _focal.multilabel_loss(examples.logits, labels, focus, margin, alpha, class_weights)


def _cyclical_focus(examples, hardness, gamma_hc, gamma_pos, gamma_neg) -> Focus:
    return Focus(
        hardness=examples.number("hardness", hardness, minimum=0, maximum=1),
        hc=examples.number("gamma_hc", gamma_hc, minimum=0),
        pos=examples.number("gamma_pos", gamma_pos, minimum=0),
        neg=examples.number("gamma_neg", gamma_neg, minimum=0),
    )


def _kept(losses: jax.Array, labels: Any, where: Any) -> jax.Array:
    """Returns which losses are part of the mean, booleans that broadcast to them."""
    kept = jnp.full((), True)
    if where is not None:
        kept = _examples.aligned("where", _examples.booleans("where", where), losses.shape)
    if labels is None:
        return kept
    labels = as_array(labels, name="labels")
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != losses.shape:
        raise ValueError(
            f"`labels` must be integers of the losses' shape, {losses.shape}, got {labels.dtype} "
            f"of shape {labels.shape}."
        )
    return kept & (labels >= 0)
