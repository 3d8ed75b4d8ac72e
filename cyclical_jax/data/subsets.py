"""Subsets of a training split, such as "4K CIFAR-10", long tails, or a list in a file.

"First" refers to the order of TFDS's files. The published subsets follow the order of the official
files. TFDS shuffles once, when it prepares a dataset, so ours are other images, chosen by the same
rule.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclical_jax import _checks
from cyclical_jax._words import counted
from cyclical_jax.data import index_files
from cyclical_jax.data.index_files import Names, Positions


class Subset(NamedTuple):
    """A number of examples, and how they are shared among the classes."""

    total: int
    ratio: float | None  # as in `linear_quotas`; None: the first examples, of any class


class LongTailed(NamedTuple):
    """The arguments of `long_tailed_quotas`."""

    most: int
    factor: float


AnySubset = Subset | LongTailed | Positions | Names


# For 10 classes the two imbalanced ones have 490, 470, ... 310 and 580, 540, ... 220 examples, like
# those of arXiv 2202.08978; its balanced one is first_4k. (The first file of the published code
# counts from 1, so that code takes the neighbours of the listed images: nearly balanced ones.)
SUBSETS = {
    "4k": Subset(4000, ratio=1),
    "4k_5_3": Subset(4000, ratio=5 / 3),
    "4k_6_2": Subset(4000, ratio=6 / 2),
    "first_4k": Subset(4000, ratio=None),
}


def parse_subset(text: Any) -> AnySubset:
    """Returns the subset that an option names: the examples to train on.

    Args:
      text: A name of `SUBSETS`; or "balanced N", N examples in equal parts of all classes; or
        "long_tailed N F", as in `long_tailed_quotas`; or the path of an index file in .txt or .csv.
        Such a file holds either positions in the training split, whole numbers from 0 in TFDS's
        order, separated by commas or white space; or one example per line: a file name and, if you
        like, its label. The folders of a file name are ignored; the rest is TFDS's `file_name` for
        ImageNet, its `id` for CIFAR.

    Raises:
      ValueError: `text` is none of these, or its file cannot be used.
    """
    words = text.split() if isinstance(text, str) else []
    if words and text in SUBSETS:
        return SUBSETS[text]
    if words[:1] == ["balanced"]:
        return _parse_balanced(text, words[1:])
    if words[:1] == ["long_tailed"]:
        return _parse_long_tailed(text, words[1:])
    if words and text.endswith(index_files.SUFFIXES):
        return index_files.read(text)
    nearest = difflib.get_close_matches(str(text), SUBSETS, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(
        f"`subset` must be one of {', '.join(map(repr, SUBSETS))}, or 'balanced N', such as "
        "'balanced 250', or 'long_tailed N F', such as 'long_tailed 5000 100', or the path of an "
        f"index file in .txt or .csv, such as 'ImageNet_LT_train.txt', got {text!r}.{hint}"
    )


def index_file_of(subset: str | None) -> Path | None:
    """Returns the file that a subset is read from, or None if it is read from no file."""
    if subset is None or isinstance(parse_subset(subset), Subset | LongTailed):
        return None
    return _checks.local_path("subset", subset)


def _parse_balanced(text: str, words: Sequence[str]) -> Subset:
    if len(words) != 1 or not words[0].isdecimal() or int(words[0]) < 1:
        raise ValueError(
            "`subset` must be 'balanced N' with a whole number N of at least 1, the number of "
            f"examples, in equal parts of all classes, got {text!r}."
        )
    return Subset(int(words[0]), ratio=1)


def _parse_long_tailed(text: str, words: Sequence[str]) -> LongTailed:
    try:
        most, factor = words
        parsed = LongTailed(int(most), float(factor))
    except ValueError:
        parsed = LongTailed(0, 0)
    if not 1 <= parsed.factor <= parsed.most:
        raise ValueError(
            "`subset` must be 'long_tailed N F' with a whole number N, the examples of the first "
            "class, and a number F from 1 to N, how many times fewer the last class has, got "
            f"{text!r}."
        )
    return parsed


def subset_size(subset: AnySubset, num_classes: int) -> int:
    """Returns the number of examples in a subset of a dataset with that many classes."""
    match subset:
        case Subset(total=total):
            return total
        case LongTailed(most, factor):
            return int(long_tailed_quotas(num_classes, most, factor).sum())
        case _:
            return len(subset.lines)


def subset_indices(
    subset: AnySubset, labels: np.ndarray, num_classes: int, *, names: np.ndarray | None = None
) -> np.ndarray:
    """Returns the indices of a subset's examples in a split.

    Args:
      subset: The result of `parse_subset`.
      labels: [n] classes, 0 .. num_classes - 1.
      num_classes: Number of classes of the dataset.
      names: [n or more] bytes, for `Names`: the names of the examples, then of those that are not
        trained on.

    Returns:
      Indices, in the order of the split.

    Raises:
      ValueError: There are too few examples, or too few of a class; or a name or a label is wrong.
    """
    match subset:
        case Positions() | Names():
            return index_files.positions(subset, labels, names)
        case LongTailed(most, factor):
            _check_single(labels)
            return first_per_class(labels, long_tailed_quotas(num_classes, most, factor))
        case Subset(total, ratio) if ratio is not None:
            _check_single(labels)
            return first_per_class(labels, linear_quotas(num_classes, total, ratio))
    if len(labels) < subset.total:
        raise ValueError(f"there are {len(labels)} examples, but {subset.total} are needed.")
    return np.arange(subset.total)


def _check_single(labels: np.ndarray) -> None:
    if labels.ndim != 1:
        raise ValueError(
            "`subset` by class needs one class for each example, but labels are numbers for each "
            f"of {labels.shape[1]} classes: list positions in a file."
        )


def first_per_class(labels: np.ndarray, quotas: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns the first quotas[k] examples of each class k.

    Args:
      labels: [n] classes.
      quotas: [classes] numbers of examples.

    Returns:
      [sum of quotas] indices, in the order of the split.

    Raises:
      ValueError: A class has fewer examples than its quota.
    """
    firsts = []
    for label, quota in enumerate(quotas):
        members = np.flatnonzero(labels == label)
        if len(members) < quota:
            there = counted(len(members), "example")
            raise ValueError(f"class {label} has {there}, but needs {quota}.")
        firsts.append(members[:quota])
    return np.sort(np.concatenate(firsts))


def long_tailed_quotas(num_classes: int, most: int, factor: float) -> np.ndarray:
    """Returns numbers of examples that fall by the same ratio from each class to the next.

        n_k = int(most * factor^(-k / (num_classes - 1))):

    `most` for the first class, `factor` times fewer for the last. For ten classes, most 5000 and
    factor 100 give 5000, 2997, 1796, ... 83, 50.

    Returns:
      [num_classes] numbers of examples.

    Source: Cui et al. 2019 (arXiv 1901.05555), CIFAR-LT.
    """
    position = np.arange(num_classes) / max(1, num_classes - 1)
    exact = (most * factor**-position).round(9)  # so that a whole number is not rounded down
    return exact.astype(int)


def linear_quotas(num_classes: int, total: int, ratio: float = 1.0) -> np.ndarray:
    """Returns numbers of examples that fall linearly from class to class; `ratio` 1 is balanced.

        n_k = high - (high - low) (k + 1/2) / num_classes,    high = ratio * low,

    rounded so that their sum is `total`: the largest fractions are rounded up, the first ones among
    equal fractions. So n is a little above `low` for the last class, below `high` for the first.

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
