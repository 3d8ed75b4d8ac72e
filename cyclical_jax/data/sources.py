"""Datasets in three disjoint splits: choose on validation; use test once, at the end.

Some have a name, such as "digits". The user's own are named by a word and a place, such as
"npz:mine.npz". Each kind is read by a file beside this one.
"""

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cyclical_jax import _checks
from cyclical_jax.data import arrays, digits, folders, index_files, tables, tfds_any, tfds_named
from cyclical_jax.data.dataset import (
    UNLABELLED,
    Dataset,
    Found,
    PathLike,
    Stream,
)
from cyclical_jax.data.subsets import AnySubset, parse_subset, subset_indices, subset_size

DATASETS = ("digits", *tfds_named.TFDS_DATASETS)

# {the word before ':': (what comes after it, the function that finds such a dataset)}
KINDS: dict[str, tuple[str, Callable[[str, PathLike | None], Found]]] = {
    "npz": ("FILE", arrays.find),
    "csv": ("FILE", tables.find),
    "folder": ("DIR", folders.find),
    "tfds": ("NAME", tfds_any.find),
}

TRAIN_ON = ("train", "train+validation")


def find(name: Any, data_dir: PathLike | None = None) -> Found:
    """Returns the facts about a dataset that are known before it is loaded.

    Raises:
      ValueError: There is no such dataset, or nothing can be learned from a file of the user; a
      line
        for each problem.
      DatasetNotFoundError: A file of the user is missing.
    """
    check_name(name)
    if name == "digits":
        return digits.find()
    if name in tfds_named.TFDS_DATASETS:
        return tfds_named.find(name, data_dir)
    word, _, place = name.partition(":")
    return KINDS[word][1](place, data_dir)


def check_name(name: Any) -> None:
    """Raises ValueError unless `name` is one of `DATASETS`, or a word of `KINDS` and a place."""
    if isinstance(name, str):
        word, _, place = name.partition(":")
        if name in DATASETS or (word in KINDS and place.strip()):
            return
    listed = ", ".join(map(repr, DATASETS))
    own = ", ".join(f"{word}:{place}" for word, (place, _) in KINDS.items())
    raise ValueError(
        f"`dataset` must be one of {listed}, or {own}, got {_shown(name)}.{_hint(name)}"
    )


def _shown(name: Any) -> str:
    return (
        repr(_checks.short(name, 200)) if isinstance(name, str) else _checks.short(repr(name), 200)
    )


def uses_data_dir(name: Any) -> bool:
    """Returns whether a dataset is one of TFDS, which `data_dir` holds."""
    return isinstance(name, str) and (
        name in tfds_named.TFDS_DATASETS or name.partition(":")[0] == "tfds"
    )


def check_data_dir(name: Any, data_dir: PathLike | None) -> None:
    """Raises ValueError if `data_dir` is given for a dataset that is not of TFDS."""
    if data_dir is not None and not uses_data_dir(name):
        shown = _checks.short(str(name), 200)
        raise ValueError(
            f"`data_dir` must be None for {shown!r}, which is not a dataset of TFDS, got "
            f"{_checks.short(str(data_dir), 200)!r}."
        )


