"""The digits of scikit-learn: 1,797 grey images of 8 x 8."""

from typing import Any

import numpy as np

from cyclical_jax.data.dataset import Dataset, Found, import_optional

DIGITS_SPLITS = {
    "train": slice(0, 1197),
    "validation": slice(1197, 1397),
    "test": slice(1397, 1797),
}
DIGITS_SEED = 0  # not the run's seed: all runs share the three splits


def find() -> Found:
    """Returns what is known of the digits, of which nothing is read yet."""
    train, validation, test = (part.stop - part.start for part in DIGITS_SPLITS.values())
    return Found(10, (train, validation, test), _read, shape=(8, 8, 1))


def _read(image_size: int | None) -> Dataset:
    digits = import_optional("sklearn.datasets").load_digits()
    # RandomState, because NumPy may change the stream of its newer generators.
    order = np.random.RandomState(DIGITS_SEED).permutation(len(digits.target))
    image = np.round(digits.images[order, :, :, None] * (255 / 16)).astype(np.uint8)
    label = digits.target[order].astype(np.int32)
    splits: dict[str, Any] = {
        split: {"image": image[part], "label": label[part]} for split, part in DIGITS_SPLITS.items()
    }
    return Dataset(**splits, num_classes=10)
