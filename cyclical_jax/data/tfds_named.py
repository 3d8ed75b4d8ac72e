"""The datasets of TFDS that have a name of their own here, in fixed slices of TFDS's splits.

They are read without TensorFlow, and only `experiments/prepare_data.py` downloads them.
"""

import contextlib
import functools
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclical_jax import _checks
from cyclical_jax.data import own, tfds_files
from cyclical_jax.data.dataset import (
    ARRAYS,
    Dataset,
    DatasetNotFoundError,
    Found,
    PathLike,
    import_optional,
)
from cyclical_jax.data.kept import kept
from cyclical_jax.data.npz import Arrays
from cyclical_jax.data.streams import Stream


class TfdsDataset(NamedTuple):
    """The facts about a dataset that are known before it is opened."""

    num_classes: int
    num_examples: dict[str, int]  # by the names of TFDS's own splits
    shape: tuple[int | None, ...]
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
        shape=(32, 32, 3),
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
        shape=(28, 28, 1),
        num_train=55_000,
        how_to_get="apt-get install dataset-fashion-mnist && {prepare}",
    ),
    "cifar10": _cifar(10, "cifar-10-binary.tar.gz"),
    "cifar100": _cifar(100, "cifar-100-binary.tar.gz"),
    "imagenet2012": TfdsDataset(
        num_classes=1000,
        num_examples={"train": 1_281_167, "validation": 50_000},
        shape=(None, None, 3),
        num_train=1_271_167,
        how_to_get="put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, which image-net.org "
        "gives to registered users, into a directory DIR && {prepare} --raw_dir=DIR",
        test="validation",  # the labels of the official test images are secret
        file_name="file_name",
    ),
}


def find(name: str, data_dir: PathLike | None) -> Found:
    """Returns what the table says of a dataset, of which nothing is read yet."""
    source = TFDS_DATASETS[name]
    rest = source.num_examples["train"] - source.num_train
    is_varied = None in source.shape
    return Found(
        source.num_classes,
        (source.num_train, rest, source.num_examples[source.test]),
        functools.partial(_open_streams if is_varied else _load, name, data_dir),
        shape=source.shape,
        resident=not is_varied,
        can_resize=is_varied,
        known=functools.partial(_known, name, data_dir) if source.file_name else None,
    )


def _load(name: str, data_dir: PathLike | None, image_size: int | None) -> Dataset:
    builder = open_prepared(name, data_dir)
    source = TFDS_DATASETS[name]
    # The names hold TFDS's slices, so that a file made for other slices is not used.
    keys = [f"{tfds_split}/{key}" for tfds_split in source.splits.values() for key in ARRAYS]
    decode = functools.partial(_decode, name, data_dir, builder)
    arrays = kept(
        Path(builder.data_path, "decoded.npz"), keys, decode, _identity(builder.data_path)
    )
    splits: dict[str, Any] = {
        ours: {key: arrays[f"{tfds_split}/{key}"] for key in ARRAYS}
        for ours, tfds_split in source.splits.items()
    }
    return Dataset(**splits, num_classes=source.num_classes)


def _open_streams(name: str, data_dir: PathLike | None, image_size: int) -> Dataset:
    source = TFDS_DATASETS[name]
    directory = str(open_prepared(name, data_dir).data_path)

    def stream(tfds_split, positions, *, augmented=False):
        open_examples = functools.partial(_encoded, directory, tfds_split)
        where = f"{tfds_split} of {directory}"
        return Stream(where, open_examples, positions, image_size, augmented)

    return Dataset(
        train=stream("train", range(source.num_train), augmented=True),
        validation=stream("train", range(source.num_train, source.num_examples["train"])),
        test=stream(source.test, range(source.num_examples[source.test])),
        num_classes=source.num_classes,
    )


def _known(name: str, data_dir: PathLike | None) -> Arrays:
    """Returns the labels and file names of TFDS's whole train split."""
    directory = str(open_prepared(name, data_dir).data_path)
    read = functools.partial(_read_names, name, data_dir, directory)
    return kept(Path(directory, "names.npz"), ("label", "name"), read, _identity(directory))


def _identity(directory: PathLike) -> str:
    """Returns a digest of TFDS's description, so that no copy of another dataset is used."""
    return own.content_of(Path(directory, tfds_files.INFO))


