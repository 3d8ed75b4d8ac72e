"""Reads the file of --config: a function `get_config` that returns a ConfigDict or a dict."""

import difflib
import importlib.machinery
import importlib.util
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from cyclical_jax.catalogue import default_config
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.own_files import path_of
from cyclical_jax.training.recipe import completed, put
from cyclical_jax.training.structure import Catalogue

# What other files of ours define, and the command that takes such a file.
_OTHERS = {
    "TABLE": "python -m experiments.table --table={path}",
    "TECHNIQUES": "--plugin={path}",
    "TASKS": "--plugin={path}",
    "MODELS": "--plugin={path}",
    "LOSSES": "--plugin={path}",
}


def load(place: str, catalogue: Catalogue) -> ConfigDict:
    """Returns the config of a file; keys that it does not set have their defaults.

    Args:
      place: The path of the file; a colon and the argument of its `get_config` may follow.
      catalogue: The tasks and techniques that there are.

    Raises:
      RecipeError: There is no such file, or its code fails, or returns something else; a line.
    """
    path = path_of("--config", place)
    name, _, variant = str(path).partition(":")
    module = _executed(Path(name))
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise RecipeError(_no_function(name, module))
    return completed(
        _as_config(name, _called(place, get_config, variant), catalogue), catalogue.keys
    )


def _executed(path: Path) -> ModuleType:
    if not path.is_file():
        raise RecipeError(_not_there(path))
    loader = importlib.machinery.SourceFileLoader(f"config_{path.stem}", str(path))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    )
    try:
        loader.exec_module(module)
    except Exception as error:
        raise RecipeError(f"{_place_of(error)}: {_told(error)}") from error
    return module


def _called(place: str, get_config: Any, variant: str) -> Any:
    try:
        return get_config(variant) if variant else get_config()
    except ValueError as error:  # says which variants there are
        raise RecipeError(f"--config {place}: {error}") from error
    except Exception as error:
        raise RecipeError(f"{_place_of(error)}: {_told(error)}") from error


def _as_config(path: str, returned: Any, catalogue: Catalogue) -> ConfigDict:
    if isinstance(returned, FrozenConfigDict):
        return ConfigDict(returned)
    if isinstance(returned, ConfigDict):
        return returned.unlock() or returned
    if not isinstance(returned, Mapping):
        kind = type(returned).__name__
        raise RecipeError(f"--config {path}: get_config must return a dict, not {kind}.")
    config = default_config(catalogue)
    for key, value in _flat(returned, catalogue.sections):
        if not isinstance(key, str):
            raise RecipeError(f"--config {path}: the keys of a config must be words, got {key!r}.")
        put(config, key, value)
    return config


def _flat(returned: Mapping[Any, Any], sections: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    for key, value in returned.items():
        if key in sections and isinstance(value, Mapping | ConfigDict):
            yield from ((f"{key}.{name}", one) for name, one in value.items())
        else:
            yield key, value


def _no_function(path: str, module: ModuleType) -> str:
    hints = [how.format(path=path) for name, how in _OTHERS.items() if hasattr(module, name)]
    hint = f"; it is a file for {hints[0]}" if hints else " that returns a config"
    return f"--config {path} has no function get_config(){hint}."


def _not_there(path: Path) -> str:
    configs = sorted(str(file) for file in path.parent.glob("*.py"))
    nearest = difflib.get_close_matches(str(path), configs) or configs
    hint = f"; there are {', '.join(nearest)}" if nearest else ""
    return f"--config {path} does not exist{hint}."


def _place_of(error: Exception) -> str:
    """Returns the last line of the user's own code, such as "configs/mine.py, line 7"."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    is_ours = own[-1].filename == __file__
    return "--config" if is_ours else f"{own[-1].filename}, line {own[-1].lineno}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1].strip()}"
