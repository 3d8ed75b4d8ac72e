"""The state that training carries from one step to the next."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cyclical_jax.models import Model

JUDGED = "judged"  # the memory that is evaluated in place of the parameters


class Variables(NamedTuple):
    """The arrays of a model.

    Attributes:
      params: The parameters.
      model_state: The state that the model keeps beside parameters, such as BatchNorm's statistics.
    """

    params: optax.Params
    model_state: Any


class TrainState(NamedTuple):
    """The state of a run. It is the same on all devices and has no axis for them.

    Attributes:
      params: The parameters of the model.
      model_state: What the model keeps beside them, such as BatchNorm's statistics.
      opt_state: The state of the optimizer.
      memory: The tree of each technique that keeps one, under its name or `JUDGED`.
      step: int32, the number of optimizer updates; schedules and logs count these.
      micro_step: int32, the number of batches; randomness counts these.
      skipped: int32, the number of batches that were not finite and left no trace.
      key: A random key of the run; it never changes.
    """

    params: optax.Params
    model_state: Any
    opt_state: optax.OptState
    memory: Mapping[str, Any]
    step: jax.Array
    micro_step: jax.Array
    skipped: jax.Array
    key: jax.Array

    @property
    def variables(self) -> Variables:
        """The variables that the next step applies."""
        return Variables(self.params, self.model_state)

    @property
    def evaluated(self) -> Variables:
        """The variables by which a trained model is judged."""
        return self.memory.get(JUDGED, self.variables)


def init_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    inputs: Any,
    seed: int | jax.Array,
    *,
    memories: Mapping[str, Any] | None = None,
) -> TrainState:
    """Returns the state before the first update.

    Args:
      model: The model that is trained.
      optimizer: The optimizer of the train step.
      inputs: Inputs of the model with a batch axis; only their shapes matter.
      seed: Seed of the initial parameters and of all randomness in training.
      memories: {name: `Memory`} of the train step.
    """
    init_key, key = jax.random.split(jax.random.key(seed))
    variables = Variables(*model.init(init_key, inputs))
    memory = {name: of_name.init(variables) for name, of_name in (memories or {}).items()}
    memory = jax.tree.map(jnp.asarray, memory)
    opt_state = optimizer.init(variables.params)
    step, micro_step, skipped = (jnp.zeros([], jnp.int32) for _ in range(3))
    return TrainState(*variables, opt_state, memory, step, micro_step, skipped, key)