def _read_names(name: str, data_dir: PathLike | None, directory: str) -> Arrays:
    feature = TFDS_DATASETS[name].file_name
    with _reading(name, data_dir):
        pairs = [(e["label"], e[feature]) for e in _encoded(directory, "train")]
        labels, names = zip(*pairs, strict=True)
        found = {"label": np.array(labels, np.int32), "name": np.array(names)}
    if flaw := tfds_files.label_flaw(found["label"], TFDS_DATASETS[name].num_classes):
        raise _unusable(name, data_dir, flaw)
    return found


@contextlib.contextmanager
def _reading(name: str, data_dir: PathLike | None) -> Iterator[None]:
    """Tells errors of TFDS and array_record, whose checksums do not match where data is damaged."""
    try:
        yield
    except Exception as error:
        raise _unusable(name, data_dir, tfds_files.line_of(error)) from error


def _encoded(directory: str, tfds_split: str) -> Any:
    """Opens a split of a prepared dataset as examples with encoded images, as bytes."""
    tfds = import_optional("tensorflow_datasets")
    builder = tfds.builder_from_directory(directory)
    return builder.as_data_source(tfds_split, decoders={"image": tfds.decode.SkipDecoding()})


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
    with _reading(name, data_dir):
        return builder.as_data_source(TFDS_DATASETS[name].splits[split])


def how_to_get(name: str, data_dir: PathLike | None) -> str:
    """Returns the commands that put the dataset into `data_dir`."""
    prepare = f"python -m experiments.prepare_data --dataset={name}"
    if data_dir is not None:
        prepare += f" --data_dir={shlex.quote(str(data_dir))}"
    return TFDS_DATASETS[name].how_to_get.format(prepare=prepare)


def prepared_directory(name: str, data_dir: PathLike | None) -> Path:
    """Returns the directory of a dataset's current version, whether it exists or not."""
    tfds = import_optional("tensorflow_datasets")
    root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    return root / name / str(tfds.builder_cls(name).VERSION)


def open_prepared(name: str, data_dir: PathLike | None) -> Any:
    """Returns TFDS's builder of a dataset, which is complete, without using the network.

    Raises:
      DatasetNotFoundError: The dataset is not in `data_dir`, or cannot be used.
      ImportError: TFDS is not installed.
    """
    directory = prepared_directory(name, data_dir)
    try:
        os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetNotFoundError(
            f"{name} is not prepared: there is no {directory}.\n"
            f"To get it: {how_to_get(name, data_dir)}"
        ) from error
    except OSError as error:
        raise DatasetNotFoundError(f"{directory} cannot be read: {error.strerror}.") from error
    tfds = import_optional("tensorflow_datasets")
    open_builder = functools.partial(tfds.builder, name, data_dir=directory.parents[1])
    try:
        builder = tfds_files.opened(directory, open_builder)
    except ValueError as error:
        raise _unusable(name, data_dir, str(error)) from error
    if flaw := tfds_files.find_flaw(builder, TFDS_DATASETS[name].num_examples):
        raise _unusable(name, data_dir, flaw)
    return builder


def _unusable(name: str, data_dir: PathLike | None, flaw: str) -> DatasetNotFoundError:
    return DatasetNotFoundError(
        f"{prepared_directory(name, data_dir)} cannot be used: {flaw}.\n"
        f"Move it away, then: {how_to_get(name, data_dir)}"
    )


def _decode(name: str, data_dir: PathLike | None, builder: Any) -> Arrays:
    """Returns the arrays of each of TFDS's slices."""
    source = TFDS_DATASETS[name]
    found: Arrays = {}
    for tfds_split in source.splits.values():
        with _reading(name, data_dir):
            arrays = _stack(builder.as_data_source(tfds_split))
        if flaw := tfds_files.label_flaw(arrays["label"], source.num_classes):
            raise _unusable(name, data_dir, flaw)
        found |= {f"{tfds_split}/{key}": array for key, array in arrays.items()}
    return found


def _stack(source: Any) -> Arrays:
    examples = source.__getitems__(range(len(source)))
    return {
        "image": np.stack([example["image"] for example in examples]),
        "label": np.array([example["label"] for example in examples], np.int32),
    }
