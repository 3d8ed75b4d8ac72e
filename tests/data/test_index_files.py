"""Files of positions and of names, and errors that name the wrong line."""

import os

import numpy as np
import pytest

from cyclical_jax.data import index_files
from cyclical_jax.data.index_files import Names, Positions
from tests.helpers import other_user

NAMES = np.array([b"c.JPEG", b"a.JPEG", b"d.JPEG", b"b.JPEG", b"v.JPEG"])
LABELS = np.array([2, 0, 3, 1])  # v is in the validation split


def line_of(path):
    with pytest.raises(ValueError) as error:
        index_files.read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


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


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    path = str(tmp_path / "none.txt")
    assert (
        line_of(path) == f"`subset` {path!r}: this file cannot be read: No such file or directory."
    )


def test_what_is_no_file_is_one_line_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (str(tmp_path), str(tmp_path / "pipe.txt"), "/dev/zero"):
        line = f"`subset` {path!r}: this is a folder, a pipe or a device, not a file."
        assert line_of(path) == line


def test_a_file_that_may_not_be_read_is_one_line(write, tmp_path):
    os.chmod(write("1"), 0)
    with other_user(tmp_path):
        line = line_of("subset.txt")
    assert line == "`subset` 'subset.txt': this file cannot be read: Permission denied."


@pytest.mark.parametrize(
    "text",
    [b"1\n2\n\0", b"\0" * 100, b"a.png 1\nb\0.png 2", b"1\n\xff", b"a\n\xc3(\n", os.urandom(10**5)],
)
def test_what_is_no_text_is_one_line(write, text):
    path = write(text)
    assert line_of(path) == f"`subset` {path!r}: this file is not text."


def test_a_file_that_is_too_large_is_one_line(write, monkeypatch):
    path = write("1\n22\n333\n")
    monkeypatch.setattr(index_files, "_MOST_BYTES", 8)
    assert line_of(path) == f"`subset` {path!r}: this file must have at most 0 MB."
    monkeypatch.setattr(index_files, "_MOST_BYTES", 9)
    assert index_files.read(path).indices.tolist() == [1, 22, 333]


LONG = "x" * 10**6
CUT = f"{'x' * 57}..."


@pytest.mark.parametrize(
    "text, problem",
    [
        (f"1\n{LONG} 2", f"line 2: '{CUT}' is not a position, a whole number from 0."),
        ("7" * 10**6, f"line 1: '{'7' * 57}...' is not a position, a whole number from 0."),
        (f"a 1\nb 2\n{LONG} 3\n", f"line 3: '{CUT}' is not a file name, nor one and its label."),
        (f"a 1\nb {LONG}\n", f"line 2: 'b {'x' * 55}...' is not a file name, nor one and its"),
        ("a 1 " + "x " * 10**5, f"line 1: 'a 1 {'x ' * 26}x...' is not a file name, nor one and"),
        ("ä" * 10**5, f"line 1: '{'ä' * 57}...' is not a file name, nor one and its label."),
        (f"{'x' * 200}\n" * 2, f"line 2: '{CUT}' is on line 1 already."),
    ],
)
def test_a_long_word_is_shown_in_part(write, text, problem):
    path = write(text)
    assert line_of(path).startswith(f"`subset` {path!r}, {problem}")


def test_a_long_word_of_another_place_is_shown_in_part(write):
    file = index_files.read(write(f"{'x' * 200}\n"))
    with pytest.raises(ValueError, match="line 1: 'x{57}...' is not a file name of this dataset"):
        index_files.positions(file, LABELS, NAMES)


def by_hand(text):
    """Reads an index file as its docstring says, word by word."""
    rows = [line.replace(",", " ").split() for line in text.split("\n")]
    rows = [(number, row) for number, row in enumerate(rows, start=1) if row]
    if rows[0][1][0].isdigit():
        found = sorted((int(word), number) for number, row in rows for word in row)
        return [index for index, _ in found], [number for _, number in found]
    names = [row[0].rpartition("/")[2].encode() for _, row in rows]
    labels = [int(row[1]) if row[1:] else -1 for _, row in rows]
    return names, labels, [number for number, _ in rows]


@pytest.mark.parametrize("seed", range(20))
def test_it_reads_what_is_read_word_by_word(write, seed, monkeypatch):
    monkeypatch.setattr(index_files, "_CHUNK", 7)
    rng = np.random.default_rng(seed)
    gaps = [" ", ",", "\n", "\t, ", " \r\n\n", "\n ,\n"]
    words = [str(number) for number in rng.permutation(200)]
    text = "".join(f"{word}{gaps[rng.integers(6)]}" for word in words)
    file = index_files.read(write(text, "positions.txt"))
    assert [list(found) for found in file[1:]] == list(map(list, by_hand(text)))
    folders, ends = ["", "a/", "/b/ä/"], ["\n", ",7\n", " 123456789\r\n", "\t0 \n\n", " ,\n"]
    names = [f"{folders[rng.integers(3)]}é{'x' * rng.integers(30)}{word}.png" for word in words]
    text = "".join(f"{name}{ends[rng.integers(5)]}" for name in names)
    file = index_files.read(write(text, "names.txt"))
    assert [list(found) for found in file[1:]] == list(map(list, by_hand(text)))


def test_it_is_read_once_and_anew_when_it_has_changed(write, monkeypatch):
    path = write("1 2")
    first = index_files.read(path)
    assert index_files.read(path) is first
    write("1 2 3")
    assert index_files.read(path).indices.tolist() == [1, 2, 3]


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
