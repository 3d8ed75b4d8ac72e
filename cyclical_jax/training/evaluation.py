"""Accuracy, loss and calibration over a split, every example exactly once."""

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax import data
from cyclical_jax.data.batches import Select, in_order
from cyclical_jax.data.sources import Split
from cyclical_jax.losses import asymmetric_multilabel_loss, softmax_cross_entropy
from cyclical_jax.training.devices import AXIS, Throttle, on_all_devices
from cyclical_jax.training.fields import MULTILABEL
from cyclical_jax.training.images import as_batch, sent_batches
from cyclical_jax.training.labels import is_correct, multi_hot
from cyclical_jax.training.networks import assemble_model
from cyclical_jax.training.recipe import Structure
from cyclical_jax.training.state import Variables

Scores = dict[str, float]

_BATCH_SIZE = 1024  # a device at most; bounds the memory of the activations
_NUM_BINS = 15  # of the calibration error, as in Guo et al., 1706.04599


class Sums(NamedTuple):
    """Over examples that are no padding."""

    loss: jax.Array  # ()
    correct: jax.Array  # ()
    num_examples: jax.Array  # ()
    gaps: jax.Array  # [bins of confidence]: rightness less confidence


def evaluate(
    structure: Structure,
    num_classes: int,
    variables: Variables,
    split: Split,
    *,
    num_workers: int = 0,
    after_batch: Callable[[], None] = lambda: None,
) -> Scores:
    """Mean cross entropy (temperature 1, no smoothing), accuracy and calibration error of a split.

    An example is right if the class with the largest logit is one of its labels. Of a model with a
    multi-label loss the cross entropy is the binary one, summed over the classes, and probabilities
    are sigmoids.

    The calibration error is the expected one of Guo et al., 1706.04599: examples fall by their
    confidence p, the largest probability, into 15 bins of equal width; it is
    `sum_bins |sum_examples (is right - p)| / num_examples`.

    Args:
      structure: Of the run that `variables` belong to.
      num_classes: Number of classes.
      variables: Such as `TrainState.evaluated`, on all devices.
      split: {"image": uint8 [n, height, width, channels], "label": [n] indices or [n, classes]},
        on the host, or a stream.
      num_workers: Processes that read a stream.
      after_batch: Called after each batch; what it raises ends the evaluation.

    Returns:
      {"loss", "accuracy", "calibration_error", "num_examples"}.
    """
    batch_sums = _sums_on_all_devices(structure, num_classes)
    select, count = evaluation_batches(data.num_examples(split), jax.device_count())
    sent = sent_batches(split, select, start=0, stop=count, seed=0, num_workers=num_workers)
    sums, throttle = [], Throttle()
    with contextlib.closing(sent) as batches:
        for batch in batches:
            sums.append(batch_sums(variables, batch))
            throttle(sums[-1])
            after_batch()
    return scores(jax.device_get(sums))


def evaluation_batches(num_examples: int, num_devices: int) -> tuple[Select, int]:
    """Every example once, in batches that `num_devices` can share; and how many these are."""
    batch_size = min(_BATCH_SIZE, -(-num_examples // num_devices)) * num_devices
    return functools.partial(in_order, num_examples, batch_size), -(-num_examples // batch_size)


def make_batch_sums(
    structure: Structure, num_classes: int
) -> Callable[[Variables, dict[str, Any]], Sums]:
    """(variables, examples as bytes, with a mask) -> what they add to the sums."""
    model = assemble_model(structure, num_classes, axis_name=None)
    is_multilabel = structure.loss in MULTILABEL
    probabilities = jax.nn.sigmoid if is_multilabel else jax.nn.softmax
    loss_function = _binary_cross_entropy if is_multilabel else softmax_cross_entropy

    def batch_sums(variables, examples):
        mask, label = examples["mask"], examples["label"]
        logits, _ = model.apply(*variables, as_batch(examples)["image"], train=False)
        correct, confidence = is_correct(logits, label), probabilities(logits).max(-1)
        bins = jnp.ceil(confidence * _NUM_BINS).astype(jnp.int32) - 1
        return Sums(
            loss=(loss_function(logits, label) * mask).sum(),
            correct=(correct * mask).sum(),
            num_examples=mask.sum(),
            gaps=jax.ops.segment_sum((correct - confidence) * mask, bins, _NUM_BINS),
        )

    return batch_sums


def _binary_cross_entropy(logits, labels):
    plain = {"gamma_pos": 0.0, "gamma_neg": 0.0, "margin": 0.0}
    return asymmetric_multilabel_loss(logits, multi_hot(labels, logits), **plain)


def scores(sums: Iterable[Sums]) -> Scores:
    """Of the sums of all batches, on the host."""
    loss, correct, count, gaps = (np.sum(part, 0, np.float64) for part in zip(*sums, strict=True))
    return {
        "loss": float(loss / count),
        "accuracy": float(correct / count),
        "calibration_error": float(np.abs(gaps).sum() / count),
        "num_examples": int(count),
    }


@functools.lru_cache(maxsize=32)
def _sums_on_all_devices(structure, num_classes):
    batch_sums = make_batch_sums(structure, num_classes)
    return on_all_devices(
        lambda *inputs: jax.lax.psum(batch_sums(*inputs), AXIS), in_axes=(None, 0)
    )
