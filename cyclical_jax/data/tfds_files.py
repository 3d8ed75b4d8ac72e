"""Checks the files of a prepared dataset, because TFDS reports problems late, wrongly or never.

TFDS raises errors of any type; only one line of each is kept.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cyclical_jax import _checks, _files
from cyclical_jax._words import counted
from cyclical_jax.data.dataset import import_optional

INFO = "dataset_info.json"
_FEATURES = "features.json"


def opened(directory: Path, open_builder: Callable[[], Any]) -> Any:
    """Returns what `open_builder` returns, TFDS's builder of the dataset in a directory.

    Raises:
      ValueError: One of its descriptions is missing or damaged; a line.
    """
    for name in (INFO, *({_FEATURES} & set(os.listdir(directory)))):
        try:
            _files.read_json(directory / name, {})
        except PermissionError as error:
            raise ValueError(f"its {name} cannot be read: {error.strerror}") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"its {name} is missing or damaged") from error
    with trusted_to_tfds():
        return open_builder()


@contextlib.contextmanager
def trusted_to_tfds() -> Iterator[None]:
    """Turns what TFDS raises, which may be errors of any type, into a ValueError of one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"TFDS cannot read it: {line_of(error)}") from error


def find_flaw(builder: Any, num_examples: dict[str, int]) -> str | None:
    """Returns why splits of these sizes cannot be read, or None."""
    try:
        with trusted_to_tfds():
            return _flaw(builder, num_examples)
    except ValueError as error:
        return str(error)


def _flaw(builder: Any, num_examples: dict[str, int]) -> str | None:
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        return f"its format is {file_format}, which cannot be read without TensorFlow"
    splits = builder.info.splits
    found = {split: info.num_examples for split, info in splits.items()}
    if not num_examples.items() <= found.items():
        return f"it holds {found} examples, not {num_examples}"
    files = [file for split in num_examples for file in splits[split].filepaths]
    if missing := [file.name for file in files if not file.exists()]:
        return f"{missing[0]} is missing"
    of_all = {os.fspath(file) for split in splits.values() for file in split.filepaths}
    there = sorted(map(os.fspath, Path(builder.data_path).glob("*.array_record*")))
    if foreign := [os.path.basename(file) for file in there if file not in of_all]:
        return f"{foreign[0]} belongs to no split of its {INFO}"
    return None


def find_miscount(builder: Any, splits: Iterable[str]) -> str | None:
    """Returns which file has another number of examples than the dataset tells, or None."""
    module = import_optional("array_record.python.array_record_module")
    for split in splits:
        info = builder.info.splits[split]
        for file, length in zip(info.filepaths, info.shard_lengths, strict=True):
            reader = module.ArrayRecordReader(os.fspath(file))
            if (number := reader.num_records()) != length:
                return f"{file.name} has {counted(number, 'example')}, not {length:,}"
            reader.close()
    return None


def label_flaw(labels: np.ndarray, num_classes: int) -> str | None:
    """Returns which label is of no class, or None."""
    wrong = (labels < 0) | (labels >= num_classes)
    return f"a label is {labels[wrong][0]}, of {num_classes} classes" if wrong.any() else None


def line_of(error: BaseException) -> str:
    """Returns an error's type and the first line of its words."""
    words = next(iter(str(error).strip().splitlines()), "no reason given")
    return _checks.short(f"{type(error).__name__}: {words}", 200).rstrip(".")
