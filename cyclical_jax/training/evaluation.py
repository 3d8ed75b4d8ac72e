"""Accuracy and loss over a split, every example exactly once."""

import functools

import jax

from cyclical_jax.data.batches import padded_order
from cyclical_jax.data.sources import Arrays
from cyclical_jax.losses import softmax_cross_entropy
from cyclical_jax.training.assembly import assemble_model
from cyclical_jax.training.devices import AXIS, on_all_devices, split_over_devices
from cyclical_jax.training.images import take_batch
from cyclical_jax.training.recipe import Structure
from cyclical_jax.training.state import TrainState

_BATCH_SIZE = 1024  # a device at most; bounds the memory of the activations


def evaluate(
    structure: Structure, num_classes: int, state: TrainState, split: Arrays
) -> dict[str, float]:
    """Mean cross entropy (temperature 1, no smoothing) and accuracy over `split`, and its size.

    Args:
      structure: Of the run that `state` belongs to.
      num_classes: Number of classes.
      state: Only its parameters and model state are read.
      split: {"image": [n, height, width, channels], "label": [n]}, placed on all devices.

    Returns:
      {"loss", "accuracy", "num_examples"}.
    """
    num_examples, num_devices = len(split["label"]), jax.local_device_count()
    batch_size = min(_BATCH_SIZE, -(-num_examples // num_devices)) * num_devices
    indices, mask = (
        split_over_devices(array, axis=1) for array in padded_order(num_examples, batch_size)
    )
    model_variables = (state.params, state.model_state)
    sums = _summing_pass(structure, num_classes)(model_variables, (split, (indices, mask)))
    loss, correct, count = (float(value) for value in sums)
    return {"loss": loss / count, "accuracy": correct / count, "num_examples": int(count)}


@functools.lru_cache(maxsize=32)
def _summing_pass(structure, num_classes):
    """One compiled pass: (variables, (split, (indices, mask))) -> sums over all devices."""
    model = assemble_model(structure, num_classes, AXIS)

    def batch_sums(variables, batch, mask):
        logits, _ = model.apply(*variables, batch["image"], train=False)
        loss = softmax_cross_entropy(logits, batch["label"])
        correct = logits.argmax(-1) == batch["label"]
        return (loss * mask).sum(), (correct * mask).sum(), mask.sum()

    def summing_pass(variables, inputs):
        split, batches = inputs
        sums = jax.lax.map(
            lambda batch: batch_sums(variables, take_batch(split, batch[0]), batch[1]), batches
        )
        return jax.lax.psum(jax.tree.map(lambda values: values.sum(), sums), AXIS)

    return on_all_devices(summing_pass, in_axes=(None, (None, 0)))
