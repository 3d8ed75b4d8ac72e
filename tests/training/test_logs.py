"""What a run leaves behind: files that equal its rows, and lines or a bar for people."""

import builtins
import functools
import io
import json
import os
import re

import numpy as np
import pytest
import tensorboardX
from rich.console import Console

from cyclical_jax.training import logs
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.logs import RunLog, WorkdirError, start_workdir, write_result

BATCH = 20
TIMETABLE = Timetable(
    micro_steps=30, accumulate=1, micro_steps_per_epoch=12, log_every=6, validate_every=12
)
ROWS = [
    dict(step=6, epoch=0.5, loss=2.34567, accuracy=0.125, grad_norm=1.5, max_norm=0.5)
    | dict(skipped=0, images_per_second=None, seconds=0.0),
    dict(step=12, epoch=1, loss=None, accuracy=None, grad_norm=None, max_norm=0.7)
    | dict(skipped=1234, images_per_second=98765.4, seconds=1.5)
    | dict(val_loss=0.5, val_accuracy=0.75),
    dict(step=30, epoch=2.5, loss=0.25, accuracy=1.0, grad_norm=0.5, max_norm=0.1)
    | dict(skipped=1235, images_per_second=4.0, seconds=2.5),
]
LINES = [
    "epoch   0.5/2.5  step      6  loss 2.3457  train 12.50%",
    "epoch     1/2.5  step     12  val 75.00%  skipped 1,234  98,765 images/s",
    "epoch   2.5/2.5  step     30  loss 0.2500  train 100.00%  skipped 1,235  4 images/s",
]


def written(workdir):
    return (workdir / "metrics.jsonl").read_text()


# ---- files


def test_every_row_is_a_line_of_the_file_as_soon_as_it_comes(tmp_path):
    with RunLog(tmp_path, TIMETABLE, BATCH) as log:
        for number, row in enumerate(ROWS):
            log.row(row)
            lines = written(tmp_path).splitlines()
            assert [json.loads(line) for line in lines] == ROWS[: number + 1]
    assert written(tmp_path).endswith("}\n")


def test_a_log_goes_on_where_another_ended(tmp_path):
    for row in ROWS[:2]:
        with RunLog(tmp_path, TIMETABLE, BATCH) as log:
            log.row(row)
    assert [json.loads(line) for line in written(tmp_path).splitlines()] == ROWS[:2]


def test_what_json_does_not_know_is_no_row(tmp_path):
    with RunLog(tmp_path, TIMETABLE, BATCH) as log, pytest.raises(ValueError, match="JSON"):
        log.row(ROWS[0] | {"loss": float("nan")})
    assert written(tmp_path) == ""


class _Writer:
    """In the place of TensorBoard's."""

    def __init__(self, path):
        self.path, self.scalars, self.is_closed = path, [], False

    def add_scalar(self, *args):
        self.scalars.append(args)

    def close(self):
        self.is_closed = True


def test_files_are_closed_when_the_run_ends_with_an_error(tmp_path, monkeypatch):
    writers = []
    make = lambda path: writers.append(_Writer(path)) or writers[-1]  # noqa: E731
    monkeypatch.setattr(tensorboardX, "SummaryWriter", make)
    with pytest.raises(KeyError), RunLog(tmp_path, TIMETABLE, BATCH, tensorboard=True) as log:
        log.row(ROWS[0])
        raise KeyError
    assert writers[0].is_closed and log._metrics.closed
    assert written(tmp_path).count("\n") == 1


TAGS = {
    "epoch": "run/epoch",
    "loss": "train/loss",
    "accuracy": "train/accuracy",
    "grad_norm": "train/grad_norm",
    "max_norm": "knobs/max_norm",
    "images_per_second": "run/images_per_second",
    "seconds": "run/seconds",
    "skipped": "run/skipped",
    "val_loss": "validation/loss",
    "val_accuracy": "validation/accuracy",
}


def test_tensorboard_has_every_number_of_a_row_at_its_step(tmp_path, monkeypatch):
    writers = []
    make = lambda path: writers.append(_Writer(path)) or writers[-1]  # noqa: E731
    monkeypatch.setattr(tensorboardX, "SummaryWriter", make)
    with RunLog(tmp_path, TIMETABLE, BATCH, tensorboard=True) as log:
        for row in ROWS:
            log.row(row)
    (writer,) = writers
    assert writer.path == tmp_path / "tensorboard"
    expected = [
        (TAGS[name], value, row["step"])
        for row in ROWS
        for name, value in row.items()
        if name in TAGS and value is not None
    ]
    assert writer.scalars == expected


