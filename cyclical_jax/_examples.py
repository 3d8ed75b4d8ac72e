"""The arrays and numbers of a loss, checked and in one form: the axes of the examples come first.

The losses call the caller's arrays logits [..., classes], whatever axes the classes are on.
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax import _checks
from cyclical_jax._dtypes import as_array, widened

_INT32 = jnp.iinfo(jnp.int32)


class Examples(NamedTuple):
    """Logits in one form; its methods bring the other arguments of a loss to that form."""

    logits: jax.Array  # [..., classes], at least float32; -inf where `where` is false
    given: tuple[int, ...]  # shape of the caller's logits
    axes: tuple[int, ...]  # of the classes in the caller's logits
    is_masked: bool  # `where` is given

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the losses."""
        return self.logits.shape[:-1]

    def check_softmax(self) -> None:
        """Raises ValueError unless there is a class to take the softmax over."""
        if not self.axes:
            raise ValueError(
                "`axis` must name at least one axis for the classes of a softmax, got ()."
            )
        if not self.logits.shape[-1]:
            raise ValueError(f"`logits` must have at least one class, got shape {self.given}.")

    def number(self, name: str, value: Any, **limits: Any) -> Any:
        """Returns `number` for losses of this shape and dtype."""
        return number(name, value, self.shape, self.logits.dtype, **limits)

    def class_weights(self, weights: Any) -> jax.Array | None:
        """Returns weights [1, ..., classes]."""
        if weights is None:
            return None
        _checks.numbers("class_weights", weights, minimum=0, relative=True)
        weights, wanted = jnp.asarray(weights, self.logits.dtype), _at(self.given, self.axes)
        if weights.shape != wanted or not wanted:
            hint = "" if wanted else " Without an axis of classes, multiply the losses instead."
            raise ValueError(
                f"`class_weights` must have the shape of the classes, {wanted}, got "
                f"{weights.shape}.{hint}"
            )
        return weights.reshape(*(1,) * len(self.shape), -1)

    def labels(self, labels: Any) -> jax.Array:
        """Returns class indices [...], int32, or probabilities [..., classes]."""
        labels = as_array(labels, name="labels")
        if jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == self.shape:
            return self._of_examples(_as_int32(labels))
        if jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == self.given:
            return self._of_classes(labels)
        raise ValueError(
            f"`labels` must be integers of shape {self.shape} or floats of shape {self.given}, "
            f"got {labels.dtype} of shape {labels.shape}{self._hint(labels)}."
        )

    def multilabels(self, labels: Any) -> jax.Array:
        """Returns one label for each logit, [..., classes]."""
        labels = as_array(labels, name="labels")
        if labels.shape != self.given:
            raise ValueError(
                f"`labels` must have the shape of the logits, {self.given}, got {labels.dtype} of "
                f"shape {labels.shape}{self._multilabel_hint(labels)}."
            )
        return self._of_classes(labels)

    def _of_examples(self, labels: jax.Array) -> jax.Array:
        """Returns indices, -1 where the mask leaves out the example: they may be out of range."""
        if not self.is_masked:
            return labels
        return jnp.where((self.logits != -jnp.inf).any(-1), labels, -1)

    def _of_classes(self, labels: jax.Array) -> jax.Array:
        """Returns labels in the form of the logits, 0 where the mask is false: they may be NaN."""
        labels = _classes_last(labels.astype(self.logits.dtype), self.axes)
        return jnp.where(self.logits == -jnp.inf, 0, labels) if self.is_masked else labels

    def _hint(self, labels: jax.Array) -> str:
        is_float = jnp.issubdtype(labels.dtype, jnp.floating)
        if labels.shape == self.given:
            return "; one-hot labels must be floats: labels.astype(float)"
        if labels.shape == self.shape:
            return "; class indices must be integers: labels.astype(int)"
        if len(self.axes) == 1 and labels.shape == _with(self.given, self.axes, 1):
            axis = -1 if self.axes[0] == len(self.given) - 1 else self.axes[0]
            return f"; class indices have no axis of classes: labels.squeeze({axis})"
        for other in () if is_float else range(len(self.given)):
            if labels.shape == _without(self.given, (other,)):
                return f"; if the classes are on axis {other}, pass axis={other}"
        return ""

    def _multilabel_hint(self, labels: jax.Array) -> str:
        if labels.shape != self.shape:
            return ""
        if self.logits.shape[-1] == 1:
            return "; add the axis of the one class: labels[..., None]"
        return "; class indices must be one-hot: jax.nn.one_hot(labels, classes)"


