"""Optax gradient transformations whose numbers may be schedules of the update count.

They differ from Optax's own of the same names in four ways. They accept a schedule. Every leaf
keeps its dtype (bfloat16 too; the arithmetic is float32). 0 / 0 gives 0. And the value in force
stays in the state, where `current_values` finds it for the log. A number and a schedule give the
same tree of states, so a checkpoint survives the change from one to the other.

From Optax 0.2.7 on, `optax.adamw(1e-3, weight_decay=cyclical_schedule(...))` needs nothing of this
file. `add_decayed_weights` says when it is still worth it to take AdamW apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cyclical_jax import _checks, _sharding
from cyclical_jax._dtypes import as_array, native, standard_promotion, widened
from cyclical_jax._types import Number, NumberOrSchedule
from cyclical_jax.opt_state import current_values as current_values
from cyclical_jax.opt_state import logged
from cyclical_jax.schedules import as_integer, as_schedule


@logged("weight_decay")
class AddDecayedWeightsState(NamedTuple):
    count: Any  # (), int32: updates so far
    weight_decay: jax.Array  # (), float32: used in the last update


@logged("max_delta")
class ClipState(NamedTuple):
    count: Any  # (), int32: updates so far
    max_delta: jax.Array  # (), float32: used in the last update


@logged("max_norm")
class ClipByGlobalNormState(NamedTuple):
    count: Any  # (), int32: updates so far
    max_norm: jax.Array  # (), float32: used in the last update


@logged("clipping")
class AdaptiveGradClipState(NamedTuple):
    count: Any  # (), int32: updates so far
    clipping: jax.Array  # (), float32: used in the last update


@logged("every")
class AccumulateGradientsState(NamedTuple):
    """The state of `accumulate_gradients`; it has the fields of `optax.MultiStepsState` too."""

    every: jax.Array  # (), int32: micro steps in the current update
    multi_steps: optax.MultiStepsState

    @property
    def has_updated(self) -> jax.Array:
        """True if the last micro step completed an update; (), bool."""
        return (self.mini_step == 0) & (self.gradient_step > 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.multi_steps, name)


def add_decayed_weights(
    weight_decay: NumberOrSchedule, mask: Any | Callable[[optax.Params], Any] | None = None
) -> optax.GradientTransformation:
    """Returns a transformation that adds `weight_decay * parameter` to each update.

    If it stands before the learning rate in a chain, a step decays by the learning rate times the
    weight decay, so both cycles act on it.

    `optax.adamw(1e-3, weight_decay=schedule)` decays in the same way and is shorter. It is AdamW in
    one piece: `optax.scale_by_adam()`, this, `optax.scale_by_learning_rate(1e-3)`. The pieces have
    three advantages: `current_values` finds the decay in force; bfloat16 updates stay bfloat16,
    with arithmetic in float32; and a number and a schedule have the same tree of states. The count
    is the same in both cases: the number of updates that reach the transformation.

    Args:
      weight_decay: At least 0; a number or a schedule.
      mask: Says which parameters decay, as in `optax.add_decayed_weights`: a tree of booleans, or a
        function from parameters to such a tree.

    Returns:
      The transformation; its state holds `weight_decay`.

    Raises:
      ValueError: A number is not a scalar, or a plain one is negative or infinite; at update,
        parameters are missing or differ in shape from the updates.

    Source: cyclical weight decay of arXiv 2202.08835, easy = small, hard = large.
    """

    def decay(updates, params, value):
        return _map(lambda u, p: u + value * p, updates, _required(params))

    transform = scheduled(AddDecayedWeightsState, weight_decay, decay, finite=True)
    return transform if mask is None else optax.masked(transform, mask)


def clip(max_delta: NumberOrSchedule) -> optax.GradientTransformation:
    """Returns a transformation that clips each entry of the updates to [-max_delta, max_delta].

    Args:
      max_delta: At least 0; a number or a schedule.

    Returns:
      The transformation; its state holds `max_delta`.

    Raises:
      ValueError: A number is not a scalar, or a plain one is negative.

    Source: cyclical gradient clipping of arXiv 2202.08835, mode "value"; easy = small threshold.
    """

    def clip_entries(updates, _, value):
        return _map(lambda u: jnp.clip(u, -value, value), updates)

    return scheduled(ClipState, max_delta, clip_entries)


def clip_by_global_norm(max_norm: NumberOrSchedule) -> optax.GradientTransformation:
    """Returns a transformation that limits the global norm of the updates to `max_norm`.

    Updates u become `u * min(1, max_norm / norm)`, where norm is the global norm of all leaves. The
    norm is accumulated in float32. Updates that are all zero stay zero.

    Args:
      max_norm: At least 0; a number or a schedule.

    Returns:
      The transformation; its state holds `max_norm`.

    Raises:
      ValueError: A number is not a scalar, or a plain one is negative.

    Source: cyclical gradient clipping of arXiv 2202.08835, mode "norm"; easy = small threshold.
    """

    def rescale(updates, _, max_norm):
        leaves = jax.tree.leaves(updates)
        norm = _root(sum(jnp.sum(_square(widened(leaf, "updates"))) for leaf in leaves))
        # One factor for all leaves. Optax selects between clipped and unclipped leaves, which keeps
        # a copy of every leaf and doubles the time of an AdamW step on a CPU.
        is_within = norm <= max_norm
        scale = jnp.where(is_within, 1, max_norm / jnp.where(is_within, 1, norm))
        return _map(lambda u: u * scale, updates)

    return scheduled(ClipByGlobalNormState, max_norm, rescale)


def adaptive_grad_clip(
    clipping: NumberOrSchedule, eps: Number = 1e-3, axis: int | tuple[int, ...] | None = None
) -> optax.GradientTransformation:
    """Returns a transformation that clips the updates of each unit relative to its parameters.

    The norm of a unit's updates becomes at most `clipping * max(norm of its parameters, eps)`.

    Args:
      clipping: At least 0; a number or a schedule.
      eps: At least 0; a positive one lets parameters that are zero learn.
      axis: The axis or axes over which the norm of a unit is taken, in every parameter: 1 for
        weights of shape [outputs, inputs], as those of Equinox and PyTorch. By default it follows
        from the number of axes, as in Flax and Haiku: all for a scalar or vector, 0 for a matrix
        and for three axes, all but the last for four and five.

    Returns:
      The transformation; its state holds `clipping`.

    Raises:
      ValueError: A number is not a scalar, or a plain one is negative; at update, parameters are
        missing, differ in shape from the updates, or do not have the axes.

    Source: Brock et al., arXiv 2102.06171, with the units of `optax.adaptive_grad_clip`; cyclical
    in arXiv 2202.08835, mode "agc"; easy = small threshold.
    """
    _checks.number("eps", eps, minimum=0)

    def clip_units(updates, params, clipping):
        def clip_unit(u, p):
            axes = _axes_of_units(jnp.shape(p), axis)
            norm, norm_of_params = (_norms_of_units(x, axes) for x in (u, p))
            largest = clipping * jnp.maximum(norm_of_params, eps)
            return jnp.where(norm < largest, u, u * (largest / jnp.maximum(norm, 1e-6)))

        return _map(clip_unit, updates, _required(params))

    return scheduled(AdaptiveGradClipState, clipping, clip_units)


def accumulate_gradients(
    optimizer: optax.GradientTransformation,
    every: NumberOrSchedule,
    *,
    use_grad_mean: bool = True,
    should_skip_update_fn: Callable[..., Any] | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer that makes one update of the mean gradient of `every` micro steps.

    With a schedule for `every`, the batch size is cyclical.

    It is built on `optax.MultiSteps`, whose other arguments it takes. The schedules inside
    `optimizer` and the schedule `every` count optimizer updates; transformations outside of it
    count micro steps. `every` is constant within an update. Micro steps that do not complete an
    update return updates of zero. If training ends within an update, the gradients of that update
    are not used.

    The `total_steps` of all schedules is the number of updates, which is smaller than the number of
    batches: `updates_of(num_batches, every)` finds it. `num_updates(opt_state)` is the count so
    far, for a schedule outside of the optimizer, such as that of a loss.

    Args:
      optimizer: The transformation that takes the averaged gradients.
      every: Micro steps per update, a whole number of at least 1; or a schedule of it, which is
        rounded and is at least 1 (see `as_integer`).
      use_grad_mean: False sums the gradients instead.
      should_skip_update_fn: Says which micro steps are left out, as in `optax.MultiSteps`, e.g.
        `optax.skip_not_finite`. They are not counted.
      accumulator_dtype: The dtype of the accumulated gradients; by default that of Optax.

    Returns:
      The transformation; its state holds `every`, and `has_updated` as `optax.MultiSteps` has it.

    Raises:
      ValueError: A number is not a scalar, or a plain one is not whole or is below 1.

    Source: the abstract of arXiv 2202.08835 names the batch size; that large batches are the easy
    end is our reading, by analogy to the learning rate.

    Examples:
      150 batches, of which an update takes 4 at the easy ends and 1 at the peak:

      >>> import cyclical_jax as cj
      >>> every = lambda total_steps: cj.cyclical_schedule(4, 1, total_steps)
      >>> total_steps = cj.updates_of(150, every)
      >>> optimizer = cj.accumulate_gradients(optax.sgd(0.1), every(total_steps))
      >>> total_steps
      60
    """
    if not callable(every):
        _checks.whole_number("every", every, minimum=1, maximum=2**31 - 1)
    rounded = as_integer(every)

    def every_at(count):
        value = rounded(count)
        _checks.scalar("every", value)
        return value

    # Not every version of Optax has the last one.
    dtype = {} if accumulator_dtype is None else {"accumulator_dtype": accumulator_dtype}
    multi_steps = optax.MultiSteps(
        optimizer, every_at, use_grad_mean, should_skip_update_fn, **dtype
    )

    def init(params):
        params = jax.tree.map(native, params)
        return AccumulateGradientsState(every_at(jnp.int32(0)), multi_steps.init(params))

    @standard_promotion
    def update(updates, state, params=None, **extra_args):
        value = every_at(state.multi_steps.gradient_step)
        updates, params = jax.tree.map(native, (updates, params))
        updates, inner = multi_steps.update(updates, state.multi_steps, params, **extra_args)
        return updates, AccumulateGradientsState(value, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def scheduled(
    state_type, value, rule, *, minimum=0, maximum=jnp.inf, finite=False
) -> optax.GradientTransformation:
    """Returns the transformation `rule(updates, params, value in force) -> updates`.

    Args:
      state_type: A NamedTuple (count, value in force), marked by `logged`.
      value: A number or a schedule of the update count.
      rule: The function above; updates and params are trees.
      minimum, maximum: Limits of a plain number, both included.
      finite: Whether a plain number must be finite.

    Raises:
      ValueError: A number is not a scalar, or a plain one is not within the limits.
    """
    _, name = state_type._fields
    if not callable(value):
        _checks.number(name, value, minimum=minimum, maximum=maximum, finite=finite)
    value_at = as_schedule(value)

    def state(count, value):
        _checks.scalar(name, value)
        # A copy: the state may be donated, and the caller's array must outlive it.
        return state_type(count, jnp.array(value, jnp.float32))

    @standard_promotion
    def init(params):
        del params
        count = jnp.zeros([], jnp.int32)
        return state(count, value_at(count))

    @standard_promotion
    def update(updates, old, params=None):
        if "count" not in getattr(old, "_fields", ()):
            raise ValueError(f"This transformation counts: its state is `init(params)`, got {old}.")
        new = state(optax.safe_increment(old.count), value_at(old.count))
        return rule(updates, params, new[1]), new

    return optax.GradientTransformation(init, update)


def _map(function, updates, *trees):
    """Maps `function` over the leaves in at least float32; results have the update's dtype."""

    def on_leaves(update, *others):
        if update is None:
            return None
        for params in others:
            _checks.same_shape("params", params, jnp.shape(update))
        wide = widened(update, "updates"), *(widened(params, "params") for params in others)
        return function(*wide).astype(as_array(update).dtype)

    return jax.tree.map(on_leaves, updates, *trees, is_leaf=lambda leaf: leaf is None)


def _square(x):
    """Returns |x|^2, a real number for a complex one too."""
    return jnp.real(x * jnp.conj(x))


def _norms_of_units(x, axes):
    """Returns the norm of the unit of each entry, in the shape of `x`."""
    # Optax's shape, so that XLA rounds as it does; `broadcast_to` loses an explicit sharding.
    norms = _root(jnp.sum(_square(x), axes, keepdims=True))
    return _sharding.spread_like(jnp.broadcast_to(norms, x.shape), x)


def _root(square):
    """Returns the square root, whose slope at 0 is 0 here: that of `jnp.sqrt` would make NaN."""
    is_zero = square == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, square)))


def _axes_of_units(shape, axis):
    """Returns the axes over which `adaptive_grad_clip` takes the norm of a unit."""
    ndim = len(shape)
    if axis is None:
        if sum(size != 1 for size in shape) <= 1:
            return None
        if ndim > 5:
            raise ValueError(f"`axis` must say what the units of a parameter of shape {shape} are.")
        return 0 if ndim < 4 else tuple(range(ndim - 1))
    axes = axis if isinstance(axis, tuple) else (axis,)
    if not all(-ndim <= one < ndim for one in axes):
        raise ValueError(
            f"`axis` must be one of the axes of each parameter, got {axis} for shape {shape}."
        )
    return axes


def _required(params):
    if params is None:
        raise ValueError(
            "This transformation needs `params`: call `update(updates, state, params)`."
        )
    return params
