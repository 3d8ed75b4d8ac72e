"""One step, as a pure function of state and batch, composed of independent techniques.

A technique is a batch transform, a loss term, or a part of the optimizer chain; a step is

    transforms in their order -> one forward pass -> weighted sum of the terms -> pmean -> optimizer
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cyclical_jax.curriculum import update_difficulty
from cyclical_jax.losses import softmax_cross_entropy
from cyclical_jax.models import Model
from cyclical_jax.schedules import as_schedule
from cyclical_jax.training.labels import is_correct
from cyclical_jax.training.state import TrainState, Variables
from cyclical_jax.transforms import AccumulateGradientsState, current_values

# image, label, index (the position of the example in its dataset), where it is padded mask (0 is
# padding, all else counts as one), where examples have one weight, and whatever the techniques in
# use add: unlabelled (images), other views of images, teacher (logits), rank. Mask and weight are
# [batch], or as labels of more axes are: of pixels, of the words of a sequence. A label of -1 costs
# nothing, but counts, in the mean and as wrong; a mask leaves it out.
Batch = dict[str, jax.Array]
Values = dict[str, jax.Array]  # knob -> its value at this update
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]

MEASURED = ("loss", "accuracy", "grad_norm")
LABELLED = "image"  # the view that labels, mask and weight belong to
DIFFICULTY = "difficulty"  # of the examples of a batch: their running averages so far


class BatchTransform(NamedTuple):
    """Changes a batch before the forward pass."""

    transform: Callable[[Batch, jax.Array, jax.Array], Batch]  # (batch, key, strength)
    strength: optax.ScalarOrSchedule = 1.0


OfExamples = Callable[..., jax.Array]  # (logits of each view ..., batch, values) -> [examples]


class LossTerm(NamedTuple):
    """One summand of the loss: a mean over examples."""

    loss: OfExamples
    weight: optax.ScalarOrSchedule = 1.0
    views: tuple[str, ...] = (LABELLED,)  # entries of the batch whose logits it takes
    measures: tuple[tuple[str, OfExamples], ...] = ()  # metrics beside it: a mean over examples


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    terms: Sequence[LossTerm],
    transforms: Sequence[BatchTransform] = (),
    *,
    norm_terms: Sequence[LossTerm] = (),
    knobs: Mapping[str, optax.Schedule],
    model_knobs: Sequence[str] = (),
    ema_decay: optax.ScalarOrSchedule | None = None,
    difficulty_decay: optax.ScalarOrSchedule | None = None,
    skip_nonfinite: bool = False,
    micro_steps: int = 1,
    axis_name: str | None = None,
) -> TrainStep:
    """The train step `(state, batch) -> (state, metrics)`.

    Args:
      model: Its two functions; the model's own axis, for BatchNorm, must be `axis_name` too.
      optimizer: Gradients -> updates; its schedules count updates by themselves. Accumulation must
        be outermost in it.
      terms: The loss is their weighted sum. Each is a mean over its examples; of the labelled ones
        over those that are no padding. All views that they name go through the model together.
      transforms: Applied to the batch in this order, each with a random key of its own.
      norm_terms: Where there are some, the gradient g of `terms` gets the norm of the gradient c of
        these, of the same forward pass, and keeps its direction: `g ||c|| / ||g||`, 0 where g is.
        A loss that cycles rescales its gradient too, as a learning rate would; this tells the two
        effects apart.
      knobs: Schedules whose values the terms read and the metrics report.
      model_knobs: Those of them that the model's `apply` takes, by name.
      ema_decay: Of the average that `init_state(..., ema=True)` started: at an update
        `average = d average + (1 - d) variables`, d = min(ema_decay, (1 + step) / (10 + step)), so
        that it soon forgets the initial parameters.
      difficulty_decay: Of the running averages that `init_state(..., difficulty=...)` started: at a
        micro step those of its examples become `d average + (1 - d) loss`, of the cross entropy at
        temperature 1. Before it, the batch has them as `DIFFICULTY`.
      skip_nonfinite: Whether a batch whose loss, gradient or new parameters are not finite changes
        nothing but `micro_step` and `skipped`: its update does not count, for any schedule.
      micro_steps: How many a batch counts as.
      axis_name: Mapped axis over which gradients and metrics are averaged; None for one device.

    Returns:
      A pure function. The metrics are scalars: loss, accuracy, grad_norm, num_examples, the terms'
      measures, and the value in force of each knob and of each of this library's transformations in
      the optimizer.
    """

    named = (view for term in (*terms, *norm_terms) for view in term.views)
    views = tuple(dict.fromkeys((LABELLED, *named)))

    def mean_over_devices(tree):
        return jax.lax.pmean(tree, axis_name) if axis_name else tree

    def gradients(state, batch, values, key):
        average = _averager(batch, mean_over_devices)

        def forward(params):
            rates = {name: values[name] for name in model_knobs}
            images, sizes = _joined([batch[view] for view in views])
            variables = params, state.model_state
            logits, model_state = model.apply(*variables, images, train=True, key=key, **rates)
            return dict(zip(views, _parted(logits, sizes), strict=True)), model_state

        def mean_of(term, outputs):
            losses = term.loss(*[outputs[view] for view in term.views], batch, values)
            losses = as_schedule(term.weight)(state.step) * losses
            if LABELLED not in term.views:
                return jnp.mean(losses)
            if "weight" in batch:
                losses = losses * _as_wide(batch["weight"], losses)
            return average(losses)

        def loss_of(outputs, terms):
            return sum(mean_of(term, outputs) for term in terms)

        outputs, backward, model_state = jax.vjp(forward, state.params, has_aux=True)
        loss, slopes = jax.value_and_grad(loss_of)(outputs, terms)
        (grads,) = backward(slopes)
        accuracy = average(is_correct(outputs[LABELLED], batch["label"]))
        metrics = {"loss": loss, "accuracy": accuracy}
        for term in terms:
            own = [outputs[view] for view in term.views]
            metrics |= {name: jnp.mean(of(*own, batch, values)) for name, of in term.measures}
        metrics, grads = mean_over_devices((metrics, grads))
        if norm_terms:
            (reference,) = backward(jax.grad(loss_of)(outputs, norm_terms))
            grads = _with_norm_of(grads, mean_over_devices(reference))
        metrics |= {"grad_norm": optax.tree.norm(grads)}
        # Equal on all devices already if the model knows its axis; else they would part.
        model_state = _map_floats(mean_over_devices, model_state)
        return grads, model_state, metrics, outputs[LABELLED]

    def train_step(state, batch):
        values = {name: schedule(state.step) for name, schedule in knobs.items()}
        *transform_keys, model_key = _keys(state, len(transforms) + 1, axis_name)
        if difficulty_decay is not None:
            batch = batch | {DIFFICULTY: state.difficulty[batch["index"]]}
        for (transform, strength), key in zip(transforms, transform_keys, strict=True):
            batch = transform(batch, key, as_schedule(strength)(state.step))
        grads, model_state, metrics, logits = gradients(state, batch, values, model_key)
        new = _updated(state, optimizer, grads, model_state)
        new = new._replace(micro_step=state.micro_step + micro_steps)
        if ema_decay is not None:
            new = new._replace(ema=_moving_average(state, new, as_schedule(ema_decay)(state.step)))
        if difficulty_decay is not None:
            decay = as_schedule(difficulty_decay)(state.step)
            seen = gathered(_difficulties(batch, logits, len(state.difficulty)), axis_name)
            new = new._replace(difficulty=update_difficulty(state.difficulty, *seen, decay=decay))
        if skip_nonfinite:
            new = _unless_nonfinite(state, new, metrics)
        metrics["num_examples"] = _num_examples(batch, axis_name)
        # The knobs win: within an accumulated update the optimizer still has those of the last one.
        return new, current_values(new.opt_state) | metrics | values

    return train_step


def _joined(images: Sequence[jax.Array]) -> tuple[jax.Array, list[int]]:
    """Images of several views as one batch, and how many there are of each."""
    joined = jnp.concatenate(images) if len(images) > 1 else images[0]
    return joined, [len(of_view) for of_view in images]


def _parted(logits: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
    if len(sizes) == 1:
        return [logits]
    return jnp.split(logits, list(itertools.accumulate(sizes))[:-1])


def _averager(batch, mean_over_devices) -> Callable[[jax.Array], jax.Array]:
    """Of [batch] values to this device's share of their mean over all examples of all devices."""
    if "mask" not in batch:
        return jnp.mean

    def average(values):
        is_real = _as_wide(batch["mask"], values) > 0
        count = mean_over_devices(is_real.sum(dtype=values.dtype))
        return jnp.where(is_real, values, 0).sum() / jnp.where(count > 0, count, 1)

    return average


