"""A save that fails ends with one line, and leaves nothing that a process would wait for."""

import errno
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time

import pytest

from cyclical_jax.training import checkpoints as checkpoints_module
from cyclical_jax.training import orbax_errors
from cyclical_jax.training.checkpoints import CheckpointError, Checkpoints
from tests import commands, faults
from tests.training.test_checkpoints import restored, saved, snapshot


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_directory_that_cannot_be_made_ends_a_save_and_no_thread_waits_for_it(
    tmp_path, monkeypatch, capfd, number
):
    saved(tmp_path, 4)
    threads, made, mkdir = set(threading.enumerate()), [], os.mkdir

    def fails(path, *arguments, **options):
        made.append(path)
        if len(made) == number:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))
        return mkdir(path, *arguments, **options)

    with pytest.raises(CheckpointError) as error, Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(os, "mkdir", fails)
        checkpoints.save(snapshot(6))
    monkeypatch.undo()
    line = f"{tmp_path} cannot be written: {os.strerror(errno.EDQUOT)}: {tmp_path}/6.orbax-"
    assert str(error.value).startswith(line) and len(str(error.value).splitlines()) == 1
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
        assert not thread.is_alive(), thread
    assert capfd.readouterr() == ("", "")
    assert int(restored(tmp_path).state.micro_step) == 4


@pytest.mark.slow
def test_any_call_of_the_system_may_fail_in_a_save(tmp_path):
    """From the first to the last, Python's and TensorStore's; what was saved before is found."""
    library = faults.compiled(tmp_path)
    environment = os.environ | faults.environment(library) | {"JAX_PLATFORMS": "cpu"}
    script = [sys.executable, "-m", "tests.training.save_with_faults", tmp_path]
    done = subprocess.run(
        script, cwd=commands.ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    # A removal that fails halfway leaves a part, and whoever looks for the best is told of it.
    part = rf"WARNING:.*{tmp_path}/unlinkat\d+/\d+ is damaged \(.* is missing\); it may be the best"
    others = [line for line in done.stderr.splitlines() if not re.fullmatch(part, line)]
    assert (done.returncode, others) == (0, [])
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert {call for call, *_ in outcomes} == {"mkdir", "rename", "fsync", "write", "unlinkat"}
    for call, number, told, newest, left in outcomes:
        if told is None:
            assert newest == 4
        else:
            path = tmp_path / f"{call}{number}"
            assert told.startswith(f"{path} cannot be written: Input/output error")
            assert "\n" not in told and newest >= 1
        assert left == [], (call, number)
    assert sum(told is not None for _, _, told, *_ in outcomes) >= 20


def test_an_error_waits_only_so_long_for_what_is_being_written(tmp_path, monkeypatch):
    """It is a run's own error, and somewhere in a library a thread waits for what never comes."""
    monkeypatch.setattr(checkpoints_module, "_LONGEST_CLOSE", 0.05)
    never, began = threading.Event(), time.monotonic()
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "close", never.wait)
        raise ZeroDivisionError
    assert time.monotonic() - began < 5
    never.set()


def test_an_error_waits_for_what_is_written_in_time(tmp_path):
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(snapshot(4))
        raise ZeroDivisionError
    assert int(restored(tmp_path).state.micro_step) == 4


def unraisable(text):
    """The same as `sys.unraisablehook` is given."""
    return type("Unraisable", (), {"exc_value": RuntimeError(text)})


def test_what_fails_after_the_first_failure_is_not_told(tmp_path, monkeypatch, caplog):
    """TensorStore goes on with the other arrays of a save, and tells a loop that has ended."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_value))
    with pytest.raises(CheckpointError), Checkpoints(tmp_path):
        raise CheckpointError("a line")
    sys.unraisablehook(unraisable("Event loop is closed"))
    assert told == []
    for file, shown in (("site-packages/orbax/save.py", []), ("mine.py", ["never retrieved"])):
        try:
            exec(compile("raise OSError", file, "exec"))
        except OSError:
            logging.getLogger("asyncio").exception("never retrieved")
        assert [record.message for record in caplog.records] == shown


def test_a_run_that_ends_well_or_never_began_leaves_the_hooks_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", hook := lambda unraisable: None)
    saved(tmp_path, 4)
    assert sys.unraisablehook is hook
    monkeypatch.setattr(checkpoints_module, "sync", lambda path: os.close(-1))
    with pytest.raises(CheckpointError, match="Bad file descriptor"):
        Checkpoints(tmp_path)
    assert sys.unraisablehook is hook
    for name in ("absl", "asyncio"):
        assert orbax_errors.is_not_of_orbax not in logging.getLogger(name).filters