def _hint(name: Any) -> str:
    suffix = Path(str(name)).suffix.lower().removeprefix(".")
    if suffix in ("npz", "csv") or (isinstance(name, str) and name and os.path.isdir(name)):
        return f" Did you mean '{suffix or 'folder'}:{_checks.short(name, 200)}'?"
    nearest = difflib.get_close_matches(_checks.short(str(name)), DATASETS, n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def load(
    name: str,
    *,
    data_dir: PathLike | None = None,
    train_on: str = TRAIN_ON[0],
    subset: str | None = None,
    image_size: int | None = None,
    unlabelled: bool = False,
) -> Dataset:
    """Returns a dataset, loaded into memory or opened as a stream; its order is always the same.

    The first load of a TFDS dataset takes seconds to decode its images; it keeps a decoded copy
    beside them if the directory is writable. The first load of an ImageNet subset by class or file
    name reads the whole training split once, and keeps its labels and names.

    Args:
      name: "digits" (8x8 grey images, whose values 0 .. 16 are scaled to 0 .. 255),
        "fashion_mnist", "cifar10", "cifar100" or "imagenet2012", whose splits are `Stream`s; or
        "npz:FILE", "csv:FILE", "folder:DIR" or "tfds:NAME": docs/data.md describes each.
      data_dir: Directory of TFDS's datasets, for one of them. None is TFDS's default:
        `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
      train_on: "train"; or "train+validation", which moves the examples of the validation split to
        the train split. Use it once all hyperparameters are chosen.
      subset: The examples to train on, as `parse_subset` reads it; None is all.
      image_size: Side, in pixels, of the square to which images of a folder, of "tfds:NAME" and of
        "imagenet2012" are cropped and scaled. None for the other datasets, and if all images have
        one size and fit in memory.
      unlabelled: Whether `train["unlabelled"]` holds the images that the subset leaves out.

    Raises:
      ValueError: An argument is not one of these; or the subset lists examples that are not there;
        or `unlabelled` is True and the subset leaves nothing out; or nothing can be learned from a
        file of the user.
      DatasetNotFoundError: The dataset is missing or cannot be used.
      ImportError: scikit-learn (for digits) or TFDS is not installed.
    """
    check_name(name)
    check_data_dir(name, data_dir)
    num_train(name, train_on=train_on, subset=subset, data_dir=data_dir)  # checks them first
    check_image_size(name, image_size, data_dir=data_dir)
    if unlabelled:
        check_unlabelled(name, train_on, subset, image_size=image_size, data_dir=data_dir)
    found = find(name, data_dir)
    dataset = found.read(image_size)
    dataset = dataset if train_on == "train" else _with_validation(dataset)
    if subset is None:
        return dataset
    indices = _indices(dataset, parse_subset(subset), found)
    if isinstance(dataset.train, Stream):
        positions = np.asarray(dataset.train.positions)[indices]
        return dataset._replace(train=dataset.train.at(positions))
    some = {key: array[indices] for key, array in dataset.train.items()}
    if unlabelled:
        some[UNLABELLED] = np.delete(dataset.train["image"], indices, axis=0)
    return dataset._replace(train=some)


def check_image_size(
    name: str, image_size: int | None, *, data_dir: PathLike | None = None
) -> None:
    """Raises ValueError unless a size is given for images that need one, and for no others."""
    found = find(name, data_dir)
    if image_size is not None:
        if not found.can_resize:
            raise ValueError(
                f"`image_size` must be None for {name!r}, whose images have one, got {image_size}."
            )
        _checks.whole_number("image_size", image_size, minimum=1, maximum=4096)
    elif None in found.shape:
        raise ValueError(f"The images of {name!r} differ in size: set `image_size`, e.g. to 224.")
    elif not found.is_resident(None):
        size = f"{found.num_bytes(None) / 2**30:.1f} GB"
        raise ValueError(
            f"The images of {name!r} take {size}, too much to keep in memory: set `image_size`, "
            "e.g. to 224, and they are read and cropped when they are needed."
        )


def is_resident(
    name: str, image_size: int | None = None, *, data_dir: PathLike | None = None
) -> bool:
    """Returns whether the examples of a dataset fit in memory, without loading it."""
    return find(name, data_dir).is_resident(image_size)


def require(name: str, *, data_dir: PathLike | None = None) -> None:
    """Raises the error of `load` if a dataset is not on this machine, without loading it."""
    find(name, data_dir)
    if name in tfds_named.TFDS_DATASETS:
        tfds_named.open_prepared(name, data_dir)


def is_table(name: str, *, data_dir: PathLike | None = None) -> bool:
    """Returns whether the examples of a dataset are rows of features, not images."""
    return len(find(name, data_dir).shape) == 1


def identity(name: str, *, data_dir: PathLike | None = None) -> str | None:
    """Returns words that identify the user's own data; None for a dataset with a name."""
    found = find(name, data_dir)
    return found.identity() if found.identity else None


def check_unlabelled(
    name: str,
    train_on: str,
    subset: str | None,
    *,
    image_size: int | None = None,
    data_dir: PathLike | None = None,
) -> None:
    """Raises ValueError unless a subset of a dataset in memory leaves examples out."""
    if not is_resident(name, image_size, data_dir=data_dir):
        raise ValueError(f"unlabelled images are kept in memory, but {name!r} is not.")
    if subset is None:
        raise ValueError("unlabelled images are those that `subset` leaves out, got None.")
    if num_unlabelled(name, train_on=train_on, subset=subset, data_dir=data_dir) == 0:
        raise ValueError(f"there are no unlabelled images: `subset` {subset!r} leaves none out.")


def num_unlabelled(
    name: str, *, train_on: str, subset: str, data_dir: PathLike | None = None
) -> int:
    """Returns the number of examples that the subset leaves out."""
    everything = num_train(name, train_on=train_on, data_dir=data_dir)
    return everything - num_train(name, train_on=train_on, subset=subset, data_dir=data_dir)


def num_train(
    name: str,
    *,
    train_on: str = TRAIN_ON[0],
    subset: str | None = None,
    data_dir: PathLike | None = None,
) -> int:
    """Returns the number of examples to train on, without loading them.

    Args:
      name, train_on, subset, data_dir: As in `load`.

    Raises:
      ValueError, DatasetNotFoundError: As in `load`.
    """
    check_name(name)
    _checks.one_of("train_on", train_on, TRAIN_ON)
    found = find(name, data_dir)
    train, validation, _ = found.sizes
    available = train if train_on == "train" else train + validation
    if subset is None:
        return available
    chosen = parse_subset(subset)
    if isinstance(chosen, index_files.Positions):
        index_files.refuse_outside(chosen, available)
    total = subset_size(chosen, found.num_classes)
    if total > available:
        raise ValueError(
            f"`subset` {subset!r} has {total} examples, but {name} has {available} to train on."
        )
    return total


def num_classes(name: str, *, data_dir: PathLike | None = None) -> int:
    """Returns the number of classes of a dataset, without loading it."""
    return find(name, data_dir).num_classes


def _with_validation(dataset: Dataset) -> Dataset:
    if isinstance(dataset.train, Stream):
        train, validation = dataset.train, dataset.validation
        joined = train.at(_joined(train.positions, validation.positions))
        return dataset._replace(train=joined, validation=validation.at(range(0)))
    both = {
        name: np.concatenate([array, dataset.validation[name]])
        for name, array in dataset.train.items()
    }
    none = {name: array[:0] for name, array in dataset.validation.items()}
    return dataset._replace(train=both, validation=none)


def _joined(first: range | np.ndarray, then: range | np.ndarray) -> range | np.ndarray:
    if isinstance(first, range) and isinstance(then, range) and first.stop == then.start:
        return range(first.start, then.stop)
    return np.concatenate([first, then])


def _refuse_repeated(names: np.ndarray) -> None:
    """Raises ValueError if two examples have one name, as files of different folders may."""
    ordered = np.sort(names)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise ValueError(
            f"`subset` lists file names, but two images are called {repeated[0].decode()}: list "
            "positions."
        )


def _indices(dataset: Dataset, subset: AnySubset, found: Found) -> np.ndarray:
    """Returns a subset's indices in the training split."""
    if isinstance(subset, index_files.Positions):  # no labels need to be read
        return subset.indices
    is_stream = isinstance(dataset.train, Stream)
    by_name = isinstance(subset, index_files.Names)
    known = found.known() if found.known and (is_stream or by_name) else {}
    if by_name and found.identity and "name" in known:
        _refuse_repeated(known["name"])
    labels = known["label"][: len(dataset.train)] if is_stream else dataset.train["label"]
    return subset_indices(subset, labels, dataset.num_classes, names=known.get("name"))
