"""The task of several classes for each image: a sigmoid of each logit.

It also learns one class against all others. An example counts as right if the class with the
largest logit is one of its labels.
"""

from collections.abc import Callable, Iterator

import jax

from cyclical_jax import losses
from cyclical_jax.tasks.classification import (
    ACCURACY,
    CALIBRATION_ERROR,
    Sums,
    accuracy,
    as_batch,
    class_outputs,
    misfits,
    scores,
    summed,
    warn_of_exponent,
)
from cyclical_jax.training.fields import Field, knob, one_of
from cyclical_jax.training.technique import (
    IMAGES,
    LABELS,
    LOGITS,
    Batch,
    LossTerm,
    Own,
    Part,
    Site,
    Task,
)

LOSS = "multilabel.loss"
_LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cyclical": losses.cyclical_multilabel_loss,
    "asymmetric": losses.asymmetric_multilabel_loss,
}
_COMMON = ("gamma_pos", "gamma_neg", "margin")
_OPTIONS = {"cyclical": ("hardness", "gamma_hc", *_COMMON), "asymmetric": _COMMON}

KEYS: dict[str, Field] = {
    LOSS: one_of("cyclical", tuple(_LOSSES), "loss; see cyclical_jax/losses.py"),
    "multilabel.hardness": knob(
        {"easy": 0.0, "hard": 1.0},
        "weight of the focal loss; the confident loss gets the rest of 1",
        minimum=0,
        maximum=1,
    ),
    "multilabel.gamma_hc": knob(
        3.0, "exponent of the confident loss; above 3.591 this loss is not monotone", minimum=0
    ),
    "multilabel.gamma_pos": knob(1.0, "focal exponent of the classes that are labels", minimum=0),
    "multilabel.gamma_neg": knob(4.0, "focal exponent of the other classes", minimum=0),
    "multilabel.margin": knob(
        0.05,
        "probability below which a class that is not a label adds no loss",
        minimum=0,
        maximum=0.999,
    ),
}


def multi_hot(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Returns [..., classes] of indices; labels that have an axis of classes as they are."""
    is_index = labels.ndim < logits.ndim
    return jax.nn.one_hot(labels, logits.shape[-1]) if is_index else labels


def part(site: Site) -> Part:
    name = site.own[LOSS]

    def loss(logits, batch, values):
        knobs = {word: values[f"multilabel.{word}"] for word in _OPTIONS[name]}
        return _LOSSES[name](logits, multi_hot(batch["label"], logits), **knobs)

    return Part(terms=(LossTerm(loss, measures=((ACCURACY, accuracy),)),))


def sums(site: Site, model, variables, batch: Batch) -> Sums:
    """Returns sums for the binary cross entropy, summed over the classes, and the accuracy."""
    logits, _ = model.apply(*variables, batch["image"], train=False)
    labels = multi_hot(batch["label"], logits)
    losses_ = losses.asymmetric_multilabel_loss(
        logits, labels, gamma_pos=0.0, gamma_neg=0.0, margin=0.0
    )
    return summed(logits, batch, losses_, jax.nn.sigmoid(logits))


def averaged(logits: jax.Array) -> jax.Array:
    """Returns logits [...] whose sigmoid is the mean of those of `logits` [models, ...].

    It is log(sum p) - log(sum (1 - p)), in log space.
    """
    likely, unlikely = (jax.nn.logsumexp(jax.nn.log_sigmoid(z), 0) for z in (logits, -logits))
    return likely - unlikely


def problems(checked: Own) -> Iterator[str]:
    if checked.get(LOSS) == "cyclical":
        warn_of_exponent(checked.get("multilabel.gamma_hc"))
    return iter(())


TASK = Task(
    "multilabel",
    KEYS,
    part,
    options={LOSS: _OPTIONS},
    measures=(ACCURACY,),
    percent=(ACCURACY, CALIBRATION_ERROR),
    problems=problems,
    offers=frozenset({LABELS, LOGITS, IMAGES}),
    as_batch=as_batch,
    sums=sums,
    scores=scores,
    probabilities=jax.nn.sigmoid,
    averaged=averaged,
    judged_by=(ACCURACY, "max"),
    misfits=misfits,
    outputs=class_outputs,
    about="Learns several classes for each image.",
)
