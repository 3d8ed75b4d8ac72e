"""One step of training, as a pure function of state and batch.

recall -> transforms in their order -> one forward pass -> weighted sum of the terms -> pmean
-> optimizer -> memories. If gradients are accumulated, their pmean is taken once per update.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cyclical_jax.models import Model
from cyclical_jax.opt_state import find_values
from cyclical_jax.schedules import as_schedule
from cyclical_jax.training import accumulating
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.technique import (
    MAIN,
    Batch,
    BatchTransform,
    LossTerm,
    Memory,
    Schedules,
    Seen,
    Values,
    columns,
)
from cyclical_jax.transforms import AccumulateGradientsState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]

MEASURED = ("loss", "grad_norm")  # by every task


class Program(NamedTuple):
    """The parts of a train step.

    Attributes:
      model: The model; its own axis, for BatchNorm, must be `axis_name` too.
      optimizer: Gradients -> updates; its schedules count updates by themselves. Accumulation must
        be outermost in it.
      terms: The loss is their weighted sum. A term of the main view is a mean over the examples
        that are no padding. All views that the terms name go through the model together.
      transforms: Changes of the batch before the main view is made, in this order; each has a
        random key of its own.
      view: The main view of a batch.
      later: Changes of the batch after that, likewise.
      reference: Where there are some, the gradient g of `terms` gets the norm of the gradient c of
        these, of the same forward pass, and keeps its direction: `g ||c|| / ||g||`, 0 where g is.
        A loss that cycles rescales its gradient too, as a learning rate would; this tells the two
        effects apart.
      knobs: Schedules whose values the terms and memories read and the metrics report.
      columns: Their names among the metrics, by key; None is the last word of each key.
      model_knobs: Keys of those that the model's `apply` takes, by the last word.
      memories: What is carried beside parameters and optimizer, by name.
      skip_nonfinite: Whether a batch whose loss, gradient or new parameters are not finite changes
        nothing but `micro_step` and `skipped`: its update does not count, for any schedule.
      micro_steps: Number of micro steps that a batch counts as.
      every: Where `optimizer` is one of `accumulate_gradients`, the micro steps of each update. The
        devices then average the gradient once an update, and `grad_norm` is that of the update.
      axis_name: Mapped axis over which gradients and metrics are averaged; None for one device.
    """

    model: Model
    optimizer: optax.GradientTransformation
    terms: Sequence[LossTerm]
    transforms: Sequence[BatchTransform] = ()
    view: Callable[[Batch], Any] = lambda batch: batch["image"]
    later: Sequence[BatchTransform] = ()
    reference: Sequence[LossTerm] = ()
    knobs: Schedules = {}
    columns: Mapping[str, str] | None = None
    model_knobs: Sequence[str] = ()
    memories: Mapping[str, Memory] = {}
    skip_nonfinite: bool = False
    micro_steps: int = 1
    every: optax.Schedule | None = None
    axis_name: str | None = None

    @property
    def averages_once(self) -> bool:
        """True if the gradient of a micro step stays on its device until the end of the update.

        It does not if its norm is needed at once, or if batches may be skipped: updates are then
        longer than planned, and a run may be stopped within one.
        """
        return self.every is not None and not (self.reference or self.skip_nonfinite)


def make_train_step(program: Program) -> TrainStep:
    """Returns the train step `(state, batch) -> (state, metrics)`, a pure function.

    The metrics are scalars: loss, grad_norm, num_examples (and, if gradients are accumulated,
    examples_of_update, which is 0 within an update), the measures of the terms, and the value in
    force of each knob and of each transformation of this library in the optimizer.
    """
    names = program.columns or columns(list(program.knobs))

    def train_step(state, batch):
        values = {key: schedule(state.step) for key, schedule in program.knobs.items()}
        number = len(program.transforms) + len(program.later)
        *keys, model_key = _keys(state, number + 1, program.axis_name)
        batch = _changed(program, state, batch, keys)
        grads, model_state, metrics, outputs = _gradients(program, state, batch, values, model_key)
        metrics["num_examples"] = _num_examples(batch, program.axis_name)
        opt_state, grads, metrics = _accumulated(program, state.opt_state, grads, metrics)
        new = _updated(state._replace(opt_state=opt_state), program.optimizer, grads, model_state)
        new = new._replace(micro_step=state.micro_step + program.micro_steps)
        seen = Seen(state, new, batch, outputs, values, program.axis_name)
        new = new._replace(memory=_remembered(program.memories, seen))
        if program.skip_nonfinite:
            new = _unless_nonfinite(state, new, metrics)
        # The knobs win: within an accumulated update the optimizer still has those of the last one.
        # What a technique injects into Optax's transformations is a knob by another name.
        reported = {names[key]: value for key, value in values.items()}
        return new, find_values(new.opt_state, injected=False) | metrics | reported

    return train_step


# ---- before the forward pass


def _keys(state: TrainState, number: int, axis_name: str | None) -> jax.Array:
    """Returns keys of this micro step, different on every device."""
    key = jax.random.fold_in(state.key, state.micro_step)
    device = jax.lax.axis_index(axis_name) if axis_name else 0
    return jax.random.split(jax.random.fold_in(key, device), number)


def _changed(program: Program, state: TrainState, batch: Batch, keys) -> Batch:
    """Returns the batch after all changes, as the model and the terms get it."""
    for name, memory in program.memories.items():
        batch = memory.recall(state.memory[name], batch)
    batch = _transformed(program.transforms, state.step, batch, keys[: len(program.transforms)])
    batch = batch | {MAIN: program.view(batch)}
    return _transformed(program.later, state.step, batch, keys[len(program.transforms) :])


def _transformed(transforms: Sequence[BatchTransform], step, batch: Batch, keys) -> Batch:
    for (transform, strength), key in zip(transforms, keys, strict=True):
        # Compiled apart from what comes before it: fused with that, its last bits would differ
        # between a call of one step and a call of many, and so would a run that was stopped.
        batch = jax.lax.optimization_barrier(batch)
        batch = transform(batch, key, as_schedule(strength)(step))
    return batch


# ---- loss and gradients


def _gradients(program: Program, state, batch, values, key):
    """Returns the gradients, the new model state, the metrics and the outputs of a micro step."""
    named = (view for term in (*program.terms, *program.reference) for view in term.views)
    views = tuple(dict.fromkeys((MAIN, *named)))

    mean_over_devices = functools.partial(_mean_over_devices, program.axis_name)
    average = _averager(batch, mean_over_devices)
    forward = _forward(program, views, state, batch, values, key)

    def loss_of(outputs, terms):
        means = (_mean_of(term, outputs, state.step, batch, values, average) for term in terms)
        return sum(means)

    outputs, backward, model_state = jax.vjp(forward, state.params, has_aux=True)
    loss, slopes = jax.value_and_grad(loss_of)(outputs, program.terms)
    (grads,) = backward(slopes)
    metrics = {"loss": loss} | _measures(program.terms, outputs, batch, values, average)
    if program.averages_once:
        metrics = mean_over_devices(metrics | {"grad_norm": optax.tree.norm(grads)})
    else:
        metrics, grads = mean_over_devices((metrics, grads))
        if program.reference:
            (reference,) = backward(jax.grad(loss_of)(outputs, program.reference))
            grads = _with_norm_of(grads, mean_over_devices(reference))
        metrics |= {"grad_norm": optax.tree.norm(grads)}
    # Equal on all devices already if the model knows its axis; else they would part.
    model_state = _map_floats(lambda leaf: _sum_of_shares(leaf, program.axis_name), model_state)
    return grads, model_state, metrics, outputs


def _forward(program: Program, views, state, batch, values, key):
    """Returns the function parameters -> ({view: outputs}, new model state)."""
    rates = {knob.rpartition(".")[2]: values[knob] for knob in program.model_knobs}

    def forward(params):
        inputs, sizes = _joined([batch[view] for view in views])
        variables = params, state.model_state
        outputs, model_state = program.model.apply(*variables, inputs, train=True, key=key, **rates)
        return dict(zip(views, _parted(outputs, sizes), strict=True)), model_state

    return forward


def _mean_of(term: LossTerm, outputs, step, batch: Batch, values: Values, average) -> jax.Array:
    """Returns this device's part of the weighted mean of a term."""
    losses = term.loss(*[outputs[view] for view in term.views], batch, values)
    _check_losses(losses, batch[term.views[0]])
    losses = as_schedule(term.weight)(step) * losses
    if MAIN not in term.views:
        return jnp.mean(losses)
    if "weight" in batch:
        losses = losses * _as_wide(batch["weight"], losses)
    return average(losses)


