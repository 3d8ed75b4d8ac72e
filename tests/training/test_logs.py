"""The log of a run: files that equal its rows, and lines or a bar for people."""

import builtins
import errno
import functools
import io
import os
import re

import pytest
import tensorboardX
from rich.console import Console

from cyclical_jax.training import loggers, logs
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.logs import RunLog
from cyclical_jax.training.structure import Accumulation, Curve, Knob, Structure
from cyclical_jax.training.technique import Task, Technique
from tests.helpers import stored

TIMETABLE = Timetable(windows=((30, 1),), micro_steps_per_epoch=12, log_every=6, validate_every=12)


def structure_of(task, *techniques):
    """Returns a structure of made-up entries."""
    curve = Curve("linear", "linear")
    return Structure(
        task=(task, ()),
        techniques=tuple((technique, ()) for technique in techniques),
        curves=(),
        num_cycles=1,
        span="run",
        batch_size=20,
        beside=(),
        accumulate=Accumulation(Knob(1, 1, 1), curve),
        as_one_batch=False,
        remainder="drop",
        on_nonfinite="stop",
    )


ACCURACY = dict(measures=("accuracy",), percent=("accuracy",), judged_by=("accuracy", "max"))
STRUCTURE = structure_of(Task("by accuracy", {}, **ACCURACY))
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
    "epoch   0.5/2.5  step      6  loss 2.3457  accuracy 12.50%",
    "epoch     1/2.5  step     12  val_loss 0.5000  val_accuracy 75.00%  skipped 1,234  "
    "98,765 images/s",
    "epoch   2.5/2.5  step     30  loss 0.2500  accuracy 100.00%  skipped 1,235  4 images/s",
]


def written(workdir):
    return (workdir / "metrics.jsonl").read_text()


# ---- files


def test_every_row_is_a_line_of_the_file_as_soon_as_it_comes(tmp_path):
    with RunLog(tmp_path, TIMETABLE, STRUCTURE) as log:
        for number, row in enumerate(ROWS):
            log.row(row)
            assert stored(tmp_path / "metrics.jsonl") == ROWS[: number + 1]
    assert written(tmp_path).endswith("}\n")


@pytest.mark.parametrize("start, kept", [(0, 0), (5, 0), (6, 1), (11, 1), (12, 2), (13, 2)])
def test_a_log_goes_on_from_a_micro_step_and_drops_the_rows_after_it(tmp_path, start, kept):
    with RunLog(tmp_path, TIMETABLE, STRUCTURE) as log:
        for row in ROWS:
            log.row(row)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')  # cut off by a kill
    with RunLog(tmp_path, TIMETABLE, STRUCTURE, start=start) as log:
        assert log.rows == ROWS[:kept]
        log.row(ROWS[2])
        assert log.rows == [*ROWS[:kept], ROWS[2]]
    assert stored(tmp_path / "metrics.jsonl") == log.rows


def test_a_log_without_the_rows_before_a_checkpoint_is_refused(tmp_path):
    with RunLog(tmp_path, TIMETABLE, STRUCTURE) as log:
        log.row(ROWS[0])
    with pytest.raises(WorkdirError, match="metrics.jsonl has 1 of the 2 rows before the check"):
        RunLog(tmp_path, TIMETABLE, STRUCTURE, start=12)
    assert len(written(tmp_path).splitlines()) == 1


def test_what_json_does_not_know_is_no_row(tmp_path):
    with RunLog(tmp_path, TIMETABLE, STRUCTURE) as log, pytest.raises(ValueError, match="JSON"):
        log.row(ROWS[0] | {"loss": float("nan")})
    assert written(tmp_path) == ""


class _Writer:
    """In the place of TensorBoard's."""

    def __init__(self, path, purge_step, max_queue, filename_suffix):
        self.path, self.scalars, self.is_closed = path, [], False

    def add_scalar(self, *args):
        self.scalars.append(args)

    def close(self):
        self.is_closed = True


def test_files_are_closed_when_the_run_ends_with_an_error(tmp_path, monkeypatch):
    writers = []
    make = lambda path, **options: writers.append(_Writer(path, **options)) or writers[-1]  # noqa: E731
    monkeypatch.setattr(tensorboardX, "SummaryWriter", make)
    with (
        pytest.raises(KeyError),
        RunLog(tmp_path, TIMETABLE, STRUCTURE, loggers=["tensorboard"]) as log,
    ):
        log.row(ROWS[0])
        raise KeyError
    assert writers[0].is_closed and log._metrics.closed
    assert written(tmp_path).count("\n") == 1


TAGS = {
    "epoch": "run/epoch",
    "loss": "train/loss",
    "accuracy": "train/accuracy",
    "grad_norm": "train/grad_norm",
    "max_norm": "values/max_norm",
    "images_per_second": "run/images_per_second",
    "seconds": "run/seconds",
    "skipped": "run/skipped",
    "val_loss": "validation/loss",
    "val_accuracy": "validation/accuracy",
}


