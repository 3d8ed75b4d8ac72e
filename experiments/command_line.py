"""How every script of this folder starts, and how it ends when something is wrong."""

import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict

from cyclical_jax import data
from cyclical_jax.training.logs import WorkdirError
from cyclical_jax.training.loop import NonFiniteError
from cyclical_jax.training.recipe import RecipeError

EXPECTED_ERRORS = (RecipeError, data.DatasetNotFoundError, WorkdirError, NonFiniteError)


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`; what a user can mend is said in a line, exit code 2."""
    logging.set_verbosity(logging.WARNING)

    def guarded_main(argv):
        if argv[1:]:
            _end(f"unknown argument {argv[1]!r}")
        try:
            main()
        except EXPECTED_ERRORS as error:
            _end(str(error))

    app.run(guarded_main, flags_parser=_parse_flags)


def config_of(flag: flags.FlagHolder) -> ConfigDict:
    """The value of a config flag, whose file may turn out to be missing only now."""
    try:
        return flag.value.copy_and_resolve_references()
    except OSError as error:
        _end(_last_line(error))


def _parse_flags(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:  # of a config that cannot be loaded, the last line is the reason
        _end(_last_line(error))
    except OSError:  # of a config file that is missing, if one of its keys is to be changed
        _end("the file of --config cannot be loaded; is its path right?")
    except (AttributeError, KeyError, TypeError) as error:  # a key that the config does not have
        _end(f"no such key in the config: {_innermost(error)}")


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _innermost(error: Exception) -> str:
    """The words of an error that may be wrapped in others, on one line."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    return " ".join(str(error.args[0]).split())


def _end(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)
