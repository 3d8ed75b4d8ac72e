"""Weights of the examples by their class, for classes of different sizes."""

from collections.abc import Iterator

import numpy as np

from cyclical_jax.data import Dataset, num_classes
from cyclical_jax.training.fields import Field, number
from cyclical_jax.training.technique import IN_MEMORY, LABELS, Own, Prepared, Technique

CLASS_WEIGHTS, BALANCED = "loss.class_weights", "balanced"
WEIGHT = "weight"  # entry of a batch, which every loss is multiplied by


def _check(key, value):
    if value is None or (isinstance(value, str) and value == BALANCED):
        return value
    if not isinstance(value, tuple | list) or not value:
        raise ValueError(f"{key} must be 'balanced' or a tuple of numbers, got {value!r}.")
    return tuple(number(1.0, "", minimum=0).check(key, weight) for weight in value)


KEYS = {
    CLASS_WEIGHTS: Field(
        None,
        _check,
        "'balanced', or tuple of numbers, at least 0, or None",
        "weights of the losses, one per class, not normalised: 2 for every class doubles the "
        "gradient; 'balanced' is n / (classes n_class)",
    )
}


def problems(checked: Own) -> Iterator[str]:
    if "dataset" in checked:
        weights, classes = checked[CLASS_WEIGHTS], num_classes(checked["dataset"])
        if weights != BALANCED and len(weights) != classes:
            yield (
                f"{CLASS_WEIGHTS} must have {classes} numbers for {checked['dataset']!r}, got "
                f"{len(weights)}."
            )


def prepare(host) -> Prepared:
    """Gives every example the weight of its class."""
    return Prepared(examples={WEIGHT: _weights(host.own[CLASS_WEIGHTS], host.dataset)})


def _weights(class_weights: str | tuple[float, ...], dataset: Dataset) -> np.ndarray:
    """Returns [n], a weight for each example to train on."""
    labels = dataset.train["label"]
    if class_weights == BALANCED:
        counts = np.bincount(labels, minlength=dataset.num_classes)
        of_class = len(labels) / (dataset.num_classes * np.maximum(counts, 1))
    else:
        of_class = np.array(class_weights)
    return of_class.astype(np.float32)[labels]


TECHNIQUE = Technique(
    "class_weights",
    KEYS,
    switch=CLASS_WEIGHTS,
    needs=frozenset({LABELS, IN_MEMORY}),
    problems=problems,
    prepare=prepare,
)