def arranged(logits: Any, axis: int | tuple[int, ...] | None, where: Any) -> Examples:
    """Returns the caller's logits in one form.

    Args:
      logits: Floats.
      axis: The axis of the classes, several, which are flattened in this order, or None for all.
      where: None, or booleans that broadcast to the logits, or to them without `axis`.

    Raises:
      ValueError: The logits are no floats, or `axis` or `where` does not fit them.
    """
    logits = floats("logits", logits)
    axes = axes_of(axis, "logits", logits.shape)
    in_form = _classes_last(_masked(logits, where, axes), axes)
    return Examples(in_form, logits.shape, axes, is_masked=where is not None)


def floats(name: str, values: Any) -> jax.Array:
    """Returns `values` in at least float32; raises ValueError unless they are floats."""
    values = as_array(values, name=name)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"`{name}` must be floats, got {values.dtype} of shape {values.shape}.")
    return widened(values)


def axes_of(axis: Any, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the axes that `axis` names, counted from the first; None is all of them."""
    ndim = len(shape)
    try:
        axes = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        axes = tuple(np.arange(ndim)[operator.index(each)].item() for each in axes)
    except (TypeError, IndexError):
        axes = None
    if axes is None or len(set(axes)) < len(axes):
        hint = "" if shape else " One number alone has the axes ()."
        raise ValueError(
            f"`axis` must name axes of `{name}`, which has the shape {shape}, got {axis!r}.{hint}"
        )
    return axes


def number(name: str, value: Any, shape: tuple[int, ...], dtype: Any, **limits: Any) -> Any:
    """Returns a plain number as Python's, an array in `dtype` and so that it broadcasts to `shape`.

    An array of lower precision would be rounded in `1 - value`.
    """
    _checks.numbers(name, value, **limits)
    if _checks.is_plain(value):
        return np.asarray(value).item()
    return aligned(name, jnp.asarray(value, dtype), shape)


def booleans(name: str, values: Any) -> jax.Array:
    """Returns `values`; raises ValueError unless they are booleans."""
    values = as_array(values, name=name)
    if values.dtype != bool:
        raise ValueError(f"`{name}` must be booleans, got {values.dtype}: say `{name} != 0`.")
    return values


def aligned(name: str, values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns `values` with as many axes as `shape`, to which they broadcast as in NumPy.

    Raises:
      ValueError: They do not, or they would fit on other axes as well, unseen.
    """
    missing = len(shape) - values.ndim
    if values.ndim == 0:
        return values
    from_right = missing >= 0 and _broadcasts(values.shape, shape[missing:])
    from_left = missing > 0 and _broadcasts(values.shape, shape[: values.ndim])
    more_axes = f"{name}[...{', None' * missing}]"
    if not from_right:
        hint = f": write {more_axes}" if from_left else ""
        raise ValueError(
            f"`{name}` must be a scalar or broadcast to the shape {shape}, got shape "
            f"{values.shape}{hint}."
        )
    if from_left and math.prod(values.shape) > 1:
        raise ValueError(
            f"`{name}` of shape {values.shape} fits the first and the last axes of {shape}: write "
            f"{more_axes} or {name}[{'None, ' * missing}...]."
        )
    return jnp.expand_dims(values, range(missing))


def _masked(logits: jax.Array, where: Any, axes: tuple[int, ...]) -> jax.Array:
    if where is None:
        return logits
    mask = booleans("where", where)
    if mask.ndim == logits.ndim - len(axes):
        mask = jnp.expand_dims(mask, axes)
    if mask.ndim != logits.ndim or not _broadcasts(mask.shape, logits.shape):
        raise ValueError(
            f"`where` must broadcast to the shape {logits.shape}, with as many axes, or have the "
            f"shape {_without(logits.shape, axes)}, got shape {np.shape(where)}."
        )
    return jnp.where(mask, logits, -jnp.inf)


def _classes_last(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    if axes == (values.ndim - 1,):
        return values
    if not axes:
        return values[..., None]
    values = jnp.moveaxis(values, axes, range(-len(axes), 0))
    examples, classes = values.shape[: -len(axes)], values.shape[-len(axes) :]
    return values.reshape(*examples, math.prod(classes))


def _as_int32(labels: jax.Array) -> jax.Array:
    """Returns the same indices; one past int32 must not become a negative one, an ignored label."""
    limits = jnp.iinfo(labels.dtype)
    low, high = max(-1, int(limits.min)), min(int(limits.max), int(_INT32.max))
    return jnp.clip(labels, low, high).astype(jnp.int32)


def _broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(size in (1, whole) for size, whole in zip(shape, wanted, strict=True))


def _at(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in axes)


def _without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _with(shape: tuple[int, ...], axes: tuple[int, ...], size: int) -> tuple[int, ...]:
    return tuple(size if axis in axes else old for axis, old in enumerate(shape))
