"""Reads the parts that all datasets of the user have: place, labels, numbers to normalise."""

import contextlib
import functools
import hashlib
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cyclical_jax import _checks
from cyclical_jax.data import splits
from cyclical_jax.data.checks import non_finite
from cyclical_jax.data.dataset import Dataset, DatasetNotFoundError
from cyclical_jax.data.images import Normalisation
from cyclical_jax.data.npz import Arrays

_MOST_SHOWN = 5  # problems of one kind


class Labels(NamedTuple):
    """Labels of all given splits, as numbers.

    Attributes:
      of: {split: int32 [n] from 0, or float32 [n, classes]}.
      num_classes: Number of classes.
      names: Their names, or nothing.
    """

    of: dict[str, np.ndarray]
    num_classes: int
    names: tuple[str, ...] = ()


def place_of(name: str, place: str, *, is_folder: bool = False) -> Path:
    """Returns the path of the data that `name` names, with `~` expanded.

    Raises:
      ValueError: It is not a path on this machine.
      DatasetNotFoundError: There is no such file or folder.
    """
    path, kind = _checks.local_path("dataset", place), "folder" if is_folder else "file"
    found = _kind_of(path, name)
    if found == kind:
        return path
    what = f"{path} is a {found}" if found else f"there is no {kind} {path}"
    here = "" if path.is_absolute() else f" in {Path.cwd()}"
    raise DatasetNotFoundError(f"dataset {name!r}: {what}{here}.")


def _kind_of(path: Path, name: str) -> str | None:
    """Returns the kind of a path in words; None if nothing is there."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # one may not look there, or it is no path
        reason = getattr(error, "strerror", None) or error
        line = f"dataset {_checks.short(name)!r} cannot be read: {reason}."
        raise DatasetNotFoundError(line) from error
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder"}
    return kinds.get(stat.S_IFMT(mode), "pipe or a device")


def stamp_of(path: Path) -> tuple[int, int]:
    """Returns what changes when a file is written anew; until then its facts can be remembered."""
    about = path.stat()
    return about.st_mtime_ns, about.st_size


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Puts the name of a dataset before each line of a ValueError or of a failure to read."""
    try:
        yield
    except DatasetNotFoundError:
        raise
    except OSError as error:
        reason = f"{error.filename} cannot be read: {error.strerror}"
        raise ValueError(f"`dataset` {name!r}: {reason}.") from error
    except ValueError as error:
        lines = (f"`dataset` {name!r}: {line}" for line in str(error).splitlines())
        raise ValueError("\n".join(lines)) from error


def raise_all(problems: Iterable[str]) -> None:
    """Raises one ValueError with a line for each problem, if there is any."""
    lines = list(problems)
    if lines:
        raise ValueError("\n".join(lines))


class Few:
    """Iterates over the first problems of one kind, and a line that tells how many more there are.

    Attributes:
      number: Number of all problems.
    """

    def __init__(self) -> None:
        self.number, self._first = 0, list[str]()

    def add(self, problem: str) -> None:
        self.number += 1
        if self.number <= _MOST_SHOWN:
            self._first.append(problem)

    def __iter__(self) -> Iterator[str]:
        yield from self._first
        if self.number > _MOST_SHOWN:
            yield f"and {self.number - _MOST_SHOWN:,} more like these."


def few(problems: Iterable[str]) -> Few:
    """Returns the first problems of one kind, and how many more there are."""
    found = Few()
    for problem in problems:
        found.add(problem)
    return found


def content_of(path: Path) -> str:
    """Returns a digest of the content of a file."""
    with path.open("rb") as file:
        return f"content {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


# ---- labels


def read_labels(labels: Mapping[str, np.ndarray], names: tuple[str, ...] = ()) -> Labels:
    """Returns labels as numbers: whole numbers from 0, words, or probabilities of the classes.

    Args:
      labels: {split: [n] whole numbers or words, or [n, classes] floats}.
      names: Names of the classes, if they are given.

    Raises:
      ValueError: They are none of these; a line for each problem.
    """
    raise_all(line for split in labels for line in _problems(split, labels[split]))
    made = _made(labels)
    raise_all(_problems_of_classes(made, names))
    return made._replace(names=names) if names else made


def _problems(split: str, labels: np.ndarray) -> Iterator[str]:
    kind, what = labels.dtype.kind, f"{split} labels"
    shape = f"{labels.dtype} of shape {list(labels.shape)}"
    if not len(labels):
        yield f"there are no {what}."
    elif not (labels.ndim == 1 and kind in "biuUS" or labels.ndim == 2 and kind == "f"):
        hint = " Classes are whole numbers: use astype(int)." if labels.ndim == 1 else ""
        yield (
            f"{what} must be whole numbers or words [examples], or floats [examples, classes], got "
            f"{shape}.{hint}"
        )
    elif kind == "f" and not (labels.min() >= 0 and labels.max() <= 1):
        yield f"{what} must be from 0 to 1, got {labels.min()} to {labels.max()}."
    elif kind in "iu" and labels.min() < 0:
        yield f"{what} must be whole numbers from 0, got {labels.min()}."


