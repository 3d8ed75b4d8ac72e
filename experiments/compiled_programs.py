"""The cache of compiled programs: files that JAX reads at the next start instead of compiling.

JAX's own cache writes a file in place and believes what it finds there, and its limit needs a
further package. Here a file is whole or absent, and damage makes it absent: the program is compiled
and kept anew. No file needs a lock: whoever comes last replaces a program by the same program.
"""

import contextlib
import hashlib
import inspect
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax

try:  # JAX has no public interface for it; without these modules its own cache is used
    from jax._src import compilation_cache
    from jax._src.compilation_cache_interface import CacheInterface
except ImportError:
    compilation_cache, CacheInterface = None, object

MAX_BYTES = 2 * 1024**3  # unless JAX's option jax_compilation_cache_max_size names another limit
HOUR = 3600.0  # seconds after which nobody writes a temporary file any more
_DIGEST_BYTES = hashlib.sha256().digest_size


def keep_in(folder: Path) -> None:
    """Makes JAX keep its compiled programs in `folder`, or prints one line that says why not.

    A limit of 0 bytes turns the cache off, as it does JAX's.
    """
    max_bytes = jax.config.jax_compilation_cache_max_size
    if max_bytes == 0:
        return
    if problem := _problem_with(folder):
        _tell(
            f"{problem}. Set XDG_CACHE_HOME to another folder, or "
            "JAX_ENABLE_COMPILATION_CACHE=false to go without."
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _replace_jaxs_cache(folder, MAX_BYTES if max_bytes < 0 else max_bytes)


class CompiledPrograms(CacheInterface):
    """A folder of compiled programs, in which JAX looks them up by their keys.

    A file holds the SHA-256 of its key and its program, then the program. A file is read if its
    digest fits, if it belongs to this user and if nobody else can write to it; otherwise it is
    deleted. When files take up too much, the least recently used ones are deleted.

    Args:
      folder: The folder.
      max_bytes: The limit of all files in `folder.parent`, which holds other folders of programs
        beside this one: those of other CPUs and of earlier versions.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self._path = folder  # the name is JAX's
        self._max_bytes = max_bytes
        self._step = max_bytes // 10  # bytes to be written between two looks at all files
        self._until_look = 0
        self._can_write = True

    def get(self, key: str) -> bytes | None:
        """Returns the program; None if there is none, or none that can be trusted."""
        path = self._file_of(key)
        try:
            content = _read_private(path, self._max_bytes)
        except FileNotFoundError:
            return None
        except OSError:
            content = b""
        digest, program = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if digest != _digest(key, program):
            _remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # it was used now
        return program

    def put(self, key: str, value: bytes) -> None:
        """Keeps the program `value`. The first failure prints one line and is the last try."""
        size = _DIGEST_BYTES + len(value)
        if not self._can_write or size > self._max_bytes - self._step:
            return
        try:
            self._make_room(size)
            self._write(self._file_of(key), _digest(key, value) + value)
        except FileNotFoundError:
            pass  # somebody has emptied the cache meanwhile
        except OSError as error:
            self._can_write = False
            _tell(f"{self._path} cannot be written: {error.strerror}")

    def _file_of(self, key: str) -> Path:
        return self._path / f"{key[-150:]}.program"  # a key ends with a hash; names may be long

    def _write(self, path: Path, content: bytes) -> None:
        _make_private(self._path)
        descriptor, temporary = tempfile.mkstemp(dir=self._path, suffix=".tmp")
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Leaves room for `size` bytes and for another step, after which it looks again."""
        self._until_look -= size
        if self._until_look >= 0:
            return
        self._until_look = self._step
        files = sorted(_files_in(self._path.parent))
        excess = sum(taken for _, taken, _ in files) + size + self._step - self._max_bytes
        for _, taken, path in files:
            if excess <= 0:
                break
            _remove(path)
            excess -= taken


def _replace_jaxs_cache(folder: Path, max_bytes: int) -> None:
    """Replaces the name that JAX calls to make its cache, at the first compilation."""
    jaxs_own = getattr(compilation_cache, "LRUCache", None)
    if jaxs_own is None or inspect.isabstract(CompiledPrograms):  # another JAX may ask for more
        return

    def cache_at(path: str, *, max_size: int):
        if Path(path) == folder:
            return CompiledPrograms(folder, max_bytes)
        return jaxs_own(path, max_size=max_size)

    compilation_cache.LRUCache = cache_at


def _problem_with(folder: Path) -> str | None:
    """Makes `folder` if it is missing, and returns why programs cannot be kept there, if so."""
    if str(folder).startswith("~"):  # nobody knows what it stands for
        return f"{folder} cannot be made: this user has no home directory"
    try:
        _make_private(folder)
        status = folder.stat()
    except OSError as error:
        return f"{folder} cannot be made: {error.strerror}"
    if status.st_uid != os.geteuid():
        return f"{folder} belongs to another user, whose programs would run as yours"
    if not _is_private(status):
        return f"other users can write to {folder}, and their programs would run as yours"
    return None


def _make_private(folder: Path) -> None:
    """Makes a folder and its parents for this user alone, as the XDG specification asks."""
    if not folder.parent.exists():
        _make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def _is_private(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read_private(path: Path, max_bytes: int) -> bytes:
    """Raises OSError unless it is a plain file that only this user can write to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # no wait for a pipe
    try:
        status = os.fstat(descriptor)
        is_plain = stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes
        if not (is_plain and _is_private(status)):
            raise PermissionError(f"{path} is not a program of this user")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _files_in(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Yields when each file was last used, its bytes and its path; deletes leftovers of writers."""
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(OSError):  # another process may have deleted it
                status = path.lstat()
                if path.suffix != ".tmp":
                    yield status.st_mtime, status.st_size, path
                elif status.st_mtime < time.time() - HOUR:
                    _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _digest(key: str, program: bytes) -> bytes:
    """Returns the SHA-256 of key and program: a file with the name of another does not match."""
    digest = hashlib.sha256(key.encode())
    digest.update(program)
    return digest.digest()


def _tell(problem: str) -> None:
    print(f"compiled programs are not kept: {problem}", file=sys.stderr)
