"""The files of a workdir: each wrong one is a line that names it and what to do."""

import json
import os

import pytest

from cyclical_jax import _files
from cyclical_jax.training import files
from cyclical_jax.training.files import KINDS, METRICS, WorkdirError, keep_rows, read_rows

RIGHT = {
    files.CONFIG: {"seed": 1, "model": {"name": "mlp"}},
    files.INPUTS: {"subset": "content 1"},
    files.DATASET: {"source": "mine", "num_classes": 2, "shape": [3, 3, 1], "dtype": "uint8"}
    | {"class_names": ["a", "b"], "normalisation": None, "num_examples": {"train": 5}},
    files.ENVIRONMENT: [{"step": 0, "python": "3.12"}, {"step": 7}],
    files.RESULT: {
        **{"steps": 7, "test_num_examples": 9},
        **{"seconds": 2.5, "training_seconds": 1.5, "test_loss": 0.5},
    },
    files.WANDB: {"id": "a1", "step": -1},
}
OTHERS = ["", "null", "3", '"x"', "[3]", "[null]", "[[]]", "[" * 100_000, "{", '{"a": 1e999}']
WRONG = {
    files.CONFIG: ["[]"],
    files.INPUTS: ['{"subset": 1}', '{"subset": {"a": 1}}', "[]"],
    files.DATASET: ["{}", '{"source": "x", "num_classes": "2", "shape": [1], "dtype": "uint8"}'],
    files.ENVIRONMENT: ["{}", '[{"step": 0}, null]', '[{"step": "0"}]'],
    files.RESULT: ["{}", '{"a": 1}', json.dumps(RIGHT[files.RESULT] | {"test_accuracy": "high"})],
    files.WANDB: ["{}", '{"id": 1, "step": 2}', '{"id": "a", "step": "2"}'],
}
KEPT = sorted(RIGHT)


def line_of(function, *arguments):
    with pytest.raises(WorkdirError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_tables_have_every_kind():
    assert set(KINDS) == RIGHT.keys() | {METRICS} == WRONG.keys() | {METRICS}


@pytest.mark.parametrize("name", KEPT)
def test_what_was_written_is_read(tmp_path, name):
    files.write(tmp_path / name, RIGHT[name])
    assert files.read(tmp_path / name) == RIGHT[name]
    (tmp_path / name).write_text(json.dumps(RIGHT[name]))  # as an earlier version wrote it
    assert files.read(tmp_path / name) == RIGHT[name]


@pytest.mark.parametrize("name", KEPT)
def test_another_content_is_a_line_with_the_remedy(tmp_path, name):
    path, kind = tmp_path / name, KINDS[name]
    for text in [*OTHERS, *WRONG[name]]:
        path.write_text(text)
        line = line_of(files.read, path)
        assert line.startswith(f"{path} is damaged: ") and line.endswith(f" {kind.remedy}"), text


@pytest.mark.parametrize("name", KEPT)
def test_a_value_that_was_changed_is_told(tmp_path, name):
    path = tmp_path / name
    files.write(path, RIGHT[name])
    text = path.read_text()
    change = {"uint8": "uint9", "-1": "-2", "0.5": "0.4", '"mlp"': '"cnn"', "3.12": "3.13"}
    change |= {"content 1": "content 2"}
    old, new = next(pair for pair in change.items() if pair[0] in text)
    path.write_text(text.replace(old, new))
    assert "its checksum does not fit its content" in line_of(files.read, path)


def test_what_is_not_there_or_is_no_file_is_a_line(tmp_path):
    path = tmp_path / files.RESULT
    missing = f"{path} cannot be read: No such file or directory. {KINDS[files.RESULT].remedy}"
    assert line_of(files.read, path) == missing
    path.mkdir()
    assert "it is not a file" in line_of(files.read, path)
    assert line_of(files.write, path, RIGHT[files.RESULT]) == (
        f"{path} cannot be written: Is a directory."
    )


@pytest.mark.parametrize("name", KEPT)
def test_a_file_that_cannot_be_looked_at_is_there_and_is_a_line(tmp_path, name):
    """As in a folder of another user; here a link that leads to itself."""
    path = tmp_path / name
    assert not files.is_there(path) and not files.is_there(tmp_path / "none" / name)
    path.symlink_to(path)
    assert files.is_there(path)
    assert "cannot be read: Too many levels of symbolic links" in line_of(files.read, path)


# ---- rows

ROWS = [{"step": 2 * n, "epoch": n / 2, "loss": 1 / (n + 1), "val_loss": None} for n in range(1, 6)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / METRICS
    path.write_text("".join(map(_files.as_line, ROWS, [None, *ROWS])))
    return path


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def test_rows_are_read_and_those_after_a_checkpoint_are_dropped(path):
    assert read_rows(path) == ROWS
    assert keep_rows(path, 3, 1.5) == ROWS[:3] == read_rows(path)
    assert keep_rows(path, 3, 1.7) == ROWS[:3]
    assert keep_rows(path, 0, 0.0) == [] and path.read_bytes() == b""
    path.unlink()
    assert keep_rows(path, 0, 0.0) == [] and not path.exists()


def test_rows_of_an_earlier_version_have_no_checksum(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]) + lines(path)[2].decode())
    assert read_rows(path) == ROWS[:3]


