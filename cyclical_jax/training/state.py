"""What training carries from one step to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cyclical_jax.models import Model


class Variables(NamedTuple):
    """What a model needs to be applied."""

    params: optax.Params
    model_state: Any  # what the model keeps beside parameters, such as BatchNorm's statistics


class TrainState(NamedTuple):
    """The state, the same on all devices and without an axis for them."""

    params: optax.Params
    model_state: Any
    opt_state: optax.OptState
    ema: Variables | None  # a moving average of the first two; None where it is off
    step: jax.Array  # (), int32: optimizer updates; schedules and logs count these
    micro_step: jax.Array  # (), int32: batches; randomness counts these
    skipped: jax.Array  # (), int32: batches that were not finite and left no trace
    key: jax.Array  # (), a random key of the run; never changes
    # [examples], float32: running averages of their losses; None where nothing asks for them
    difficulty: jax.Array | None = None

    @property
    def evaluated(self) -> Variables:
        """The variables that a trained model is judged by: the average where there is one."""
        return self.ema or Variables(self.params, self.model_state)


def init_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    image: jax.Array,
    seed: int | jax.Array,
    *,
    ema: bool = False,
    difficulty: jax.Array | None = None,
) -> TrainState:
    """The state before the first update.

    Args:
      model: What is trained.
      optimizer: As in the train step.
      image: [batch, height, width, channels], for its shape.
      seed: Of the initial parameters and of all randomness in training.
      ema: Whether a moving average of the variables is kept.
      difficulty: [examples], what the running averages of their losses start at; None keeps none.
    """
    init_key, key = jax.random.split(jax.random.key(seed))
    variables = Variables(*model.init(init_key, image))
    # Copies, because a state may be donated, and no array can be given up twice.
    average = jax.tree.map(jnp.copy, variables) if ema else None
    step, micro_step, skipped = (jnp.zeros([], jnp.int32) for _ in range(3))
    opt_state = optimizer.init(variables.params)
    counts = step, micro_step, skipped
    return TrainState(*variables, opt_state, average, *counts, key, difficulty)
