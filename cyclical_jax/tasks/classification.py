"""The task of one class for each image: a softmax, and a loss by name.

An example counts as right if the class with the largest logit is its label, or one of the likeliest
labels.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax import losses
from cyclical_jax.data import Stream, as_floats
from cyclical_jax.data.dataset import Split
from cyclical_jax.training.fields import Cycle, Field, RecipeError, knob, one_of
from cyclical_jax.training.technique import (
    CLASS_LOGITS,
    IMAGES,
    LABELS,
    LOGITS,
    Batch,
    LossTerm,
    Own,
    Part,
    Site,
    Spec,
    Task,
)

NAME = "loss.name"
ACCURACY = "accuracy"
CALIBRATION_ERROR = "calibration_error"
_NUM_BINS = 15  # of the calibration error, as in Guo et al., 1706.04599
_MULTILABEL = {"asymmetric_multilabel": "asymmetric", "cyclical_multilabel": "cyclical"}


_OF_ARRAYS = ("axis", "where", "class_weights")  # left at their defaults: [batch, classes]


class Loss(NamedTuple):
    """A loss that a config can name.

    Attributes:
      function: (logits [batch, classes], labels, **knobs) -> [batch].
      keys: `{"loss.<argument>": Field}` of the arguments that no other loss has.
    """

    function: Callable[..., jax.Array]
    keys: Mapping[str, Field] = {}

    @property
    def knobs(self) -> tuple[str, ...]:
        """The names of its knobs: all its arguments except those that describe the arrays."""
        names = tuple(inspect.signature(self.function).parameters)[2:]
        return tuple(name for name in names if name not in _OF_ARRAYS)


def as_loss(name: str, loss: Any) -> Loss:
    """Returns a loss of your own, or a function, as a `Loss`.

    Raises:
      RecipeError: It is neither, or an argument of the function has no key.
    """
    loss = loss if isinstance(loss, Loss) else Loss(loss)
    if not callable(loss.function):
        raise RecipeError(f"loss {name!r} must be a function or a Loss, got {loss.function!r}.")
    for knob_name in loss.knobs:
        if f"loss.{knob_name}" not in {**_KNOBS, **loss.keys}:
            raise RecipeError(
                f"loss {name!r} takes {knob_name!r}, which has no key: give "
                f"Loss(function, {{'loss.{knob_name}': knob(...)}})."
            )
    return loss


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(losses.softmax_cross_entropy),
    "focal": Loss(losses.focal_loss),
    "asymmetric_focal": Loss(losses.asymmetric_focal_loss),
    "cyclical_focal": Loss(losses.cyclical_focal_loss),
}
_KNOBS: dict[str, Field] = {
    "loss.temperature": knob(
        1.0, "divisor of the logits in the labels' loss; no other loss or score has it", above=0
    ),
    "loss.label_smoothing": knob(
        0.0, "share of each label that is spread evenly over all classes", minimum=0, maximum=1
    ),
    "loss.gamma": knob(2.0, "exponent of the focal loss, -(1 - p)^gamma log p", minimum=0),
    "loss.hardness": knob(
        {"easy": 0.0, "hard": 1.0},
        "weight of the focal loss; the confident loss gets the rest of 1",
        minimum=0,
        maximum=1,
    ),
    "loss.gamma_hc": knob(
        3.0, "exponent of the confident loss; above 3.591 this loss is not monotone", minimum=0
    ),
    "loss.gamma_pos": knob(2.0, "focal exponent of the label's class", minimum=0),
    "loss.gamma_neg": knob(2.0, "focal exponent of the other classes", minimum=0),
}


class Sums(NamedTuple):
    """Sums over examples that are no padding."""

    loss: jax.Array  # ()
    correct: jax.Array  # ()
    num_examples: jax.Array  # ()
    gaps: jax.Array  # [bins of confidence]: rightness less confidence


def is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns whether the class with the largest logit is the label, or one of the likeliest.

    Args:
      logits: [..., classes].
      labels: [...] indices, or [..., classes] numbers, where none above 0 is nobody's label.

    Returns:
      [...] float32, 1 or 0.
    """
    predicted = logits.argmax(-1)
    if labels.ndim < logits.ndim:
        return (predicted == labels).astype(jnp.float32)
    of_predicted = jnp.take_along_axis(labels, predicted[..., None], -1)[..., 0]
    is_right = (of_predicted == labels.max(-1)) & (of_predicted > 0)
    return is_right.astype(jnp.float32)


def as_batch(examples: Batch) -> Batch:
    """Returns the examples with their images as floats in [-1, 1]."""
    return examples | {"image": as_floats(examples["image"])}


def accuracy(logits: jax.Array, batch: Batch, values) -> jax.Array:
    """Returns [batch], a measure of the labels' term."""
    return is_correct(logits, batch["label"])