def test_tensorboard_has_every_number_of_a_row_at_its_step(tmp_path, monkeypatch):
    writers = []
    make = lambda path, **options: writers.append(_Writer(path, **options)) or writers[-1]  # noqa: E731
    monkeypatch.setattr(tensorboardX, "SummaryWriter", make)
    with RunLog(tmp_path, TIMETABLE, STRUCTURE, loggers=["tensorboard"]) as log:
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


def test_tensorboard_has_what_tasks_and_techniques_measure_with_what_is_measured(
    tmp_path, monkeypatch
):
    writers = []
    make = lambda path, **options: writers.append(_Writer(path, **options)) or writers[-1]  # noqa: E731
    monkeypatch.setattr(tensorboardX, "SummaryWriter", make)
    row = dict(step=3, epoch=0.25, loss=0.5, grad_norm=1.0, word_error=2.0, share=0.5, noise=0.1)
    row |= dict(agreement=0.2, val_loss=0.4, val_word_error=3.0, images_per_second=None)
    row |= {"rate": 0.1, "mine.loss": 0.2, "accuracy": 0.3}  # knobs
    with RunLog(tmp_path, TIMETABLE, BY_ERROR, loggers=["tensorboard"]) as log:
        log.row(row)
    (writer,) = writers
    assert [(tag, step) for tag, _, step in writer.scalars] == [
        ("run/epoch", 3),
        ("train/loss", 3),
        ("train/grad_norm", 3),
        ("train/word_error", 3),
        ("train/share", 3),
        ("train/noise", 3),
        ("train/agreement", 3),
        ("validation/loss", 3),
        ("validation/word_error", 3),
        ("values/rate", 3),
        ("values/mine.loss", 3),
        ("values/accuracy", 3),
    ]


def test_tensorboard_writes_files_that_it_can_read(tmp_path):
    with RunLog(tmp_path, TIMETABLE, STRUCTURE, loggers=["tensorboard"]) as log:
        log.row(ROWS[0])
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/grad_norm" in file.read_bytes()


def test_each_start_has_a_file_of_its_own_for_tensorboard(tmp_path):
    """The names have times in seconds: a start within the same second would overwrite the rows."""
    for start, row in ((0, ROWS[0]), (6, ROWS[1])):
        with RunLog(tmp_path, TIMETABLE, STRUCTURE, loggers=["tensorboard"], start=start) as log:
            log.row(row)
    first, second = sorted((tmp_path / "tensorboard").iterdir())
    assert b"train/grad_norm" in first.read_bytes() and b"val" in second.read_bytes()


