"""Files that list the examples to train on, by position or by file name."""

import codecs
import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclical_jax import _checks, _files
from cyclical_jax.data import own

SUFFIXES = (".txt", ".csv")

_MOST_BYTES = 2**28  # of a file: ten million names and their labels
_MOST_OF_NAME = 255  # bytes, as in file systems
_CHUNK = 2**16  # words whose bytes are copied at once
_CODES = np.arange(256)
_IS_OF_WORD = ~np.isin(_CODES, list(b" \t\n\v\f\r,"))
_IS_DIGIT = (_CODES >= ord("0")) & (_CODES <= ord("9"))
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
    local = _checks.local_path("subset", path)
    with _reading(path):
        stamp = own.stamp_of(local)
    return _read(path, local, stamp)


@functools.lru_cache(maxsize=1)  # a run asks for it several times
def _read(path: str, local: Path, stamp: tuple[int, int]) -> Positions | Names:
    text = _Text(path, _content(path, local))
    if not len(text.starts):
        raise ValueError(f"`subset` {path!r}: there is no example in this file.")
    return _positions(text) if _WHOLE_NUMBER.fullmatch(text.word(0)) else _names(text)


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


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"`subset` {path!r}: this file cannot be read: {error.strerror}."
        raise ValueError(problem) from error
    except _files.NoFileError as error:
        problem = "this is a folder, a pipe or a device, not a file"
        raise ValueError(f"`subset` {path!r}: {problem}.") from error


def _content(path: str, local: Path) -> bytes:
    with _reading(path), _files.regular(local) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        most = f"{_MOST_BYTES / 1e6:,.0f} MB"
        raise ValueError(f"`subset` {path!r}: this file must have at most {most}.")
    if b"\0" in content or not _is_utf8(content):
        raise ValueError(f"`subset` {path!r}: this file is not text.")
    return content.removeprefix(codecs.BOM_UTF8)


def _is_utf8(content: bytes) -> bool:
    try:
        return content.isascii() or bool(content.decode())
    except UnicodeDecodeError:
        return False


class _Text:
    """The words of a file, as places in its bytes: millions of them as strings take gigabytes.

    Attributes:
      path: The file.
      content: Its bytes.
      codes: [bytes], the same as numbers.
      starts, ends: [words], where each word begins, and where it ends.
    """

    def __init__(self, path: str, content: bytes):
        self.path, self.content = path, content
        self.codes = np.frombuffer(content, np.uint8)
        edges = np.flatnonzero(np.diff(_IS_OF_WORD[self.codes], prepend=False, append=False))
        self.starts, self.ends = edges[::2], edges[1::2]

    @functools.cached_property
    def lines(self) -> np.ndarray:
        """The number of the line of each word."""
        return np.searchsorted(np.flatnonzero(self.codes == ord("\n")), self.starts) + 1

    def word(self, number: int) -> str:
        """Returns a word, of which the rest is cut off if it is very long."""
        start = self.starts[number]
        return self._shown(start, self.ends[number])

    def line(self, number: int) -> str:
        """Returns the words of a line, as `word` does."""
        first, last = np.searchsorted(self.lines, [number, number + 1])
        words = self._shown(self.starts[first], self.ends[last - 1])
        return " ".join(words.replace(",", " ").split())

    def _shown(self, start: int, end: int) -> str:
        return self.content[start : min(end, start + _MOST_OF_NAME)].decode(errors="ignore")

    def cells(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Returns these pieces of the content, [pieces] bytes; each at most `_MOST_OF_NAME`."""
        width = max(1, int((ends - starts).max(initial=0)))
        found = np.zeros((len(starts), width), np.uint8)
        for first in range(0, len(starts), _CHUNK):
            some = slice(first, first + _CHUNK)
            places = starts[some, None] + np.arange(width)
            is_in = places < ends[some, None]
            found[some][is_in] = self.codes[places[is_in]]
        return found.view(f"S{width}")[:, 0]


def _positions(text: _Text) -> Positions:
    wrong = text.ends - text.starts > 18  # beyond int64
    (others,) = np.nonzero(_IS_OF_WORD[text.codes] & ~_IS_DIGIT[text.codes])
    wrong[np.searchsorted(text.starts, others, "right") - 1] = True
    if wrong.any():
        number = int(wrong.argmax())
        word = _checks.short(text.word(number))
        raise _wrong(
            text.path, text.lines[number], f"{word!r} is not a position, a whole number from 0"
        )
    indices = np.fromstring(text.content.replace(b",", b" "), np.int64, sep=" ")
    order = _order(text.path, indices, text.lines)
    return Positions(text.path, indices[order], text.lines[order])


def _names(text: _Text) -> Names:
    """Returns the names and labels; the first word of a line is a name, a second one its label."""
    firsts = np.flatnonzero(np.diff(text.lines, prepend=0))
    counts = np.diff(firsts, append=len(text.starts))
    ends = text.ends[firsts]
    starts = np.maximum(text.starts[firsts], _after_last_slash(text, ends))
    wrong = (counts > 2) | (starts == ends) | (ends - starts > _MOST_OF_NAME)
    has_label = counts == 2
    labels = np.full(len(firsts), -1)
    seconds = firsts[has_label] + 1
    labels[has_label] = _labels(text, text.starts[seconds], text.ends[seconds])
    numbers = text.lines[firsts]
    if (wrong := wrong | (labels < -1)).any():
        number = numbers[wrong.argmax()]
        line = _checks.short(text.line(number))
        raise _wrong(text.path, number, f"{line!r} is not a file name, nor one and its label")
    names = text.cells(starts, ends)
    _order(text.path, names, numbers)
    return Names(text.path, names, labels, numbers)


def _after_last_slash(text: _Text, ends: np.ndarray) -> np.ndarray:
    """Returns the places that follow the last slash before each end, 0 where there is none."""
    places = np.concatenate([[0], np.flatnonzero(text.codes == ord("/")) + 1])
    return places[np.searchsorted(places, ends, "right") - 1]


def _labels(text: _Text, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns the whole numbers of at most 9 digits in these places; -2 where there is none."""
    digits = text.cells(starts, np.minimum(ends, starts + 9))
    is_label = (ends - starts <= 9) & np.char.isdigit(digits)
    return np.where(is_label, digits, b"-2").astype(np.int64)


def _order(path: str, values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns the places of values in ascending order; raises ValueError if one is repeated."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    repeated = order[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        again = repeated.min()
        earlier = numbers[np.flatnonzero(values == values[again])[0]]
        raise _wrong(path, numbers[again], f"{_shown(values[again])} is on line {earlier} already")
    return order


def _shown(value: Any) -> str:
    return repr(_checks.short(value.decode())) if isinstance(value, bytes) else str(value)


def _wrong(path: str, line: int, problem: str) -> ValueError:
    return ValueError(f"`subset` {path!r}, line {line}: {problem}.")