def summed(logits, batch: Batch, losses, probabilities) -> Sums:
    """Returns the sums of a batch, of its losses and its probabilities [batch, classes]."""
    mask, correct = batch["mask"], is_correct(logits, batch["label"])
    confidence = probabilities.max(-1)
    bins = jnp.ceil(confidence * _NUM_BINS).astype(jnp.int32) - 1
    return Sums(
        loss=(losses * mask).sum(),
        correct=(correct * mask).sum(),
        num_examples=mask.sum(),
        gaps=jax.ops.segment_sum((correct - confidence) * mask, bins, _NUM_BINS),
    )


def sums(site: Site, model, variables, batch: Batch) -> Sums:
    """Returns sums for the plain cross entropy (temperature 1, no smoothing) and the accuracy."""
    logits, _ = model.apply(*variables, batch["image"], train=False)
    losses_ = losses.softmax_cross_entropy(logits, batch["label"])
    return summed(logits, batch, losses_, jax.nn.softmax(logits))


def scores(sums: Sequence[Sums]) -> dict[str, Any]:
    """Returns {"loss", "accuracy", "calibration_error", "num_examples"} of a split.

    The calibration error is the expected one of Guo et al., 1706.04599: examples fall by their
    confidence p, the largest probability, into 15 bins of equal width; it is
    `sum_bins |sum_examples (is right - p)| / num_examples`.
    """
    loss, correct, count, gaps = (np.sum(part, 0, np.float64) for part in zip(*sums, strict=True))
    return {
        "loss": float(loss / count),
        ACCURACY: float(correct / count),
        CALIBRATION_ERROR: float(np.abs(gaps).sum() / count),
        "num_examples": int(count),
    }


def averaged(logits: jax.Array) -> jax.Array:
    """Returns logits [...] whose softmax is the mean of those of `logits` [models, ...]."""
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), 0) - math.log(len(logits))


def class_outputs(own: Own, spec: Spec) -> tuple[int]:
    """Returns the shape of the logits of one example."""
    return (spec.num_outputs,)


def misfits(name: str, split: Split, num_classes: int) -> Iterator[str]:
    """Yields a line for a split whose labels are neither classes nor probabilities of them."""
    if isinstance(split, Stream):
        return
    what, labels = f"{name}['label']", split["label"]
    is_float = labels.dtype.kind == "f"
    if labels.ndim != 1 + is_float:
        yield (
            f"{what} must be whole numbers [examples], or floats [examples, {num_classes}] from 0 "
            f"to 1, got {labels.dtype} of shape {list(labels.shape)}."
        )
    elif is_float and labels.size and not (labels.min() >= 0 and labels.max() <= 1):
        yield f"{what} must be 0 to 1, got {labels.min()} to {labels.max()}."


def problems(checked: Own) -> Iterator[str]:
    if checked.get(NAME) == "cyclical_focal":
        warn_of_exponent(checked.get("loss.gamma_hc"))
    return iter(())


def warn_of_exponent(gamma: Cycle | None) -> None:
    """Warns of a `gamma_hc` for which the loss is not monotone; in the program it is traced."""
    for end in () if gamma is None else (gamma.easy, gamma.hard):
        losses.warn_above_ceiling(end)


# ---- the task


def task(further: Mapping[str, Loss] | None = None) -> Task:
    """Returns the task for our losses and further ones."""
    by_name = LOSSES | dict(further or {})

    def part(site: Site) -> Part:
        chosen = by_name[site.own[NAME]]

        def loss(logits, batch, values):
            knobs = {name: values[f"loss.{name}"] for name in chosen.knobs}
            return chosen.function(logits, batch["label"], **knobs)

        return Part(terms=(LossTerm(loss, measures=((ACCURACY, accuracy),)),))

    further_keys = {key: field for loss in by_name.values() for key, field in loss.keys.items()}
    return Task(
        "classification",
        {NAME: _loss_name(tuple(by_name))} | _KNOBS | further_keys,
        part,
        options={NAME: {name: loss.knobs for name, loss in by_name.items()}},
        measures=(ACCURACY,),
        percent=(ACCURACY, CALIBRATION_ERROR),
        problems=problems,
        offers=frozenset({LABELS, LOGITS, CLASS_LOGITS, IMAGES}),
        as_batch=as_batch,
        sums=sums,
        scores=scores,
        probabilities=jax.nn.softmax,
        averaged=averaged,
        judged_by=(ACCURACY, "max"),
        misfits=misfits,
        outputs=class_outputs,
        about="Learns one class for each image.",
    )


def _loss_name(names: tuple[str, ...]) -> Field:
    field = one_of(names[0], names, "loss; see cyclical_jax/losses.py")

    def check(key, value):
        if isinstance(value, str) and value in _MULTILABEL:
            raise ValueError(
                f"{key} {value!r} is now task.name='multilabel' with "
                f"multilabel.loss={_MULTILABEL[value]!r}."
            )
        return field.check(key, value)

    return field._replace(check=check)


TASK = task()
