"""Schedules, optimizer, loss and train step of a structure and its numbers.

The numbers may be traced: everything here is built inside the compiled program.
"""

from collections.abc import Mapping

import jax
import optax

from cyclical_jax import transforms
from cyclical_jax.augment import augment
from cyclical_jax.models import Model, make_model
from cyclical_jax.schedules import cyclical_schedule
from cyclical_jax.training.accumulation import windows_schedule
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.fields import LOSS_KNOBS, LOSSES, MODEL_KNOBS, OPTIMIZER_OPTIONS
from cyclical_jax.training.learning_rate import scheduled_rate
from cyclical_jax.training.recipe import Numbers, Structure
from cyclical_jax.training.step import (
    Batch,
    BatchTransform,
    LossTerm,
    TrainStep,
    Values,
    make_train_step,
)

Schedules = Mapping[str, optax.Schedule]


def assemble_model(structure: Structure, num_classes: int, axis_name: str | None) -> Model:
    """The model, whose BatchNorm averages over `axis_name`."""
    options = dict(structure.model_options)
    return make_model(structure.model, num_classes=num_classes, axis_name=axis_name, **options)


def make_schedules(structure: Structure, numbers: Numbers, timetable: Timetable) -> Schedules:
    """A schedule for each knob that is on."""
    curves, total_steps = dict(structure.curves), timetable.total_steps
    schedules = {
        name: cyclical_schedule(
            knob.easy,
            knob.hard,
            total_steps,
            factor=knob.factor,
            shape=curves[name].shape,
            scale=curves[name].scale,
            num_cycles=structure.num_cycles,
        )
        for name, knob in numbers.items()
    }
    schedules["learning_rate"] = scheduled_rate(structure, schedules["learning_rate"], timetable)
    return schedules


def make_optimizer(
    structure: Structure, schedules: Schedules, timetable: Timetable
) -> optax.GradientTransformation:
    """The chain: clip the gradient, precondition it, decay the weights, scale by the rate.

    As in SGD and AdamW of Optax, the decay is multiplied by the learning rate. Biases and the
    parameters of normalisation layers do not decay.
    """
    clips = {
        "max_norm": transforms.clip_by_global_norm,
        "max_delta": transforms.clip,
        "clipping": transforms.adaptive_grad_clip,
    }
    chain = [clip(schedules[name]) for name, clip in clips.items() if name in schedules]
    if structure.optimizer == "adamw":
        betas = {name: schedules[name] for name in OPTIMIZER_OPTIONS["adamw"]}
        chain.append(optax.inject_hyperparams(optax.scale_by_adam)(**betas))
    if "weight_decay" in schedules:
        chain.append(transforms.add_decayed_weights(schedules["weight_decay"], mask=_is_matrix))
    if structure.optimizer == "sgd":
        trace = optax.inject_hyperparams(optax.trace, static_args="nesterov")
        chain.append(trace(decay=schedules["momentum"], nesterov=structure.nesterov))
    chain.append(optax.scale_by_learning_rate(schedules["learning_rate"]))
    return _accumulating(optax.chain(*chain), timetable)


def make_loss_term(structure: Structure) -> LossTerm:
    """The loss of the labels, at the knobs' values."""
    loss_function = LOSSES[structure.loss]
    names = ("temperature", "label_smoothing", *LOSS_KNOBS[structure.loss])

    def loss(logits: jax.Array, batch: Batch, values: Values) -> jax.Array:
        knobs = {name: values[name] for name in names}
        return loss_function(logits, batch["label"], **knobs)

    return LossTerm(loss)


def make_batch_transforms(
    structure: Structure, schedules: Schedules, num_classes: int
) -> list[BatchTransform]:
    """The augmentation, where there is some."""
    if not structure.augmentation:
        return []
    transform = augment(structure.augmentation, num_classes=num_classes)
    return [BatchTransform(transform, schedules["strength"])]


def make_norm_terms(structure: Structure) -> list[LossTerm]:
    """The plain loss whose gradient's norm the gradient gets, where it gets one."""
    if structure.gradient_norm is None:
        return []
    loss_function = LOSSES[structure.gradient_norm]

    def loss(logits: jax.Array, batch: Batch, values: Values) -> jax.Array:
        return loss_function(logits, batch["label"], label_smoothing=values["label_smoothing"])

    return [LossTerm(loss)]


def assemble_train_step(
    structure: Structure,
    numbers: Numbers,
    *,
    timetable: Timetable,
    num_classes: int,
    axis_name: str | None,
) -> TrainStep:
    """The train step of a run."""
    schedules = make_schedules(structure, numbers, timetable)
    return make_train_step(
        assemble_model(structure, num_classes, axis_name),
        make_optimizer(structure, schedules, timetable),
        [make_loss_term(structure)],
        make_batch_transforms(structure, schedules, num_classes),
        norm_terms=make_norm_terms(structure),
        knobs=schedules,
        model_knobs=[name for name in MODEL_KNOBS if name in schedules],
        ema_decay=schedules.get("ema_decay"),
        skip_nonfinite=structure.on_nonfinite == "skip",
        axis_name=axis_name,
    )


def _accumulating(optimizer, timetable: Timetable) -> optax.GradientTransformation:
    if all(size == 1 for _, size in timetable.windows):
        return optimizer
    return transforms.accumulate_gradients(optimizer, windows_schedule(timetable.windows))


def _is_matrix(params):
    return jax.tree.map(lambda param: param.ndim > 1, params)
