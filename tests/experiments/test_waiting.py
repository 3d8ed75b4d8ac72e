"""What a command says while it takes long."""

import re
import time

import pytest

from experiments import waiting
from experiments.waiting import Waiting


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE", 0.05)


def wait_for(capsys, number):
    """The lines, as soon as there are so many."""
    told, deadline = "", time.monotonic() + 10
    while told.count("\n") < number and time.monotonic() < deadline:
        told += capsys.readouterr().err
        time.sleep(0.005)
    return told.splitlines()


def test_what_takes_long_is_told_again_and_again_and_at_its_end(impatient, capsys):
    with Waiting("loading it"):
        lines = wait_for(capsys, 2)
    assert len(lines) == 2
    assert all(re.fullmatch(r"loading it \.\.\. 0 s", line) for line in lines)
    assert re.fullmatch(r"loading it: \d\.\d s\n", capsys.readouterr().err)


def test_what_is_soon_over_is_not_told(capsys):
    with Waiting("loading it"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_wait_may_end_before_its_context(impatient, capsys):
    with Waiting("compiling") as compiling:
        wait_for(capsys, 1)
        compiling.end()
        assert capsys.readouterr().err.startswith("compiling: ")
        time.sleep(0.2)
        compiling.end()
    assert capsys.readouterr().err == ""


def test_what_fails_is_not_said_to_have_ended(impatient, capsys):
    with pytest.raises(KeyError), Waiting("loading it"):
        wait_for(capsys, 1)
        raise KeyError
    assert capsys.readouterr().err == ""


def test_a_wait_that_never_began_ends_silently(capsys):
    Waiting("importing").end()
    assert capsys.readouterr().err == ""
