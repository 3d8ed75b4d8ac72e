"""A run that ended, or was stopped, becomes a longer one, as a user would do it.

It ends bit for bit as a run that had the longer duration from the start.
"""

import contextlib
import shutil
from unittest import mock

import pytest

from cyclical_jax.training import files
from cyclical_jax.training.checkpoints import Checkpoints
from tests import commands
from tests.experiments.test_resume import assert_same_run, finish, rows_of, start_two, without_times
from tests.experiments.test_resume import environment as environment
from tests.experiments.test_resume import start as start
from tests.helpers import stored

pytestmark = pytest.mark.usefixtures("fast_compilation")

# All that a state can hold; what cycles does so in each cycle of the learning rate.
CONFIG = [
    "--config=configs/digits.py",
    "--config.model.hidden_sizes=(16,)",
    "--config.model.batch_norm=True",
    "--config.model.dropout=0.1",
    "--config.ema_decay=0.99",
    "--config.accumulate=2",
    "--config.log_every=5 steps",
    "--config.validate_every=cycle",
    "--config.optimizer.learning_rate_schedule=warm_restarts",
    "--config.optimizer.first_cycle=5 steps",
    "--config.optimizer.warmup=4 steps",
    "--config.optimizer.weight_decay=cyclical(1e-4, 2e-3)",
    "--config.loss.temperature=cyclical(0.5, 2, factor=4, scale='log')",
    "--config.cycle.span=restart",
    "--keep_cycle_ends",
    "--keep=1",
    "--save_every=1000",
]
ENDS = 9, 19, 39  # updates
SHORT, LONG = "19 steps", "39 steps"


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
    first = out.index("extended from 19 to 39 updates")
    assert out[first + 1] == "resumed after 19 updates"
    assert_same_run(copy, whole)
    for end in ENDS:
        assert_same_arrays(end_of(copy, end), end_of(whole, end))
    assert stored(copy / "config.json") == stored(whole / "config.json")
    assert stored(copy / "dataset.json") == stored(whole / "dataset.json")
    assert [start["step"] for start in stored(copy / "environment.json")] == [0, 19]
    shown = train(copy, LONG)
    assert not any(line.startswith(("extended", "resumed", "epoch")) for line in shown)


def end_of(workdir, end):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        arrays = checkpoints.arrays_at(end)
    assert int(arrays["0.step"]) == end
    return arrays


def assert_same_arrays(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.tobytes() == other[name].tobytes(), name


def kept_ends(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.cycle_ends()


def test_a_run_of_k_cycles_is_the_beginning_of_one_of_k_and_one(short, whole):
    rows = rows_of(short)
    assert [row["step"] for row in rows] == [5, 9, 10, 15, 19]
    both = rows, rows_of(whole)[: len(rows)]
    assert [without_times(row) for row in both[0]] == [without_times(row) for row in both[1]]
    for end in (9, 19):
        assert_same_arrays(end_of(short, end), end_of(whole, end))
    assert [row["step"] for row in rows_of(whole) if "val_accuracy" in row] == [*ENDS]
    assert kept_ends(whole) == {9: 18, 19: 38, 39: 78}  # two micro steps an update


WITHOUT = [option for option in CONFIG if option != "--keep_cycle_ends"]


def test_the_ends_stay_when_the_option_is_left_out(copy):
    train(copy, LONG, "--save_every=0", config=WITHOUT)
    assert kept_ends(copy) == {9: 18, 19: 38}  # no longer the last


def test_an_end_that_was_not_kept_when_it_was_reached_is_kept_by_what_goes_on(whole, tmp_path):
    """The run ended there without the option, and becomes longer with it."""
    train(tmp_path, SHORT, config=WITHOUT)
    assert kept_ends(tmp_path) == {}
    train(tmp_path, LONG)
    assert kept_ends(tmp_path) == {19: 38, 39: 78}
    assert_same_run(tmp_path, whole)


def test_ends_of_cycles_without_cycles_are_one_line(tmp_path):
    plain = "--config=configs/digits.py", "--keep_cycle_ends"
    assert train(tmp_path / "run", "1 epoch", config=plain, code=2) == [
        "--keep_cycle_ends needs a run whose learning rate restarts: set "
        "optimizer.learning_rate_schedule='warm_restarts' and optimizer.first_cycle."
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("further", [[], ["--config.model.name=cnn"], ["--config.loop=streamed"]])
def test_a_run_without_cycles_becomes_longer_too(tmp_path, further):
    plain = "--config=configs/digits.py", "--config.optimizer.learning_rate_schedule=None", *further
    train(tmp_path / "whole", "5 epochs", config=plain)
    train(tmp_path / "run", "2 epochs", config=plain)
    assert "extended from 36 to 90 updates" in train(tmp_path / "run", "5 epochs", config=plain)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_make_a_run_longer(start, tmp_path):
    for name, durations in {"whole": [LONG], "run": [SHORT, LONG]}.items():
        for duration in durations:
            config = [*CONFIG, f"--config.duration={duration}"]
            first, second = start_two(start, tmp_path / name, config=config)
            out, _ = finish(first)
            assert "extended from" not in finish(second)[0]
    assert "extended from 19 to 39 updates" in out.splitlines()
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert kept_ends(tmp_path / "run") == {9: 18, 19: 38, 39: 78}


@pytest.mark.slow
def test_a_run_may_be_extended_again_and_again(whole, tmp_path):
    for duration in ("9 steps", SHORT, LONG):
        out = train(tmp_path, duration)
    assert "extended from 19 to 39 updates" in out
    assert_same_run(tmp_path, whole)


def test_a_run_that_was_stopped_becomes_the_longer_one(short, whole, tmp_path):
    """Its newest checkpoint is in the middle, and there are rows after it."""
    workdir = shutil.copytree(short, tmp_path / "copy")
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "38")
    out = train(workdir, LONG)
    assert "extended from 19 to 39 updates" in out and "resumed after 9 updates" in out
    assert_same_run(workdir, whole)


@pytest.mark.parametrize(
    "duration, changes, line",
    [
        ("9 steps", [], "A run can be made longer, but not shorter: "),
        ("2432 examples", [], "Both durations are as long: "),
        (LONG, ["--config.seed=1"], "seed: 0 there, 1 here"),
        (LONG, ["--config.validate_every=1 epochs"], "validate_every: 'cycle' there"),
    ],
)
def test_all_else_is_refused_and_nothing_is_changed(short, duration, changes, line):
    before = contents(short)
    found = train(short, duration, *changes, code=2)
    assert found[0] == f"{short} holds a run of another config; choose another --workdir:"
    assert found[1] == f"  duration: '{SHORT}' there, '{duration}' here"
    assert found[2].strip().startswith(line)
    assert f"add --config.finetuning.start={short}. A new run can be made longer" in found[-1]
    assert len(found) == 4 + bool(changes)
    assert found[-2].endswith("change only duration: give its other keys again.") == bool(changes)
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
        assert "not shorter: 39 updates there" in train(other, SHORT, code=2)[2]
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
    assert second.startswith("  finetuning.start: 'checkpoint 38, ")


def test_the_curves_of_tensorboard_go_on(copy, tmp_path):
    train(copy, LONG, "--tensorboard")
    assert len(list((copy / "tensorboard").iterdir())) == 1
