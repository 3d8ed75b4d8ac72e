"""Weights & Biases beside TensorBoard, whose tests are those of the log."""

import errno
import sys
import threading
import types

import pytest

from cyclical_jax.training import loggers
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.logs import RunLog
from tests.helpers import stored
from tests.training.test_logs import ROWS, STRUCTURE, TIMETABLE


class Config(dict):
    """W&B's own refuses another value, unless it is told to take it."""

    def update(self, values, *, allow_val_change=False):
        changed = [key for key in values if self.get(key, values[key]) != values[key]]
        assert allow_val_change or not changed
        super().update(values)


class Wandb(types.ModuleType):
    """In the place of the package: keeps what it is told."""

    def __init__(self, error=None):
        super().__init__("wandb")
        self.began, self.rows, self.finished, self._error = [], [], 0, error
        self.config = Config()

    def init(self, **options):
        if self._error:
            raise self._error
        self.began.append(options)
        self.config = self.config or Config(options["config"])  # as it was, where it resumes
        return self

    def Settings(self, **options):
        return options

    def log(self, numbers, *, step):
        self.rows.append((step, numbers))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    (tmp_path / "config.json").write_text('{"seed": 3}')
    monkeypatch.setitem(sys.modules, "wandb", module := Wandb())
    return module


def log_of(workdir, start=0):
    return RunLog(workdir, TIMETABLE, STRUCTURE, loggers=["wandb"], start=start)


def test_a_run_has_its_name_its_config_and_every_row(tmp_path, wandb):
    with log_of(tmp_path) as log:
        for row in ROWS:
            log.row(row)
    (options,) = wandb.began
    about = {"project": "cyclical_jax", "name": tmp_path.name, "config": {"seed": 3}}
    assert about.items() <= options.items() and wandb.finished == 1
    assert [step for step, _ in wandb.rows] == [6, 12, 30]
    assert wandb.rows[1][1] == {
        "run/epoch": 1,
        "values/max_norm": 0.7,
        "run/skipped": 1234,
        "run/images_per_second": 98765.4,
        "run/seconds": 1.5,
        "validation/loss": 0.5,
        "validation/accuracy": 0.75,
    }


def test_a_run_that_was_killed_goes_on_as_itself_and_sends_no_row_twice(tmp_path, wandb):
    with log_of(tmp_path) as log:
        log.row(ROWS[0])
        log.row(ROWS[1])
    with log_of(tmp_path, start=6) as log:  # its checkpoint is older than its last row
        log.row(ROWS[1])
        log.row(ROWS[2])
    first, second = wandb.began
    assert first["id"] == second["id"] and second["resume"] == "allow"
    assert [step for step, _ in wandb.rows] == [6, 12, 30]
    assert stored(tmp_path / "wandb.json") == {"id": first["id"], "step": 30}


def test_a_run_that_was_made_longer_shows_its_new_length(tmp_path, wandb):
    for duration in ("3 epochs", "9 epochs"):
        (tmp_path / "config.json").write_text(f'{{"duration": "{duration}", "seed": 3}}')
        with log_of(tmp_path):
            pass
    assert wandb.config == {"duration": "9 epochs", "seed": 3}


def test_a_disk_that_is_full_within_a_row_ends_the_run(tmp_path, wandb, monkeypatch):
    """TensorBoard's thread ends silently; a row has more numbers than its queue holds by itself."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    long = ROWS[0] | {f"measure_{number}": 1.0 for number in range(30)}
    log = RunLog(tmp_path, TIMETABLE, STRUCTURE, loggers=["wandb", "tensorboard"])

    def write(event):
        raise OSError(errno.ENOSPC, "No space left on device")

    def run():
        writer = log._loggers[1]._writer.file_writer.event_writer
        writer._ev_writer.write_event = write
        try:
            with log:
                log.row(long)
                writer._worker.join()
        except WorkdirError as error:
            told.append(str(error))

    told = []
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    wanted = "tensorboard cannot be written: TensorBoard's writer has ended."
    assert told == [str(tmp_path / wanted)] and wandb.finished == 1


def test_the_project_of_the_environment_is_left_to_the_package(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with log_of(tmp_path):
        pass
    assert wandb.began[0]["project"] is None


def test_a_start_that_fails_is_a_line(tmp_path, wandb, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Wandb(RuntimeError("api_key not set\n  run login")))
    with pytest.raises(WorkdirError) as error:
        log_of(tmp_path)
    assert str(error.value) == "--logger=wandb cannot start: api_key not set"


@pytest.mark.parametrize("name, package", [("wandb", "wandb"), ("tensorboard", "tensorboardX")])
def test_a_package_that_is_missing_is_a_line(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WorkdirError) as error:
        loggers.require([name])
    line = str(error.value)
    assert line.startswith(f"--logger={name} needs {package} (import of {package} halted")
    assert line.endswith(f'): in the clone of cyclical_jax, pip install ".[{name}]".')


def test_a_logger_that_is_none_is_a_line():
    with pytest.raises(WorkdirError, match="--logger must be one of 'tensorboard', 'wandb', got"):
        loggers.require(["wandbb"])
