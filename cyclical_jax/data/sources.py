"""Datasets by name, in three disjoint splits: choose on validation; use test once, at the end.

`digits` ships with scikit-learn. The others are TFDS's. They are read without TensorFlow, and only
`experiments/prepare_data.py` downloads them.
"""

import functools
import importlib
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from cyclical_jax import _checks
from cyclical_jax.data import index_files
from cyclical_jax.data.images import Normalisation
from cyclical_jax.data.kept import Arrays, kept
from cyclical_jax.data.streams import Stream
from cyclical_jax.data.subsets import AnySubset, parse_subset, subset_indices, subset_size

PathLike = str | os.PathLike[str]
Split = Any  # Arrays or a Stream; the reader of a split knows which


class TfdsDataset(NamedTuple):
    """The facts about a dataset that are known before it is opened."""

    num_classes: int
    num_examples: dict[str, int]  # by the names of TFDS's own splits
    num_train: int  # the first examples of TFDS's train split; the rest is our validation
    how_to_get: str  # {prepare} stands for the command of `prepare_data`
    test: str = "test"  # which of TFDS's own splits it is
    file_name: str | None = None  # TFDS's feature that identifies the image

    @property
    def splits(self) -> dict[str, str]:
        """Our splits, in TFDS's slicing syntax."""
        train, validation = f"train[:{self.num_train}]", f"train[{self.num_train}:]"
        return {"train": train, "validation": validation, "test": self.test}


def _cifar(num_classes: int, archive: str) -> TfdsDataset:
    return TfdsDataset(
        num_classes=num_classes,
        num_examples={"train": 50_000, "test": 10_000},
        num_train=45_000,
        how_to_get="{prepare} (on a machine with a network; without one, "
        f"add --raw_dir=DIR with {archive} in DIR)",
        file_name="id",
    )


# TFDS shuffles once, when it prepares a dataset, so a slice of a split is a random sample of it.
TFDS_DATASETS = {
    "fashion_mnist": TfdsDataset(
        num_classes=10,
        num_examples={"train": 60_000, "test": 10_000},
        num_train=55_000,
        how_to_get="apt-get install dataset-fashion-mnist && {prepare}",
    ),
    "cifar10": _cifar(10, "cifar-10-binary.tar.gz"),
    "cifar100": _cifar(100, "cifar-100-binary.tar.gz"),
    "imagenet2012": TfdsDataset(
        num_classes=1000,
        num_examples={"train": 1_281_167, "validation": 50_000},
        num_train=1_271_167,
        how_to_get="put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, which image-net.org "
        "gives to registered users, into a directory DIR && {prepare} --raw_dir=DIR",
        test="validation",  # the labels of the official test images are secret
        file_name="file_name",
    ),
}

# Their images are of one size and fit in memory.
RESIDENT_DATASETS = ("digits", "fashion_mnist", "cifar10", "cifar100")

DATASETS = ("digits", *TFDS_DATASETS)

TRAIN_ON = ("train", "train+validation")

DIGITS_SPLITS = {
    "train": slice(0, 1197),
    "validation": slice(1197, 1397),
    "test": slice(1397, 1797),
}
DIGITS_SEED = 0  # not the run's seed: all runs share the three splits

ARRAYS = ("image", "label")  # in every split
UNLABELLED = "unlabelled"  # in a training split, on request: images without labels


class Dataset(NamedTuple):
    """A dataset in memory, or one that is read batch by batch.

    Each split is `{"image": [n, height, width, channels], "label": int32 [n]}` or a `Stream`.
    Images are uint8, which models see as x / 127.5 - 1, or floats, which they see as they are.
    Labels are in 0 .. num_classes - 1; or they are float32 [n, num_classes] from 0 to 1. The
    training split may hold more: `"unlabelled"`, images of any number, and the entries that
    techniques add to examples, [n, ...].

    Attributes:
      train, validation, test: The splits.
      num_classes: Number of classes.
      class_names: Their names, or nothing.
      normalisation: What has made the floats of all splits of raw numbers; None is nothing.
    """

    train: Split
    validation: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...] = ()
    normalisation: Normalisation | None = None


class DatasetNotFoundError(FileNotFoundError):
    """A dataset is missing or cannot be used. The message has the commands that get it."""


