"""Runs that are killed, stopped, moved and changed, as a user would, by the command itself."""

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import orbax.checkpoint as ocp
import pytest

from cyclical_jax.training.checkpoints import Checkpoints
from tests import commands
from tests.helpers import stored

ROOT = Path(__file__).parents[2]
TIMES = {"seconds", "images_per_second", "training_seconds", "checksum"}  # which is of them too
# All that a state can hold, and 40 rows, on calls that are cut off anywhere.
CONFIG = [
    "--config=configs/digits.py:all",
    "--config.model.batch_norm=True",
    "--config.model.dropout=0.1",
    "--config.ema_decay=0.99",
    "--config.accumulate=2",
    "--config.log_every=5 steps",
    "--config.duration=150 epochs",
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    names = {"XDG_CACHE_HOME": cache, "JAX_PLATFORMS": "cpu", "NPROC": "4"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX")}
    return kept | names


@pytest.fixture
def start(environment):
    """Starts the command; what is still running in the end is killed."""
    with contextlib.ExitStack() as stack:

        def start(workdir, *arguments, config=CONFIG, devices=1):
            command = [sys.executable, "-m", "experiments.train", *config, f"--workdir={workdir}"]
            xla = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = subprocess.Popen(
                [*command, *arguments], cwd=ROOT, env=environment | xla, **pipes
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start


def finish(process, code=0):
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out, commands.without_waits(err)


def here(workdir, *arguments, config=CONFIG, code=0):
    """As `finish(start(...))`, where nothing is said of the process itself."""
    ended = commands.in_this_process("train", *config, f"--workdir={workdir}", *arguments)
    assert ended.returncode == code, ended.stderr
    return ended.stdout, ended.stderr


def rows_of(workdir):
    path = workdir / "metrics.jsonl"
    return stored(path) if path.exists() else []


def wait_for_rows(process, workdir, number):
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        path = workdir / "metrics.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") >= number:
            return
        time.sleep(0.005)
    raise AssertionError(f"no {number} rows: {process.communicate()}")


def without_times(row):
    return {name: value for name, value in row.items() if name not in TIMES}


def arrays_of(workdir):
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        step = manager.latest_step()
        return step, manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
        ).state


def best_of(workdir):
    """Returns the update of the best checkpoint, and that of the best row."""
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step = int(checkpoints.best_arrays()["0.step"])
    rows = [row for row in rows_of(workdir) if "val_accuracy" in row]
    return step, max(reversed(rows), key=lambda row: row["val_accuracy"])["step"]


def assert_same_run(one, other):
    step, of_row = best_of(one)
    assert step == of_row == best_of(other)[0]
    assert list(map(without_times, rows_of(one))) == list(map(without_times, rows_of(other)))
    results = [stored(workdir / "result.json") for workdir in (one, other)]
    assert without_times(results[0]) == without_times(results[1])
    (step, arrays), (other_step, other_arrays) = arrays_of(one), arrays_of(other)
    assert step == other_step and arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        assert array.tobytes() == other_arrays[name].tobytes(), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, environment):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    command = [sys.executable, "-m", "experiments.train", *CONFIG, f"--workdir={workdir}"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    return workdir


def kill_again_and_again(start, workdir, times, seed):
    """Kills at random moments, before the first row too; counts those that came in time."""
    generator, killed = random.Random(seed), 0
    for _ in range(times):
        process = start(workdir, "--save_every=0.05")
        if generator.random() < 0.8:
            with contextlib.suppress(AssertionError):
                wait_for_rows(process, workdir, len(rows_of(workdir)) + 1)
            time.sleep(generator.random() * 0.3)
        else:
            time.sleep(generator.random() * 3)
        killed += process.poll() is None
        process.kill()
        process.communicate()
    return killed


@pytest.mark.parametrize(
    "times", [3, pytest.param(20, marks=pytest.mark.slow)], ids="{}-kills".format
)
def test_a_run_killed_at_any_moment_ends_as_one_that_never_was(
    start, uninterrupted, tmp_path, times
):
    workdir = tmp_path / "run"
    assert kill_again_and_again(start, workdir, times, seed=times) >= times // 3
    finish(start(workdir))
    assert_same_run(workdir, uninterrupted)


def test_sigterm_sigusr1_and_ctrl_c_save_and_a_run_goes_on(start, uninterrupted, tmp_path):
    for number, code in ((signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)):
        process = start(tmp_path, "--config.duration=20000 epochs")
        wait_for_rows(process, tmp_path, len(rows_of(tmp_path)) + 3)
        began = time.monotonic()
        process.send_signal(number)
        out, err = finish(process, code)
        assert time.monotonic() - began < 15
        (line,) = err.splitlines()
        rows = rows_of(tmp_path)
        assert line.startswith("stopped after ") and line.endswith(
            "; give the same command again to go on"
        )
        # Where it was stopped within a validation, the row of that is still to come.
        assert rows[-1]["step"] <= int(line.split()[2].replace(",", "")) <= rows[-1]["step"] + 5
    assert out.startswith("resumed after ")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))


