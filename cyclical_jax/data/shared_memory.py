"""Shared memory of a process and its workers, which is removed when they were killed together.

It is files in /dev/shm, and semaphores are files too. A process removes its own, and Python's
resource tracker those of a process that was killed, but what is killed with its whole group leaves
them. Python names them by chance. Here a name says whose it is, so that the next process that
begins can tell what nobody has any more: `cyclical_jax-<PID namespace>-<process>-<its start>-...`.
"""

import contextlib
import os
import re
import secrets
from multiprocessing import shared_memory, synchronize
from pathlib import Path

_FOLDER = Path("/dev/shm")  # of Linux; elsewhere they are no files
_OURS = re.compile(r"(?:sem\.)?cyclical_jax-(\d+)-(\d+)-(\d+)-.*")


def owner() -> str | None:
    """Returns what the names of this process's shared memory begin with; None without /proc."""
    try:
        namespace, born = os.stat("/proc/self/ns/pid").st_ino, _start_of(os.getpid())
    except OSError:
        return None
    return f"cyclical_jax-{namespace}-{os.getpid()}-{born}"


def name_after(owner: str | None) -> None:
    """Names the shared memory and the semaphores that this process makes from now on.

    Python has no public way. Where it changes its own, names are by chance again, and stay.
    """

    def name() -> str:
        return f"/{owner}-{secrets.token_hex(8)}"

    if owner:
        shared_memory._make_filename = name  # type: ignore[attr-defined]
        synchronize.SemLock._make_name = staticmethod(name)  # type: ignore[attr-defined]


def remove_left() -> None:
    """Removes this user's shared memory of processes that have ended."""
    own = owner()
    for path in _FOLDER.glob("*cyclical_jax-*") if own else ():
        named = _OURS.fullmatch(path.name)
        with contextlib.suppress(OSError):  # whatever is unclear stays
            if named and not _may_live(*named.groups()) and path.stat().st_uid == os.geteuid():
                path.unlink()


def _may_live(namespace: str, process: str, start: str) -> bool:
    """Returns whether the owner lives; True for one of another container that shares the folder."""
    is_here = int(namespace) == os.stat("/proc/self/ns/pid").st_ino
    return not is_here or _start_of(int(process)) == int(start)


def _start_of(process: int) -> int | None:
    """Returns when a process began, in ticks since the machine did; None if it has ended."""
    try:
        about = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *others = about.rpartition(")")[2].split()  # a name in brackets may hold anything
    return None if state in "ZX" else int(others[18])