def test_tensorboard_writes_files_that_it_can_read(tmp_path):
    with RunLog(tmp_path, TIMETABLE, BATCH, tensorboard=True) as log:
        log.row(ROWS[0])
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/grad_norm" in file.read_bytes()


def test_without_tensorboard_there_are_no_files_of_it(tmp_path):
    with RunLog(tmp_path, TIMETABLE, BATCH) as log:
        log.row(ROWS[0])
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_missing_tensorboardx_is_told_in_a_line(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(logs.importlib, "import_module", missing)
    with pytest.raises(WorkdirError) as error:
        logs.require_tensorboard()
    assert str(error.value) == (
        "TensorBoard's files need tensorboardX (No module named 'tensorboardX'): "
        "pip install 'cyclical-jax[tensorboard]'."
    )


def test_what_is_there_is_not_missing():
    logs.require_tensorboard()


# ---- what people see


def test_without_a_terminal_a_row_is_a_printed_line(tmp_path, capsys, monkeypatch):
    flushed = []
    spy = lambda *args, flush=False: flushed.append(flush) or builtins.print(*args)  # noqa: E731
    monkeypatch.setattr(logs, "print", spy, raising=False)
    with RunLog(tmp_path, TIMETABLE, BATCH) as log:
        log.progress(3)
        for row in ROWS:
            log.row(row)
    assert capsys.readouterr().out.splitlines() == LINES
    assert flushed == [True] * 3


@pytest.fixture
def terminal(monkeypatch):
    screen = io.StringIO()
    forced = functools.partial(Console, file=screen, force_terminal=True, width=60)
    monkeypatch.setattr(logs, "Console", forced)
    return screen


def test_on_a_terminal_a_bar_shows_speed_and_remaining_time_below_the_lines(tmp_path, terminal):
    now = [0.0]
    log = RunLog(tmp_path, TIMETABLE, BATCH)
    log._bar.get_time = lambda: now[0]
    with log:
        for micro_step in (1, 4, 7, 10):  # three in two seconds
            log.progress(micro_step)
            now[0] += 2
        log._bar.refresh()
        bar = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())  # without its colours
        assert " 33 %" in bar and "30 images/s" in bar and "0:00:14 left" in bar
        for row in ROWS:
            log.row(row)
    for line in LINES:  # longer than the terminal is wide, and not broken up or coloured
        assert line in terminal.getvalue()


def test_before_its_first_call_the_bar_has_no_speed(tmp_path, terminal):
    with RunLog(tmp_path, TIMETABLE, BATCH):
        pass
    assert " 0 images/s" in terminal.getvalue() and "-:--:--" in terminal.getvalue()


def test_the_bar_is_gone_when_the_run_ends_with_an_error(tmp_path, terminal):
    with pytest.raises(KeyError), RunLog(tmp_path, TIMETABLE, BATCH) as log:
        log.progress(3)
        raise KeyError
    assert log._bar.finished is False and not log._bar.live.is_started
    shown, end = terminal.getvalue().rsplit("images/s", 1)
    assert "\x1b[?25h" in end  # the cursor is back,
    assert end.endswith("\x1b[2K")  # and the line erased


# ---- the directory


def test_a_workdir_is_made_and_holds_the_config(tmp_path):
    workdir = tmp_path / "new" / "run"
    start_workdir(workdir, {"seed": 3, "section": {"off": None, "sizes": (1, 2)}})
    config = json.loads((workdir / "config.json").read_text())
    assert config == {"seed": 3, "section": {"off": None, "sizes": [1, 2]}}


def test_a_workdir_without_rows_may_be_used_again(tmp_path):
    start_workdir(tmp_path, {"seed": 1})
    (tmp_path / "metrics.jsonl").touch()
    start_workdir(tmp_path, {"seed": np.int32(2)})
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 2}


def test_a_workdir_that_holds_a_run_is_refused_and_left_as_it_is(tmp_path):
    start_workdir(tmp_path, {"seed": 1})
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(WorkdirError) as error:
        start_workdir(tmp_path, {"seed": 2})
    assert str(error.value) == f"{tmp_path} holds a run already; choose another --workdir."
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}


@pytest.mark.parametrize(
    "where, reason", [("file/run", "Not a directory"), ("file", "File exists")]
)
def test_a_workdir_that_cannot_be_written_is_refused(tmp_path, where, reason):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkdirError) as error:
        start_workdir(tmp_path / where, {})
    assert str(error.value) == f"--workdir {tmp_path / where} cannot be written: {reason}."


def test_the_result_is_a_file(tmp_path):
    write_result(tmp_path, {"test_accuracy": 0.5})
    assert json.loads((tmp_path / "result.json").read_text()) == {"test_accuracy": 0.5}
