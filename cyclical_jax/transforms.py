"""Optax gradient transformations whose numbers may be schedules of the update count.

They differ from Optax's own of the same names in four ways. They accept a schedule. Every leaf
keeps its dtype (bfloat16 too; the arithmetic is float32). 0 / 0 gives 0. And the value in force
stays in the state, where `current_values` finds it for the log. A number and a schedule give the
same tree of states, so a checkpoint survives the change from one to the other.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cyclical_jax import _checks
from cyclical_jax.schedules import as_integer, as_schedule


def logged(field: str) -> Callable[[type], type]:
    """Marks a NamedTuple of state: `current_values` reports this field of it."""

    def mark(state_type):
        state_type.logged_field = field
        return state_type

    return mark


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
    every: jax.Array  # (), int32: micro steps in the current update
    multi_steps: optax.MultiStepsState


def add_decayed_weights(
    weight_decay: optax.ScalarOrSchedule, mask: Any | Callable[[optax.Params], Any] | None = None
) -> optax.GradientTransformation:
    """Adds `weight_decay * parameter` to each update.

    If it stands before the learning rate in a chain, a step decays by the learning rate times the
    weight decay, so both cycles act on it.

    Args:
      weight_decay: At least 0; a number or a schedule.
      mask: Says which parameters decay, as in `optax.add_decayed_weights`: a tree of booleans, or a
        function from parameters to such a tree.

    Returns:
      The transformation; its state holds `weight_decay`.

    Raises:
      ValueError: A plain number is negative or infinite; at update, parameters are missing.

    Source: cyclical weight decay of arXiv 2202.08835, easy = small, hard = large.
    """

    def decay(updates, params, value):
        return _map(lambda u, p: u + value * p, updates, _required(params))

    transform = scheduled(AddDecayedWeightsState, weight_decay, decay, finite=True)
    return transform if mask is None else optax.masked(transform, mask)


def clip(max_delta: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Clips each entry of the updates to [-max_delta, max_delta].

    Args:
      max_delta: At least 0; a number or a schedule.

    Returns:
      The transformation; its state holds `max_delta`.

    Raises:
      ValueError: A plain number is negative.

    Source: cyclical gradient clipping of arXiv 2202.08835, mode "value"; easy = small threshold.
    """

    def clip_entries(updates, _, value):
        return _map(lambda u: jnp.clip(u, -value, value), updates)

    return scheduled(ClipState, max_delta, clip_entries)


