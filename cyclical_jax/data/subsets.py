"""The small datasets of the paper, "4K CIFAR-10" and its kin, as subsets of a training split.

"First" is in the order of the file. The published subsets are in the order of the official files;
TFDS shuffles once, when it prepares a dataset, so ours are other images, chosen by the same rule.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Subset(NamedTuple):
    """How many examples, and how they are shared among the classes."""

    total: int
    ratio: float | None  # as in `linear_quotas`; None: whatever comes first, of any class


# For 10 classes the two imbalanced ones go 490, 470, ... 310 and 580, 540, ... 220, as those of
# arXiv 2202.08978 do; its balanced one is first_4k. (The published code takes the images beside
# those of its first file, which counts from 1: nearly balanced ones.)
SUBSETS = {
    "4k": Subset(4000, ratio=1),
    "4k_5_3": Subset(4000, ratio=5 / 3),
    "4k_6_2": Subset(4000, ratio=6 / 2),
    "first_4k": Subset(4000, ratio=None),
}


def subset_indices(subset: Subset, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Which examples of a split are in the subset.

    Args:
      subset: One of `SUBSETS`, say.
      labels: [n] classes, 0 .. num_classes - 1.
      num_classes: Of the dataset.

    Returns:
      [subset.total] indices, in the order of the file.

    Raises:
      ValueError: There are fewer examples, or fewer of a class.
    """
    if subset.ratio is not None:
        return first_per_class(labels, linear_quotas(num_classes, subset.total, subset.ratio))
    if len(labels) < subset.total:
        raise ValueError(f"there are {len(labels)} examples, but {subset.total} are wanted.")
    return np.arange(subset.total)


def first_per_class(labels: np.ndarray, quotas: Sequence[int] | np.ndarray) -> np.ndarray:
    """The first quotas[k] examples of each class k.

    Args:
      labels: [n] classes.
      quotas: [classes] numbers of examples.

    Returns:
      [sum of quotas] indices, in the order of the file.

    Raises:
      ValueError: A class has fewer examples.
    """
    firsts = []
    for label, quota in enumerate(quotas):
        members = np.flatnonzero(labels == label)
        if len(members) < quota:
            raise ValueError(f"class {label} has {len(members)} examples, but {quota} are wanted.")
        firsts.append(members[:quota])
    return np.sort(np.concatenate(firsts))


def linear_quotas(num_classes: int, total: int, ratio: float = 1.0) -> np.ndarray:
    """How many of each class, where they fall along a line; `ratio` 1 is balanced.

        n_k = high - (high - low) (k + 1/2) / num_classes,    high = ratio * low,

    rounded so that their sum is `total`: the largest fractions are rounded up, of equal ones the
    first. The last class's n is a little above `low`, the first one's a little below `high`.

    Returns:
      [num_classes] numbers of examples.

    Source: the class counts of the published files of arXiv 2202.08978; for 100 classes those
    files differ from this by one example in some classes.
    """
    low = 2 * total / (num_classes * (1 + ratio))
    position = (np.arange(num_classes) + 0.5) / num_classes
    exact = (low * (ratio - (ratio - 1) * position)).round(9)  # so that equal fractions are equal
    quotas = np.floor(exact).astype(int)
    largest_fractions = np.argsort(quotas - exact, kind="stable")
    quotas[largest_fractions[: total - quotas.sum()]] += 1
    return quotas
