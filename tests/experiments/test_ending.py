"""How a command ends after an error: within seconds, with its line and its code."""

import os
import signal
import sys
import threading
import time

import jax
import pytest

import experiments
from experiments import ending
from tests import commands

# What a command may be told to read, and what never ends: two threads that Python waits for.
NEVER_ENDING = """
import concurrent.futures, signal, threading
from configs import digits

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored

def get_config():
    threading.Thread(target=threading.Event().wait).start()
    concurrent.futures.ThreadPoolExecutor(1).submit(threading.Event().wait)
    print("half a line", end="")
    config = digits.get_config("all")
    config.duration = "100000 epochs"
    {more}
    return config
"""


@pytest.fixture
def ended_with(monkeypatch):
    """The codes with which this process would have been ended, if it were a command."""
    codes = []
    monkeypatch.setattr(experiments, "IS_COMMAND", True)
    monkeypatch.setattr(experiments, "failed_with", None)
    monkeypatch.setattr(ending, "PATIENCE", 0.01)
    monkeypatch.setattr(os, "_exit", codes.append)

    def call(error):
        before, handler = set(threading.enumerate()), signal.getsignal(signal.SIGINT)
        with pytest.raises(type(error)), ending.ending_in_time():
            raise error
        for thread in set(threading.enumerate()) - before:
            thread.join()
        signal.signal(signal.SIGINT, handler)
        return codes

    return call


@pytest.mark.parametrize(
    "error, code",
    [
        (SystemExit(2), 2),
        (SystemExit(143), 143),
        (SystemExit("a line"), 1),
        (ZeroDivisionError(), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_a_command_that_an_error_ends_has_only_so_long_to_end_by_itself(ended_with, error, code):
    assert ended_with(error) == [code]


@pytest.mark.parametrize("code", [None, 0])
def test_a_command_that_ends_well_has_all_the_time(ended_with, code):
    assert ended_with(SystemExit(code)) == []


def test_several_processes_end_together(ended_with, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert ended_with(SystemExit(143)) == []


def test_a_program_that_calls_a_script_is_never_ended(ended_with, monkeypatch):
    monkeypatch.setattr(experiments, "IS_COMMAND", False)
    assert ended_with(SystemExit(2)) == []


@pytest.mark.parametrize("code", [None, 130])
def test_only_a_command_that_has_failed_leaves_early(monkeypatch, code):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(experiments, "failed_with", code)
    experiments._leave()
    assert codes == ([] if code is None else [code])


TAKEN_DOWN = """
import atexit
from configs import digits

class Late:
    def __del__(self, write=__import__("os").write):
        write(1, b"taken down")

digits.late = Late()  # in a module that lives to the end
atexit.register(print, "registered")

def get_config():
    config = digits.get_config("all")
    config.optimizer.momentum = 7
    return config
"""


@pytest.mark.slow
def test_what_is_registered_is_done_and_nothing_is_taken_down(tmp_path):
    """A thread of XLA that still compiles would crash when its library is taken down."""
    (tmp_path / "config.py").write_text(TAKEN_DOWN)
    ended = commands.in_a_process("train", f"--config={tmp_path / 'config.py'}")
    assert (ended.returncode, ended.stdout) == (2, "registered\n"), ended.stderr


def test_these_tests_are_such_a_program():
    with commands.as_if_new():
        import experiments as anew

        assert not anew.IS_COMMAND
    assert not experiments.IS_COMMAND


def test_what_was_printed_is_flushed_first(ended_with, monkeypatch):
    flushed = []
    monkeypatch.setattr(sys.stdout, "flush", lambda: flushed.append(True))
    ended_with(SystemExit(2))
    assert flushed


def never_ending(tmp_path, more=""):
    file = tmp_path / "config.py"
    file.write_text(NEVER_ENDING.format(more=more))
    return f"--config={file}", f"--workdir={tmp_path / 'run'}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "more, code, line",
    [
        ("config.optimizer.momentum = 7", 2, "optimizer.momentum must be"),
        ("from cyclical_jax.training import run; run.plan = None", 1, "Traceback"),
    ],
)
def test_threads_that_never_end_hold_no_error_back(tmp_path, more, code, line):
    began = time.monotonic()
    ended = commands.in_a_process("train", *never_ending(tmp_path, more))
    assert (ended.returncode, ended.stdout) == (code, "half a line"), ended.stderr
    assert ended.stderr.startswith(line)
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_nor_whoever_interrupts_twice(tmp_path):
    with commands.start("train", *never_ending(tmp_path)) as process:
        while process.poll() is None and not (tmp_path / "run" / "metrics.jsonl").exists():
            time.sleep(0.05)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        began = time.monotonic()
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert time.monotonic() - began < 30
    line = commands.without_waits(err)
    assert line == "interrupted\n" or line.startswith("stopped after "), err
