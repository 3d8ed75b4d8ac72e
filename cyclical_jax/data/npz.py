"""Reads arrays of an .npz file, which may be damaged or made to do harm.

Nothing is unpickled, and no more memory is taken than the file can fill. An array is returned only
if its CRC-32 in the archive is right.
"""

import contextlib
import hashlib
import io
import math
import warnings
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from cyclical_jax import _checks, _files

Arrays = dict[str, np.ndarray]

_SUFFIX = ".npy"
_MOST_OF_HEADER = 2**16  # bytes; NumPy refuses headers of more than 10,000 characters
_MOST_DEFLATED = 1032  # bytes that deflate can make of one byte
_CHUNK = 2**18  # bytes


class Header(NamedTuple):
    """The facts of an array that are known before it is read.

    Attributes:
      shape: Its shape.
      dtype: Its type; one that holds Python objects is never read.
      is_fortran: Whether the first axis is the one whose neighbours lie side by side.
      start: Bytes of the member before the first number.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    start: int


def headers(path: Path) -> dict[str, Header]:
    """Returns the header of each array, none of which is read.

    Raises:
      ValueError: It is not an .npz file, or it is damaged; a line.
    """
    with _opened(path) as archive:
        return {name: _header(archive, member) for name, member in _members(archive).items()}


def read(path: Path, names: Collection[str], *, comment: bytes | None = None) -> Arrays:
    """Returns the arrays of those names.

    Args:
      path: The file.
      names: The names.
      comment: What the archive's comment must begin with, followed by the digest of `seal`; None
        for a file that is not sealed.

    Raises:
      ValueError: An array is missing or damaged, or holds Python objects, or the seal does not fit;
        a line.
    """
    with _opened(path) as archive:
        members = _members(archive)
        if comment is not None and archive.comment != comment + _digest(members):
            raise ValueError("its seal does not fit")
        if missing := [name for name in names if name not in members]:
            raise ValueError(f"it has no {missing[0]!r}")
        return {name: _array(archive, members[name]) for name in names}


def seal(path: Path, comment: bytes) -> None:
    """Adds a comment and a digest of the names, sizes and CRC-32s of all arrays to an archive."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment + _digest(_members(archive))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens an archive. Parsers raise errors of any type for a damaged one, here a ValueError."""
    try:
        with _files.regular(path) as file, zipfile.ZipFile(file) as archive:
            if sum(one.compress_size for one in archive.infolist()) > path.stat().st_size:
                raise ValueError("its arrays are larger than it is")
            yield archive
    except Exception as error:
        raise ValueError(_checks.short(_reason(error), 200)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    return " ".join(words.split()).rstrip(".")


def _digest(members: dict[str, zipfile.ZipInfo]) -> bytes:
    facts = sorted((name, member.file_size, member.CRC) for name, member in members.items())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32].encode()


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns {name of an array: its member}."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(_SUFFIX)
        if name in found:
            raise ValueError(f"it has two arrays called {_checks.short(name)}")
        if name != member.filename:
            found[name] = member
    return found


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Header:
    with archive.open(member) as file:
        beginning = io.BytesIO(file.read(_MOST_OF_HEADER))
    version = np.lib.format.read_magic(beginning)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"{member.filename} is of a version {version} that is not known")
    is_old = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if is_old else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that Python 2 wrote
        shape, is_fortran, dtype = read(beginning)
    header = Header(shape, dtype, is_fortran, beginning.tell())
    if not dtype.hasobject and not _fits(header, member):
        told = f"{dtype} of shape {list(shape)}"
        raise ValueError(f"{member.filename} has another size than {told}")
    return header


def _fits(header: Header, member: zipfile.ZipInfo) -> bool:
    """Returns whether a member has the size that its header tells, and the file can hold it."""
    size = header.start + math.prod(header.shape) * header.dtype.itemsize
    most = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _MOST_DEFLATED}
    most_bytes = member.compress_size * most.get(member.compress_type, 0)
    return min(header.shape, default=0) >= 0 and size == member.file_size <= most_bytes


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Returns an array whose CRC-32 holds."""
    header = _header(archive, member)
    if header.dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects, which are not unpickled")
    buffer = np.empty(member.file_size - header.start, np.uint8)
    with archive.open(member) as file:
        file.read(header.start)
        _fill(file, buffer)
    order: Literal["F", "C"] = "F" if header.is_fortran else "C"
    return np.ndarray(header.shape, header.dtype, buffer=buffer.data, order=order)


def _fill(file: IO[bytes], buffer: np.ndarray) -> None:
    """Reads the rest of a member; the archive checks the CRC-32 at its end."""
    for start in range(0, len(buffer), _CHUNK):
        part = file.read(min(_CHUNK, len(buffer) - start))
        buffer[start : start + len(part)] = np.frombuffer(part, np.uint8)
        if len(part) < min(_CHUNK, len(buffer) - start):
            raise ValueError("it ends too early")
