"""Images of one's own in folders: "folder:DIR".

DIR has a folder for each class, with its JPEG and PNG files; or it has such folders in `train` and,
if you like, in `validation` (or `valid`, or `val`) and `test`.
"""

import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclical_jax.data import own, photographs, splits
from cyclical_jax.data.dataset import STREAMED, Dataset, Found, PathLike
from cyclical_jax.data.kept import Arrays
from cyclical_jax.data.streams import Stream

_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val"), "validation"
)
_SUFFIXES = (".jpg", ".jpeg", ".png")
_OTHER_IMAGES = (".avif", ".bmp", ".gif", ".heic", ".jp2", ".tif", ".tiff", ".webp")


class Listing(NamedTuple):
    """The image files of a folder, in the order of their paths, split after split."""

    root: str
    files: tuple[str, ...]  # relative to the root
    labels: np.ndarray  # [files]
    sizes: dict[str, int]  # of the given splits, in that order
    classes: tuple[str, ...]
    left_out: tuple[str, ...]  # files that are no images

    def __repr__(self) -> str:
        return f"Listing({self.root!r}, {len(self.files):,} files)"


def find(place: str, data_dir: PathLike | None = None) -> Found:
    """Returns what the names of the files, and the first file, tell.

    Raises:
      ValueError: It cannot be learned from; a line for each problem.
      DatasetNotFoundError: There is no such folder.
    """
    name = f"folder:{place}"
    path = own.place_of(name, place, is_folder=True)
    with own.named(name):
        return _find(path, _stamp(path), name)


def _stamp(path: Path) -> tuple[tuple[str, int], ...]:
    """Returns what changes when a file comes or goes; no folder of a class is read."""
    inner = _folders(path)
    classes = [one for folder in inner if folder.name in _NAMES for one in _folders(folder)]
    return tuple((str(one), one.stat().st_mtime_ns) for one in (path, *inner, *classes))


@own.remembered
def _find(path: Path, stamp: tuple[Any, ...], name: str) -> Found:
    listing = _list(path)
    parts = splits.complete(listing.sizes, listing.labels[: listing.sizes["train"]])
    starts = dict(zip(listing.sizes, np.cumsum([0, *listing.sizes.values()]), strict=False))
    at = {split: starts[given] + positions for split, (given, positions) in parts.items()}
    trained_on = np.concatenate([at["train"], at["validation"]])
    first = photographs.header_of(path / listing.files[0], listing.files[0])
    notes = (*_notes(listing), *splits.notes_of(parts))
    found = Found(
        len(listing.classes),
        splits.sizes_of(parts),
        read=lambda image_size: _read(name, found, listing, at, notes, image_size),
        shape=(first.height, first.width, 3),
        resident=None,
        can_resize=True,
        known=functools.partial(_known, listing, trained_on),
        identity=functools.partial(_identity, listing),
    )
    return found


def _known(listing: Listing, positions: np.ndarray) -> Arrays:
    names = [listing.files[position].rpartition("/")[2].encode() for position in positions]
    return {"label": listing.labels[positions], "name": np.array(names)}


def _notes(listing: Listing) -> tuple[str, ...]:
    number = len(listing.left_out)
    if not number:
        return ()
    more = f" and {number - 1:,} more" if number > 1 else ""
    return (f"Files that are no images are left out: {listing.left_out[0]}{more}.",)


# ---- the files


def _list(root: Path) -> Listing:
    given = _given_splits(root)
    classes = tuple(folder.name for folder in _folders(given["train"]))
    own.raise_all(_problems_of_classes(given, classes))
    files: list[str] = []
    labels: list[int] = []
    left_out: list[str] = []
    problems: list[str] = []
    sizes = {}
    for split, folder in given.items():
        before = len(files)
        for inner in _folders(folder):
            images, others, wrong = _images(inner, inner.relative_to(root).as_posix())
            if not images and split == "train":
                wrong.append(f"{inner.relative_to(root)} has no JPEG or PNG file.")
            files += images
            labels += [classes.index(inner.name)] * len(images)
            left_out += others
            problems += wrong
        sizes[split] = len(files) - before
        if not sizes[split] and not problems:
            problems.append(f"{folder.relative_to(root)} has no images.")
    own.raise_all(own.few(problems))
    return Listing(
        str(root), tuple(files), np.array(labels, np.int32), sizes, classes, tuple(left_out)
    )


