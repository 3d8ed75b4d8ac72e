"""Cuts the splits that a dataset of the user lacks: each is a tenth of the training examples."""

from collections.abc import Mapping

import numpy as np

from cyclical_jax._words import counted

_PART = 10  # one of so many examples goes to each split that is missing
_SEED = 0  # not the run's seed: all runs share the splits
_PLACES = {"validation": 4, "test": 9}  # of ten neighbours, so that both can be missing

Parts = dict[str, tuple[str, np.ndarray]]  # {split: (the given split, positions in it)}


def complete(sizes: Mapping[str, int], labels: np.ndarray | None = None) -> Parts:
    """Returns where the examples of train, validation and test are, among the given splits.

    A split that is not given takes a tenth of the given training split, at random by a fixed seed.
    With labels, each class gives a tenth of its examples, to rounding.

    Args:
      sizes: Numbers of examples of the given splits, of which one is "train".
      labels: [examples] classes of the given training split, or [examples, classes] numbers.

    Returns:
      {split: (given split, ascending positions in it)} for train, validation and test.

    Raises:
      ValueError: A split would be empty.
    """
    missing, number = [split for split in _PLACES if split not in sizes], sizes["train"]
    if missing and number < _PART:
        few = counted(number, "example")
        raise ValueError(f"{few} to train on are too few to cut {' and '.join(missing)} from.")
    order = _shuffled(number, labels)
    place = np.arange(number) % _PART
    taken = np.isin(place, [_PLACES[split] for split in missing])
    parts: Parts = {"train": ("train", np.sort(order[~taken]))}
    for split, of_ten in _PLACES.items():
        is_cut = split in missing
        found = np.sort(order[place == of_ten]) if is_cut else np.arange(sizes[split])
        parts[split] = "train" if is_cut else split, found
    return parts


def _shuffled(number: int, labels: np.ndarray | None) -> np.ndarray:
    """Returns positions in random order, sorted by class where there are labels."""
    # RandomState, because NumPy may change the stream of its newer generators.
    order = np.random.RandomState(_SEED).permutation(number)
    if labels is None:
        return order
    classes = labels if labels.ndim == 1 else labels.argmax(-1)
    return order[np.argsort(classes[order], kind="stable")]


def sizes_of(parts: Parts) -> tuple[int, int, int]:
    """Returns the numbers of examples of train, validation and test."""
    train, validation, test = (len(parts[split][1]) for split in ("train", *_PLACES))
    return train, validation, test


def notes_of(parts: Parts) -> tuple[str, ...]:
    """Returns a sentence about each split that was cut from the training split."""
    return tuple(
        f"There is no {split} split: every run cuts the same {counted(len(positions), 'example')} "
        "from those to train on."
        for split, (given, positions) in parts.items()
        if given != split
    )
