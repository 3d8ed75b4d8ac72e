"""Kept arrays: a file that is damaged, foreign or old is made anew, and two makers do no harm."""

import copy
import io
import os
import pickle
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from cyclical_jax.data import kept as kept_arrays
from cyclical_jax.data import npz
from cyclical_jax.data.kept import _write, kept

GOOD = {
    "train/image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1),
    "train/label": np.arange(2, dtype=np.int32),
}


class Evil:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "decoded.npz"


def is_good(arrays):
    return arrays.keys() == GOOD.keys() and all(
        arrays[key].dtype == array.dtype
        and arrays[key].shape == array.shape
        and (arrays[key] == array).all()
        for key, array in GOOD.items()
    )


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def shaped(shape, dtype="|u1"):
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode())


def archive_of(member, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for key in GOOD:
            archive.writestr(f"{key}.npy", member)
    return buffer.getvalue()


def saved(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_it_is_made_once(file):
    assert is_good(kept(file, list(GOOD), lambda: GOOD))
    assert is_good(kept(file, list(GOOD), pytest.fail))
    some = kept(file, ["train/label"], pytest.fail)
    assert list(some) == ["train/label"]


def test_every_kind_of_array_is_kept(file):
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(5, dtype=">i4"),
        "names": np.array([b"a.png", b"bc.png"]),
        "words": np.array(["ä", "bc"]),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(2.5),
        "large": np.arange(2**17, dtype=np.int64),
    }
    _write(file, arrays)
    found = kept(file, list(arrays), pytest.fail)
    for key, array in arrays.items():
        assert found[key].dtype == array.dtype and found[key].flags.writeable
        np.testing.assert_array_equal(found[key], array)


def test_a_flipped_bit_is_made_anew_or_harmless(file, monkeypatch):
    _write(file, GOOD)
    monkeypatch.setattr(kept_arrays, "_write", lambda *args: None)  # whose fsync takes long
    raw, made = file.read_bytes(), []
    for place in range(0, len(raw), 3):
        flipped = bytearray(raw)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        assert is_good(kept(file, list(GOOD), lambda: made.append(1) or GOOD)), place
    assert len(raw) / 9 < len(made) < len(raw) / 3


@pytest.mark.parametrize("length", [0, 30, 300, -30, -1])
def test_a_cut_file_is_made_anew(file, length):
    _write(file, GOOD)
    file.write_bytes(file.read_bytes()[:length])
    assert is_good(kept(file, list(GOOD), lambda: GOOD))
    assert is_good(kept(file, list(GOOD), pytest.fail))


@pytest.mark.parametrize(
    "content",
    [
        saved(**GOOD),
        saved(**{key: np.zeros(3) for key in GOOD}),
        saved(**{key: np.array([Evil()], object) for key in GOOD}),
        pickle.dumps(Evil()),
        archive_of(shaped((10**12,))),
        archive_of(shaped((-3,)) + b"123"),
        archive_of(shaped((2**40, 2**40, 0))),
        archive_of(shaped((1,), "|O") + pickle.dumps([Evil()])),
        archive_of(header(b"(" * 3000 + b"\n")),
        archive_of(b"\x93NUMPY\x09\x00"),
        archive_of(b"hello"),
        archive_of(shaped((100,)) + bytes(100), compression=zipfile.ZIP_LZMA),
    ],
    ids=[
        *("of an earlier version", "other arrays", "objects", "a pickle", "1e12 numbers"),
        *("a negative shape", "a huge empty shape", "an object header", "nested", "format 9"),
        *("no arrays", "lzma"),
    ],
)
def test_another_file_is_made_anew(file, content, monkeypatch):
    file.write_bytes(content)
    assert is_good(kept(file, list(GOOD), lambda: GOOD))
    assert is_good(kept(file, list(GOOD), pytest.fail))
    assert not (file.parent / "hacked").exists()
    # and with a seal that fits, as if it were ours
    file.write_bytes(content)
    try:
        npz.seal(file, b"kept by cyclical_jax,  ")
        found = npz.read(file, list(GOOD), comment=b"kept by cyclical_jax,  ")
    except (ValueError, zipfile.BadZipFile):
        found = None
    assert found is None or all(array.size <= 24 for array in found.values())
    assert not (file.parent / "hacked").exists()


def test_an_array_is_no_larger_than_the_file_can_fill(file, monkeypatch):
    bomb = archive_of(shaped((10**7,)) + bytes(10**7), compression=zipfile.ZIP_DEFLATED)
    file.write_bytes(bomb)
    assert npz.read(file, list(GOOD))["train/label"].size == 10**7  # a fair one
    more = (2**31 - 1).to_bytes(4, "little")
    large = shaped((2**31 - 1 - len(shaped((2**31 - 129,))),))
    file.write_bytes(
        archive_of(large + bytes(10**6), compression=zipfile.ZIP_DEFLATED).replace(
            (10**6 + len(large)).to_bytes(4, "little"), more
        )
    )
    monkeypatch.setattr(np, "empty", lambda size, dtype: pytest.fail(f"{size} bytes"))
    with pytest.raises(ValueError, match="has another size than uint8 of shape"):
        npz.read(file, list(GOOD))


def test_another_source_is_made_anew(file):
    _write(file, GOOD, "a")
    assert is_good(kept(file, list(GOOD), pytest.fail, "a"))
    made = []
    assert is_good(kept(file, list(GOOD), lambda: made.append(1) or GOOD, "b"))
    assert made and is_good(kept(file, list(GOOD), pytest.fail, "b"))


@pytest.mark.parametrize(
    "others",
    [
        {"train/label": np.array([1, 0], np.int32)},
        {"train/label": np.zeros((3, 7))},
        {"more": np.zeros(2)},
    ],
)
def test_whole_arrays_in_the_place_of_ours_are_made_anew(file, others):
    _write(file, GOOD)
    with zipfile.ZipFile(file) as archive:
        comment = archive.comment
    file.write_bytes(saved(**(GOOD | others)))
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = comment
    assert is_good(kept(file, list(GOOD), lambda: GOOD))
    assert is_good(kept(file, list(GOOD), pytest.fail))


@pytest.mark.parametrize("length", [10**4, 2**18, 2**18 - 128, 2**20])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_checksum_of_an_array_is_checked_at_its_end(file, length, compression):
    content = archive_of(shaped((length,)) + bytes(length), compression=compression)
    file.write_bytes(content)
    with zipfile.ZipFile(file) as archive:
        crc = archive.infolist()[0].CRC.to_bytes(4, "little")
    file.write_bytes(content.replace(crc, bytes(4)))
    with pytest.raises(ValueError, match="CRC"):
        npz.read(file, list(GOOD))


def test_arrays_that_share_their_bytes_are_refused(file):
    """Else a small file could fill the memory many times."""
    _write(file, GOOD)
    with zipfile.ZipFile(file, "a") as archive:
        for number in range(9):
            member = copy.copy(archive.getinfo("train/image.npy"))
            member.filename = f"{number}.npy"
            archive.filelist.append(member)
            archive._didModify = True
    with pytest.raises(ValueError, match="its arrays are larger than it is"):
        npz.headers(file)


def test_two_arrays_of_one_name_are_refused(file):
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(file, "w") as archive:
        for number in (1, 2):
            archive.writestr("a.npy", shaped((1,)) + bytes([number]))
    with pytest.raises(ValueError, match="two arrays called a"):
        npz.read(file, ["a"])


def test_what_is_no_file_is_not_waited_for(file):
    os.mkfifo(file)
    assert is_good(kept(file, list(GOOD), lambda: GOOD))
    file.unlink()
    file.mkdir()
    assert is_good(kept(file, list(GOOD), lambda: GOOD))
    assert [one.name for one in file.parent.iterdir()] == ["decoded.npz"]


def test_one_that_is_held_while_another_makes_it(file):
    made = []

    def make():
        made.append(1)
        kept(file, list(GOOD), lambda: GOOD)  # another process, from its look to its file
        return GOOD

    assert is_good(kept(file, list(GOOD), make)) and made == [1]
    assert is_good(kept(file, list(GOOD), pytest.fail))


def test_two_that_write_at_once_leave_one_whole_file(file, monkeypatch):
    barrier, found = threading.Barrier(2), []
    save = np.savez

    def slowly(opened, **arrays):
        opened.write(b"half a file")
        barrier.wait(10)
        opened.seek(0)
        save(opened, **arrays)

    monkeypatch.setattr(np, "savez", slowly)
    threads = [
        threading.Thread(target=lambda: found.append(kept(file, list(GOOD), lambda: GOOD)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and all(map(is_good, found))
    assert is_good(kept(file, list(GOOD), pytest.fail))
    assert list(file.parent.iterdir()) == [file]


PROCESS = """
import pathlib, sys
import numpy as np
from cyclical_jax.data.kept import kept
file, arrays = pathlib.Path(sys.argv[1]), {"x": np.arange(2_000_000)}
for _ in range(8):
    assert (kept(file, ["x"], lambda: arrays)["x"] == arrays["x"]).all()
    file.unlink(missing_ok=True)
kept(file, ["x"], lambda: arrays)
"""


@pytest.mark.slow
def test_processes_that_make_and_delete_it_at_once(file):
    command = [sys.executable, "-c", PROCESS, str(file)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [b""] * 3
    np.testing.assert_array_equal(kept(file, ["x"], pytest.fail)["x"], np.arange(2_000_000))
    assert list(file.parent.iterdir()) == [file]


def test_a_full_or_read_only_disk_is_no_error(file, monkeypatch):
    def full(opened, **arrays):
        opened.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert is_good(kept(file, list(GOOD), lambda: GOOD))
    assert is_good(kept(file.parent / "none" / "x.npz", list(GOOD), lambda: GOOD))
    assert not list(file.parent.iterdir())
