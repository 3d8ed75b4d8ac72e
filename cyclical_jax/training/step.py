"""One update, as a pure function of state and batch, composed of independent techniques.

A technique is a batch transform, a loss term, or a part of the optimizer chain; a step is

    transforms in their order -> one forward pass -> weighted sum of the terms -> pmean -> optimizer
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import optax

from cyclical_jax.models import Model
from cyclical_jax.schedules import as_schedule
from cyclical_jax.training.state import TrainState
from cyclical_jax.transforms import current_values

Batch = dict[str, jax.Array]  # image, label, index and whatever the techniques in use add
Values = dict[str, jax.Array]  # knob -> its value at this update
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class BatchTransform(NamedTuple):
    """Changes a batch before the forward pass."""

    transform: Callable[[Batch, jax.Array, jax.Array], Batch]  # (batch, key, strength)
    strength: optax.ScalarOrSchedule = 1.0


class LossTerm(NamedTuple):
    """One summand of the loss."""

    loss: Callable[[jax.Array, Batch, Values], jax.Array]  # (logits, batch, values) -> [batch]
    weight: optax.ScalarOrSchedule = 1.0


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    terms: Sequence[LossTerm],
    transforms: Sequence[BatchTransform] = (),
    *,
    knobs: Mapping[str, optax.Schedule],
    axis_name: str | None = None,
) -> TrainStep:
    """The train step `(state, batch) -> (state, metrics)`.

    Args:
      model: Its two functions; the model's own axis, for BatchNorm, must be `axis_name` too.
      optimizer: Gradients -> updates; its schedules count updates by themselves.
      terms: The loss is the mean over the batch of their weighted sum.
      transforms: Applied to the batch in this order, each with a random key of its own.
      knobs: Schedules whose values the terms read and the metrics report.
      axis_name: Mapped axis over which gradients and metrics are averaged; None for one device.

    Returns:
      A pure function. The metrics are scalars: loss, accuracy, grad_norm, and the value in force
      of each knob and of each of this library's transformations in the optimizer.
    """

    def train_step(state, batch):
        values = {name: schedule(state.step) for name, schedule in knobs.items()}
        *transform_keys, model_key = _keys(state, len(transforms) + 1, axis_name)
        for (transform, strength), key in zip(transforms, transform_keys, strict=True):
            batch = transform(batch, key, as_schedule(strength)(state.step))

        def loss_of(params):
            variables = params, state.model_state
            logits, model_state = model.apply(*variables, batch["image"], train=True, key=model_key)
            return _weighted_sum(terms, state.step, logits, batch, values), (logits, model_state)

        (loss, (logits, model_state)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        metrics = {"loss": loss, "accuracy": _accuracy(logits, batch["label"])}
        if axis_name:
            metrics, grads = jax.lax.pmean((metrics, grads), axis_name)
        metrics |= {"grad_norm": optax.tree.norm(grads)} | values
        return _updated(state, optimizer, grads, model_state, metrics)

    return train_step


def _accuracy(logits, labels) -> jax.Array:
    """Of labels that are indices, or of the likeliest class of those that are probabilities."""
    indices = labels if labels.ndim == 1 else labels.argmax(-1)
    return (logits.argmax(-1) == indices).mean()


def _weighted_sum(terms, step, logits, batch, values) -> jax.Array:
    """The mean over the batch of the weighted sum of the terms."""
    losses = [as_schedule(weight)(step) * loss(logits, batch, values) for loss, weight in terms]
    return sum(losses).mean()


def _updated(state, optimizer, grads, model_state, metrics) -> tuple[TrainState, Metrics]:
    """The state after the update by `grads`, and the metrics with the optimizer's values."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new_state = state._replace(
        params=optax.apply_updates(state.params, updates),
        model_state=model_state,
        opt_state=opt_state,
        step=_updates_so_far(opt_state, otherwise=state.step + 1),
        micro_step=state.micro_step + 1,
    )
    return new_state, metrics | current_values(opt_state)


def _updates_so_far(opt_state, otherwise: jax.Array) -> jax.Array:
    """What an accumulating optimizer counts; any other updates at each step."""
    counts = optax.tree.get_all_with_path(opt_state, "gradient_step")
    return counts[0][1] if counts else otherwise


def _keys(state: TrainState, number: int, axis_name: str | None) -> jax.Array:
    """Keys of this micro step, different on every device."""
    key = jax.random.fold_in(state.key, state.micro_step)
    if axis_name:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    return jax.random.split(key, number)
