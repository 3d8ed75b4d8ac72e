"""Files that say when they are damaged: every bit, every length, every shape of another kind."""

import errno
import json
import os

import pytest

from cyclical_jax import _files
from cyclical_jax._files import NUMBER, DamagedError

CONTENT = {"step": 3, "rate": 1.5e-05, "loss": None, "names": ["a", "é"], "own": {"x": 0.1}}
PATTERN = {"step": int, "rate": float, ...: object}


@pytest.fixture
def path(tmp_path):
    _files.write_json(tmp_path / "some.json", CONTENT)
    return tmp_path / "some.json"


def read_or_told(path, pattern=PATTERN):
    """Returns what a file holds, or None where one line says that it is damaged."""
    try:
        return _files.read_json(path, pattern)
    except DamagedError as error:
        assert str(error).startswith(f"{path} is damaged: ") and "\n" not in str(error)
        return None


def flipped(content, position):
    """Returns bytes with one bit flipped."""
    one = bytearray(content)
    one[position // 8] ^= 1 << position % 8
    return bytes(one)


# ---- damage


def test_a_file_with_any_bit_flipped_is_told_or_means_the_same(path):
    whole, told = path.read_bytes(), 0
    with path.open("r+b", buffering=0) as file:
        for position in range(8 * len(whole)):
            os.pwrite(file.fileno(), flipped(whole, position), 0)
            found = read_or_told(path)
            assert found in (None, CONTENT), f"bit {position}"
            told += found is None
    assert told > 7 * len(whole)  # the rest are spaces


def test_a_line_with_any_bit_flipped_is_told_or_means_the_same(tmp_path):
    whole = _files.as_line(CONTENT).encode()
    for position in range(8 * len(whole)):
        try:
            found = _files.of_line(flipped(whole, position), PATTERN, "some.jsonl, line 1,")
        except DamagedError as error:
            assert str(error).startswith("some.jsonl, line 1, is damaged: ")
        else:
            assert found == CONTENT


def test_a_torn_file_is_told_at_each_length(path):
    for length in reversed(range(len(path.read_bytes().rstrip()))):
        os.truncate(path, length)
        assert read_or_told(path) is None, f"{length} bytes"


def test_a_file_that_lies_in_another_ones_place_is_told(path):
    """A disk may give back zeros, or the blocks of another file."""
    whole = path.read_bytes()
    for content in (b"\0" * len(whole), whole + whole, whole[len(whole) // 2 :], b"\xff" * 9):
        path.write_bytes(content)
        assert read_or_told(path) is None


def test_an_entry_that_is_gone_is_told(path):
    sealed = json.loads(path.read_text())
    for name in CONTENT:
        path.write_text(json.dumps({key: sealed[key] for key in sealed if key != name}))
        assert read_or_told(path) is None


def test_layout_is_not_content(path):
    path.write_text(json.dumps(json.loads(path.read_text()), separators=(",", ":")))
    assert read_or_told(path) == CONTENT


def test_a_file_of_an_earlier_version_has_no_checksum_and_is_read(path):
    path.write_text(json.dumps(CONTENT))
    assert read_or_told(path) == CONTENT


# ---- other shapes


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("[" * 100_000 + "]" * 100_000, "it is nested too deep"),
        ("[" * 41 + "]" * 41, "it is nested too deep"),
        ('{"step": 1, "rate": {}}', "'rate' is an object, not a number"),
        ('{"step": true, "rate": 1}', "'step' is true, not a whole number"),
        ('{"step": 1.5, "rate": 1}', "'step' is 1.5, not a whole number"),
        ('{"step": 1}', "it has no 'rate'"),
        ("[1, 2]", "it is a list, not an object"),
        ("null", "it is null, not an object"),
        ('{"step": 1, "rate": 1, "step": 2}', "'step' is there twice"),
        ('{"step": 1, "rate": 1e400}', "1e400 is not a number of JSON"),
        ('{"step": 1, "rate": NaN}', "NaN is not a number of JSON"),
        (f'{{"step": {"9" * 400}, "rate": 1}}', f"{'9' * 40} is not a number of JSON"),
        (f'{{"step": {"9" * 5000}, "rate": 1}}', f"{'9' * 40} is not a number of JSON"),
    ],
    ids=lambda value: value[:24],
)
def test_another_shape_is_a_line(path, text, problem):
    path.write_text(text)
    with pytest.raises(DamagedError) as error:
        _files.read_json(path, PATTERN)
    assert str(error.value) == f"{path} is damaged: {problem}."


@pytest.mark.parametrize(
    "content, pattern, fits",
    [
        ({"a": 1}, {"a": float}, True),
        ({"a": None}, {"a": NUMBER}, True),
        ({"a": "1"}, {"a": NUMBER}, False),
        ({"a": [1, 2]}, {"a": [int]}, True),
        ({"a": [1, 2.5]}, {"a": [int]}, False),
        ({"a": 1, "b": 2}, {"a": int}, True),
        ({"a": 1, "b": "x"}, {"a": int, ...: int}, False),
        ([{"a": 1}, {"a": "x"}], [{"a": int}], False),
    ],
)
def test_a_pattern_says_what_fits(content, pattern, fits):
    assert (_files.misfit(content, pattern) is None) is fits


def test_each_object_of_a_list_has_its_checksum(tmp_path):
    path, content = tmp_path / "list.json", [{"step": 0}, {"step": 7}]
    _files.write_json(path, content)
    assert read_or_told(path, [{"step": int}]) == content
    path.write_text(path.read_text().replace('"step": 7', '"step": 6'))
    assert read_or_told(path, [{"step": int}]) is None


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(ValueError, match="it is not a file"):
            _files.read_json(tmp_path / name, PATTERN)
        with pytest.raises(ValueError, match="it is not a file"):
            _files.lines_of(tmp_path / name)


def test_a_huge_file_is_told_and_not_read(path):
    os.truncate(path, 2**33)  # 8 GB, of which the disk holds nothing
    with pytest.raises(DamagedError, match="it has 8,590 MB, which is too much"):
        _files.read_json(path, PATTERN)
    with pytest.raises(DamagedError, match="line 14 has more than 1,048,576 bytes"):
        _files.lines_of(path)


def test_only_the_lines_that_are_asked_for_are_read(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_bytes(b"a\nb\r\nc")
    assert _files.lines_of(path) == [b"a\n", b"b\r\n", b"c"]
    assert _files.lines_of(path, 2) == [b"a\n", b"b\r\n"]
    assert _files.lines_of(path, 9) == [b"a\n", b"b\r\n", b"c"]
    os.truncate(path, 2**33)
    assert _files.lines_of(path, 1) == [b"a\n"]


# ---- writing


def test_a_number_that_is_not_finite_is_not_written(path):
    with pytest.raises(ValueError, match="JSON compliant"):
        _files.write_json(path, {"loss": float("nan")})
    assert read_or_told(path) == CONTENT and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_stays_as_it_was(path, monkeypatch, at):
    def fail(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, at, fail)
    with pytest.raises(OSError, match="Input/output error"):
        _files.write_json(path, {"step": 4})
    assert read_or_told(path) == CONTENT and os.listdir(path.parent) == [path.name]


def test_a_file_and_its_name_are_on_the_disk_when_it_is_written(path, monkeypatch):
    """The content before the name, and the name before anything that is done after it."""
    done, fsync, replace = [], os.fsync, os.replace

    def spy_sync(number):
        done.append(os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    def spy_replace(source, target):
        done.append((str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(os, "replace", spy_replace)
    _files.write_json(path, {"step": 4})
    temporary, renamed, folder = done
    assert renamed == (temporary, str(path)) and folder == str(path.parent)


def test_a_new_folder_and_those_above_it_are_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(_files, "sync", synced.append)
    _files.make_folder(tmp_path / "a" / "b")
    assert set(synced) == {tmp_path, tmp_path / "a"} and (tmp_path / "a" / "b").is_dir()
    _files.make_folder(tmp_path / "a" / "b")  # whoever made it may have been killed before
    assert synced[2:] == [tmp_path / "a"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_syncs_no_folder_is_no_error(path, monkeypatch, number):
    fsync = os.fsync

    def sync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    _files.write_json(path, CONTENT | {"step": 4})
    assert read_or_told(path)["step"] == 4


def test_a_link_stays_one_and_a_device_is_written_to(path, tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to(path.name)
    _files.write_json(link, CONTENT | {"step": 5})
    assert link.is_symlink() and read_or_told(path)["step"] == 5
    (tmp_path / "null").symlink_to(os.devnull)
    with _files.whole(tmp_path / "null") as where:
        where.write_text("x")
    assert not os.path.isfile(os.devnull)