def _check_losses(losses: jax.Array, view: Any) -> None:
    size = len(jax.tree.leaves(view)[0])
    if jnp.shape(losses)[:1] != (size,):
        raise RecipeError(
            f"a loss must return one value per example, [{size}], got {list(jnp.shape(losses))}."
        )


def _measures(terms: Sequence[LossTerm], outputs, batch: Batch, values: Values, average) -> Metrics:
    """Returns this device's part of the mean of each measure of the terms."""
    found: Metrics = {}
    for term in terms:
        own = [outputs[view] for view in term.views]
        mean = average if MAIN in term.views else jnp.mean
        found |= {name: mean(of(*own, batch, values)) for name, of in term.measures}
    return found


def _joined(inputs: Sequence[Any]) -> tuple[Any, list[int]]:
    """Returns the inputs of several views as one batch, and how many there are of each."""
    joined = (
        jax.tree.map(lambda *of: jnp.concatenate(of), *inputs) if len(inputs) > 1 else inputs[0]
    )
    return joined, [len(jax.tree.leaves(of_view)[0]) for of_view in inputs]


def _parted(outputs: Any, sizes: Sequence[int]) -> list[Any]:
    """Returns the outputs of each view."""
    if len(sizes) == 1:
        return [outputs]
    leaves, structure = jax.tree.flatten(outputs)
    ends = list(itertools.accumulate(sizes))[:-1]
    of_views = zip(*(jnp.split(leaf, ends) for leaf in leaves), strict=True)
    return [jax.tree.unflatten(structure, own) for own in of_views]