def test_a_run_that_has_ended_is_shown_again_and_not_trained(uninterrupted):
    before = (uninterrupted / "metrics.jsonl").stat()
    out, _ = here(uninterrupted)
    result = stored(uninterrupted / "result.json")
    assert f"test accuracy {result['test_accuracy']:.2%}" in out
    assert (uninterrupted / "metrics.jsonl").stat() == before


def test_a_changed_config_is_refused_with_the_difference(uninterrupted):
    changes = "--config.seed=3", "--config.optimizer.max_norm=None"
    out, err = here(uninterrupted, *changes, code=2)
    assert out == ""
    assert err.splitlines() == [
        f"{uninterrupted} holds a run of another config; choose another --workdir:",
        "  optimizer.max_norm: {'easy': 0.5, 'hard': 2.0, 'scale': 'linear'} there, None here",
        "  seed: 0 there, 3 here",
    ]


@pytest.mark.slow
def test_where_a_run_was_started_is_kept(start, uninterrupted, tmp_path):
    (first,) = stored(uninterrupted / "environment.json")
    assert first["step"] == 0 and first["processes"] == 1
    assert {"python", "jax", "flax", "optax", "revision", "hardware"} <= first.keys()

    process = start(tmp_path, "--config.duration=20000 epochs")
    wait_for_rows(process, tmp_path, 3)
    process.terminate()
    finish(process, 143)
    moved = start(tmp_path, "--config.duration=20000 epochs", devices=2)
    wait_for_rows(moved, tmp_path, len(rows_of(tmp_path)) + 1)
    moved.terminate()
    _, err = finish(moved, 143)
    line = err.splitlines()[0]
    assert line.startswith("resumed with changes (hardware 1 x cpu, ")
    starts = stored(tmp_path / "environment.json")
    assert [entry["step"] > 0 for entry in starts] == [False, True]


