"""Scripts of `experiments`, called: in this process, or in one of their own as a user does.

A process takes seconds to import what it needs, before it does anything. In this process a script
is imported anew, as `__main__`, with no flags but its own: all that it is given and leaves behind
(the flags, the imports, the current directory, the environment, signals, warnings) is put back.
What is of a process itself is not seen there: what ends it, a clean stderr at its exit, its devices
(here two, for all) and its compilation cache (here that of the tests).
"""

import contextlib
import importlib
import io
import os
import re
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
from absl import app, flags, logging

ROOT = Path(__file__).parents[1]
_WAITS = re.compile(r"\w+ing\b.*(?: \.\.\. \d+|: \d+\.\d) s\n")
OURS = ("experiments", "configs", "tests")

app.define_help_flags()  # which absl does once a process, and not again where they are gone
with contextlib.suppress(ImportError):  # it, too, defines flags once: when it is first imported
    importlib.import_module("array_record.python.array_record_data_source")


class Ended(NamedTuple):
    """The names are those of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def in_this_process(
    script: str, *arguments: object, cwd: Path = ROOT, together: bool = False, **environment: str
) -> Ended:
    """`python -m experiments.<script> *arguments` in `cwd`, without a process of its own.

    With `together` all that it prints is in `stdout`, in its order.
    Raises what the script raises, where a process would show a traceback.
    """
    out, code = io.StringIO(), 0
    err = out if together else io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(cwd))
        stack.enter_context(mock.patch.dict(os.environ, environment))
        stack.enter_context(mock.patch.object(sys, "argv", [script, *map(str, arguments)]))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(as_if_new())
        try:
            runpy.run_path(str(ROOT / "experiments" / f"{script}.py"), run_name="__main__")
        except SystemExit as end:
            code = end.code
    if not isinstance(code, int | None):  # a message
        err.write(f"{code}\n")
        code = 1
    if together:
        return Ended(code or 0, without_waits(out.getvalue()), "")
    return Ended(code or 0, out.getvalue(), without_waits(err.getvalue()))


@contextlib.contextmanager
def as_if_new() -> Iterator[None]:
    """Within it scripts can be imported as in a new process, whatever their flags are."""
    with contextlib.ExitStack() as stack:
        for context in (_own_imports, _own_flags, _own_signals, _shown_warnings):
            stack.enter_context(context())
        # The devices are there already, and no other number of them may be asked for.
        stack.enter_context(mock.patch("os.sched_getaffinity", lambda _: {0, 1}, create=True))
        yield


def start(script: str, *arguments: object, cwd: Path = ROOT, **environment: str | None):
    """The same as a process that has begun; its streams are text. None removes a variable."""
    command = [sys.executable, "-m", f"experiments.{script}", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    names = os.environ | compiled() | environment
    names = {name: value for name, value in names.items() if value is not None}
    return subprocess.Popen(command, cwd=cwd, env=names, **pipes)


def in_a_process(script: str, *arguments: object, cwd: Path = ROOT, **environment: str | None):
    """The same, to its end."""
    with start(script, *arguments, cwd=cwd, **environment) as process:
        out, err = process.communicate(timeout=300)
    return Ended(process.returncode, out, without_waits(err))


def without_waits(err: str) -> str:
    """A slow machine says what it waits for, which is no part of what a command has to say."""
    lines = err.splitlines(keepends=True)
    return "".join(line for line in lines if not _WAITS.fullmatch(line))


def compiled() -> dict[str, str]:
    """Where processes keep their programs: those of one worker follow one another."""
    if jax.config.jax_compilation_cache_dir is None:
        return {}
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    return {
        "JAX_COMPILATION_CACHE_DIR": f"{jax.config.jax_compilation_cache_dir}-{worker}",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@contextlib.contextmanager
def _own_imports() -> Iterator[None]:
    def remove():
        names = [name for name in sys.modules if _top(name) in ("experiments", "configs")]
        return {name: sys.modules.pop(name) for name in names}

    before = remove()
    try:
        yield
    finally:
        remove()
        sys.modules.update(before)


@contextlib.contextmanager
def _own_flags() -> Iterator[None]:
    """Those of libraries alone stay."""
    attributes, verbosity = vars(flags.FLAGS), logging.get_verbosity()
    before = {name: _copied(value) for name, value in attributes.items()}
    libraries = {
        name: flags.FLAGS[name]
        for name in flags.FLAGS
        if _top(flags.FLAGS.find_module_defining_flag(name)) not in OURS
    }
    for name in set(flags.FLAGS) - libraries.keys():
        delattr(flags.FLAGS, name)
    values = {name: (flag.value, flag.present) for name, flag in libraries.items()}
    try:
        yield
    finally:
        attributes.clear()
        attributes.update(before)
        for name, (value, present) in values.items():
            libraries[name].value, libraries[name].present = value, present
        logging.set_verbosity(verbosity)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _copied(value):
    """The dictionaries that `flags.FLAGS` consists of, and the lists within them."""
    if not isinstance(value, dict):
        return value
    return {key: list(own) if isinstance(own, list) else own for key, own in value.items()}


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    numbers = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _shown_warnings() -> Iterator[None]:
    """As Python's own filters have it, on stderr: a test that wants none there notices."""

    def show(message, category, filename, lineno, file=None, line=None):
        text = warnings.formatwarning(message, category, filename, lineno, line)
        (file or sys.stderr).write(text)

    with warnings.catch_warnings():
        warnings.resetwarnings()
        hidden = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
        for category in hidden:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield
