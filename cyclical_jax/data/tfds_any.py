"""Any dataset of TFDS with images and their classes: "tfds:NAME", "tfds:NAME/CONFIG:VERSION".

Classes, splits and shapes are those that the prepared dataset's own files tell, so that it need not
be one that TFDS knows. It is read without TensorFlow.
"""

import contextlib
import functools
import hashlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclical_jax import _checks
from cyclical_jax.data import own, photographs, splits, tfds_files
from cyclical_jax.data.dataset import (
    STREAMED,
    Dataset,
    DatasetNotFoundError,
    Found,
    PathLike,
    import_optional,
)
from cyclical_jax.data.kept import kept
from cyclical_jax.data.npz import Arrays
from cyclical_jax.data.streams import Stream
from cyclical_jax.data.tfds_files import INFO

_VALIDATION = ("validation", "valid", "val", "dev")
_FILE_NAMES = ("file_name", "filename", "image/filename", "id")  # features that name an image
_NAME = re.compile(r"\w[\w.-]*")  # no way out of the folder


class Told(NamedTuple):
    """The facts that a prepared dataset states of itself."""

    directory: str
    image: str  # names of its features
    label: str
    file_name: str | None
    classes: tuple[str, ...]
    shape: tuple[int | None, ...]
    sizes: dict[str, int]  # {our split: examples} of those that are given, train first
    tfds_split: str  # all of them, one after the other
    notes: tuple[str, ...]


def find(place: str, data_dir: PathLike | None = None) -> Found:
    """Returns what a prepared dataset tells of itself.

    Raises:
      ValueError: It has no images with their classes, or cannot be read; a line for each problem.
      DatasetNotFoundError: It is not in `data_dir`; with the command that prepares it.
    """
    name = f"tfds:{place}"
    info = directory_of(place, data_dir) / INFO
    with own.named(name):
        return _find(info.parent, own.stamp_of(info), name)


def directory_of(place: str, data_dir: PathLike | None) -> Path:
    """Returns the directory of a prepared dataset, of its newest version if none is named.

    Raises:
      ValueError: `place` is not NAME, NAME:VERSION or NAME/CONFIG:VERSION.
      DatasetNotFoundError: It is not there.
    """
    tfds = import_optional("tensorflow_datasets")
    name, _, version = place.partition(":")
    parts = name.split("/")
    is_version = not version or all(part.isdecimal() for part in version.split("."))
    if not is_version or len(parts) > 2 or not all(map(_NAME.fullmatch, parts)):
        raise ValueError(
            "`dataset` must be tfds:NAME, tfds:NAME:VERSION or tfds:NAME/CONFIG, got "
            f"{_checks.short(f'tfds:{place}')!r}."
        )
    root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    folder = root.joinpath(*parts)
    try:
        found = _versions(folder, version)
        if not found and len(parts) == 1 and len(configs := _configs(folder)) == 1:
            found = _versions(configs[0], version)
    except OSError as error:
        shown = _checks.short(str(folder), 200)
        line = f"dataset {_checks.short(f'tfds:{place}')!r}: {shown} cannot be read"
        raise DatasetNotFoundError(f"{line}: {error.strerror}.") from error
    if not found:
        where = root.joinpath(*parts, *([version] if version else []))
        raise DatasetNotFoundError(
            f"dataset 'tfds:{place}' is not prepared: there is no {INFO} in {where}. "
            f"To get it: {command(place, data_dir)}"
        )
    return found[-1]


def command(place: str, data_dir: PathLike | None) -> str:
    """Returns the command that prepares a dataset."""
    words = f"python -m experiments.prepare_data --dataset=tfds:{place}"
    return words if data_dir is None else f"{words} --data_dir={shlex.quote(str(data_dir))}"


def _versions(folder: Path, version: str = "") -> list[Path]:
    """Returns the directories of versions that are complete, the newest last."""
    names = [version] if version else _names_in(folder)
    numbered = [name for name in names if all(part.isdecimal() for part in name.split("."))]
    found = [folder / name for name in numbered if INFO in _names_in(folder / name)]
    return sorted(found, key=lambda path: [int(part) for part in path.name.split(".")])


def _configs(folder: Path) -> list[Path]:
    return [folder / name for name in _names_in(folder) if _versions(folder / name)]


