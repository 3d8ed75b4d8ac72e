"""Tables of one's own in a .csv file."""

import numpy as np
import pytest

from cyclical_jax import data
from cyclical_jax.data import tables
from tests.helpers import other_user

ROWS = [(i % 7 * 0.5, -i, "xyz"[i % 3]) for i in range(30)]


@pytest.fixture
def saved(tmp_path):
    def save(text, encoding="utf-8"):
        (tmp_path / "mine.csv").write_text(text, encoding=encoding)
        return f"csv:{tmp_path / 'mine.csv'}"

    return save


def text_of(header, rows):
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)])


def problems_of(name):
    with pytest.raises(ValueError) as error:
        data.load(name)
    return [line.removeprefix(f"`dataset` {name!r}: ") for line in str(error.value).splitlines()]


def together(dataset):
    return [np.concatenate([split[key] for split in dataset[:3]]) for key in ("image", "label")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_last_column_is_the_label(saved, encoding):
    name = saved(text_of("a,b,class", ROWS), encoding)
    dataset = data.load(name)
    assert [data.num_examples(split) for split in dataset[:3]] == [24, 3, 3]
    assert dataset.class_names == ("x", "y", "z") and dataset.num_classes == 3
    assert dataset.notes[0] == "The labels are the column 'class', of 3 classes."
    features = np.array([row[:2] for row in ROWS], float)
    image, label = together(dataset)
    raw = image * dataset.normalisation.std + dataset.normalisation.mean
    order = np.argsort(-raw[:, 1])
    np.testing.assert_allclose(raw[order], features, atol=1e-5)
    np.testing.assert_array_equal(label[order], np.arange(30) % 3)
    assert data.is_table(name) and data.is_resident(name) and data.num_classes(name) == 3
    data.check(dataset)


def test_a_column_of_that_name_is_the_label_wherever_it_is(saved):
    first = data.load(saved(text_of("label,a,b", [(row[2], *row[:2]) for row in ROWS])))
    last = data.load(saved(text_of("a,b,other", ROWS)))
    for a, b in zip(together(first), together(last), strict=True):
        np.testing.assert_array_equal(a, b)


def test_numbers_are_classes_in_their_own_order(saved):
    dataset = data.load(saved(text_of("a,n", [(i, [2, 10, 1][i % 3]) for i in range(30)])))
    assert dataset.class_names == ("1", "2", "10")
    image, label = together(dataset)
    np.testing.assert_array_equal(label[np.argsort(image[:, 0])], np.array([1, 2, 0] * 10))


@pytest.mark.parametrize("least", [-1, 2**53, 2**63 - 2, 10**30])
def test_large_numbers_are_told_apart(saved, least):
    cells = (least, f"{least + 1}.0", least + 2)
    dataset = data.load(saved(text_of("a,n", [(i, cells[i % 3]) for i in range(30)])))
    assert dataset.class_names == tuple(str(least + k) for k in range(3))


def test_spaces_quotes_and_empty_lines_are_understood(saved):
    lines = [f' {i} , "{i}.5", "a, b"' if i % 2 else f"{i},{i}.5,c\n" for i in range(30)]
    text = "one, two ,three\n\n" + "\n".join(lines)
    assert data.load(saved(text)).class_names == ("a, b", "c")


@pytest.mark.parametrize(
    "text, line",
    [
        ("", "this file is empty."),
        ("a,b,label", "it must have rows, got the first line alone."),
        ("a\n1\n", "it must have columns of features and one of labels, got ['a']."),
        ("a;b;label\n1;2;3\n", "it must have columns of features and one of labels, got ['a;b;lab"),
        ("1,2,3\n1,2,3\n", "its first line must name the columns, got 1, 2, 3."),
        ("a,a,c\n1,2,3\n", "its columns must have different names, got a more than once."),
        ("a,b,c\n1,2,x\n1,2\n", "line 3 must have 3 cells, got 2."),
        (
            text_of("a,b,c", [*ROWS, (1, "n/a", "x")]),
            "line 32, column 'b': 'n/a' is not a finite number.",
        ),
        (
            text_of("a,b,c", [*ROWS, ("", 1, "x")]),
            "line 32, column 'a': '' is not a finite number.",
        ),
        (text_of("a,b,c", [*ROWS, (1, "nan", "x")]), "line 32, column 'b': 'nan' is not a finite"),
        (text_of("a,b,c", [*ROWS, (1, 2, "")]), "every row must have a label, got 1 without one."),
        (text_of("a,b", [(i, i % 3 + 0.5) for i in range(30)]), "the labels must be whole numbers"),
        (
            text_of("label2,b", [(i % 3, i) for i in range(30)]),
            "the labels must have 2 classes or more, with some rows each, got 30 classes in 30 "
            "rows. Name the column of the labels 'label'.",
        ),
        (text_of("a,b", [(i, 1) for i in range(30)]), "the labels must have 2 classes or more"),
        (
            text_of("a,b", [(i, i % 2) for i in range(8)]),
            "8 examples to train on are too few",
        ),
        ('a,b\n"1,2\n', "this file cannot be read: unexpected end of data."),
    ],
)
def test_what_cannot_be_learned_is_a_line(saved, text, line):
    (actual,) = problems_of(saved(text))
    assert actual.startswith(line)


LONG = "x" * 100_000
CUT = f"{'x' * 57}..."


@pytest.mark.parametrize(
    "text, line",
    [
        (LONG, f"it must have columns of features and one of labels, got ['{'x' * 55}..."),
        ("x" * 200_000, "this file cannot be read: field larger than field limit (131072)."),
        (f"{LONG},{LONG},c\n1,2,3\n", f"its columns must have different names, got {CUT} more"),
        (",".join(map(str, range(50_000))), "its first line must name the columns, got 0, 1, 2, "),
        (f"a,{LONG},c\n1,{LONG},x\n", f"line 2, column '{CUT}': '{CUT}' is not a finite number."),
        (
            f"a,b\n1,1.5{'0' * 200}\n",
            f"the labels must be whole numbers or words, got 1.5{'0' * 54}...",
        ),
        ("a,b\n" + ("1," * 50_000), "line 2 must have 2 cells, got 50001."),
        (text_of("a,b", [(i, "nan") for i in range(30)]), "the labels must be whole numbers or wo"),
        (text_of("a,b", [(i, "1e999999") for i in range(30)]), "the labels must be whole numbers"),
        (
            text_of("a,b", [(i, i % 2) for i in range(30)]) + "\n\0,1",
            "line 32, column 'a': '\\x00' is",
        ),
    ],
)
def test_a_long_word_is_shown_in_part(saved, text, line):
    (actual,) = problems_of(saved(text))
    assert actual.startswith(line) and len(actual) < 300


def test_a_long_line_is_one_line(saved, monkeypatch):
    monkeypatch.setattr(tables, "_MOST_OF_LINE", 50)
    name = saved(f"a,b,c\n{'1,' * 20}\n{'1,' * 40}\n")
    assert problems_of(name) == ["one of its lines has 50 characters or more."]


def test_many_columns_are_checked_at_once(saved):
    columns = [f"c{i}" for i in range(50_000)]  # compared in pairs they take minutes
    lines = [",".join(columns)] + [
        ",".join("01"[(i + k) % 2] for k in range(50_000)) for i in range(12)
    ]
    assert data.load(saved("\n".join(lines))).train["image"].shape == (10, 49_999)


@pytest.mark.parametrize("cells", [1, 6, 7])
def test_rows_are_read_in_parts(saved, monkeypatch, cells):
    whole = data.load(saved(text_of("a,label,b", [(row[0], row[2], row[1]) for row in ROWS])))
    tables._find.cache_clear()
    monkeypatch.setattr(tables, "_CELLS", cells)
    name = saved(text_of("a,label,b", [(row[0], row[2], row[1]) for row in ROWS]))
    for a, b in zip(together(whole), together(data.load(name)), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = problems_of(saved(text_of("a,b", [("?" if i % 3 else i, i % 2) for i in range(30)])))
    assert lines[0].startswith("line 3, ") and lines[-1] == "and 15 more like these."
    lines = problems_of(saved(text_of("a,b", [(i,) if i % 3 else (i, 1) for i in range(30)])))
    assert lines[0].startswith("line 3 must") and lines[-1] == "and 15 more like these."


def test_a_table_that_may_not_be_read_is_a_line(tmp_path):
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    (tmp_path / "mine.csv").chmod(0)
    with other_user(tmp_path):
        (line,) = problems_of("csv:mine.csv")
    assert line.startswith("this file cannot be read: [Errno 13] Permission denied")


def test_only_the_first_problems_of_a_kind_are_told(saved):
    lines = problems_of(saved(text_of("a,b", [("?", i % 2) for i in range(30)])))
    assert len(lines) == 6 and lines[-1] == "and 25 more like these."


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "mine.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    lines = problems_of(f"csv:{tmp_path / 'mine.csv'}")
    assert lines == ["this file is not text in UTF-8."]


def test_it_has_one_size(saved):
    name = saved(text_of("a,b,class", ROWS))
    with pytest.raises(ValueError, match="`image_size` must be None for 'csv:"):
        data.load(name, image_size=8)
