"""Files that list the examples to train on, by position or by file name."""

import re
from typing import Any, NamedTuple

import numpy as np

from cyclical_jax import _checks

SUFFIXES = (".txt", ".csv")

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")


class Positions(NamedTuple):
    """Positions in the training split, from 0, in TFDS's order."""

    path: str
    indices: np.ndarray  # [n], in the order of the split
    lines: np.ndarray  # [n], their line numbers in the file


class Names(NamedTuple):
    """File names without their folders, in the order of the file, with or without labels."""

    path: str
    names: np.ndarray  # [n], bytes
    labels: np.ndarray  # [n]; -1 where there is none
    lines: np.ndarray  # [n], their line numbers in the file


def read(path: str) -> Positions | Names:
    """Reads positions, separated by commas or white space; or a "name" or "name label" per line.

    Raises:
      ValueError: The file cannot be read or is empty; or a line is wrong or repeats an example.
    """
    lines = _split_lines(path)
    if not lines:
        raise ValueError(f"`subset` {path!r}: there is no example in this file.")
    first = next(iter(lines.values()))[0]
    return _positions(path, lines) if _WHOLE_NUMBER.fullmatch(first) else _names(path, lines)


def positions(file: Positions | Names, labels: np.ndarray, names: np.ndarray | None) -> np.ndarray:
    """Returns the positions of the examples that a file lists.

    Args:
      file: The result of `read`.
      labels: [n] labels of the examples to train on.
      names: [n or more] bytes, the names of these and of the other examples of TFDS's split; None
        if the dataset has no names.

    Returns:
      Positions in `labels`, ascending.

    Raises:
      ValueError: The dataset has no names, a name is not in it, or a label differs from its own.
    """
    if isinstance(file, Positions):
        return file.indices
    if names is None:
        raise ValueError(
            f"`subset` {file.path!r} lists file names, but this dataset has none: list positions."
        )
    found = _look_up(file, names)
    _refuse(file, found >= len(labels), "{name} is in the validation split, not trained on")
    known = labels[found]
    another = (file.labels >= 0) & (file.labels != known)
    _refuse(file, another, "{name} has label {known}, not {label}", known)
    return np.sort(found)


def refuse_outside(file: Positions, available: int) -> None:
    """Raises ValueError for the first position that is not below `available`."""
    outside = file.indices >= available
    if outside.any():
        first = np.flatnonzero(outside)[np.argmin(file.lines[outside])]
        raise _wrong(
            file.path,
            file.lines[first],
            f"{file.indices[first]} is not a position of the {available} examples to train on, "
            f"0 to {available - 1}",
        )


def _look_up(file: Names, names: np.ndarray) -> np.ndarray:
    order = np.argsort(names)
    found = order[np.searchsorted(names, file.names, sorter=order).clip(max=len(names) - 1)]
    _refuse(file, names[found] != file.names, "{name} is not a file name of this dataset")
    return found


def _refuse(file: Names, wrong: np.ndarray, problem: str, known: np.ndarray | None = None) -> None:
    """Raises ValueError for the first line where `wrong` is true."""
    if wrong.any():
        first = np.argmax(wrong)
        words = {"name": _shown(file.names[first]), "label": file.labels[first]}
        words |= {} if known is None else {"known": known[first]}
        raise _wrong(file.path, file.lines[first], problem.format(**words))


def _split_lines(path: str) -> dict[int, list[str]]:
    """Returns {line number: its words} for the lines that have words."""
    try:
        text = _checks.local_path("subset", path).read_text(encoding="utf-8-sig")
    except OSError as error:
        problem = f"`subset` {path!r}: this file cannot be read: {error.strerror}."
        raise ValueError(problem) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"`subset` {path!r}: this file is not text.") from error
    split = (line.replace(",", " ").split() for line in text.split("\n"))
    return {number: words for number, words in enumerate(split, start=1) if words}


def _positions(path: str, lines: dict[int, list[str]]) -> Positions:
    flat = [(word, number) for number, words in lines.items() for word in words]
    for word, number in flat:
        if not word.isascii() or not word.isdecimal() or len(word) > 18:  # beyond int64
            raise _wrong(path, number, f"{word!r} is not a position, a whole number from 0")
    indices = np.array([int(word) for word, _ in flat])
    numbers = np.array([number for _, number in flat])
    _refuse_repeated(path, indices, numbers)
    order = np.argsort(indices)
    return Positions(path, indices[order], numbers[order])


def _names(path: str, lines: dict[int, list[str]]) -> Names:
    for number, words in lines.items():
        if not _is_name_and_label(words):
            line = " ".join(words)
            raise _wrong(path, number, f"{line!r} is not a file name, nor one and its label")
    names = np.array([words[0].rpartition("/")[2].encode() for words in lines.values()])
    labels = np.array([int(words[1]) if words[1:] else -1 for words in lines.values()])
    numbers = np.array(list(lines))
    _refuse_repeated(path, names, numbers)
    return Names(path, names, labels, numbers)


def _is_name_and_label(words: list[str]) -> bool:
    name, *labels = words
    is_label = all(word.isascii() and word.isdecimal() and len(word) <= 9 for word in labels)
    return not name.endswith("/") and len(labels) <= 1 and is_label


def _refuse_repeated(path: str, values: np.ndarray, numbers: np.ndarray) -> None:
    _, firsts = np.unique(values, return_index=True)
    repeated = np.delete(np.arange(len(values)), firsts)
    if len(repeated):
        again = repeated[0]
        earlier = numbers[np.flatnonzero(values == values[again])[0]]
        raise _wrong(path, numbers[again], f"{_shown(values[again])} is on line {earlier} already")


def _shown(value: Any) -> str:
    return repr(value.decode()) if isinstance(value, bytes) else str(value)


def _wrong(path: str, line: int, problem: str) -> ValueError:
    return ValueError(f"`subset` {path!r}, line {line}: {problem}.")