def _names_in(folder: Path) -> list[str]:
    """Returns what is in a folder; nothing where there is no folder."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return os.listdir(folder)
    return []


@own.remembered
def _find(directory: Path, stamp: tuple[int, int], name: str) -> Found:
    told = _told(directory)
    parts = splits.complete(told.sizes)
    starts = dict(zip(told.sizes, np.cumsum([0, *told.sizes.values()]), strict=False))
    at = {split: starts[given] + positions for split, (given, positions) in parts.items()}
    notes = (*told.notes, *splits.notes_of(parts))
    found = Found(
        len(told.classes),
        splits.sizes_of(parts),
        read=lambda image_size: _read(name, found, told, at, notes, image_size),
        shape=told.shape,
        resident=None,
        can_resize=True,
        known=functools.partial(_known, told, np.concatenate([at["train"], at["validation"]])),
        identity=functools.partial(_identity, directory),
    )
    return found


def _told(directory: Path) -> Told:
    features, keys, given, builder = _opened(directory)
    tfds = import_optional("tensorflow_datasets")
    image = _feature(features, tfds.features.Image, keys, 0, "image")
    label = _feature(features, tfds.features.ClassLabel, keys, 1, "label")
    theirs = _theirs(given)
    _refuse_unusable(builder, {split: given[split] for split in theirs.values()})
    classes, shape = _facts(features[image], features[label], sum(given.values()))
    others = sorted(given.keys() - set(theirs.values()))
    words = f"Splits that are left out: {_checks.short(', '.join(others), 200)}."
    return Told(
        str(directory),
        image,
        label,
        next((feature for feature in _FILE_NAMES if feature in features), None),
        classes,
        shape,
        {ours: given[split] for ours, split in theirs.items()},
        "+".join(theirs.values()),
        (words,) if others else (),
    )


def _opened(directory: Path) -> tuple[dict[str, Any], Any, dict[str, int], Any]:
    """Returns what TFDS tells: features, supervised keys, sizes of splits; and its builder."""
    tfds = import_optional("tensorflow_datasets")

    def open_builder() -> Any:
        builder = tfds.builder_from_directory(str(directory))
        info = builder.info
        sizes = {split: part.num_examples for split, part in info.splits.items()}
        return dict(info.features), info.supervised_keys, sizes, builder

    try:
        return tfds_files.opened(directory, open_builder)
    except ValueError as error:
        raise ValueError(f"{directory} cannot be used: {error}.") from error


def _facts(image: Any, label: Any, number: int) -> tuple[tuple[str, ...], tuple[int | None, ...]]:
    """Returns the names of the classes and the shape of the images, of so many examples."""
    with tfds_files.trusted_to_tfds():
        dtype, shape, num_classes = image.np_dtype, tuple(image.shape), int(label.num_classes)
    if dtype != np.uint8:
        raise ValueError(f"its images must be uint8, got {dtype}.")
    if len(shape) != 3 or 0 in shape or shape[2] not in (1, 3, 4, None):
        raise ValueError(
            f"its images must be [height, width, 1, 3 or 4 channels], got {list(shape)}."
        )
    if not 2 <= num_classes <= number:
        raise ValueError(f"it must have 2 classes or more, got {num_classes} for {number} images.")
    with tfds_files.trusted_to_tfds():
        names = tuple(map(str, label.names))
    if len(names) != num_classes:
        raise ValueError(f"it must have {num_classes} names of classes, got {len(names)}.")
    return names, shape


def _refuse_unusable(builder: Any, num_examples: dict[str, int]) -> None:
    flaw = tfds_files.find_flaw(builder, num_examples)
    if flaw := flaw or tfds_files.find_miscount(builder, num_examples):
        raise ValueError(
            f"{builder.data_path} cannot be used: {flaw}. Move it away and prepare it anew."
        )


def _feature(features: dict[str, Any], kind: type, keys: Any, place: int, word: str) -> str:
    """Returns the name of the feature of a kind, of which there must be one."""
    supervised = keys[place] if keys else None
    if isinstance(supervised, str) and isinstance(features.get(supervised), kind):
        return supervised
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if word in found or len(found) == 1:
        return word if word in found else found[0]
    listed = _checks.short(", ".join(sorted(features)), 200)
    raise ValueError(f"it must have images and one class for each, got features {listed}.")


def _theirs(given: dict[str, int]) -> dict[str, str]:
    """Returns {our split: TFDS's}, train first."""
    if "train" not in given:
        raise ValueError(f"it must have a train split, got {', '.join(given) or 'none'}.")
    found = {"train": "train"}
    if validation := [split for split in _VALIDATION if split in given]:
        found["validation"] = validation[0]
    return found | ({"test": "test"} if "test" in given else {})


def _identity(directory: Path) -> str:
    """Returns a digest of TFDS's own description, which has the sizes of all files."""
    return f"info {hashlib.sha256((directory / INFO).read_bytes()).hexdigest()[:16]}"


# ---- the examples


class Examples:
    """All examples of the given splits, with encoded images."""

    def __init__(self, told: Told):
        tfds = import_optional("tensorflow_datasets")
        self._told, decoders = told, {told.image: tfds.decode.SkipDecoding()}
        with tfds_files.trusted_to_tfds():
            builder = tfds.builder_from_directory(told.directory)
            self._source = builder.as_data_source(told.tfds_split, decoders=decoders)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example, told = self._source[index], self._told
        named = {"file_name": example[told.file_name]} if told.file_name else {}
        return {"image": example[told.image], "label": int(example[told.label]), **named}


def _known(told: Told, positions: np.ndarray) -> Arrays:
    """Returns the labels, and the names if there are any, at these positions."""
    keys = ("label", "name") if told.file_name else ("label",)

    def read() -> Arrays:
        with _reading(told):
            source = Examples(told)
            examples = [source[index] for index in range(len(source))]
            found = {"label": np.array([example["label"] for example in examples], np.int32)}
            if told.file_name:
                found["name"] = np.array([_as_bytes(example["file_name"]) for example in examples])
            return found

    whole = kept(_kept_path(told, "labels"), keys, read)
    _refuse_wrong(told, whole)
    return {key: array[positions] for key, array in whole.items()}


@contextlib.contextmanager
def _reading(told: Told) -> Iterator[None]:
    """Tells what goes wrong: array_record's checksums do not match, or an image is broken."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{told.directory} cannot be read: {tfds_files.line_of(error)}."
        ) from error


def _refuse_wrong(told: Told, arrays: Arrays, shape: tuple[int | None, ...] | None = None) -> None:
    """Raises ValueError unless arrays are as the dataset tells; `shape` is that of one image."""
    flaw = tfds_files.label_flaw(arrays["label"], len(told.classes))
    if shape and (found := arrays["image"].shape[1:]) != shape:
        flaw = f"its images are {list(found)}, not {list(shape)}"
    if flaw:
        raise ValueError(f"{told.directory} cannot be used: {flaw}. Prepare it anew.")


def _kept_path(told: Told, what: str) -> Path:
    """Returns the file that keeps arrays; a dataset that is put in its place has another."""
    directory = Path(told.directory)
    return directory / f"{what}_{_identity(directory).rpartition(' ')[2]}.npz"


def _as_bytes(name: Any) -> bytes:
    return name if isinstance(name, bytes) else str(name).encode()


def _read(
    name: str,
    found: Found,
    told: Told,
    at: dict[str, np.ndarray],
    notes: tuple[str, ...],
    image_size: int | None,
) -> Dataset:
    classes = told.classes
    if not found.is_resident(image_size):
        assert image_size is not None  # `check_image_size` has seen to it
        opened = functools.partial(Examples, told)
        made: dict[str, Any] = {
            split: Stream(f"{split} of {name}", opened, positions, image_size, split == "train")
            for split, positions in at.items()
        }
        notes = (*notes, STREAMED)
        return Dataset(**made, num_classes=len(classes), class_names=classes, notes=notes)
    size = "" if image_size is None else f"_{image_size}"
    path = _kept_path(told, f"decoded_{told.tfds_split}{size}")
    with own.named(name):
        arrays = kept(path, ("image", "label"), functools.partial(_decode, told, image_size))
        side = (image_size, image_size) if image_size else told.shape[:2]
        _refuse_wrong(told, arrays, (*side, len(_mode(told))))
    made = {
        split: {key: array[positions] for key, array in arrays.items()}
        for split, positions in at.items()
    }
    return Dataset(**made, num_classes=len(classes), class_names=classes, notes=notes)


def _decode(told: Told, image_size: int | None) -> Arrays:
    """Returns all images in one size, and their labels."""
    with _reading(told):
        source = Examples(told)
        examples = [source[index] for index in range(len(source))]
        labels = np.array([example["label"] for example in examples], np.int32)
        files = (example["image"] for example in examples)
        images = np.stack([photographs.decoded(file, _mode(told), image_size) for file in files])
    return {"image": images, "label": labels}


def _mode(told: Told) -> str:
    return "L" if told.shape[-1] == 1 else "RGB"
