"""The loop over epochs; an epoch is one compiled call over data that rests on the devices."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax.data.batches import epoch_order
from cyclical_jax.data.sources import Dataset
from cyclical_jax.training import assembly
from cyclical_jax.training.devices import AXIS, on_all_devices, place, split_over_devices
from cyclical_jax.training.evaluation import evaluate
from cyclical_jax.training.images import take_batch
from cyclical_jax.training.recipe import Numbers, Recipe, RecipeError, Structure
from cyclical_jax.training.state import TrainState, init_state

Row = dict[str, Any]  # what is logged of an epoch


class NonFiniteError(FloatingPointError):
    """The loss or the gradient stopped being a number."""


def check_devices(structure: Structure) -> None:
    """Raises RecipeError unless a batch can be shared evenly by all devices; needs no data."""
    if structure.batch_size % jax.device_count():
        raise RecipeError(
            f"batch_size must be a multiple of the {jax.device_count()} devices, "
            f"got {structure.batch_size}."
        )


def check_data(recipe: Recipe, dataset: Dataset) -> None:
    """Raises RecipeError for too few updates for the cycles, or labels that name no class."""
    labels = dataset.train["label"]
    _check_length(recipe.structure, len(labels))
    if labels.min() < 0 or labels.max() >= dataset.num_classes:
        raise RecipeError(
            f"labels of {recipe.dataset} must be 0 to {dataset.num_classes - 1}, "
            f"got {labels.min()} to {labels.max()}."
        )


def train(
    recipe: Recipe, dataset: Dataset, *, seed: int, report: Callable[[Row], None]
) -> TrainState:
    """Trains a model from scratch on all devices.

    Args:
      recipe: What to train and how.
      dataset: Its train and validation splits are read; its test split is not.
      seed: Of the initial parameters, of the order of the examples and of all randomness.
      report: Called with a row after each epoch: step, epoch, loss, accuracy, grad_norm (means over
        the epoch), every knob at the epoch's last update, val_loss, val_accuracy,
        images_per_second.

    Returns:
      The state after the last update.

    Raises:
      RecipeError: A batch that cannot be shared by the devices, or too few updates for a cycle.
      NonFiniteError: Loss or gradient is not finite at the end of an epoch.
    """
    structure, num_classes = recipe.structure, dataset.num_classes
    num_train = len(dataset.train["label"])
    check_devices(structure)
    check_data(recipe, dataset)
    numbers = place(jax.tree.map(jnp.float32, recipe.numbers))
    train_split, validation = place(dataset.train), place(dataset.validation)
    state = place(initial_state(structure, numbers, dataset, seed))
    run_epoch = compiled_epoch(structure, num_classes)
    for epoch in range(structure.num_epochs):
        start = time.perf_counter()
        order = epoch_order(num_train, structure.batch_size, seed=seed, epoch=epoch)
        inputs = (numbers, train_split, split_over_devices(order, axis=1))
        state, metrics = run_epoch(state, inputs)
        row = _row(epoch, jax.device_get(metrics))
        row["images_per_second"] = order.size / (time.perf_counter() - start)
        scores = evaluate(structure, num_classes, state, validation)
        row |= {"val_loss": scores["loss"], "val_accuracy": scores["accuracy"]}
        _check_finite(row)
        report(row)
    return state


def initial_state(
    structure: Structure, numbers: Numbers, dataset: Dataset, seed: int
) -> TrainState:
    """The state before the first update, by one compiled call."""
    image_shape = (1, *dataset.train["image"].shape[1:])
    total_steps = _total_steps(structure, len(dataset.train["label"]))
    return _initial_state(structure, dataset.num_classes, image_shape, total_steps, numbers, seed)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _initial_state(structure, num_classes, image_shape, total_steps, numbers, seed):
    schedules = assembly.make_schedules(structure, numbers, total_steps)
    optimizer = assembly.make_optimizer(structure, schedules)
    model = assembly.assemble_model(structure, num_classes, axis_name=None)
    return init_state(model, optimizer, jnp.zeros(image_shape), seed)


@functools.lru_cache(maxsize=32)
def compiled_epoch(structure: Structure, num_classes: int):
    """The compiled epoch, (state, (numbers, split, order)) -> (state, metrics [steps])."""

    def epoch(state, inputs):
        numbers, split, order = inputs
        step = assembly.assemble_train_step(
            structure,
            numbers,
            total_steps=_total_steps(structure, len(split["label"])),
            num_classes=num_classes,
            axis_name=AXIS,
        )
        return jax.lax.scan(lambda s, indices: step(s, take_batch(split, indices)), state, order)

    return on_all_devices(epoch, in_axes=(None, (None, None, 0)), donate=True)


def _total_steps(structure: Structure, num_train: int) -> int:
    return structure.num_epochs * (num_train // structure.batch_size)


def _check_length(structure: Structure, num_train: int) -> None:
    """A cycle needs two updates to turn between."""
    total_steps, least = _total_steps(structure, num_train), structure.num_cycles + 1
    if total_steps < least:
        raise RecipeError(
            f"cycle.num_cycles {structure.num_cycles} needs at least {least} updates, but "
            f"num_epochs {structure.num_epochs} at batch_size {structure.batch_size} make "
            f"{total_steps} of {num_train} training examples."
        )


def _row(epoch: int, metrics: dict[str, np.ndarray]) -> Row:
    """Means of what is measured and last values of the knobs."""
    num_steps = len(metrics["loss"])
    measured = {name: float(metrics.pop(name).mean()) for name in ("loss", "accuracy", "grad_norm")}
    # By way of its shortest decimal, so that the float32 nearest to 0.1 is logged as 0.1.
    knobs = {name: float(str(values[-1])) for name, values in metrics.items()}
    return {"step": (epoch + 1) * num_steps, "epoch": epoch + 1, **measured, **knobs}


def _check_finite(row: Row) -> None:
    for name in ("loss", "grad_norm", "val_loss"):
        if not math.isfinite(row[name]):
            known = {key: value for key, value in row.items() if math.isfinite(value)}
            raise NonFiniteError(
                f"{name} is {row[name]} in epoch {row['epoch']}, at {known}; "
                "try a lower learning_rate or a clip."
            )
