"""Your own table in a .csv file: "csv:FILE".

The first line has the names of the columns. The labels are the column `label`, or else the last
one: whole numbers or words, one for each class. All other columns are numbers.
"""

import contextlib
import csv
import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from cyclical_jax import _checks
from cyclical_jax._words import counted
from cyclical_jax.data import own, splits
from cyclical_jax.data.dataset import Dataset, Found, PathLike

_LABEL = "label"
_MOST_OF_LINE = 2**26  # characters
_CELLS = 2**18  # that are text at once
Row = tuple[int, list[str]]  # number of the line in the file, cells


class _Table(NamedTuple):
    """A file's rows.

    Attributes:
      features: [rows, columns of features], float64.
      numbers: [rows], the place of each row's label in `words`.
      words: The different labels, in the order in which they come.
    """

    features: np.ndarray
    numbers: np.ndarray
    words: list[str]


def find(place: str, data_dir: PathLike | None = None) -> Found:
    """Returns the facts about a file, which is read as a whole.

    Raises:
      ValueError: Nothing can be learned from it; a line for each problem.
      DatasetNotFoundError: There is no such file.
    """
    path = own.place_of(f"csv:{place}", place)
    return _find(path, own.stamp_of(path), f"csv:{place}")


@own.remembered
def _find(path: Path, stamp: tuple[int, int], name: str) -> Found:
    with own.named(name):
        label, table = _read(path)
        labels = _labels(table.words, table.numbers)
        parts = splits.complete({"train": len(table.numbers)}, labels.of["train"])
    column = _checks.short(label)
    note = f"The labels are the column {column!r}, of {labels.num_classes} classes."
    return Found(
        labels.num_classes,
        splits.sizes_of(parts),
        functools.partial(_load, table.features, labels, parts, note),
        shape=table.features.shape[1:],
        identity=functools.partial(own.content_of, path),
    )


def _load(
    features: np.ndarray, labels: own.Labels, parts: splits.Parts, note: str, image_size: None
) -> Dataset:
    return own.assemble({"train": features}, labels, parts, (note,))


def _read(path: Path) -> tuple[str, _Table]:
    """Returns the name of the column of the labels, and the rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_lines(file), strict=True, skipinitialspace=True)
            rows = ((reader.line_num, row) for row in reader if "".join(row).strip())
            _, header = next(rows, (0, None))
            if header is None:
                raise ValueError("this file is empty.")
            columns = [column.strip() for column in header]
            at = columns.index(_LABEL) if _LABEL in columns else len(columns) - 1
            return columns[at], _parsed(columns, at, rows)
    except UnicodeDecodeError as error:
        raise ValueError("this file is not text in UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise ValueError(f"this file cannot be read: {error}.") from error


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_MOST_OF_LINE):
        if len(line) == _MOST_OF_LINE:
            raise ValueError(f"one of its lines has {_MOST_OF_LINE:,} characters or more.")
        yield line


def _parsed(columns: list[str], at: int, rows: Iterator[Row]) -> _Table:
    """Returns the rows; only some of them are text at any time.

    Raises:
      ValueError: Nothing can be learned from them; a line for each problem.
    """
    if len(columns) < 2:
        raise ValueError(_too_few(columns))
    uneven, wrong, words = own.Few(), own.Few(), dict[str, int]()
    names = columns[:at] + columns[at + 1 :]
    features, numbers = [np.empty((0, len(names)))], [np.empty(0, np.int32)]
    while some := list(itertools.islice(rows, max(1, _CELLS // len(columns)))):
        even = _even(some, len(columns), uneven)
        labels = (row.pop(at).strip() for _, row in even)
        found = [words.setdefault(label, len(words)) for label in labels]
        numbers.append(np.array(found, np.int32))
        features.append(_numbers(names, even, wrong))
    table = _Table(np.concatenate(features), np.concatenate(numbers), list(words))
    problems = [*_problems_of_columns(columns), *uneven]
    if not problems and not len(table.numbers):
        problems = ["it must have rows, got the first line alone."]
    own.raise_all(problems)
    own.raise_all(wrong)
    return table


def _even(rows: list[Row], number: int, uneven: own.Few) -> list[Row]:
    """Returns the rows of so many cells; adds a problem for each other one."""
    others = [(line, len(row)) for line, row in rows if len(row) != number]
    for line, length in others:
        uneven.add(f"line {line} must have {number} cells, got {length}.")
    return [(line, row) for line, row in rows if len(row) == number] if others else rows


def _too_few(columns: list[str]) -> str:
    hint = " Its cells must be separated by commas." if set(columns[0]) & set(";\t|") else ""
    shown = _checks.short(str(columns))
    return f"it must have columns of features and one of labels, got {shown}.{hint}"


def _problems_of_columns(columns: list[str]) -> Iterator[str]:
    if all(_is_number(column) for column in columns):
        yield f"its first line must name the columns, got {_checks.short(', '.join(columns))}."
    if "" in columns:
        yield (
            f"its column {columns.index('') + 1} has no name: an index, which pandas leaves out by "
            "index=False? Name it if it is a feature."
        )
    twice = sorted(column for column, number in Counter(columns).items() if number > 1)
    if twice:
        shown = _checks.short(", ".join(twice))
        yield f"its columns must have different names, got {shown} more than once."


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(columns: list[str], rows: list[Row], wrong: own.Few) -> np.ndarray:
    """Returns [rows, columns], float64; adds a problem for each cell that is no finite number."""
    with contextlib.suppress(ValueError):
        features = np.array([row for _, row in rows], np.float64).reshape(len(rows), len(columns))
        if np.isfinite(features).all():
            return features
    for line, row in rows:
        for column, cell in zip(columns, row, strict=True):
            if not _is_number(cell) or not np.isfinite(float(cell)):
                column, cell = _checks.short(column), _checks.short(cell)
                wrong.add(f"line {line}, column {column!r}: {cell!r} is not a finite number.")
    return np.empty((0, len(columns)))


def _labels(words: list[str], numbers: np.ndarray) -> own.Labels:
    """Returns the classes in the order of their numbers, or else of the alphabet.

    Args:
      words: The different labels.
      numbers: [rows] places in `words`.

    Raises:
      ValueError: A label is empty, or there are too many to be classes.
    """
    if "" in words:
        empty = np.count_nonzero(numbers == words.index(""))
        raise ValueError(f"every row must have a label, got {empty} without one.")
    values: list[Any] = words
    if all(map(_is_number, words)):
        if broken := [word for word in words if not float(word).is_integer()]:
            shown = _checks.short(broken[0])
            raise ValueError(f"the labels must be whole numbers or words, got {shown}.")
        values = [int(Decimal(word)) for word in words]  # float64 would confuse large numbers
    classes = sorted(set(values))
    if not 2 <= len(classes) <= len(numbers) / 2:
        raise ValueError(
            "the labels must have 2 classes or more, with some rows each, got "
            f"{counted(len(classes), 'class', 'classes')} in {counted(len(numbers), 'row')}. Name "
            f"the column of the labels {_LABEL!r}."
        )
    place = {value: number for number, value in enumerate(classes)}
    of_words = np.array([place[value] for value in values], np.int32)
    return own.Labels({"train": of_words[numbers]}, len(classes), tuple(map(str, classes)))