def test_only_the_rows_before_the_checkpoint_are_read(path):
    path.write_bytes(b"".join(lines(path)[:2]) + b'{"step": 6, "ep')  # cut off by a kill
    with path.open("ab") as file:
        file.truncate(2**33)
    assert keep_rows(path, 2, 1.0) == ROWS[:2] == read_rows(path)


def unsealed(*parts):
    """Lines as earlier versions wrote them."""
    rows = [json.loads(line) for part in parts for line in part]
    for row in rows:
        del row["checksum"]
    return [f"{json.dumps(row)}\n".encode() for row in rows]


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda lines: lines[:2], "has 2 of the 3 rows before the checkpoint"),
        (lambda lines: lines[1:], ", line 1, is damaged: its checksum does not fit its content."),
        (lambda lines: [*lines[:2], lines[2].rstrip()], "is damaged: line 3 has no end"),
        (lambda lines: [lines[0], *lines[2:]], ", line 2, is damaged: its checksum does not fit"),
        (lambda lines: [lines[0], *lines], "content, or a line before it is missing."),
        (lambda lines: lines[1::-1] + lines[2:], ", line 1, is damaged: its checksum does not"),
        (lambda lines: unsealed(lines[:1], lines[2:]), "it lacks rows before the checkpoint"),
        (lambda lines: unsealed(lines[:1], lines), "is damaged: line 2 does not follow the row"),
        (lambda lines: unsealed(lines[1::-1], lines[2:]), "is damaged: line 2 does not follow"),
        (lambda lines: [b"\n", *lines], ", line 1, is damaged: Expecting value"),
        (lambda lines: [*lines[:2], b"\0" * 99 + b"\n"], ", line 3, is damaged: Expecting value"),
        (lambda lines: [lines[0][:-3] + b'7"}\n', *lines[1:]], ", line 1, is damaged: its checks"),
        (lambda lines: [b'{"step": 1}\n'] * 3, ", line 1, is damaged: it has no 'epoch'"),
        (lambda lines: [b'{"step": 1, "epoch": 1, "loss": "x"}\n'] * 3, "'loss' is \"x\", not a n"),
        (
            lambda lines: [b"[" * 100_000 + b"]" * 100_000] * 3,
            "has 1 of the 3 rows before the check",
        ),
        (lambda lines: [b" " * 2**21], "is damaged: line 1 has more than 1,048,576 bytes"),
    ],
    ids=range(16),
)
def test_rows_that_are_not_those_before_the_checkpoint_are_a_line(path, change, problem):
    path.write_bytes(b"".join(change(lines(path))))
    before = path.read_bytes()
    line = line_of(keep_rows, path, 3, 1.5)
    assert line.startswith(f"{path}") and problem in line
    assert line.endswith(KINDS[METRICS].remedy) and path.read_bytes() == before


def test_rows_in_what_is_no_file_are_a_line(tmp_path):
    os.mkfifo(tmp_path / METRICS)
    assert "it is not a file" in line_of(read_rows, tmp_path / METRICS)
    assert "it is not a file" in line_of(keep_rows, tmp_path / METRICS, 0, 0.0)
