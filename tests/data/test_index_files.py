"""Files of positions and of names, and errors that name the wrong line."""

import numpy as np
import pytest

from cyclical_jax.data import index_files
from cyclical_jax.data.index_files import Names, Positions

NAMES = np.array([b"c.JPEG", b"a.JPEG", b"d.JPEG", b"b.JPEG", b"v.JPEG"])
LABELS = np.array([2, 0, 3, 1])  # v is in the validation split


@pytest.fixture
def write(tmp_path):
    def write(text, name="subset.txt"):
        file = tmp_path / name
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(file)

    return write


@pytest.mark.parametrize(
    "text",
    ["7\n0\n12\n3\n", "7,0,12,3", " 7, 0,\r\n\r\n12\t3", "\ufeff7 0\n12 3,\n"],
    ids=["lines", "commas", "windows", "byte order mark"],
)
def test_positions_are_in_the_order_of_the_split(write, text):
    file = index_files.read(write(text, "subset.csv"))
    assert isinstance(file, Positions)
    assert file.indices.tolist() == [0, 3, 7, 12]
    assert index_files.positions(file, np.zeros(13), None).tolist() == [0, 3, 7, 12]


@pytest.mark.parametrize(
    "text",
    [
        "b.JPEG\nc.JPEG\na.JPEG\n",
        "train/n01/b.JPEG 1\ntrain/n02/c.JPEG 2\n\ntrain/n03/a.JPEG 0",
        "b.JPEG,1\r\nc.JPEG\r\na.JPEG,0\r\n",
    ],
)
def test_names_are_found_wherever_they_are(write, text):
    file = index_files.read(write(text))
    assert isinstance(file, Names)
    assert index_files.positions(file, LABELS, NAMES).tolist() == [0, 1, 3]


def test_home_is_understood(write, monkeypatch, tmp_path):
    write("5 4")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert index_files.read("~/subset.txt").indices.tolist() == [4, 5]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", ": there is no example in this file."),
        (" \n,\n", ": there is no example in this file."),
        (b"\x89PNG\xff", ": this file is not text."),
        ("3\n4 x\n", ", line 2: 'x' is not a position, a whole number from 0."),
        ("3\n\n4 -5\n", ", line 3: '-5' is not a position, a whole number from 0."),
        ("-1\n", ", line 1: '-1' is not a position, a whole number from 0."),
        ("3, 2.5", ", line 1: '2.5' is not a position, a whole number from 0."),
        ("3\n" + "9" * 30, f", line 2: '{'9' * 30}' is not a position, a whole number from 0."),
        ("3 5\n4\n9\n5 3\n", ", line 4: 5 is on line 1 already."),
        ("a 1\nb 2 x\n", ", line 2: 'b 2 x' is not a file name, nor one and its label."),
        ("a 1\n\nb -2\n", ", line 3: 'b -2' is not a file name, nor one and its label."),
        ("a/ 1\n", ", line 1: 'a/ 1' is not a file name, nor one and its label."),
        ("b 1\na/c 1\nb/c 1\n", ", line 3: 'c' is on line 2 already."),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(write, text, problem):
    path = write(text)
    with pytest.raises(ValueError) as error:
        index_files.read(path)
    assert str(error.value) == f"`subset` {path!r}{problem}"


@pytest.mark.parametrize("name, reason", [("none.txt", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, reason):
    with pytest.raises(ValueError) as error:
        index_files.read(str(tmp_path / name))
    assert f"this file cannot be read: {reason}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("b.JPEG\nc\n", ", line 2: 'c' is not a file name of this dataset."),
        ("b.JPEG\n\nz.JPEG\nA.JPEG", ", line 3: 'z.JPEG' is not a file name of this dataset."),
        ("b.JPEG\na.JPEG 2\n", ", line 2: 'a.JPEG' has label 0, not 2."),
        ("d.JPEG\nv.JPEG\n", ", line 2: 'v.JPEG' is in the validation split, not trained on."),
    ],
)
def test_what_the_dataset_has_not_is_one_line(write, text, problem):
    path = write(text)
    with pytest.raises(ValueError) as error:
        index_files.positions(index_files.read(path), LABELS, NAMES)
    assert str(error.value) == f"`subset` {path!r}{problem}"


def test_a_dataset_without_names_says_so(write):
    with pytest.raises(ValueError, match="file names, but this dataset has none: list positions"):
        index_files.positions(index_files.read(write("a.JPEG")), LABELS, None)


def test_the_first_position_outside_is_told(write):
    path = write("1 2\n13 4\n99 12\n")
    file = index_files.read(path)
    index_files.refuse_outside(file, 100)
    for available, line in [(13, "2: 13"), (99, "3: 99"), (4, "2: 4")]:
        with pytest.raises(ValueError) as error:
            index_files.refuse_outside(file, available)
        number, position = line.split(": ")
        assert str(error.value) == (
            f"`subset` {path!r}, line {number}: {position} is not a position of the {available} "
            f"examples to train on, 0 to {available - 1}."
        )
