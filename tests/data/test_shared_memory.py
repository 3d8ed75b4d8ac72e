"""Shared memory of processes that were killed, and that of those which live."""

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import shared_memory as of_python
from multiprocessing import synchronize
from pathlib import Path

import pytest

from cyclical_jax.data import shared_memory
from tests import commands
from tests.data.test_streams import EXAMPLES, PARENT, ends

pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="only Linux has the folder")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_memory, "_FOLDER", tmp_path)
    return tmp_path


def ended():
    """The number of a process that is no more."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def place():
    """The namespace, the number and the start of this process."""
    return shared_memory.owner().split("-")[1:]


def left(folder, *names):
    for name in names:
        (folder / name).touch()
    shared_memory.remove_left()
    return sorted(path.name for path in folder.iterdir())


def test_what_nobody_has_any_more_is_removed(folder):
    namespace, process, start = place()
    dead = f"cyclical_jax-{namespace}-{ended()}-{start}"
    again = f"cyclical_jax-{namespace}-{process}-{int(start) - 1}"  # the number came round
    assert left(folder, f"{dead}-a", f"sem.{dead}-b", f"{again}-c") == []


def test_what_somebody_has_or_may_have_stays(folder):
    namespace, process, start = place()
    kept = [
        f"{shared_memory.owner()}-a",
        f"sem.{shared_memory.owner()}-a",
        f"cyclical_jax-{int(namespace) + 1}-{ended()}-{start}-a",  # of a container, which may live
        f"cyclical_jax-{namespace}-{ended()}-a",  # no name of ours, nor are these
        f"my_cyclical_jax-{namespace}-{ended()}-{start}-a",
        "psm_0123abcd",
        "sem.mp-0123abcd",
    ]
    assert left(folder, *kept) == sorted(kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
def test_what_is_another_users_stays(folder):
    namespace, _, start = place()
    theirs = folder / f"cyclical_jax-{namespace}-{ended()}-{start}-a"
    theirs.touch()
    os.chown(theirs, 65534, 65534)
    assert left(folder) == [theirs.name]


def test_without_proc_nothing_is_named_or_removed(folder, monkeypatch):
    def absent(path):
        raise FileNotFoundError

    monkeypatch.setattr(shared_memory.os, "stat", absent)
    assert shared_memory.owner() is None
    shared_memory.name_after(None)
    shared_memory.remove_left()


def test_shared_memory_and_semaphores_are_named_after_their_owner(monkeypatch):
    monkeypatch.setattr(of_python, "_make_filename", of_python._make_filename)
    make_name = staticmethod(synchronize.SemLock._make_name)
    monkeypatch.setattr(synchronize.SemLock, "_make_name", make_name)
    shared_memory.name_after(shared_memory.owner())
    own = f"*{shared_memory.owner()}-*"
    before = set(Path("/dev/shm").glob(own))  # of streams that other tests have opened
    memory = of_python.SharedMemory(create=True, size=8)
    semaphore = multiprocessing.get_context("spawn").Semaphore()
    try:
        names = {path.name for path in set(Path("/dev/shm").glob(own)) - before}
        assert names == {memory.name, f"sem.{semaphore._semlock.name.removeprefix('/')}"}
    finally:
        memory.close()
        memory.unlink()


@pytest.mark.slow
def test_a_killed_stream_leaves_nothing_at_the_next_start(tmp_path):
    """Killed with its workers and Python's resource tracker, which would have tidied up."""
    (tmp_path / "a.JPEG").write_bytes(EXAMPLES[0]["image"])
    program = tmp_path / "parent.py"
    program.write_text(PARENT.format(photo=str(tmp_path / "a.JPEG")))
    environment = os.environ | {"PYTHONPATH": str(commands.ROOT)}
    command = [sys.executable, program]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        mine = f"*cyclical_jax-*-{parent.pid}-*"
        there = sorted(Path("/dev/shm").glob(mine))
        shared_memory.remove_left()
        assert len(there) > 4 and set(there) <= set(Path("/dev/shm").glob(mine))
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
        assert all(map(ends, workers))
    assert list(Path("/dev/shm").glob(mine))
    ended = commands.in_a_process("train", "--config=configs/digits.py", "--print_config")
    assert ended.returncode == 0
    assert not list(Path("/dev/shm").glob(mine))