def _averager(batch, mean_over_devices) -> Callable[[jax.Array], jax.Array]:
    """Returns a function: values [batch] -> their sum over the number of real examples.

    The number is the mean over the devices, so that the mean over the devices of the results is the
    mean over all examples.
    """
    if "mask" not in batch:
        return jnp.mean

    def average(values):
        is_real = _as_wide(batch["mask"], values) > 0
        count = mean_over_devices(is_real.sum(dtype=jnp.float32))
        return jnp.where(is_real, values, 0).sum() / jnp.where(count > 0, count, 1)

    return average


def _as_wide(values, like) -> jax.Array:
    """Returns values per example, repeated over the further axes of `like`."""
    axes = tuple(range(jnp.ndim(values), like.ndim))
    return jnp.broadcast_to(jnp.expand_dims(values, axes), like.shape)


def _num_examples(batch, axis_name) -> jax.Array:
    if "mask" in batch:
        count = (batch["mask"] > 0).sum(dtype=jnp.int32)
    else:
        count = len(jax.tree.leaves(batch[MAIN])[0])  # the sum of plain numbers sends nothing
    return jnp.int32(jax.lax.psum(count, axis_name) if axis_name else count)


def _with_norm_of(grads, reference):
    """Returns `grads` scaled to the norm of `reference`; zeros stay zeros."""
    norm, wanted = optax.tree.norm(grads), optax.tree.norm(reference)
    is_regular = (norm > 0) & jnp.isfinite(norm)
    # An infinite norm makes NaN of every entry, not the zeros that would hide it.
    scale = jnp.where(is_regular, wanted / norm, 0 * norm)
    return jax.tree.map(lambda grad: (scale * grad).astype(grad.dtype), grads)


def _sum_of_shares(leaf: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the mean over devices; each device divides its part before all parts are added.

    The kernel that makes a leaf can divide it too. After the sum, as in `pmean`, the division would
    be a separate kernel for each leaf.
    """
    return jax.lax.psum(leaf / jax.lax.axis_size(axis_name), axis_name) if axis_name else leaf


def _map_floats(function, tree):
    def on_leaf(leaf):
        return function(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(on_leaf, tree)


def _mean_over_devices(axis_name: str | None, tree):
    return jax.lax.pmean(tree, axis_name) if axis_name else tree


# ---- the new state


def _accumulated(program: Program, opt_state, grads, metrics: Metrics):
    """Returns optimizer state and gradients for the update, and metrics of whole updates."""
    if program.every is None:
        return opt_state, grads, metrics
    axis_name = program.axis_name if program.averages_once else None
    mean_over_devices = functools.partial(_mean_over_devices, axis_name)
    found = accumulating.averaged(opt_state, grads, program.every, mean_over_devices)
    joined, of_all, is_last, norm = found
    if axis_name:
        opt_state, grads = joined, of_all
    # Within an update that of the micro step: it tells whether the gradient is finite.
    grad_norm = jnp.where(is_last, norm, metrics["grad_norm"])
    number = program.every(opt_state.gradient_step) * metrics["num_examples"]
    counts = {"examples_of_update": jnp.where(is_last, number, 0)}
    return opt_state, grads, metrics | counts | {"grad_norm": grad_norm}


def _updated(state, optimizer, grads, model_state) -> TrainState:
    """Returns the state after the update by `grads`."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return state._replace(
        params=optax.apply_updates(state.params, updates),
        model_state=model_state,
        opt_state=opt_state,
        step=_updates_so_far(opt_state, otherwise=state.step + 1),
    )


def _updates_so_far(opt_state, otherwise: jax.Array) -> jax.Array:
    """Returns the updates that an accumulating optimizer counts; others update at each step."""
    if isinstance(opt_state, AccumulateGradientsState):
        opt_state = opt_state.multi_steps
    return opt_state.gradient_step if isinstance(opt_state, optax.MultiStepsState) else otherwise


def _remembered(memories: Mapping[str, Memory], seen: Seen) -> dict[str, Any]:
    """Returns every memory after a micro step."""
    return {name: of.update(seen.old.memory[name], seen) for name, of in memories.items()}


def _unless_nonfinite(old: TrainState, new: TrainState, metrics: Metrics) -> TrainState:
    """Returns `new` or, if something in it is not finite, `old` with this micro step counted."""
    judged = metrics["loss"], metrics["grad_norm"], optax.tree.norm(new.params)
    is_finite = jnp.isfinite(jnp.stack(judged)).all()
    skipping = old._replace(micro_step=new.micro_step, skipped=old.skipped + 1)
    return jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), new, skipping)