def _given_splits(root: Path) -> dict[str, Path]:
    """Returns {split: its folder}, train first; all is to train on where there are no splits."""
    named = [folder for folder in _folders(root) if folder.name in _NAMES]
    if not any(folder.name == "train" for folder in named):
        if named:
            listed = ", ".join(folder.name for folder in named)
            raise ValueError(f"it must have train beside {listed}.")
        return {"train": root}
    others = [folder.name for folder in _folders(root) if folder.name not in _NAMES]
    if others:
        raise ValueError(f"it must have no more than train, validation and test, got {others[0]}.")
    splits = {_NAMES[folder.name]: folder for folder in named}
    if len(splits) < len(named):
        listed = ", ".join(folder.name for folder in named)
        raise ValueError(f"it must have one folder for validation, got {listed}.")
    return {"train": splits.pop("train"), **splits}


def _problems_of_classes(given: dict[str, Path], classes: tuple[str, ...]) -> Iterator[str]:
    if len(classes) < 2:
        listed = ", ".join(classes) or "none"
        yield f"it must have a folder for each of 2 classes or more, got {listed}."
    for split, folder in given.items():
        unknown = [inner.name for inner in _folders(folder) if inner.name not in classes]
        if unknown:
            yield f"{split} has classes that train has not: {', '.join(own.few(unknown))}."


def _images(folder: Path, name: str) -> tuple[list[str], list[str], list[str]]:
    """Returns the image files of a class, files that are no images, and problems."""
    images, others, problems = [], [], []
    for one in _visible(folder):
        file, suffix = f"{name}/{one.name}", os.path.splitext(one.name)[1].lower()
        if one.is_dir():
            problems.append(f"{file} is a folder in the folder of a class.")
        elif suffix in _SUFFIXES:
            images.append(file)
        elif suffix in _OTHER_IMAGES:
            problems.append(f"{file} is no JPEG or PNG file: make it one.")
        else:
            others.append(file)
    return images, others, problems


def _folders(path: Path) -> list[Path]:
    return [path / inner.name for inner in _visible(path) if inner.is_dir()]


def _visible(path: Path) -> list[os.DirEntry[str]]:
    """Returns what is in a folder, in order, without hidden files."""
    with os.scandir(path) as entries:  # which mostly know what is a folder
        seen = [one for one in entries if not one.name.startswith((".", "__MACOSX"))]
    return sorted(seen, key=lambda one: one.name)


def _identity(listing: Listing) -> str:
    """Returns a digest of names, sizes and times of change: a folder is not read to tell it."""
    digest = hashlib.sha256()
    for file in listing.files:
        stat = os.stat(os.path.join(listing.root, file))
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return f"files {digest.hexdigest()[:16]}"


# ---- the images


class Examples:
    """All images of a listing, as a `Stream` reads them; picklable."""

    def __init__(self, listing: Listing):
        self._listing = listing

    def __len__(self) -> int:
        return len(self._listing.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = self._listing.files[index]
        return {
            "image": photographs.upright_bytes(Path(self._listing.root, file), file),
            "label": int(self._listing.labels[index]),
            "file_name": file.encode(),
        }


def _read(
    name: str,
    found: Found,
    listing: Listing,
    at: dict[str, np.ndarray],
    notes: tuple[str, ...],
    image_size: int | None,
) -> Dataset:
    if found.is_resident(image_size):
        with own.named(name):
            images = photographs.read_all(Path(listing.root), listing.files, image_size)
        made: dict[str, Any] = {
            split: {"image": images[positions], "label": listing.labels[positions]}
            for split, positions in at.items()
        }
    else:
        assert image_size is not None  # `check_image_size` has seen to it
        notes = (*notes, STREAMED)
        made = {
            split: _stream(f"{split} of {name}", listing, positions, image_size, split == "train")
            for split, positions in at.items()
        }
    classes = listing.classes
    return Dataset(**made, num_classes=len(classes), class_names=classes, notes=notes)


def _stream(
    name: str, listing: Listing, positions: np.ndarray, image_size: int, augmented: bool
) -> Stream:
    open_examples = functools.partial(Examples, listing)
    return Stream(name, open_examples, positions, image_size, augmented)
