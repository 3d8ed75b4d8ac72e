"""The digits of scikit-learn: 1,797 grey images of 8 x 8."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from cyclical_jax.data.dataset import Dataset, Found, import_optional

DIGITS_SPLITS = {
    "train": slice(0, 1197),
    "validation": slice(1197, 1397),
    "test": slice(1397, 1797),
}
_FILE = "datasets/data/digits.csv.gz"  # of scikit-learn
DIGITS_SEED = 0  # not the run's seed: all runs share the three splits


def find() -> Found:
    """Returns the facts about the digits; nothing is read yet."""
    train, validation, test = (part.stop - part.start for part in DIGITS_SPLITS.values())
    return Found(10, (train, validation, test), _read, shape=(8, 8, 1))


def _read(image_size: int | None) -> Dataset:
    table = _table()
    # RandomState, because NumPy may change the stream of its newer generators.
    order = np.random.RandomState(DIGITS_SEED).permutation(len(table))
    image = table[order, :-1].reshape(-1, 8, 8, 1)
    image = np.round(image * (255 / 16)).astype(np.uint8)
    label = table[order, -1].astype(np.int32)
    splits: dict[str, Any] = {
        split: {"image": image[part], "label": label[part]} for split, part in DIGITS_SPLITS.items()
    }
    return Dataset(**splits, num_classes=10)


def _table() -> np.ndarray:
    """Returns 64 pixels from 0 to 16 and the label of each digit, [1797, 65].

    To read scikit-learn's file takes 10 ms; to import scikit-learn takes a second.
    """
    package = importlib.util.find_spec("sklearn")
    if package is not None and package.origin is not None:
        file = Path(package.origin).parent / _FILE
        if file.exists():
            return np.loadtxt(file, delimiter=",", dtype=np.uint8)
    digits = import_optional("sklearn.datasets").load_digits()  # the file may have moved
    return np.column_stack([digits.data, digits.target])
