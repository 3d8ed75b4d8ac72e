"""A table of one's own in a .csv file: "csv:FILE".

The first line has the names of the columns. The labels are the column `label`, or else the last
one: whole numbers or words, one for each class. All other columns are numbers.
"""

import contextlib
import csv
import functools
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np

from cyclical_jax.data import own, splits
from cyclical_jax.data.dataset import Dataset, Found, PathLike

_LABEL = "label"
Rows = list[tuple[int, list[str]]]  # number of the line in the file, cells


def find(place: str, data_dir: PathLike | None = None) -> Found:
    """Returns what a file tells, which is read whole.

    Raises:
      ValueError: It cannot be learned from; a line for each problem.
      DatasetNotFoundError: There is no such file.
    """
    path = own.place_of(f"csv:{place}", place)
    return _find(path, own.stamp_of(path), f"csv:{place}")


@own.remembered
def _find(path: Path, stamp: tuple[int, int], name: str) -> Found:
    with own.named(name):
        columns, rows = _read(path)
        own.raise_all(_problems(columns, rows))
        at = columns.index(_LABEL) if _LABEL in columns else len(columns) - 1
        labels = _labels([row[at].strip() for _, row in rows])
        rest = [(line, row[:at] + row[at + 1 :]) for line, row in rows]
        features = _numbers(columns[:at] + columns[at + 1 :], rest)
        parts = splits.complete({"train": len(rows)}, labels.of["train"])
    note = f"The labels are the column {columns[at]!r}, of {labels.num_classes} classes."
    return Found(
        labels.num_classes,
        splits.sizes_of(parts),
        functools.partial(_load, features, labels, parts, note),
        shape=features.shape[1:],
        identity=functools.partial(own.content_of, path),
    )


def _load(
    features: np.ndarray, labels: own.Labels, parts: splits.Parts, note: str, image_size: None
) -> Dataset:
    return own.assemble({"train": features}, labels, parts, (note,))


def _read(path: Path) -> tuple[list[str], Rows]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        raise ValueError("this file is not text in UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise ValueError(f"this file cannot be read: {error}.") from error
    if not rows:
        raise ValueError("this file is empty.")
    return [column.strip() for column in rows[0][1]], rows[1:]


def _problems(columns: list[str], rows: Rows) -> Iterator[str]:
    if len(columns) < 2:
        hint = " Its cells must be separated by commas." if set(columns[0]) & set(";\t|") else ""
        yield f"it must have columns of features and one of labels, got {columns}.{hint}"
        return
    if all(_is_number(column) for column in columns):
        yield f"its first line must name the columns, got {', '.join(columns)}."
    if "" in columns:
        yield (
            f"its column {columns.index('') + 1} has no name: an index, which pandas leaves out by "
            "index=False? Name it if it is a feature."
        )
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        yield f"its columns must have different names, got {', '.join(twice)} more than once."
    if not rows:
        yield "it must have rows, got the first line alone."
    yield from own.few(
        [
            f"line {line} must have {len(columns)} cells, got {len(row)}."
            for line, row in rows
            if len(row) != len(columns)
        ]
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(columns: list[str], rows: Rows) -> np.ndarray:
    """Returns [rows, columns], float64.

    Raises:
      ValueError: A cell is no finite number; a line for each of the first ones.
    """
    with contextlib.suppress(ValueError):
        features = np.array([row for _, row in rows], np.float64)
        if np.isfinite(features).all():
            return features
    wrong = [
        f"line {line}, column {column!r}: {cell!r} is not a finite number."
        for line, row in rows
        for column, cell in zip(columns, row, strict=True)
        if not _is_number(cell) or not np.isfinite(float(cell))
    ]
    raise ValueError("\n".join(own.few(wrong)))


def _labels(cells: list[str]) -> own.Labels:
    """Returns the classes in the order of their numbers, or else of the alphabet.

    Raises:
      ValueError: A cell is empty, or there are too many classes to be classes.
    """
    if empty := cells.count(""):
        raise ValueError(f"every row must have a label, got {empty} without one.")
    values = np.array(cells)
    if all(map(_is_number, cells)):
        if broken := [cell for cell in cells if not float(cell).is_integer()]:
            raise ValueError(f"the labels must be whole numbers or words, got {broken[0]}.")
        # objects, because float64 would confuse large numbers
        values = np.array([int(Decimal(cell)) for cell in cells], object)
    classes, numbers = np.unique(values, return_inverse=True)
    if not 2 <= len(classes) <= len(cells) / 2:
        raise ValueError(
            f"the labels must be 2 classes or more, of some rows each, got {len(classes)} of them "
            f"in {len(cells)} rows. Name the column of the labels {_LABEL!r}."
        )
    return own.Labels({"train": numbers.astype(np.int32)}, len(classes), tuple(map(str, classes)))
