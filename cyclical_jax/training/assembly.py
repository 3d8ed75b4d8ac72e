"""Schedules, optimizer, loss and train step of a structure and its numbers.

The numbers may be traced: everything here is built inside the compiled program.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from cyclical_jax import transforms
from cyclical_jax.augment import augment
from cyclical_jax.curriculum import difficulty_ranks, sample_weights
from cyclical_jax.data import UNLABELLED
from cyclical_jax.distillation import distillation_loss
from cyclical_jax.finetuning import layers_by_name, scale_by_layer
from cyclical_jax.schedules import cyclical_schedule
from cyclical_jax.semisupervised import pseudo_label_loss, pseudo_labels
from cyclical_jax.training.accumulation import windows_schedule
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.fields import (
    LOSS_KNOBS,
    LOSSES,
    MODEL_KNOBS,
    MULTILABEL,
    OPTIMIZER_OPTIONS,
)
from cyclical_jax.training.labels import multi_hot
from cyclical_jax.training.learning_rate import scheduled_rate
from cyclical_jax.training.networks import assemble_model, layers
from cyclical_jax.training.pretrained import RANK, TEACHER, Trained
from cyclical_jax.training.recipe import Numbers, Structure
from cyclical_jax.training.step import (
    DIFFICULTY,
    Batch,
    BatchTransform,
    LossTerm,
    TrainStep,
    Values,
    gathered,
    make_train_step,
)

Schedules = Mapping[str, optax.Schedule]
WEAK, STRONG = "weak", "strong"  # views of the unlabelled images
CONFIDENT = "confident"  # the share of them that is predicted well enough to be learnt from


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
    structure: Structure,
    schedules: Schedules,
    timetable: Timetable,
    layers: Sequence[Sequence[str]] = (),
) -> optax.GradientTransformation:
    """The chain: clip the gradient, precondition it, decay the weights, scale by the rate, thaw.

    As in SGD and AdamW of Optax, the decay is multiplied by the learning rate. Biases and the
    parameters of normalisation layers do not decay. `layers` are those of `networks.layers`,
    where a share of them learns.
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
    if "share" in schedules:
        by_name = functools.partial(layers_by_name, names=layers)
        chain.append(scale_by_layer(schedules["share"], by_name))
    return _accumulating(optax.chain(*chain), timetable)


def make_loss_terms(structure: Structure, schedules: Schedules) -> list[LossTerm]:
    """The loss of the labels, a teacher's, and that of the examples without labels."""
    terms = [make_loss_term(structure)]
    if "teacher_weight" in schedules:
        weight = schedules["teacher_weight"]
        labels = terms[0]._replace(weight=lambda count: 1 - weight(count))
        terms = [labels, LossTerm(_loss_of_teacher, weight)]
    if "unlabelled_weight" in schedules:
        weight = schedules["unlabelled_weight"]
        views, measures = (STRONG, WEAK), ((CONFIDENT, _is_confident),)
        terms.append(LossTerm(_loss_of_unlabelled, weight, views, measures))
    return terms


def measures_of(structure: Structure) -> tuple[str, ...]:
    """The names of what its loss terms measure."""
    return (CONFIDENT,) if structure.unlabelled_batch_size else ()


def _loss_of_teacher(logits: jax.Array, batch: Batch, values: Values) -> jax.Array:
    temperature = values["teacher_temperature"]
    return distillation_loss(logits, batch[TEACHER], temperature=temperature)


def _loss_of_unlabelled(
    strong: jax.Array, weak: jax.Array, batch: Batch, values: Values
) -> jax.Array:
    return pseudo_label_loss(strong, weak, values["threshold"])


def _is_confident(strong: jax.Array, weak: jax.Array, batch: Batch, values: Values) -> jax.Array:
    return pseudo_labels(weak, values["threshold"]) >= 0


def make_loss_term(structure: Structure) -> LossTerm:
    """The loss of the labels, at the knobs' values."""
    loss_function = LOSSES[structure.loss]
    is_multilabel = structure.loss in MULTILABEL

    def loss(logits: jax.Array, batch: Batch, values: Values) -> jax.Array:
        knobs = {name: values[name] for name in LOSS_KNOBS[structure.loss]}
        labels = multi_hot(batch["label"], logits) if is_multilabel else batch["label"]
        return loss_function(logits, labels, **knobs)

    return LossTerm(loss)


