"""Any dataset of TFDS with images and their classes: "tfds:NAME", "tfds:NAME/CONFIG:VERSION".

Classes, splits and shapes are those that the prepared dataset's own files tell, so that it need not
be one that TFDS knows. It is read without TensorFlow.
"""

import functools
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclical_jax.data import own, photographs, splits
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
from cyclical_jax.data.tfds_named import find_flaw

_VALIDATION = ("validation", "valid", "val", "dev")
_FILE_NAMES = ("file_name", "filename", "image/filename", "id")  # features that name an image
_NAME = re.compile(r"\w[\w.-]*")  # no way out of the folder
_INFO = "dataset_info.json"


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
    info = directory_of(place, data_dir) / _INFO
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
            f"'tfds:{place}'."
        )
    root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    found = _versions(root.joinpath(*parts), version or "*")
    if not found and len(parts) == 1 and len(configs := _configs(root / name)) == 1:
        found = _versions(configs[0], version or "*")
    if not found:
        where = root.joinpath(*parts, *([version] if version else []))
        raise DatasetNotFoundError(
            f"dataset 'tfds:{place}' is not prepared: there is no {_INFO} in {where}. "
            f"To get it: {command(place, data_dir)}"
        )
    return found[-1]


def command(place: str, data_dir: PathLike | None) -> str:
    """Returns the command that prepares a dataset."""
    words = f"python -m experiments.prepare_data --dataset=tfds:{place}"
    return words if data_dir is None else f"{words} --data_dir={shlex.quote(str(data_dir))}"


def _versions(folder: Path, version: str) -> list[Path]:
    """Returns the directories of versions that are complete, the newest last."""
    found = [path.parent for path in folder.glob(f"{version}/{_INFO}")]
    numbered = [path for path in found if all(p.isdecimal() for p in path.name.split("."))]
    return sorted(numbered, key=lambda path: [int(part) for part in path.name.split(".")])


def _configs(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_dir() and _versions(path, "*")]


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
    tfds = import_optional("tensorflow_datasets")
    try:
        json.loads((directory / _INFO).read_bytes())
        builder = tfds.builder_from_directory(str(directory))
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory} is damaged: {_first_line(error)}") from error
    info, flat = builder.info, dict(builder.info.features)
    image = _feature(flat, tfds.features.Image, info.supervised_keys, 0, "image")
    label = _feature(flat, tfds.features.ClassLabel, info.supervised_keys, 1, "label")
    given = {split: part.num_examples for split, part in info.splits.items()}
    theirs = _theirs(given)
    if flaw := find_flaw(builder, {split: given[split] for split in theirs.values()}):
        raise ValueError(f"{directory} cannot be used: {flaw}. Move it away and prepare it anew.")
    if flat[image].np_dtype != np.uint8:
        raise ValueError(f"its images must be uint8, got {flat[image].np_dtype}.")
    others = sorted(given.keys() - set(theirs.values()))
    words = f"Splits that are left out: {', '.join(others)}."
    return Told(
        str(directory),
        image,
        label,
        next((feature for feature in _FILE_NAMES if feature in flat), None),
        tuple(flat[label].names),
        tuple(flat[image].shape),
        {ours: given[split] for ours, split in theirs.items()},
        "+".join(theirs.values()),
        (words,) if others else (),
    )


def _feature(features: dict[str, Any], kind: type, keys: Any, place: int, word: str) -> str:
    """Returns the name of the feature of a kind, of which there must be one."""
    supervised = keys[place] if keys else None
    if isinstance(supervised, str) and isinstance(features.get(supervised), kind):
        return supervised
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if word in found or len(found) == 1:
        return word if word in found else found[0]
    listed = ", ".join(sorted(features))
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
    return f"info {hashlib.sha256((directory / _INFO).read_bytes()).hexdigest()[:16]}"


# ---- the examples


class Examples:
    """All examples of the given splits, with encoded images."""

    def __init__(self, told: Told):
        tfds = import_optional("tensorflow_datasets")
        self._told = told
        self._source = tfds.builder_from_directory(told.directory).as_data_source(
            told.tfds_split, decoders={told.image: tfds.decode.SkipDecoding()}
        )

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
        source = Examples(told)
        examples = [source[index] for index in range(len(source))]
        found = {"label": np.array([example["label"] for example in examples], np.int32)}
        if told.file_name:
            found["name"] = np.array([_as_bytes(example["file_name"]) for example in examples])
        return found

    whole = kept(_kept_path(told, "labels"), keys, read)
    return {key: array[positions] for key, array in whole.items()}


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
    made = {
        split: {key: array[positions] for key, array in arrays.items()}
        for split, positions in at.items()
    }
    return Dataset(**made, num_classes=len(classes), class_names=classes, notes=notes)


def _decode(told: Told, image_size: int | None) -> Arrays:
    """Returns all images in one size, and their labels."""
    try:
        source, mode = Examples(told), "L" if told.shape[-1] == 1 else "RGB"
        examples = [source[index] for index in range(len(source))]
        labels = np.array([example["label"] for example in examples], np.int32)
        files = (example["image"] for example in examples)
        images = np.stack([photographs.decoded(file, mode, image_size) for file in files])
    except Exception as error:  # array_record's checksums do not match, or an image is broken
        raise ValueError(f"{told.directory} cannot be read: {_first_line(error)}") from error
    return {"image": images, "label": labels}


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