def test_without_tensorboard_there_are_no_files_of_it(tmp_path):
    with RunLog(tmp_path, TIMETABLE, STRUCTURE) as log:
        log.row(ROWS[0])
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_missing_tensorboardx_is_told_in_a_line(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(loggers.importlib, "import_module", missing)
    with pytest.raises(WorkdirError) as error:
        loggers.require(["tensorboard"])
    assert str(error.value) == (
        "--logger=tensorboard needs tensorboardX (No module named 'tensorboardX'): "
        'in the clone of cyclical_jax, pip install ".[tensorboard]".'
    )


def test_what_is_there_is_not_missing():
    loggers.require(["tensorboard"])


# ---- what people see


def test_without_a_terminal_a_row_is_a_printed_line(tmp_path, capsys, monkeypatch):
    flushed = []
    spy = lambda *args, flush=False: flushed.append(flush) or builtins.print(*args)  # noqa: E731
    monkeypatch.setattr(logs, "print", spy, raising=False)
    with RunLog(tmp_path, TIMETABLE, STRUCTURE) as log:
        log.progress(3)
        for row in ROWS:
            log.row(row)
    assert capsys.readouterr().out.splitlines() == LINES
    assert flushed == [True] * 3


def line_of(structure, tmp_path, capsys, **row):
    """Returns the line of a row at the end of a run."""
    given = dict(step=30, epoch=2.5, images_per_second=None, seconds=1.0) | row
    with RunLog(tmp_path, TIMETABLE, structure) as log:
        log.row(given)
    start = "epoch   2.5/2.5  step     30"
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(start)
    return line.removeprefix(start).strip()


MEASURED = dict(measures=("word_error", "share"), percent=("share",))
BY_ERROR = structure_of(
    Task("by error", {}, **MEASURED, judged_by=("word_error", "min")),
    Technique("mine", {}, measures=("agreement",), percent=("agreement",)),
    Technique("first", {}, measures=("noise",), changes_inputs=True),
)
BY_SHARE = structure_of(Task("by share", {}, **MEASURED, judged_by=("share", "max")))
BY_LOSS = structure_of(Task("by loss", {}))


@pytest.mark.parametrize(
    "structure, row, expected",
    [
        (
            BY_ERROR,  # measures in the order of the entries, in percent where they are fractions
            dict(agreement=0.5, loss=2.0, noise=0.25, share=0.125, word_error=0.75, val_loss=3.0)
            | dict(val_word_error=0.7),
            "loss 2.0000  noise 0.2500  word_error 0.7500  share 12.50%  agreement 50.00%  "
            "val_loss 3.0000  val_word_error 0.7000",
        ),
        (
            BY_ERROR,  # large numbers, and those that no example was measured for
            dict(loss=123456.0, noise=None, word_error=9999.0, share=None, val_word_error=-1e5),
            "loss 1.23e+05  word_error 9999.0000  val_word_error -1e+05",
        ),
        (
            BY_SHARE,
            dict(loss=0.5, share=0.25, val_loss=4.0, val_share=0.5),
            "loss 0.5000  share 25.00%  val_loss 4.0000  val_share 50.00%",
        ),
        (BY_LOSS, dict(loss=0.5, accuracy=0.25, val_loss=0.75), "loss 0.5000  val_loss 0.7500"),
        (BY_LOSS, dict(loss=0.5, rate=0.25), "loss 0.5000"),
    ],
)
def test_a_line_has_what_the_task_measures_and_its_score(
    tmp_path, capsys, structure, row, expected
):
    assert line_of(structure, tmp_path, capsys, **row) == expected


@pytest.fixture
def terminal(monkeypatch):
    screen = io.StringIO()
    forced = functools.partial(Console, file=screen, force_terminal=True, width=60)
    monkeypatch.setattr(logs, "Console", forced)
    return screen


def test_on_a_terminal_a_bar_shows_speed_and_remaining_time_below_the_lines(tmp_path, terminal):
    now = [0.0]
    log = RunLog(tmp_path, TIMETABLE, STRUCTURE)
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
    with RunLog(tmp_path, TIMETABLE, STRUCTURE):
        pass
    assert " 0 images/s" in terminal.getvalue() and "-:--:--" in terminal.getvalue()


def test_the_bar_is_gone_when_the_run_ends_with_an_error(tmp_path, terminal):
    with pytest.raises(KeyError), RunLog(tmp_path, TIMETABLE, STRUCTURE) as log:
        log.progress(3)
        raise KeyError
    assert log._bar.finished is False and not log._bar.live.is_started
    shown, end = terminal.getvalue().rsplit("images/s", 1)
    assert "\x1b[?25h" in end  # the cursor is back,
    assert end.endswith("\x1b[2K")  # and the line erased


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RunLog(tmp_path, TIMETABLE, STRUCTURE) as log:
        log.row(ROWS[0])
        log._metrics.close()
        monkeypatch.setattr(log, "_metrics", Full())
        with pytest.raises(WorkdirError) as error:
            log.row(ROWS[1])
    line = f"{tmp_path / 'metrics.jsonl'} cannot be written: No space left on device."
    assert str(error.value) == line


def test_a_full_disk_is_one_line_on_the_way_out_too(tmp_path, monkeypatch):
    class Full(io.StringIO):
        def close(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WorkdirError, match="told"):
        with RunLog(tmp_path, TIMETABLE, STRUCTURE) as log:
            log._metrics.close()
            monkeypatch.setattr(log, "_metrics", Full())
            raise WorkdirError("told")


def test_a_writer_of_tensorboard_that_has_ended_is_told(tmp_path):
    """It ends at a full disk, and what is written after that waits for it for ever."""
    with RunLog(tmp_path, TIMETABLE, STRUCTURE, loggers=["tensorboard"]) as log:
        log.row(ROWS[0])
        writer = log._loggers[0]._writer.file_writer.event_writer
        writer._worker.stop()
        with pytest.raises(WorkdirError) as error:
            log.row(ROWS[1])
        log._loggers = []
    line = "tensorboard cannot be written: TensorBoard's writer has ended."
    assert str(error.value) == str(tmp_path / line)


def test_rows_lost_before_the_checkpoint_are_told(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\0" * 20 + b"\n")
    with pytest.raises(WorkdirError) as error:
        RunLog(tmp_path, TIMETABLE, STRUCTURE, start=6)
    path = tmp_path / "metrics.jsonl"
    line = "line 1, is damaged: Expecting value: line 1 column 1 (char 0)."
    assert str(error.value).startswith(f"{path}, {line}")


def test_rows_can_be_put_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number)))
    with RunLog(tmp_path, TIMETABLE, STRUCTURE) as log:
        log.row(ROWS[0])
        log.sync()
    file, folder = synced
    assert file.st_size == (tmp_path / "metrics.jsonl").stat().st_size > 0
    assert os.path.samestat(folder, tmp_path.stat())  # or its name would be lost
