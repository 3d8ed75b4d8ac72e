"""A run that ended, or was stopped, becomes a longer one, as a user would do it.

It ends bit for bit as a run that had the longer duration from the start.
"""

import contextlib
import shutil
from unittest import mock

import pytest

from cyclical_jax.training import files
from tests import commands
from tests.experiments.test_resume import arrays_of, assert_same_run, rows_of
from tests.helpers import stored

pytestmark = pytest.mark.usefixtures("fast_compilation")

# All that a state can hold, without a cycle.
CONFIG = [
    "--config=configs/digits.py",
    "--config.model.hidden_sizes=(16,)",
    "--config.model.batch_norm=True",
    "--config.model.dropout=0.1",
    "--config.ema_decay=0.99",
    "--config.accumulate=2",
    "--config.log_every=5 steps",
    "--config.optimizer.learning_rate_schedule=None",
    "--config.optimizer.warmup=7 steps",
]
SHORT, LONG = "3 epochs", "5 epochs"  # 27 and 45 updates


def train(workdir, duration, *arguments, config=CONFIG, code=0):
    options = *config, f"--config.duration={duration}", f"--workdir={workdir}", *arguments
    ended = commands.in_this_process("train", *options)
    assert ended.returncode == code, ended.stderr
    return ended.stdout.splitlines() if code == 0 else ended.stderr.splitlines()


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "short"
    train(workdir, SHORT)
    return workdir


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was as long from the start."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train(workdir, LONG)
    return workdir


@pytest.fixture
def copy(short, tmp_path):
    return shutil.copytree(short, tmp_path / "copy")


def test_a_run_that_has_ended_becomes_the_longer_one(copy, whole):
    out = train(copy, LONG)
    first = out.index("extended from 27 to 45 updates")
    assert out[first + 1] == "resumed after 27 updates"
    assert_same_run(copy, whole)
    assert stored(copy / "config.json") == stored(whole / "config.json")
    assert stored(copy / "dataset.json") == stored(whole / "dataset.json")
    assert [start["step"] for start in stored(copy / "environment.json")] == [0, 27]
    shown = train(copy, LONG)
    assert not any(line.startswith(("extended", "resumed", "epoch")) for line in shown)


def test_the_shorter_run_is_the_beginning_of_the_longer_one(short, whole):
    _, arrays = arrays_of(short)
    rows, (_, last) = rows_of(short), arrays_of(whole)
    assert [row["step"] for row in rows] == [row["step"] for row in rows_of(whole)][: len(rows)]
    assert any(array.tobytes() != last[name].tobytes() for name, array in arrays.items())


@pytest.mark.slow
def test_a_run_may_be_extended_again_and_again(copy, whole):
    train(copy, "36 steps")
    assert "extended from 36 to 45 updates" in train(copy, LONG)
    assert_same_run(copy, whole)


def test_a_run_that_was_stopped_becomes_the_longer_one(short, whole, tmp_path):
    """Its newest checkpoint is in the middle, and there are rows after it."""
    workdir = shutil.copytree(short, tmp_path / "copy")
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "54")
    out = train(workdir, LONG)
    assert "extended from 27 to 45 updates" in out and "resumed after 27 updates" not in out
    assert_same_run(workdir, whole)


@pytest.mark.parametrize(
    "duration, changes, line",
    [
        ("2 epochs", [], "A run can be made longer, but not shorter: "),
        ("27 steps", [], "Both durations are as long: "),
        (LONG, ["--config.seed=1"], "seed: 0 there, 1 here"),
        (LONG, ["--config.validate_every=2 epochs"], "validate_every: '1 epoch"),
    ],
)
def test_all_else_is_refused_and_nothing_is_changed(short, duration, changes, line):
    before = contents(short)
    found = train(short, duration, *changes, code=2)
    assert found[0] == f"{short} holds a run of another config; choose another --workdir:"
    assert found[1] == f"  duration: '{SHORT}' there, '{duration}' here"
    assert found[2].strip().startswith(line)
    assert found[-1].endswith(f"add --config.finetuning.start={short}.") and len(found) == 4
    assert contents(short) == before


def contents(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


# ---- files


class Killed(BaseException):
    """Nobody catches it, as nobody catches a kill."""


@contextlib.contextmanager
def killed_after(function):
    """The process ends after its first call of a function of `files`."""
    real = getattr(files, function)

    def call(*arguments):
        real(*arguments)
        raise Killed

    with mock.patch.object(files, function, call), pytest.raises(Killed):
        yield


@pytest.mark.parametrize("function", ["remove", "write"])
def test_a_kill_while_a_run_is_made_longer_loses_nothing(copy, whole, function):
    """After the result is removed, and after the config is written."""
    result, config = (stored(copy / name) for name in ("result.json", "config.json"))
    with killed_after(function):
        train(copy, LONG)
    is_longer = function == "write"
    assert (stored(copy / "config.json") == config) != is_longer
    assert not (copy / "result.json").exists()
    other = shutil.copytree(copy, copy.with_name("other"))
    if is_longer:
        assert "not shorter: 45 updates there" in train(other, SHORT, code=2)[2]
    else:
        train(other, SHORT)
        times = {"seconds": 0, "training_seconds": 0}
        assert stored(other / "result.json") | times == result | times
    train(copy, LONG)
    assert_same_run(copy, whole)


def test_the_result_is_gone_from_the_disk_before_the_config_changes(copy):
    """After a power failure the result of the shorter run would be taken for the longer one's."""
    done, synced = [], files._files.sync

    def sync(path):
        synced(path)
        done.append(("sync", path.name, (copy / "result.json").exists()))

    def write(path, content):
        done.append(("write", path.name, (copy / "result.json").exists()))
        raise Killed

    with (
        mock.patch.object(files._files, "sync", sync),
        mock.patch.object(files, "write", write),
        pytest.raises(Killed),
    ):
        train(copy, LONG)
    assert done[-2:] == [("sync", "copy", False), ("write", "config.json", False)]


def test_a_run_that_started_from_one_that_was_extended_since_notices(copy, tmp_path):
    student = [*CONFIG, f"--config.finetuning.start={copy}"]
    train(tmp_path / "student", SHORT, config=student)
    train(copy, LONG)
    first, second = train(tmp_path / "student", SHORT, config=student, code=2)
    assert "holds a run whose inputs have changed since" in first
    assert second.startswith("  finetuning.start: 'checkpoint 54, ")


def test_the_curves_of_tensorboard_go_on(copy, tmp_path):
    train(copy, LONG, "--tensorboard")
    assert len(list((copy / "tensorboard").iterdir())) == 1