def load(
    name: str,
    *,
    data_dir: PathLike | None = None,
    train_on: str = TRAIN_ON[0],
    subset: str | None = None,
    image_size: int | None = None,
    unlabelled: bool = False,
) -> Dataset:
    """Loads a dataset into memory, or opens ImageNet; the order of examples is always the same.

    The first load of a TFDS dataset takes seconds to decode its images; it keeps a decoded copy
    beside them if the directory is writable. The first load of an ImageNet subset by class or file
    name reads the whole training split once, and keeps its labels and names.

    Args:
      name: "digits" (8x8 grey images, whose values 0 .. 16 are scaled to 0 .. 255),
        "fashion_mnist", "cifar10", "cifar100" or "imagenet2012", whose splits are `Stream`s.
      data_dir: Directory of TFDS's datasets. None is TFDS's default: `$TFDS_DATA_DIR`, or else
        `~/tensorflow_datasets`.
      train_on: "train"; or "train+validation", which moves the examples of the validation split to
        the train split. Use it once all hyperparameters are chosen.
      subset: The examples to train on, as `parse_subset` reads it; None is all.
      image_size: Side in pixels to which "imagenet2012"'s images are cropped; None for the others.
      unlabelled: Whether `train["unlabelled"]` holds the images that the subset leaves out.

    Raises:
      ValueError: An argument is not one of these; or the subset lists examples that are not there;
        or `unlabelled` is True and the subset leaves nothing out.
      DatasetNotFoundError: The dataset is not in `data_dir`, or cannot be used.
      ImportError: scikit-learn (for digits) or TFDS is not installed.
    """
    num_train(name, train_on=train_on, subset=subset)  # checks them before anything is loaded
    check_image_size(name, image_size)
    chosen = None if subset is None else parse_subset(subset)
    if unlabelled:
        check_unlabelled(name, train_on, subset)
    if image_size is not None:
        return _open_streams(name, data_dir, train_on, chosen, image_size)
    dataset = _load_digits() if name == "digits" else _load_tfds(name, data_dir)
    dataset = dataset if train_on == "train" else _with_validation(dataset)
    if chosen is None:
        return dataset
    indices = _indices(dataset, chosen, name, data_dir)
    train = {key: array[indices] for key, array in dataset.train.items()}
    if unlabelled:
        train[UNLABELLED] = np.delete(dataset.train["image"], indices, axis=0)
    return dataset._replace(train=train)


def check_image_size(name: str, image_size: int | None) -> None:
    """Raises ValueError unless a size is given for "imagenet2012", and none for the others."""
    if name in RESIDENT_DATASETS:
        if image_size is not None:
            raise ValueError(
                f"`image_size` must be None for {name!r}, whose images have one, got {image_size}."
            )
    elif image_size is None:
        raise ValueError(f"The images of {name!r} differ in size: set `image_size`, to 224 say.")
    else:
        _checks.whole_number("image_size", image_size, minimum=1, maximum=4096)


def check_unlabelled(name: str, train_on: str, subset: str | None) -> None:
    """Raises ValueError unless a subset of a dataset in memory leaves examples out."""
    if name not in RESIDENT_DATASETS:
        raise ValueError(f"unlabelled images are kept in memory, but {name!r} is not.")
    if subset is None:
        raise ValueError("unlabelled images are those that `subset` leaves out, got None.")
    if num_unlabelled(name, train_on=train_on, subset=subset) == 0:
        raise ValueError(f"there are no unlabelled images: `subset` {subset!r} leaves none out.")


def num_unlabelled(name: str, *, train_on: str, subset: str) -> int:
    """Returns the number of examples that the subset leaves out."""
    return num_train(name, train_on=train_on) - num_train(name, train_on=train_on, subset=subset)


def num_examples(split: Split) -> int:
    """Returns the number of examples of a split in memory or of a stream."""
    return len(split) if isinstance(split, Stream) else len(split["label"])


def image_shape(split: Split) -> tuple[int, ...]:
    """Returns height, width and channels of a split in memory or of a stream."""
    return split.image_shape if isinstance(split, Stream) else split["image"].shape[1:]


def num_train(name: str, *, train_on: str = TRAIN_ON[0], subset: str | None = None) -> int:
    """Returns the number of examples to train on, without loading them.

    Args:
      name, train_on, subset: As in `load`.

    Raises:
      ValueError: As in `load`.
    """
    _checks.one_of("dataset", name, DATASETS)
    _checks.one_of("train_on", train_on, TRAIN_ON)
    available = _train_sizes(name)[train_on]
    if subset is None:
        return available
    chosen = parse_subset(subset)
    if isinstance(chosen, index_files.Positions):
        index_files.refuse_outside(chosen, available)
    total = subset_size(chosen, num_classes(name))
    if total > available:
        raise ValueError(
            f"`subset` {subset!r} has {total} examples, but {name} has {available} to train on."
        )
    return total


def _train_sizes(name: str) -> dict[str, int]:
    """Returns {train_on: number of examples}."""
    if name == "digits":
        sizes = DIGITS_SPLITS["train"].stop, DIGITS_SPLITS["validation"].stop
    else:
        sizes = TFDS_DATASETS[name].num_train, TFDS_DATASETS[name].num_examples["train"]
    return dict(zip(TRAIN_ON, sizes, strict=True))