def clip_by_global_norm(max_norm: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Scales the updates u to `u * min(1, max_norm / norm)`; norm is the global norm of all leaves.

    The norm is accumulated in float32. Updates that are all zero stay zero.

    Args:
      max_norm: At least 0; a number or a schedule.

    Returns:
      The transformation; its state holds `max_norm`.

    Raises:
      ValueError: A plain number is negative.

    Source: cyclical gradient clipping of arXiv 2202.08835, mode "norm"; easy = small threshold.
    """

    def rescale(updates, _, max_norm):
        norm = optax.tree.norm(jax.tree.map(_widened, updates))
        # One factor for all leaves. Optax selects between clipped and unclipped leaves, which keeps
        # a copy of every leaf and doubles the time of an AdamW step on a CPU.
        is_within = norm <= max_norm
        scale = jnp.where(is_within, 1, max_norm / jnp.where(is_within, 1, norm))
        return _map(lambda u: u * scale, updates)

    return scheduled(ClipByGlobalNormState, max_norm, rescale)


def adaptive_grad_clip(
    clipping: optax.ScalarOrSchedule, eps: ArrayLike = 1e-3
) -> optax.GradientTransformation:
    """Clips each unit of the updates to `clipping * max(norm of the unit's parameters, eps)`.

    Args:
      clipping: At least 0; a number or a schedule.
      eps: At least 0; a positive one lets parameters that are zero learn.

    Returns:
      The transformation; its state holds `clipping`.

    Raises:
      ValueError: A plain number is negative; at update, parameters are missing.

    Source: Brock et al., arXiv 2102.06171, with the units of `optax.adaptive_grad_clip`; cyclical
    in arXiv 2202.08835, mode "agc"; easy = small threshold.
    """
    _checks.number("eps", eps, minimum=0)

    def clip_units(updates, params, clipping):
        wide, wide_params = jax.tree.map(_widened, (updates, _required(params)))
        upstream = optax.adaptive_grad_clip(clipping, eps)
        clipped, _ = upstream.update(wide, optax.EmptyState(), wide_params)
        return optax.tree.cast_like(clipped, updates)

    return scheduled(AdaptiveGradClipState, clipping, clip_units)


def accumulate_gradients(
    optimizer: optax.GradientTransformation, every: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Averages the gradients of `every` micro steps for one update: a cyclical batch size.

    It is built on `optax.MultiSteps`. The schedules inside `optimizer` and the schedule `every`
    count optimizer updates; transformations outside of it count micro steps. `every` is constant
    within an update. Micro steps that do not complete an update return updates of zero. If training
    ends within an update, the gradients of that update are not used. The `total_steps` of schedules
    is a number of updates: about the number of batches over the mean `every`.

    Args:
      optimizer: The transformation that takes the averaged gradients.
      every: Micro steps per update, a whole number of at least 1; or a schedule of it, which is
        rounded and is at least 1 (see `as_integer`).

    Returns:
      The transformation; its state holds `every`.

    Raises:
      ValueError: A plain number is not whole or is below 1.

    Source: the abstract of arXiv 2202.08835 names the batch size; that large batches are the easy
    end is our reading, by analogy to the learning rate.
    """
    if not callable(every):
        _checks.whole_number("every", every, minimum=1, maximum=2**31 - 1)
    every_at = as_integer(every)
    multi_steps = optax.MultiSteps(optimizer, every_k_schedule=every_at)

    def init(params):
        return AccumulateGradientsState(every_at(jnp.int32(0)), multi_steps.init(params))

    def update(updates, state, params=None, **extra_args):
        value = every_at(state.multi_steps.gradient_step)
        updates, inner = multi_steps.update(updates, state.multi_steps, params, **extra_args)
        return updates, AccumulateGradientsState(value, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def current_values(opt_state: optax.OptState) -> dict[str, jax.Array]:
    """Returns the numbers that this library's transformations used in the last update, for the log.

    Args:
      opt_state: The state of any optimizer; this library's states are found wherever they nest.

    Returns:
      E.g. `{"weight_decay": ..., "max_norm": ...}`. If a name occurs more than once, each name is
      the path in the tree of states: `"1/max_norm"`. Before the first update, the values are those
      at count 0.
    """
    found = list(_logged_values(opt_state))
    repeats = Counter(path[-1] for path, _ in found)
    return {path[-1] if repeats[path[-1]] == 1 else "/".join(path): value for path, value in found}


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
      ValueError: A plain number is not within the limits.
    """
    if not callable(value):
        _, name = state_type._fields
        _checks.number(name, value, minimum=minimum, maximum=maximum, finite=finite)
    value_at = as_schedule(value)

    def state(count, value):
        # A copy: the state may be donated, and the caller's array must outlive it.
        return state_type(count, jnp.array(value, jnp.float32))

    def init(params):
        del params
        count = jnp.zeros([], jnp.int32)
        return state(count, value_at(count))

    def update(updates, old, params=None):
        new = state(optax.safe_increment(old.count), value_at(old.count))
        return rule(updates, params, new[1]), new

    return optax.GradientTransformation(init, update)


def _map(function, updates, *trees):
    """Maps `function` over the leaves in at least float32; results have the update's dtype."""

    def on_leaves(update, *others):
        if update is None:
            return None
        return function(_widened(update), *map(_widened, others)).astype(jnp.asarray(update).dtype)

    return jax.tree.map(on_leaves, updates, *trees, is_leaf=lambda leaf: leaf is None)


def _widened(leaf):
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def _required(params):
    if params is None:
        raise ValueError(
            "This transformation needs `params`: call `update(updates, state, params)`."
        )
    return params


def _logged_values(tree, path=()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields the path and the value of each logged field, of states within states too."""
    for keys, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_logged):
        if _is_logged(node):
            to_node = (*path, *map(_name_of, keys))
            for field, child in node._asdict().items():
                if field == node.logged_field:
                    yield (*to_node, field), child
                else:
                    yield from _logged_values(child, (*to_node, field))


def _is_logged(node) -> bool:
    return hasattr(type(node), "logged_field")


def _name_of(key) -> str:
    """Returns the part that a key of a tree adds to a path such as "0/multi_steps/max_norm"."""
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))
