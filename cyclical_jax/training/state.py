"""What training carries from one step to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cyclical_jax.models import Model


class TrainState(NamedTuple):
    """The state, the same on all devices and without an axis for them."""

    params: optax.Params
    model_state: Any  # what the model keeps beside parameters, such as BatchNorm's statistics
    opt_state: optax.OptState
    step: jax.Array  # (), int32: optimizer updates; schedules and logs count these
    micro_step: jax.Array  # (), int32: batches; randomness counts these
    key: jax.Array  # (), a random key of the run; never changes


def init_state(
    model: Model, optimizer: optax.GradientTransformation, image: jax.Array, seed: int | jax.Array
) -> TrainState:
    """The state before the first update.

    Args:
      model: What is trained.
      optimizer: As in the train step.
      image: [batch, height, width, channels], for its shape.
      seed: Of the initial parameters and of all randomness in training.
    """
    init_key, key = jax.random.split(jax.random.key(seed))
    params, model_state = model.init(init_key, image)
    counts = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)  # two: a state may be donated
    return TrainState(params, model_state, optimizer.init(params), *counts, key)
