"""Your own arrays in an .npz file: "npz:FILE".

`image` is [n, height, width, channels], [n, height, width] or, for a table, [n, features]; `label`
is [n] whole numbers or words, or [n, classes] probabilities. With the prefixes `train_`,
`validation_` and `test_` the file holds splits. `class_names` may name the classes.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cyclical_jax import _checks
from cyclical_jax.data import npz, own, splits
from cyclical_jax.data.dataset import ARRAYS, SPLITS, Dataset, Found, PathLike

Headers = dict[str, npz.Header]
Keys = dict[str, tuple[str, str]]  # {given split: (key of its images, key of its labels)}
_NAMES = "class_names"


def find(place: str, data_dir: PathLike | None = None) -> Found:
    """Returns the facts that the headers and the labels of a file tell.

    Raises:
      ValueError: Nothing can be learned from it; a line for each problem.
      DatasetNotFoundError: There is no such file.
    """
    path = own.place_of(f"npz:{place}", place)
    return _find(path, own.stamp_of(path), f"npz:{place}")


@own.remembered
def _find(path: Path, stamp: tuple[int, int], name: str) -> Found:
    with own.named(name):
        headers = _headers(path)
        own.raise_all(_problems(headers))
        keys = _keys(headers)
        given = {split: _read(path, label) for split, (_, label) in keys.items()}
        names = _read(path, _NAMES) if _NAMES in headers else np.array([], str)
        labels = own.read_labels(given, tuple(map(str, own.as_words(names))))
        sizes = {split: len(array) for split, array in labels.of.items()}
        parts = splits.complete(sizes, labels.of["train"])
    others = headers.keys() - {key for pair in keys.values() for key in pair} - {_NAMES}
    return Found(
        labels.num_classes,
        splits.sizes_of(parts),
        functools.partial(_load, path, name, keys, labels, parts, sorted(others)),
        shape=_example_shape(headers[keys["train"][0]].shape),
        identity=functools.partial(own.content_of, path),
    )


def _headers(path: Path) -> Headers:
    try:
        return npz.headers(path)
    except ValueError as error:
        raise ValueError(f"this is no .npz file that can be read: {error}.") from error


def _keys(headers: Headers) -> Keys:
    if not _has_prefixes(headers):
        return {"train": ARRAYS}
    return {
        split: (f"{split}_image", f"{split}_label")
        for split in SPLITS
        if any(f"{split}_{key}" in headers for key in ARRAYS)
    }


def _has_prefixes(headers: Headers) -> bool:
    return any(f"{split}_{key}" in headers for split in SPLITS for key in ARRAYS)


def _problems(headers: Headers) -> Iterator[str]:
    """Yields a line for each problem that names, shapes and types tell."""
    plain = [key for key in ARRAYS if key in headers]
    if _has_prefixes(headers) and plain:
        yield f"it has {' and '.join(plain)}, and arrays with prefixes too: use one way."
        return
    keys = _keys(headers)
    if "train" not in keys:
        keys = {"train": ("train_image", "train_label")} | keys
    wanted = [key for pair in keys.values() for key in pair]
    missing = [key for key in wanted if key not in headers]
    if missing:
        listed = _checks.short(", ".join(sorted(headers)), 200) or "nothing"
        yield f"it must have {' and '.join(missing)}, got {listed}."
    for key in [key for key in (*wanted, _NAMES) if key in headers]:
        if headers[key].dtype.hasobject:
            yield f"{key} holds Python objects, which are not unpickled: save plain numbers."
    if _NAMES in headers:
        yield from _problems_of_names(*headers[_NAMES][:2])
    if not missing:
        for image, label in keys.values():
            yield from _problems_of_images(image, *headers[image][:2])
            yield from _problems_of_lengths(
                image, headers[image].shape, label, headers[label].shape
            )
        shapes = {image: _example_shape(headers[image].shape) for image, _ in keys.values()}
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
            yield f"the examples of all splits must have one shape, got {told}."


def _problems_of_names(shape: tuple[int, ...], dtype: np.dtype) -> Iterator[str]:
    if not dtype.hasobject and (len(shape) != 1 or dtype.kind not in "US"):
        yield f"{_NAMES} must be words [classes], got {dtype} of shape {list(shape)}."


def _problems_of_images(key: str, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[str]:
    if dtype.kind not in "iuf" and not dtype.hasobject:
        yield f"{key} must be whole numbers or floats, got {dtype}."
    if len(shape) not in (2, 3, 4) or 0 in shape[1:]:
        yield (
            f"{key} must be [examples, height, width, channels], [examples, height, width] or, for "
            f"a table, [examples, features], got shape {list(shape)}."
        )
    elif len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) > 4:
        yield f"{key} must have its channels last, got shape {list(shape)}: np.moveaxis(x, 1, -1)."


def _problems_of_lengths(image: str, shape, label: str, labels_shape) -> Iterator[str]:
    if not labels_shape or shape[:1] != labels_shape[:1]:
        yield f"{image} and {label} must be equally many, got {shape[:1]} and {labels_shape[:1]}."


def _example_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[1:], 1) if len(shape) == 3 else shape[1:]


def _read(path: Path, key: str) -> np.ndarray:
    try:
        return npz.read(path, [key])[key]
    except ValueError as error:
        raise ValueError(f"{key} cannot be read: {error}.") from error


def _load(
    path: Path,
    name: str,
    keys: Keys,
    labels: own.Labels,
    parts: splits.Parts,
    others: list[str],
    image_size: None,
) -> Dataset:
    inputs, problems = {}, []
    for split, (key, _) in keys.items():
        try:
            inputs[split] = own.inputs_of(key, _read(path, key))
        except ValueError as error:
            problems.append(str(error))
    with own.named(name):
        own.raise_all(problems)
    notes = (
        (f"Other arrays of the file are left out: {_checks.short(', '.join(others), 200)}.",)
        if others
        else ()
    )
    return own.assemble(inputs, labels, parts, notes)
