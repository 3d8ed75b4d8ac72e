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
        "gradient; 'balanced' is examples / (classes * examples of the class)",
    )
}


def problems(checked: Own) -> Iterator[str]:
    if {"dataset", "data_dir"} <= checked.keys():
        name, data_dir = checked["dataset"], checked["data_dir"]
        weights, classes = checked[CLASS_WEIGHTS], num_classes(name, data_dir=data_dir)
        if weights != BALANCED and len(weights) != classes:
            yield (
                f"{CLASS_WEIGHTS} must have {classes} numbers for {checked['dataset']!r}, got "
                f"{len(weights)}."
            )


def prepare(host) -> Prepared:
    """Gives every example the weight of its class."""
    return Prepared(examples={WEIGHT: _weights(host.own[CLASS_WEIGHTS], host.dataset)})


def _weights(class_weights: str | tuple[float, ...], dataset: Dataset) -> np.ndarray:
    """Returns [n], a weight for each example to train on.

    Of labels y that are numbers, one for each class, an example's weight is the mean of its
    classes' weights, `sum_k y_k w_k / sum_k y_k`; it is 1 where it has no class. The size n_k of a
    class is then the sum of its y_k.
    """
    labels = np.asarray(dataset.train["label"])
    if labels.ndim == 1:
        counts = np.bincount(labels, minlength=dataset.num_classes)
        return _of_classes(class_weights, counts, len(labels)).astype(np.float32)[labels]
    of_class = _of_classes(class_weights, labels.sum(0, dtype=np.float64), len(labels))
    total = labels.sum(-1, dtype=np.float64)
    weights = np.divide(labels @ of_class, total, out=np.ones(len(labels)), where=total > 0)
    return weights.astype(np.float32)


def _of_classes(class_weights: str | tuple[float, ...], counts: np.ndarray, number: int):
    """Returns [classes] weights; a class without examples counts as one of one example."""
    if class_weights != BALANCED:
        return np.array(class_weights)
    return number / (len(counts) * np.where(counts > 0, counts, 1))


TECHNIQUE = Technique(
    "class_weights",
    KEYS,
    switch=CLASS_WEIGHTS,
    needs=frozenset({LABELS, IN_MEMORY}),
    problems=problems,
    prepare=prepare,
    about="Weighs the loss of each class, for classes of different sizes.",
)
