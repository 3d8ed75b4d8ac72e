"""Files that are whole or not there, and JSON that says when it is damaged.

A JSON object is written with one more entry, `"checksum": "crc32:9f1c22ab"`. It is the CRC-32 of
the other entries as compact JSON with sorted keys, so it holds for what a file means, however it
is laid out. An object without a checksum, which an earlier version wrote, is read as it is. In
a file whose lines have an order, it goes on from the line before: none can be missing unseen.
"""

import contextlib
import errno
import json
import math
import os
import stat
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

CHECKSUM = "checksum"
_KIND = "crc32:"
_LARGEST = 2**28  # bytes of a JSON file; what is larger was not written by us
_LONGEST = 2**20  # bytes of a line
_DEEPEST = 40  # objects and lists within each other
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # what fsync of a folder may raise

# What JSON may hold at a place: a type, a tuple of patterns, [pattern of each entry], or
# {key: pattern}, where the key `...` stands for all others. `float` takes whole numbers too.
Pattern = Any
NUMBER = (float, None)  # a number, or null for one that is not finite
_WORDS = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}


class Maybe(str):
    """A key of a pattern that an object may lack."""


class DamagedError(ValueError):
    """A file does not hold what was written; a line that names the file and what is wrong."""


class NoFileError(ValueError):
    """A path is that of a folder, a pipe or a device."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a new path beside `path`, whose file takes its place when the body ends.

    The file and its name are on the disk by then: after a power failure there is the old file or
    the new one, complete. If the body raises, `path` stays as it was. Where `path` is a link, the
    file that it leads to is replaced; a device or a pipe is written to as it is.

    Raises:
      OSError: It cannot be written.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, and returns when their names are on the disk.

    Raises:
      OSError: It cannot be made.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new or [path]:
        sync(folder.parent)


def sync(path: Path) -> None:
    """Returns when the content of a file, or the names in a folder, are on the disk.

    Raises:
      OSError: They cannot be written. A folder that its file system cannot sync is none.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in _NO_SYNC:
            raise


def is_at(file: IO[Any], path: Path) -> bool:
    """Returns whether an open file is the one at a path: it may have been moved or replaced."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def write_json(path: Path, content: Any) -> None:
    """Writes an object, or a list of objects, each with its checksum; the whole file or none.

    Raises:
      OSError: It cannot be written.
      ValueError: A number is not finite.
    """
    with whole(path) as temporary:
        temporary.write_text(json.dumps(sealed(content), indent=2, allow_nan=False) + "\n")


def read_json(path: Path, pattern: Pattern) -> Any:
    """Returns what `write_json` wrote, without checksums.

    Args:
      path: The file.
      pattern: What it must hold.

    Raises:
      DamagedError: It holds something else.
      OSError: It cannot be read.
    """
    with damage_told(str(path)):
        return _opened(_parsed(_bytes_of(path)), pattern)


def as_line(entries: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    """Returns an object with its checksum as a line of JSON, for a file of such lines.

    The checksum goes on from the object of the line `before`, where one is given.
    """
    return json.dumps(sealed(entries, before), allow_nan=False) + "\n"


def of_line(
    line: bytes, pattern: Pattern, place: str, before: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the object of a line that `as_line` made, without its checksum.

    Args:
      line: The line; its end may be missing.
      pattern: What it must hold.
      place: The file and the number of the line, for the error.
      before: The object of the line before, as for `as_line`.

    Raises:
      DamagedError: It holds something else.
    """
    with damage_told(place):
        return _opened(_parsed(line), pattern, before)


def lines_of(path: Path, number: int | None = None) -> list[bytes]:
    """Returns the first lines of a file, with their ends; all of them where `number` is None.

    Raises:
      DamagedError: It is no file, or a line is too long.
      OSError: It cannot be read.
    """
    lines: list[bytes] = []
    with damage_told(str(path)):
        with regular(path) as file:
            while len(lines) != number and (line := file.readline(_LONGEST)):
                lines.append(line)
                if len(line) == _LONGEST:
                    raise ValueError(f"line {len(lines)} has more than {_LONGEST:,} bytes")
    return lines


@contextlib.contextmanager
def damage_told(place: str) -> Iterator[None]:
    """Turns what a parser raises into a `DamagedError` that names the place."""
    try:
        yield
    except RecursionError:
        raise DamagedError(f"{place} is damaged: it is nested too deep.") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise DamagedError(f"{place} is damaged: {reason.rstrip('.')}.") from error


def misfit(content: Any, pattern: Pattern) -> str | None:
    """Returns what is wrong with parsed JSON, in words; None where it fits the pattern.

    Such as "'mean' of 'loss' is 3, not a list".
    """
    if (found := _misfit(content, pattern)) is None:
        return None
    *places, problem = found
    return f"{' of '.join(reversed(places)) or 'it'} {problem}"