def make_batch_transforms(
    structure: Structure,
    schedules: Schedules,
    num_classes: int,
    axis_name: str | None,
    teacher: Trained | None = None,
) -> list[BatchTransform]:
    """What is done to a batch first; the teacher sees the images that the model sees."""
    transforms = []
    if structure.augmentation:
        transform = augment(structure.augmentation, num_classes=num_classes)
        transforms.append(BatchTransform(transform, schedules["strength"]))
    if structure.unlabelled_batch_size:
        transforms += [_view(WEAK, structure.weak), _view(STRONG, structure.strong)]
    if teacher is not None:
        transforms.append(BatchTransform(lambda batch, *_: _with_teacher(batch, teacher)))
    if "preference" in schedules:
        is_running = "average_decay" in schedules
        weights = functools.partial(_weights_in_batch, axis_name) if is_running else _weights
        transforms.append(BatchTransform(_weighted_by(weights), schedules["preference"]))
    return transforms


def _view(name: str, operations: Sequence[str]) -> BatchTransform:
    """The unlabelled images, changed in full strength, as another entry of the batch."""
    change = augment(operations)

    def transform(batch, key, strength):
        return batch | {name: change({"image": batch[UNLABELLED]}, key, strength)["image"]}

    return BatchTransform(transform)


def _with_teacher(batch: Batch, teacher: Trained) -> Batch:
    return batch | {TEACHER: teacher.logits(batch["image"])}


def _weighted_by(weights: Callable[[Batch, jax.Array], jax.Array]):
    def transform(batch, key, preference):
        own = batch.get("weight", jnp.float32(1))
        return batch | {"weight": weights(batch, preference) * own}

    return transform


def _weights(batch: Batch, preference: jax.Array) -> jax.Array:
    """By the place of each example among all."""
    return sample_weights(batch[RANK], preference)


def _weights_in_batch(axis_name: str | None, batch: Batch, preference: jax.Array) -> jax.Array:
    """By the place of each example in the batch of all devices, with a mean of 1 over it."""
    own = batch[DIFFICULTY], batch.get("mask", jnp.ones_like(batch[DIFFICULTY]))
    difficulty, mask = gathered(own, axis_name)
    weights = sample_weights(difficulty_ranks(difficulty), preference)
    weights = weights / weights.mean(where=mask > 0)
    if axis_name is None:
        return weights
    start = jax.lax.axis_index(axis_name) * len(own[0])
    return jax.lax.dynamic_slice_in_dim(weights, start, len(own[0]))


def make_norm_terms(structure: Structure, terms: Sequence[LossTerm]) -> list[LossTerm]:
    """The `terms` with the plain loss of the labels, whose gradient's norm the gradient gets.

    None where it keeps its own. The other terms are in both: what they teach is not rescaled away
    where the labels are learnt.
    """
    if structure.gradient_norm is None:
        return []
    loss_function = LOSSES[structure.gradient_norm]

    def loss(logits: jax.Array, batch: Batch, values: Values) -> jax.Array:
        return loss_function(logits, batch["label"], label_smoothing=values["label_smoothing"])

    of_labels, *others = terms
    return [of_labels._replace(loss=loss), *others]


def assemble_train_step(
    structure: Structure,
    numbers: Numbers,
    *,
    timetable: Timetable,
    num_classes: int,
    axis_name: str | None,
    teacher: Trained | None = None,
    image_shape: tuple[int, ...] | None = None,
    micro_steps: int = 1,
) -> TrainStep:
    """The train step of a run.

    `teacher` is asked at every step, if it is there; `image_shape`, with a batch axis, is needed
    where a share of the layers learns; a batch counts as `micro_steps`.
    """
    schedules = make_schedules(structure, numbers, timetable)
    names = layers(structure, image_shape) if image_shape and "share" in schedules else ()
    terms = make_loss_terms(structure, schedules)
    return make_train_step(
        assemble_model(structure, num_classes, axis_name),
        make_optimizer(structure, schedules, timetable, names),
        terms,
        make_batch_transforms(structure, schedules, num_classes, axis_name, teacher),
        norm_terms=make_norm_terms(structure, terms),
        knobs=schedules,
        model_knobs=[name for name in MODEL_KNOBS if name in schedules],
        ema_decay=schedules.get("ema_decay"),
        difficulty_decay=schedules.get("average_decay"),
        skip_nonfinite=structure.on_nonfinite == "skip",
        micro_steps=micro_steps,
        axis_name=axis_name,
    )


def _accumulating(optimizer, timetable: Timetable) -> optax.GradientTransformation:
    if timetable.as_one_batch or all(size == 1 for _, size in timetable.windows):
        return optimizer
    return transforms.accumulate_gradients(optimizer, windows_schedule(timetable.windows))


def _is_matrix(params):
    return jax.tree.map(lambda param: param.ndim > 1, params)
