"""Calls of the system that fail, in a process of its own: `faults.c`, compiled and preloaded."""

import ctypes
import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


def compiled(folder: Path) -> Path:
    """Returns the library; skips the test where it cannot be made."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    library = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def environment(library: Path, call: str = "", path: object = "", code: int = errno.EIO):
    """Returns the variables with which each such `call` below `path` fails, from the start on."""
    names = {"FAULT_CALL": call, "FAULT_PATH": str(path), "FAULT_ERRNO": str(code)}
    return {"LD_PRELOAD": str(library)} | (names if call else {})


def arm(call: str, number: int, path: object) -> None:
    """Makes the `number`-th such call below `path` fail from now on, within a preloaded process."""
    arguments = call.encode(), errno.EIO, number, os.fsencode(str(path)), 0
    ctypes.CDLL(None).arm(*arguments)


def num_calls() -> int:
    """Returns how many such calls there were since `arm`."""
    return ctypes.CDLL(None).num_calls()
