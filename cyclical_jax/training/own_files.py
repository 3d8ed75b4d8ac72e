"""Python files of the user: read, run once for each content, and named in errors."""

import contextlib
import contextvars
import functools
import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from cyclical_jax import _checks
from cyclical_jax.training.fields import RecipeError

_check: contextvars.ContextVar[Callable[[str, str], None]]
_check = contextvars.ContextVar("_check", default=lambda name, digest: None)


@contextlib.contextmanager
def checked(check: Callable[[str, str], None]) -> Iterator[None]:
    """Calls `check` with name and digest of each file that its body finds, before the file runs.

    The name is "file.py:Name", without the file's folder.
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


class Found(NamedTuple):
    """An object that a file defines under a name."""

    value: Any
    file: str  # name of the file, without its folder
    digest: str  # of its content


def find(what: str, place: str) -> Found:
    """Returns the object that "path/to/file.py:Name" or "package.module:Name" names.

    The same content of a file gives the same object.

    Args:
      what: The key or the flag whose value it is, for errors.
      place: The place and the name.

    Raises:
      RecipeError: It does not exist, or its code raises an error; a line.
    """
    where, _, name = place.rpartition(":")
    what = f"{what} {place!r}"
    if where.endswith(".py"):
        path = path_of(what, where)
        content = content_of(what, path)
        _check.get()(f"{path.name}:{name}", hashlib.sha256(content).hexdigest())
        module = executed(what, path, content)
    else:
        module = _imported(what, where)
        path = _source(getattr(module, name, module), module)
        content = content_of(what, path)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if _is_own_class(value, module)]
        listed = ", ".join(own) or "no class"
        raise RecipeError(f"{what}: there is no {name} in {where}; it has {listed}.")
    return Found(getattr(module, name), path.name, hashlib.sha256(content).hexdigest())


def path_of(what: str, where: str) -> Path:
    """Returns a path on this machine; raises RecipeError if it is not one."""
    try:
        return _checks.local_path(what, where)
    except ValueError as error:
        raise RecipeError(str(error).replace("`", "")) from error


def content_of(what: str, path: Path) -> bytes:
    """Returns the content of a file; raises RecipeError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{what} cannot be read: {error.strerror}.") from error


@functools.lru_cache(maxsize=32)
def executed(what: str, path: Path, content: bytes) -> ModuleType:
    """Returns the module of a file; whatever its code raises becomes a line.

    The content itself runs: an import could run older bytecode instead.
    """
    digest = hashlib.sha256(content).hexdigest()
    module = ModuleType(f"own_{path.stem}_{digest[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look names up
    try:
        exec(compile(content, path, "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {frame.lineno}" for frame in frames if frame.filename == str(path)]
        where = f"{what}{lines[-1] if lines else ''}"
        raise RecipeError(f"{where}: {_first_line(error)}") from error
    return module


def _imported(what: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever its code may raise
        raise RecipeError(f"{what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _source(value: Any, module: ModuleType) -> Path:
    """Returns the file that a value comes from, as far as that is known, or that of its module."""
    try:
        return Path(inspect.getsourcefile(value) or str(module.__file__))
    except (TypeError, AttributeError):  # it is no class or function; the module is built in
        return Path(str(getattr(module, "__file__", module.__name__)))


def _is_own_class(value: Any, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__