def _made(labels: Mapping[str, np.ndarray]) -> Labels:
    kinds = {split: array.dtype.kind for split, array in labels.items()}
    if set(kinds.values()) <= {"U", "S"}:
        words = {split: as_words(array) for split, array in labels.items()}
        names = np.unique(np.concatenate(list(words.values())))
        numbers = {split: np.searchsorted(names, word) for split, word in words.items()}
        numbers = {split: array.astype(np.int32) for split, array in numbers.items()}
        return Labels(numbers, len(names), tuple(map(str, names)))
    if set(kinds.values()) == {"f"}:
        floats = {split: array.astype(np.float32) for split, array in labels.items()}
        return Labels(floats, labels["train"].shape[1])
    if set(kinds.values()) <= set("biu"):
        highest = max(int(array.max()) for array in labels.values())
        return Labels({k: v.astype(np.int32) for k, v in labels.items()}, highest + 1)
    told = ", ".join(f"{split} {array.dtype}" for split, array in labels.items())
    raise ValueError(f"labels of all splits must be of one type, got {told}.")


def as_words(labels: np.ndarray) -> np.ndarray:
    """Returns words that may be bytes, in UTF-8, as text."""
    return np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels


def _problems_of_classes(labels: Labels, names: tuple[str, ...]) -> Iterator[str]:
    number = sum(map(len, labels.of.values()))
    if labels.num_classes < 2:
        yield "there must be at least 2 classes, got 1."
    elif labels.num_classes > number:
        yield (
            f"labels reach {labels.num_classes - 1} for {number} examples: number the classes from "
            "0, without gaps."
        )
    widths = {array.shape[1] for array in labels.of.values() if array.ndim == 2}
    if len(widths) > 1:
        yield f"labels of all splits must have as many classes, got {sorted(widths)}."
    if names and labels.names:
        yield "class_names must be left out where the labels are words."
    elif names and len(names) != labels.num_classes:
        yield f"class_names must be {labels.num_classes} names, got {len(names)}."


def notes_of_classes(labels: Labels, positions: np.ndarray) -> tuple[str, ...]:
    """Returns a sentence about classes that have no example to train on."""
    chosen = labels.of["train"][positions]
    counts = (
        np.bincount(chosen, minlength=labels.num_classes) if chosen.ndim == 1 else chosen.sum(0)
    )
    absent = [labels.names[k] if labels.names else str(k) for k in np.flatnonzero(counts == 0)]
    if not absent:
        return ()
    more = f" and {len(absent) - _MOST_SHOWN} more" if len(absent) > _MOST_SHOWN else ""
    listed = ", ".join(_checks.short(name) for name in absent[:_MOST_SHOWN])
    return (f"There is no example to train on of class {listed}{more}.",)


# ---- inputs


def inputs_of(what: str, raw: np.ndarray) -> np.ndarray:
    """Returns images as models take them: bytes, or float32 as they are; tables as float64.

    Args:
      what: The name of the array, for errors.
      raw: [n, features], [n, height, width] or [n, height, width, channels] numbers.

    Raises:
      ValueError: Whole numbers of images are not bytes, or floats are not finite.
    """
    if raw.dtype.kind == "f" and (flaw := non_finite(raw)):
        raise ValueError(f"{what} must be finite, {flaw}.")
    if raw.ndim == 2:
        return raw.astype(np.float64)
    images = raw[..., None] if raw.ndim == 3 else raw
    if images.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused later
            return images.astype(np.float32)
    if images.dtype != np.uint8 and images.size and not 0 <= images.min() <= images.max() <= 255:
        raise ValueError(
            f"{what} of whole numbers must be bytes, 0 to 255, got {images.min()} to "
            f"{images.max()}: give other numbers as floats, which are used as they are."
        )
    return images.astype(np.uint8)


def assemble(
    inputs: Mapping[str, np.ndarray],
    labels: Labels,
    parts: splits.Parts,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Returns the dataset of the given arrays; the features of a table are normalised.

    Args:
      inputs: {given split: what `inputs_of` returns}.
      labels: The labels of the given splits.
      parts: The examples of each split.
      notes: Sentences that come before those about splits and numbers.
    """
    made = {
        split: {"image": inputs[given][positions], "label": labels.of[given][positions]}
        for split, (given, positions) in parts.items()
    }
    is_table = inputs["train"].ndim == 2
    normalisation = _statistics(made["train"]["image"]) if is_table else None
    if normalisation:
        made = {split: _normalised(arrays, normalisation) for split, arrays in made.items()}
    classes = notes_of_classes(labels, parts["train"][1])
    return Dataset(
        **made,
        num_classes=labels.num_classes,
        class_names=labels.names,
        normalisation=normalisation,
        notes=(*notes, *splits.notes_of(parts), *classes, *_notes_of_inputs(inputs["train"])),
    )


def _statistics(features: np.ndarray) -> Normalisation:
    varies = np.ptp(features, axis=0) > 0  # the deviation of equal numbers may not round to 0
    return Normalisation(features.mean(axis=0), np.where(varies, features.std(axis=0), 1.0))


def _normalised(arrays: Arrays, normalisation: Normalisation) -> Arrays:
    return {**arrays, "image": normalisation(arrays["image"])}


def _notes_of_inputs(inputs: np.ndarray) -> tuple[str, ...]:
    if inputs.ndim == 2:
        words = "the mean and the standard deviation of the training split"
        number = inputs.shape[1]
        features = f"The {number} features are" if number > 1 else "The feature is"
        return (f"{features} normalised by {words}.",)
    if inputs.dtype.kind == "f":
        words = f"from {inputs.min():.4g} to {inputs.max():.4g}"
        return (f"The images are floats, {words}, which are used as they are.",)
    return ()


remembered = functools.lru_cache(maxsize=8)  # facts of files, which a table asks for often
