"""The commands: `python -m experiments.<name>`, run from a clone of this repository.

Before a command imports anything, this file checks that it can. If something is missing or too old,
it prints one line with the command that installs it. An old Python must be able to read this file,
so its syntax is that of Python 3.6.
"""

import atexit
import os
import re
import sys

_NEEDED = (3, 11)
_ROOT = os.path.join(os.path.dirname(__file__), os.pardir)
_LINE = re.compile(r"([\w.-]+)[^;>]*>=\s*([\w.]+)")  # a name and the oldest version of it
IS_COMMAND = sys.argv[:1] == ["-m"]  # this process is about to run one, and nothing else
failed_with = None  # the exit code of a command that an error or a signal has ended


def check_python(version):
    """Ends the process unless the version of Python is one that the package supports."""
    if tuple(version[:2]) < _NEEDED:
        sys.exit(
            f"cyclical_jax needs Python {_NEEDED[0]}.{_NEEDED[1]} or newer, but this is Python "
            f"{version[0]}.{version[1]}. Use another, as in make demo PYTHON=python3.12"
        )


def check_requirements(path):
    """Ends the process unless all that the file lists is installed, and new enough."""
    from importlib import metadata

    missing, old = [], []
    for name, oldest in _requirements(path):
        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if _parts(there) < _parts(oldest):
            old.append(f"{name} must be {oldest} or newer, but is {there}")
    told = old + ([f"not installed: {', '.join(missing)}"] if missing else [])
    if told:
        sys.exit(f"{'; '.join(told)}. Give this command first: {_command()}")


def _requirements(path):
    """Returns (name, oldest version) of each line of the file, if it is there."""
    if not os.path.exists(path):
        return []
    with open(path) as file:
        lines = [line for line in file if "sys_platform" not in line or sys.platform in line]
    return [match.groups() for match in map(_LINE.match, lines) if match]


def _parts(version):
    return [int(part) for part in re.findall(r"\d+", version)][:3]


def _command():
    """Returns what to type: to activate the environment that `make` has made, or to install."""
    made = os.path.join(os.path.relpath(_ROOT), ".venv")
    if os.path.exists(os.path.join(made, "installed")) and not os.path.samefile(made, sys.prefix):
        return f"source {os.path.normpath(made)}/bin/activate"
    return f"{sys.orig_argv[0]} -m pip install '{os.path.relpath(_ROOT)}[train]'"


def _leave():
    """Ends a command that has failed before Python takes its libraries down.

    A thread of XLA that still compiles would crash then. It is registered first, and so called
    last: all else that is registered with `atexit` has been done.
    """
    if failed_with is not None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # its reader may have gone
                pass
        os._exit(failed_with)


if IS_COMMAND or __name__ == "__main__":  # where `make` asks
    check_python(sys.version_info)
if IS_COMMAND:
    atexit.register(_leave)
    check_requirements(os.path.join(_ROOT, "requirements.txt"))
    from experiments import waiting

    waiting.for_imports.start()