def num_classes(name: str) -> int:
    """Returns the number of classes of a dataset, without loading it."""
    return 10 if name == "digits" else TFDS_DATASETS[name].num_classes


def _load_tfds(name: str, data_dir: PathLike | None) -> Dataset:
    builder = open_prepared(name, data_dir)
    source = TFDS_DATASETS[name]
    # The names hold TFDS's slices, so that a file made for other slices is not used.
    keys = [f"{tfds_split}/{key}" for tfds_split in source.splits.values() for key in ARRAYS]
    decode = functools.partial(_decode, name, data_dir, builder)
    arrays = kept(Path(builder.data_path, "decoded.npz"), keys, decode)
    splits = {
        ours: {key: arrays[f"{tfds_split}/{key}"] for key in ARRAYS}
        for ours, tfds_split in source.splits.items()
    }
    return _dataset(splits, source.num_classes)


def _open_streams(
    name: str,
    data_dir: PathLike | None,
    train_on: str,
    subset: AnySubset | None,
    image_size: int,
) -> Dataset:
    source = TFDS_DATASETS[name]
    directory = str(open_prepared(name, data_dir).data_path)
    stop = _train_sizes(name)[train_on]

    def stream(tfds_split, positions, *, augmented=False):
        open_examples = functools.partial(_encoded, directory, tfds_split)
        where = f"{tfds_split} of {directory}"
        return Stream(where, open_examples, positions, image_size, augmented)

    positions = range(stop) if subset is None else _chosen(name, data_dir, subset, stop)
    return Dataset(
        train=stream("train", positions, augmented=True),
        validation=stream("train", range(stop, source.num_examples["train"])),
        test=stream(source.test, range(source.num_examples[source.test])),
        num_classes=source.num_classes,
    )


def _chosen(name: str, data_dir: PathLike | None, subset: AnySubset, available: int) -> np.ndarray:
    """Returns a subset's positions in TFDS's train split; `available` is the number to train on."""
    if isinstance(subset, index_files.Positions):  # no labels need to be read
        return subset.indices
    known = _known(name, data_dir)
    labels, num_classes = known["label"][:available], TFDS_DATASETS[name].num_classes
    return subset_indices(subset, labels, num_classes, names=known["name"])


def _known(name: str, data_dir: PathLike | None) -> Arrays:
    """Returns the labels and file names of TFDS's whole train split."""
    directory = str(open_prepared(name, data_dir).data_path)
    read = functools.partial(_read_names, name, data_dir, directory)
    return kept(Path(directory, "names.npz"), ("label", "name"), read)


def _read_names(name: str, data_dir: PathLike | None, directory: str) -> Arrays:
    feature = TFDS_DATASETS[name].file_name
    try:
        pairs = [(e["label"], e[feature]) for e in _encoded(directory, "train")]
    except RuntimeError as error:  # array_record's checksums do not match
        raise _unusable(name, data_dir, str(error)) from error
    labels, names = zip(*pairs, strict=True)
    return {"label": np.array(labels, np.int32), "name": np.array(names)}


def _encoded(directory: str, tfds_split: str) -> Any:
    """Opens a split of a prepared dataset as examples with encoded images, as bytes."""
    tfds = _import_optional("tensorflow_datasets")
    builder = tfds.builder_from_directory(directory)
    return builder.as_data_source(tfds_split, decoders={"image": tfds.decode.SkipDecoding()})


def _with_validation(dataset: Dataset) -> Dataset:
    both = {
        name: np.concatenate([array, dataset.validation[name]])
        for name, array in dataset.train.items()
    }
    none = {name: array[:0] for name, array in dataset.validation.items()}
    return dataset._replace(train=both, validation=none)


def _indices(
    dataset: Dataset, subset: AnySubset, name: str, data_dir: PathLike | None
) -> np.ndarray:
    labels, names = dataset.train["label"], None
    if isinstance(subset, index_files.Names) and name in TFDS_DATASETS:
        has_names = TFDS_DATASETS[name].file_name is not None
        names = _known(name, data_dir)["name"] if has_names else None
    return subset_indices(subset, labels, dataset.num_classes, names=names)


def data_source(
    name: str, split: str, *, data_dir: PathLike | None = None
) -> Sequence[dict[str, Any]]:
    """Opens a split as TFDS's random-access sequence, which decodes an example when it is read.

    Args:
      name: "fashion_mnist", "cifar10", "cifar100" or "imagenet2012".
      split: "train", "validation" or "test".
      data_dir: As in `load`.

    Returns:
      A sequence of `{"image": uint8 [height, width, channels], "label": int, ...}`.

    Raises:
      ValueError: `name` or `split` is not one of these.
      DatasetNotFoundError: The dataset is not in `data_dir`, or cannot be used.
      ImportError: TFDS is not installed.
    """
    if name == "digits":
        raise ValueError("'digits' is held in memory: read it by `load`.")
    _checks.one_of("dataset", name, TFDS_DATASETS)
    _checks.one_of("split", split, TFDS_DATASETS[name].splits)
    builder = open_prepared(name, data_dir)
    return builder.as_data_source(TFDS_DATASETS[name].splits[split])


def how_to_get(name: str, data_dir: PathLike | None) -> str:
    """Returns the commands that put the dataset into `data_dir`."""
    prepare = f"python -m experiments.prepare_data --dataset={name}"
    if data_dir is not None:
        prepare += f" --data_dir={shlex.quote(str(data_dir))}"
    return TFDS_DATASETS[name].how_to_get.format(prepare=prepare)


def prepared_directory(name: str, data_dir: PathLike | None) -> Path:
    """Returns the directory of a dataset's current version, whether it exists or not."""
    tfds = _import_optional("tensorflow_datasets")
    root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    return root / name / str(tfds.builder_cls(name).VERSION)


def open_prepared(name: str, data_dir: PathLike | None) -> Any:
    """Returns TFDS's builder of a dataset, which is complete, without using the network.

    Raises:
      DatasetNotFoundError: The dataset is not in `data_dir`, or cannot be used.
      ImportError: TFDS is not installed.
    """
    directory = prepared_directory(name, data_dir)
    if not directory.exists():
        raise DatasetNotFoundError(
            f"{name} is not prepared: there is no {directory}.\n"
            f"To get it: {how_to_get(name, data_dir)}"
        )
    try:
        json.loads((directory / "dataset_info.json").read_bytes())
    except (OSError, ValueError) as error:
        damage = "its dataset_info.json is missing or damaged"
        raise _unusable(name, data_dir, damage) from error
    tfds = _import_optional("tensorflow_datasets")
    builder = tfds.builder(name, data_dir=directory.parents[1])
    if flaw := find_flaw(builder, TFDS_DATASETS[name].num_examples):
        raise _unusable(name, data_dir, flaw)
    return builder


def find_flaw(builder: Any, num_examples: dict[str, int]) -> str | None:
    """Returns why a dataset cannot be used, or None; TFDS reports it late, wrongly or never."""
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        return f"its format is {file_format}, which cannot be read without TensorFlow"
    found = {split: info.num_examples for split, info in builder.info.splits.items()}
    if not num_examples.items() <= found.items():
        return f"it holds {found} examples, not {num_examples}"
    files = [file for split in num_examples for file in builder.info.splits[split].filepaths]
    missing = [file.name for file in files if not file.exists()]
    return f"{missing[0]} is missing" if missing else None


def _unusable(name: str, data_dir: PathLike | None, flaw: str) -> DatasetNotFoundError:
    return DatasetNotFoundError(
        f"{prepared_directory(name, data_dir)} cannot be used: {flaw}.\n"
        f"Move it away, then: {how_to_get(name, data_dir)}"
    )


def _decode(name: str, data_dir: PathLike | None, builder: Any) -> Arrays:
    """Returns the arrays of each of TFDS's slices."""
    try:
        return {
            f"{tfds_split}/{key}": array
            for tfds_split in TFDS_DATASETS[name].splits.values()
            for key, array in _stack(builder.as_data_source(tfds_split)).items()
        }
    except RuntimeError as error:  # array_record's checksums do not match
        raise _unusable(name, data_dir, str(error)) from error


def _stack(source: Any) -> Arrays:
    examples = source.__getitems__(range(len(source)))
    return {
        "image": np.stack([example["image"] for example in examples]),
        "label": np.array([example["label"] for example in examples], np.int32),
    }


def _load_digits() -> Dataset:
    digits = _import_optional("sklearn.datasets").load_digits()
    # RandomState, because NumPy may change the stream of its newer generators.
    order = np.random.RandomState(DIGITS_SEED).permutation(len(digits.target))
    image = np.round(digits.images[order, :, :, None] * (255 / 16)).astype(np.uint8)
    label = digits.target[order].astype(np.int32)
    splits = {
        split: {"image": image[part], "label": label[part]} for split, part in DIGITS_SPLITS.items()
    }
    return _dataset(splits, 10)


def _dataset(splits: dict[str, Arrays], num_classes: int) -> Dataset:
    return Dataset(splits["train"], splits["validation"], splits["test"], num_classes)


def _import_optional(module: str) -> ModuleType:
    """Imports a module that takes long to import, and that only some users have."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{error}. Install it: pip install 'cyclical-jax[train]'") from error
