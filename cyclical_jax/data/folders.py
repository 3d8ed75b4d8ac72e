"""Your own images in folders: "folder:DIR".

DIR has a folder for each class, with its JPEG and PNG files; or it has such folders in `train` and,
if you like, in `validation` (or `valid`, or `val`) and `test`.
"""

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclical_jax.data import own, photographs, splits
from cyclical_jax.data.dataset import STREAMED, Dataset, Found, PathLike
from cyclical_jax.data.npz import Arrays
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


class _Files(NamedTuple):
    """Files of one split or class."""

    images: list[str]
    labels: list[int]
    others: list[str]  # no images
    problems: list[str]


def find(place: str, data_dir: PathLike | None = None) -> Found:
    """Returns the facts that the names of the files, and the first file, tell.

    Raises:
      ValueError: Nothing can be learned from it; a line for each problem.
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
    first = photographs.headers_of(path, listing.files[:1])[0]
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
    names = [os.fsencode(os.path.basename(listing.files[position])) for position in positions]
    return {"label": listing.labels[positions], "name": np.array(names)}


def _notes(listing: Listing) -> tuple[str, ...]:
    number = len(listing.left_out)
    if not number:
        return ()
    more = f" and {number - 1:,} more" if number > 1 else ""
    return (f"Files that are not images are left out: {listing.left_out[0]}{more}.",)


# ---- the files


def _list(root: Path) -> Listing:
    given = _given_splits(root)
    classes = tuple(folder.name for folder in _folders(given["train"]))
    own.raise_all(_problems_of_classes(given, classes))
    found = {split: _files(root, split, folder, classes) for split, folder in given.items()}
    own.raise_all(own.few([problem for each in found.values() for problem in each.problems]))
    return Listing(
        str(root),
        tuple(file for each in found.values() for file in each.images),
        np.concatenate([np.array(each.labels, np.int32) for each in found.values()]),
        {split: len(each.images) for split, each in found.items()},
        classes,
        tuple(file for each in found.values() for file in each.others),
    )


def _files(root: Path, split: str, folder: Path, classes: Sequence[str]) -> _Files:
    """Returns the files of all classes of a split; those beside the classes are of none."""
    all_of_it = _images(folder, root, is_class=False)
    for inner in _folders(folder):
        of_class = _images(inner, root)
        if not of_class.images and split == "train":
            of_class.problems.append(f"{inner.relative_to(root)} has no JPEG or PNG file.")
        of_class.labels.extend([classes.index(inner.name)] * len(of_class.images))
        for kind in _Files._fields:
            getattr(all_of_it, kind).extend(getattr(of_class, kind))
    if not all_of_it.images and not all_of_it.problems:
        all_of_it.problems.append(f"{folder.relative_to(root)} has no images.")
    return all_of_it


def _given_splits(root: Path) -> dict[str, Path]:
    """Returns {split: its folder}, train first; without splits all is to train on."""
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
            yield f"{split} has classes that train does not have: {', '.join(own.few(unknown))}."


def _images(folder: Path, root: Path, *, is_class: bool = True) -> _Files:
    """Returns the files of a folder, without labels; an image must be in the folder of a class."""
    files, name = _Files([], [], [], []), folder.relative_to(root).as_posix()
    for one in _visible(folder):
        file, suffix = f"{name}/{one.name}".removeprefix("./"), _suffix(one.name)
        if one.is_dir():
            if is_class:
                files.problems.append(f"{file} is a folder in the folder of a class.")
        elif suffix in _OTHER_IMAGES:
            files.problems.append(f"{file} is not a JPEG or PNG file: convert it.")
        elif suffix not in _SUFFIXES:
            files.others.append(file)
        elif is_class:
            files.images.append(file)
        else:
            files.problems.append(f"{file} is not in the folder of a class.")
    return files


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


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
        digest.update(os.fsencode(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0"))
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
            "file_name": os.fsencode(file),
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
