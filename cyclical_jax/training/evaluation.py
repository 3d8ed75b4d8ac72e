"""Accuracy and loss over a split, every example exactly once."""

import functools

import jax
import numpy as np

from cyclical_jax.data.batches import in_order, rows
from cyclical_jax.data.feed import prefetched
from cyclical_jax.data.sources import Arrays
from cyclical_jax.losses import softmax_cross_entropy
from cyclical_jax.training.assembly import assemble_model
from cyclical_jax.training.devices import AXIS, Throttle, on_all_devices
from cyclical_jax.training.images import as_batch, send_batch
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
      state: Only its variables are read; the moving average of them, where there is one.
      split: {"image": uint8 [n, height, width, channels], "label": [n]}, on the host.

    Returns:
      {"loss", "accuracy", "num_examples"}.
    """
    num_examples, num_devices = len(split["label"]), jax.local_device_count()
    batch_size = min(_BATCH_SIZE, -(-num_examples // num_devices)) * num_devices
    batch_sums = _batch_sums(structure, num_classes)
    selections = rows(in_order(num_examples, batch_size))
    batches = prefetched(functools.partial(send_batch, split), selections)
    sums, throttle = [], Throttle()
    for batch in batches:
        sums.append(batch_sums(state.evaluated, batch))
        throttle(sums[-1])
    loss, correct, count = np.array(jax.device_get(sums), np.float64).sum(0)
    return {
        "loss": float(loss / count),
        "accuracy": float(correct / count),
        "num_examples": int(count),
    }


@functools.lru_cache(maxsize=32)
def _batch_sums(structure, num_classes):
    """Compiled: (variables, batch) -> sums of loss, of right answers and of examples."""
    model = assemble_model(structure, num_classes, AXIS)

    def batch_sums(variables, batch):
        mask, label = batch["mask"], batch["label"]
        logits, _ = model.apply(*variables, as_batch(batch)["image"], train=False)
        loss, correct = softmax_cross_entropy(logits, label), logits.argmax(-1) == label
        return jax.lax.psum(((loss * mask).sum(), (correct * mask).sum(), mask.sum()), AXIS)

    return on_all_devices(batch_sums, in_axes=(None, 0))