def test_a_workdir_that_cannot_hold_a_checkpoint_ends_the_run_before_it_starts(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    _, err = here(tmp_path, code=2)
    (line,) = err.splitlines()
    assert "checkpoints" in line and "Not a directory" in line


# ---- several processes


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_two(start, workdir, *arguments, config):
    place = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    return [
        start(workdir, *arguments, *place, f"--process_id={number}", config=config, devices=2)
        for number in range(2)
    ]


SHORT = [*CONFIG[:-1], "--config.duration=4 epochs"]


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["resident", "streamed"])
def test_two_processes_train_as_one_with_their_devices(start, tmp_path, loop):
    """Donation is on, as always; gloo sums in another order than one process does."""
    config = [*SHORT, f"--config.loop={loop}"]
    finish(start(tmp_path / "one", config=config, devices=4))
    first, second = start_two(start, tmp_path / "two", config=config)
    out, _ = finish(first)
    assert "test accuracy" in out
    assert "test accuracy" not in finish(second)[0]
    (step, expected), (other_step, arrays) = (
        arrays_of(tmp_path / "one"),
        arrays_of(tmp_path / "two"),
    )
    assert step == other_step
    for name, array in arrays.items():
        assert array == pytest.approx(expected[name], rel=1e-4, abs=2e-5), name
    for row, other in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        assert without_times(row) == pytest.approx(without_times(other), rel=1e-3, abs=1e-3)

    # Stopped between training and the end of the test, they only test, both.
    result = stored(tmp_path / "two" / "result.json")
    (tmp_path / "two" / "result.json").unlink()
    for process in start_two(start, tmp_path / "two", config=config):
        finish(process)
    again = stored(tmp_path / "two" / "result.json")
    assert without_times(again) == without_times(result)


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_as_if_not(start, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for process in start_two(start, whole, config=SHORT):
        finish(process)
    processes = start_two(start, killed, "--save_every=0", config=SHORT)
    wait_for_rows(processes[0], killed, 4)
    for process in processes:
        process.kill()
        process.communicate()
    first, second = start_two(start, killed, config=SHORT)
    out, _ = finish(first)
    finish(second)
    assert "resumed after " in out
    assert_same_run(killed, whole)


@pytest.mark.slow
def test_one_of_two_processes_is_killed_five_times_and_the_run_ends_as_if_not(start, tmp_path):
    """Either one; the other ends at once, or when JAX hears no heartbeat for 100 seconds."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    config = [*SHORT[:-1], "--config.duration=10 epochs"]
    for process in start_two(start, whole, config=config):
        finish(process)
    for time_ in range(5):
        processes = start_two(start, killed, "--save_every=0", config=config)
        wait_for_rows(processes[0], killed, len(rows_of(killed)) + 1)
        processes[time_ % 2].kill()
        began = time.monotonic()
        other = processes[1 - time_ % 2]
        _, err = other.communicate(timeout=200)
        assert other.returncode != 0 and time.monotonic() - began < 150
        assert "another process has ended" in err or "another task died" in err, err
    for process in start_two(start, killed, config=config):
        finish(process)
    assert_same_run(killed, whole)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both(start, tmp_path):
    config = [*CONFIG[:-1], "--config.duration=20000 epochs"]
    processes = start_two(start, tmp_path, config=config)
    wait_for_rows(processes[0], tmp_path, 3)
    processes[1].terminate()
    for process in processes:
        _, err = finish(process, 143)
        assert "stopped after " in err


@pytest.mark.slow
def test_two_processes_with_different_configs_are_refused(start, tmp_path):
    place = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    rates = "0.1", "0.01"
    processes = [
        start(
            tmp_path,
            *place,
            f"--process_id={number}",
            f"--config.optimizer.learning_rate={rate}",
            config=SHORT,
            devices=2,
        )
        for number, rate in enumerate(rates)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    line = "optimizer.learning_rate: 0.1 there, 0.01 here"
    assert line in errors[1] or "all processes must have the same config" in errors[0]
    assert all(process.returncode != 0 for process in processes)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_what_ends_one_of_two_processes_ends_both(start, tmp_path):
    """Here that somebody else trains there, which the first process alone finds out."""
    with (tmp_path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        for process in start_two(start, tmp_path, config=SHORT):
            _, err = finish(process, 2)
            line = f"another process trains in {tmp_path}; wait for it."
            assert err.splitlines()[-1] == line
    assert time.monotonic() - began < 100


def test_a_record_of_starts_that_was_torn_stops_nothing(tmp_path, caplog):
    here(tmp_path, config=SHORT)
    (tmp_path / "result.json").unlink()
    (tmp_path / "environment.json").write_text("torn")
    here(tmp_path, config=SHORT)
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith(f"{tmp_path / 'environment.json'} is damaged: Expecting value")
    assert warning.endswith("It was renamed to damaged-environment.json.")
    assert (tmp_path / "damaged-environment.json").read_text() == "torn"
    (last,) = stored(tmp_path / "environment.json")
    assert last["step"] > 0


def test_an_index_file_that_has_changed_is_refused(tmp_path):
    listed = tmp_path / "some.txt"
    listed.write_text(" ".join(map(str, range(400))))
    arguments = f"--config.subset={listed}", "--config.batch_size=20"
    here(tmp_path / "run", *arguments, config=SHORT)
    listed.write_text(" ".join(map(str, range(1, 401))))
    _, err = here(tmp_path / "run", *arguments, config=SHORT, code=2)
    first, second = err.splitlines()
    assert first.endswith("holds a run whose inputs have changed since; choose another --workdir:")
    assert second.startswith("  subset: 'content ")


@pytest.mark.parametrize(
    "arguments, line",
    [
        (
            ["--coordinator=10.0.0.1", "--num_processes=2", "--process_id=0"],
            "--coordinator must be HOST:PORT, such as 10.0.0.1:1234, got '10.0.0.1'.",
        ),
        (
            ["--coordinator=10.0.0.1:65536", "--num_processes=2", "--process_id=0"],
            "--coordinator must be HOST:PORT, such as 10.0.0.1:1234, got '10.0.0.1:65536'.",
        ),
        (
            ["--coordinator=10.0.0.1:1", "--num_processes=2", "--process_id=2"],
            "--process_id must be from 0 to 1, got 2.",
        ),
    ],
)
def test_a_place_that_cannot_be_is_refused(tmp_path, arguments, line):
    assert here(tmp_path, *arguments, code=2)[1].splitlines() == [line]


def test_a_port_that_another_process_has_is_told_at_once(tmp_path):
    with socket.create_server(("", 0)) as other:
        coordinator = f"127.0.0.1:{other.getsockname()[1]}"
        place = f"--coordinator={coordinator}", "--num_processes=2", "--process_id=0"
        _, err = here(tmp_path, *place, code=2)
    port = coordinator.rpartition(":")[2]
    assert err.splitlines() == [
        f"--coordinator {coordinator}: port {port}: Address already in use. "
        "Give all processes another port."
    ]


def test_half_a_place_among_processes_is_refused(start, tmp_path):
    """In a process of its own, as all that have a place."""
    _, err = finish(start(tmp_path, "--num_processes=2", "--process_id=0"), 2)
    line = "--coordinator, --num_processes and --process_id must be given together."
    assert err.splitlines() == [line]