def _misfit(content: Any, pattern: Pattern) -> list[str] | None:
    """Returns the places from the outermost to the innermost, and what is wrong there."""
    if isinstance(pattern, tuple):
        first = _misfit(content, pattern[0])
        others = (_misfit(content, one) for one in pattern[1:]) if first else ()
        return None if None in others else first
    if isinstance(pattern, dict):
        return _misfit_of_object(content, pattern)
    if isinstance(pattern, list):
        if not isinstance(content, list):
            return [f"is {_shown(content)}, not a list"]
        for number, one in enumerate(content):
            if found := _misfit(one, pattern[0]):
                return [f"entry {number}", *found]
        return None
    return (
        None
        if _is_a(content, pattern)
        else [f"is {_shown(content)}, not {_WORDS.get(pattern, 'null')}"]
    )


def _misfit_of_object(content: Any, pattern: dict[Any, Pattern]) -> list[str] | None:
    if not isinstance(content, dict):
        return [f"is {_shown(content)}, not an object"]
    needed = (key for key in pattern if key is not ... and not isinstance(key, Maybe))
    if missing := [key for key in needed if key not in content]:
        return [f"has no {missing[0]!r}"]
    others = pattern.get(..., object)
    for key, one in content.items():
        if found := _misfit(one, pattern.get(key, others)):
            return [repr(key)[:80], *found]
    return None


def _is_a(content: Any, kind: Any) -> bool:
    if kind is None or kind is object:
        return kind is object or content is None
    if isinstance(content, bool):  # which Python counts as a whole number
        return kind is bool
    return isinstance(content, (int, float) if kind is float else kind)


def _shown(content: Any) -> str:
    if isinstance(content, dict | list):
        return "an object" if isinstance(content, dict) else "a list"
    return json.dumps(content)[:40]


def sealed(content: Any, before: dict[str, Any] | None = None) -> Any:
    """Returns JSON with a checksum in the object, or in each object of the list."""
    if isinstance(content, list):
        return [sealed(one) for one in content]
    plain = json.loads(json.dumps(content, allow_nan=False))  # tuples are lists, keys are text
    return plain | {CHECKSUM: _checksum(plain, before)}


def _opened(content: Any, pattern: Pattern, before: dict[str, Any] | None = None) -> Any:
    """Returns JSON without its checksums; raises ValueError if it is damaged."""
    if isinstance(content, list) and isinstance(pattern, list):
        return [_opened(one, pattern[0]) for one in content]
    if isinstance(content, dict):
        content = _without_checksum(content, before)
    if problem := misfit(content, pattern):
        raise ValueError(problem)
    return content


def _without_checksum(entries: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    # The name and the value both tell that there was one, in case either is what is damaged.
    is_sealed = CHECKSUM in entries or any(
        isinstance(value, str) and value.startswith(_KIND) for value in entries.values()
    )
    plain = {key: value for key, value in entries.items() if key != CHECKSUM}
    if is_sealed and entries.get(CHECKSUM) != _checksum(plain, before):
        after = "" if before is None else ", or a line before it is missing"
        raise ValueError(f"its checksum does not fit its content{after}")
    return plain


def _checksum(plain: dict[str, Any], before: dict[str, Any] | None) -> str:
    start = 0 if before is None else zlib.crc32(_canonical(before))
    return f"{_KIND}{zlib.crc32(_canonical(plain), start):08x}"


def _canonical(plain: dict[str, Any]) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def regular(path: Path) -> BinaryIO:
    """Opens a file to read it; raises NoFileError for a folder, and for what may have no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise NoFileError("it is not a file")
    return path.open("rb")


def _bytes_of(path: Path) -> bytes:
    with regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LARGEST:
            raise ValueError(f"it has {size / 1e6:,.0f} MB, which is too much")
        return file.read()


def _parsed(content: bytes) -> Any:
    """Parses JSON without NaN, numbers that a float cannot hold, and keys that come twice."""
    parsed = json.loads(
        content.decode(),
        object_pairs_hook=_without_doubles,
        parse_constant=_refuse,
        parse_float=_finite,
        parse_int=_whole_number,
    )
    _check_depth(parsed, _DEEPEST)
    if b"\\u" in content:  # half of a pair is no text, and cannot be written
        json.dumps(parsed, ensure_ascii=False).encode()
    return parsed


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):  # of which Python would take the last, and others the first
        names = [name for name, _ in pairs]
        twice = next(name for name in entries if names.count(name) > 1)
        raise ValueError(f"{twice[:40]!r} is there twice")
    return entries


def _check_depth(content: Any, deepest: int) -> None:
    inner = content.values() if isinstance(content, dict) else content
    if isinstance(content, dict | list):
        if deepest == 0:
            raise RecursionError
        for one in inner:
            _check_depth(one, deepest - 1)


def _whole_number(text: str) -> int:
    _finite(text)
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(text: str) -> Any:
    raise ValueError(f"{text[:40]} is not a number of JSON")