def _as_wide(values, like) -> jax.Array:
    """`values` of examples, for all that `like` has of each."""
    axes = tuple(range(jnp.ndim(values), like.ndim))
    return jnp.broadcast_to(jnp.expand_dims(values, axes), like.shape)


def _num_examples(batch, axis_name) -> jax.Array:
    counts = batch["mask"] > 0 if "mask" in batch else jnp.ones(len(batch["image"]), bool)
    count = counts.sum(dtype=jnp.int32)
    return jax.lax.psum(count, axis_name) if axis_name else count


def _with_norm_of(grads, reference):
    """`grads`, as long as `reference`; what is zero stays zero."""
    norm, wanted = optax.tree.norm(grads), optax.tree.norm(reference)
    is_regular = (norm > 0) & jnp.isfinite(norm)
    # An infinite norm makes NaN of every entry, not the zeros that would hide it.
    scale = jnp.where(is_regular, wanted / norm, 0 * norm)
    return jax.tree.map(lambda grad: (scale * grad).astype(grad.dtype), grads)


def _updated(state, optimizer, grads, model_state) -> TrainState:
    """The state after the update by `grads`."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return state._replace(
        params=optax.apply_updates(state.params, updates),
        model_state=model_state,
        opt_state=opt_state,
        step=_updates_so_far(opt_state, otherwise=state.step + 1),
    )


def _updates_so_far(opt_state, otherwise: jax.Array) -> jax.Array:
    """What an accumulating optimizer counts; any other updates at each step."""
    if isinstance(opt_state, AccumulateGradientsState):
        opt_state = opt_state.multi_steps
    return opt_state.gradient_step if isinstance(opt_state, optax.MultiStepsState) else otherwise


def _moving_average(old: TrainState, new: TrainState, decay: jax.Array) -> Any:
    """The average after an update; the old one after a micro step that was none."""
    decay = jnp.minimum(decay, (1 + old.step) / (10 + old.step))
    is_update = new.step > old.step
    step_size = jnp.where(is_update, 1 - decay, 0)

    def average(value, old_average):
        if jnp.issubdtype(value.dtype, jnp.floating):
            average = optax.incremental_update(value, old_average, step_size)
            return average.astype(old_average.dtype)
        return jnp.where(is_update, value, old_average)  # a count, say, or a random key

    return jax.tree.map(average, Variables(new.params, new.model_state), old.ema)


def _difficulties(batch, logits, number: int) -> tuple[jax.Array, jax.Array]:
    """Positions of a batch's examples, `number` where one is padding, and their losses."""
    losses = softmax_cross_entropy(logits, batch["label"])
    losses = losses.mean(tuple(range(1, losses.ndim)))
    index = batch["index"]
    if "mask" in batch:
        mask = batch["mask"]
        index = jnp.where((mask > 0).any(tuple(range(1, mask.ndim))), index, number)
    return index, losses


def gathered(tree: Any, axis_name: str | None) -> Any:
    """Leaves [batch, ...] of this device, those of all devices one after the other."""
    return jax.lax.all_gather(tree, axis_name, tiled=True) if axis_name else tree


def _map_floats(function, tree):
    def on_leaf(leaf):
        return function(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(on_leaf, tree)


def _unless_nonfinite(old: TrainState, new: TrainState, metrics: Metrics) -> TrainState:
    """`new`, or, where something in it is not finite, `old` with this micro step counted."""
    judged = metrics["loss"], metrics["grad_norm"], optax.tree.norm(new.params)
    is_finite = jnp.isfinite(jnp.stack(judged)).all()
    skipping = old._replace(micro_step=new.micro_step, skipped=old.skipped + 1)
    return jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), new, skipping)


def _keys(state: TrainState, number: int, axis_name: str | None) -> jax.Array:
    """Keys of this micro step, different on every device."""
    key = jax.random.fold_in(state.key, state.micro_step)
    device = jax.lax.axis_index(axis_name) if axis_name else 0
    return jax.random.split(jax.random.fold_in(key, device), number)
