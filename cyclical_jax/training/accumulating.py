"""The gradient of an update of several micro steps, averaged over the devices only once.

A mean over micro steps and a mean over devices may be taken in either order: each device
accumulates the gradients of its own examples, and all devices average them at the end of the
update.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cyclical_jax.training.devices import on_all_devices
from cyclical_jax.training.state import TrainState
from cyclical_jax.transforms import AccumulateGradientsState

# The mapped axis of each part of a state within an update: what is accumulated is a device's own.
_SAME: Any = None  # on all devices
_OWN: Any = 0
_STEPS = optax.MultiStepsState(_SAME, _SAME, _SAME, acc_grads=_OWN, skip_state=_SAME)
_OPT_STATE = AccumulateGradientsState(_SAME, _STEPS)
AXES = TrainState(_SAME, _SAME, _OPT_STATE, _SAME, _SAME, _SAME, _SAME, _SAME)


def averaged(
    opt_state: AccumulateGradientsState,
    grads: optax.Updates,
    every: optax.Schedule,
    mean_over_devices: Callable[[Any], Any],
) -> tuple[AccumulateGradientsState, optax.Updates, jax.Array, jax.Array]:
    """Returns state and gradient with which all devices make the same update.

    At the end of an update, m, the gradient of the update, is the mean over devices of `a + (g - a)
    / (n + 1)`, g being the gradient of a device at the micro step n of the update and a what it has
    accumulated. Both are replaced by m, and Optax's mean of m and m is m. Within an update nothing
    changes, and nothing is sent: the devices agree about the branch, since all have the same
    counts.

    Args:
      opt_state: The state of `accumulate_gradients`.
      grads: The gradients of this micro step.
      every: Micro steps of the update of that number.
      mean_over_devices: A function from a tree to its mean over all devices.

    Returns:
      State and gradient for `update`; whether this micro step is the last of its update, (), bool;
      the norm of m, (), 0 within an update.
    """
    steps = opt_state.multi_steps
    is_last = steps.mini_step + 1 == every(steps.gradient_step)

    def at_the_end(grads, sums):
        own = jax.tree.map(lambda g, a: a + (g - a) / (steps.mini_step + 1), grads, sums)
        mean = mean_over_devices(own)
        return mean, _norm(mean)

    def within(grads, sums):
        return sums, jnp.float32(0)

    sums, norm = jax.lax.cond(is_last, at_the_end, within, grads, steps.acc_grads)
    grads = jax.tree.map(lambda g, a: jnp.where(is_last, a.astype(g.dtype), g), grads, sums)
    steps = steps._replace(acc_grads=sums)
    return opt_state._replace(multi_steps=steps), grads, is_last, norm


def _norm(tree: Any) -> jax.Array:
    return optax.tree.norm(tree).astype(jnp.float32)


def spread(state: TrainState) -> TrainState:
    """Returns a state with the axes `AXES`: each device goes on from what all have accumulated.

    Leaves that need no axis are not copied, because the state is donated.
    """
    devices = np.zeros(jax.local_device_count())  # pmap asks for an argument with an axis
    return _spread(state, devices)


_spread = on_all_devices(lambda state, _: state, in_axes=(None, 0), out_axes=AXES, donate=True)
# At the end of an update: nothing is accumulated then, so that all devices have the same.
joined = on_all_devices(lambda state: state, in_axes=(AXES,), donate=True)
