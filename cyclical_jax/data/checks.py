"""Checks a dataset, whoever made it, and reports each of its problems in one line."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cyclical_jax._words import counted
from cyclical_jax.data.dataset import (
    ARRAYS,
    SPLITS,
    Dataset,
    has_bytes,
    image_shape,
    num_examples,
)
from cyclical_jax.data.streams import Stream


def check(dataset: Any) -> None:
    """Raises ValueError, with a line for each problem, unless `dataset` is as `Dataset` says."""
    lines = list(problems(dataset))
    if lines:
        raise ValueError("\n".join(lines))


def problems(dataset: Any) -> Iterator[str]:
    """Yields a line for each problem of a dataset, whatever is to be learned from it."""
    if not isinstance(dataset, Dataset):
        yield f"dataset must be a `Dataset`, got {_kind(dataset)}."
        return
    classes = dataset.num_classes
    if isinstance(classes, bool) or not isinstance(classes, int | np.integer) or classes < 1:
        yield f"num_classes must be a whole number from 1, got {classes!r}."
        return
    found = {
        split: list(split_problems(split, getattr(dataset, split), classes)) for split in SPLITS
    }
    yield from (line for lines in found.values() for line in lines)
    names = dataset.class_names
    if names and len(names) != classes:
        yield f"class_names must be {classes} names, got {len(names)}."
    sound = {split: getattr(dataset, split) for split in SPLITS if not found[split]}
    if "train" in sound and not num_examples(sound["train"]):
        yield "train must have examples, got none."
    yield from _unlike("have one shape", {k: list(image_shape(one)) for k, one in sound.items()})
    yield from _unlike("be bytes, or all floats", {k: _kind_of(one) for k, one in sound.items()})


def split_problems(name: str, split: Any, num_classes: int) -> Iterator[str]:
    """Yields a line for each problem of one split; an empty split is no problem."""
    if isinstance(split, Stream):
        return
    if not isinstance(split, dict):
        yield (
            f"{name} must be a dict of arrays, {' and '.join(ARRAYS)}, or a `Stream`, got "
            f"{_kind(split)}. A split without examples has arrays of length 0."
        )
        return
    missing = [key for key in ARRAYS if key not in split]
    for key in missing:
        yield f"{name} must have {key!r}, got {', '.join(map(repr, split)) or 'nothing'}."
    others = [key for key, array in split.items() if not _is_array(array)]
    for key in others:
        yield f"{name}[{key!r}] must be an array, got {_kind(split[key])}."
    if not missing and not others:
        yield from _examples(name, split["image"], split["label"], num_classes)
        yield from _no_numbers(name, {k: of for k, of in split.items() if k not in ARRAYS})


def _no_numbers(name: str, further: dict[str, Any]) -> Iterator[str]:
    """Yields a line for each further entry that a device cannot hold, or that has no examples."""
    for key, array in further.items():
        if not array.ndim or array.dtype.kind in "SUOMm":  # texts, objects and times
            yield (
                f"{name}[{key!r}] must be numbers [examples, ...], got {array.dtype} of shape "
                f"{list(array.shape)}."
            )


def _examples(name: str, image: Any, label: Any, num_classes: int) -> Iterator[str]:
    """Yields a line for each problem of arrays of images and labels."""
    what, labels = f"{name}['image']", f"{name}['label']"
    if image.ndim < 2:
        yield f"{what} must be [examples, ...], got shape {list(image.shape)}."
    elif label.ndim and len(image) != len(label):
        yield (
            f"{what} and {labels} must be equally many, got {counted(len(image), 'example')} and "
            f"{counted(len(label), 'label')}."
        )
    if image.dtype != np.uint8 and image.dtype.kind not in "fV":  # V: bfloat16
        hint = ": use astype(np.uint8) for bytes, or floats, which are used as they are"
        yield f"{what} must be uint8 or floats, got {image.dtype}{hint}."
    elif flaw := non_finite(image):
        yield f"{what} must be finite, {flaw}."
    yield from _label_problems(labels, label, num_classes)


def _label_problems(what: str, label: Any, num_classes: int) -> Iterator[str]:
    """Yields a line for labels that no task can learn; each `Task` checks what it cannot learn."""
    is_whole = label.ndim > 0 and label.dtype.kind in "iu"
    is_float = label.ndim > 1 and label.dtype.kind == "f" and label.shape[-1] == num_classes
    if not (is_whole or is_float):
        yield (
            f"{what} must be whole numbers [examples, ...], or floats [examples, ..., "
            f"{num_classes}], got {label.dtype} of shape {list(label.shape)}."
        )
    elif is_float and (flaw := non_finite(label)):
        yield f"{what} must be finite, {flaw}."
    elif is_whole and label.size and not (label.min() >= 0 and label.max() < num_classes):
        yield f"{what} must be 0 to {num_classes - 1}, got {label.min()} to {label.max()}."


def non_finite(array: Any) -> str:
    """Returns in words where the first number is that is not finite; "" if all are finite.

    The extremes of an array show it without another array: with a NaN, they are NaN.
    """
    if array.dtype.kind == "u" or not array.size:
        return ""
    if np.isfinite(float(array.min())) and np.isfinite(float(array.max())):
        return ""
    flat = np.asarray(array, np.float64)
    bad = ~np.isfinite(flat)
    first = np.argwhere(bad)[0]
    more = f" and {others:,} more" if (others := int(bad.sum()) - 1) else ""
    return f"got {flat[tuple(first)]} in example {first[0]}{more}"


def _kind_of(split: Any) -> str:
    return "bytes" if has_bytes(split) else "floats"


def _unlike(words: str, found: dict[str, Any]) -> Iterator[str]:
    values = list(found.values())
    if any(value != values[0] for value in values):
        told = ", ".join(f"{split} {value}" for split, value in found.items())
        yield f"the images of all splits must {words}, got {told}."


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | jax.Array)


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
