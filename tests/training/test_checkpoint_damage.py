"""A checkpoint of which any file is damaged: exactly what was saved, or the damage is named."""

import gc
import itertools
import json
import os
import pathlib
import random
import shutil
import threading
import warnings

import jax
import numpy as np
import pytest
import tensorstore

from cyclical_jax import _files
from cyclical_jax._files import DamagedError
from cyclical_jax.training import about as about_module
from cyclical_jax.training import checkpoints as checkpoints_module
from cyclical_jax.training import stored
from cyclical_jax.training.about import read_about
from cyclical_jax.training.checkpoints import CheckpointError, Checkpoints
from cyclical_jax.training.reading import identity
from tests.training.test_checkpoints import START, assert_same, saved, snapshot

DEEP = 100_000  # levels of JSON


def cut(path, length):
    os.truncate(path, length)


def replaced(path, content):
    path.unlink()
    path.write_bytes(content)


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


def as_link_to_itself(path):
    path.unlink()
    path.symlink_to(path)


DAMAGES = {
    "empty": lambda path: cut(path, 0),
    "one byte": lambda path: cut(path, 1),
    "half": lambda path: cut(path, path.stat().st_size // 2),
    "last byte": lambda path: cut(path, path.stat().st_size - 1),
    "removed": os.remove,
    "folder": as_folder,
    "pipe": as_pipe,
    "link": as_link_to_itself,
    "zeros": lambda path: replaced(path, bytes(path.stat().st_size)),
    "null": lambda path: replaced(path, b"null"),
    "more": lambda path: replaced(path, path.read_bytes() + b"}"),
    "deep lists": lambda path: replaced(path, b"[" * DEEP + b"]" * DEEP),
    "deep objects": lambda path: replaced(path, b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "another": lambda path: shutil.copy(another(path), path),  # that of an earlier checkpoint
}


def another(path):
    """Returns the file at its place in checkpoint 6, or one beside: those of d/ differ in name."""
    there = pathlib.Path(str(path).replace("/8/", "/6/"))
    return there if there.exists() else next(there.parent.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    saved(directory, 4, 6, 8, worths=[0.5, 0.4, 0.3], keep=3)
    return directory


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(checkpoints_module, "_PATIENCE", 0.0)


@pytest.fixture
def directory(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def files_of(checkpoint):
    return [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]


def names_of(whole):
    return [path.relative_to(whole) for path in files_of(whole / "8")]


def warnings_in(caplog):
    return [r.getMessage() for r in caplog.records if r.name.startswith("cyclical_jax")]


def check(directory, caplog):
    """Checks that a run goes on from exactly what was saved, and that it says what it set aside."""
    caplog.clear()
    with Checkpoints(directory) as checkpoints:
        found = checkpoints.restore(START)
    micro_step, told = int(found.state.micro_step), warnings_in(caplog)
    assert_same(found, snapshot(micro_step, micro_step + 0.1))
    assert len(told) == (0 if micro_step == 8 else 1)
    assert (directory / "damaged-8").exists() == (micro_step == 6)
    for line in told:
        assert line.startswith(f"checkpoint {directory / '8'} is damaged (")
        assert line.endswith("); the one before it is used") and "\n" not in line
    return micro_step


def check_each(cases, whole, tmp_path, caplog):
    """Checks cases (path below the directory, damage); returns {damage: files where it showed}."""
    shown = {}
    for name, damage in cases:
        directory = tmp_path / "damaged"
        shutil.copytree(whole, directory)
        DAMAGES[damage](directory / name)
        if check(directory, caplog) == 6:
            shown.setdefault(damage, set()).add(name)
        shutil.rmtree(directory)
    return shown


def test_some_files_damaged_in_some_ways(whole, tmp_path, caplog):
    cases = list(itertools.product(names_of(whole), DAMAGES))
    some = random.Random(0).sample(cases, 20)
    assert len(check_each(some, whole, tmp_path, caplog)) > 3


@pytest.mark.slow
def test_every_file_damaged_in_every_way(whole, tmp_path, caplog):
    cases = itertools.product(names_of(whole), DAMAGES)
    shown = check_each(cases, whole, tmp_path, caplog)
    assert shown.keys() == DAMAGES.keys()
    assert all(len(names) >= 3 for names in shown.values())


def flips(path, most, seed=0):
    """Yields (place, bit) of at most `most` flips of a file, at places all over it."""
    size, generator = path.stat().st_size, random.Random(seed)
    for place in sorted(generator.sample(range(size), min(most, size))):
        yield place, generator.randrange(8)


def check_flips(directory, most):
    """Reads checkpoint 8 with each flip; returns how many showed."""
    num_shown = 0
    with Checkpoints(directory, read_only=True) as checkpoints:
        expected, _ = checkpoints._read(8)
        for path in files_of(directory / "8"):
            content = path.read_bytes()
            for place, bit in flips(path, most):
                changed = bytearray(content)
                changed[place] ^= 1 << bit
                path.write_bytes(changed)
                try:
                    found, about = checkpoints._read(8)
                except Exception as error:
                    assert not stored.may_pass(error)
                    num_shown += 1
                else:
                    jax.tree.map(np.testing.assert_array_equal, found, expected)
                    assert about.seconds == 20.0 and about.worth == 0.3
            path.write_bytes(content)
    return num_shown


def test_some_bits_flipped(directory):
    assert check_flips(directory, 6) > 6


@pytest.mark.slow
def test_bits_flipped_all_over(directory):
    assert check_flips(directory, 300) > 300


def test_a_flipped_bit_of_about_shows(directory):
    path = directory / "8" / "about" / "metadata"
    before, content = read_about(directory / "8"), path.read_bytes()
    for place, bit in flips(path, 150):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        try:
            assert read_about(directory / "8") == before  # "E" of a number is "e", say
        except DamagedError as error:
            assert str(error).startswith("about/metadata")


@pytest.mark.parametrize(
    "item, reason", [("state", "digest"), ("about", "belongs to micro step 6")]
)
def test_a_part_of_another_checkpoint_is_damage(directory, caplog, item, reason):
    shutil.rmtree(directory / "8" / item)
    shutil.copytree(directory / "6" / item, directory / "8" / item)
    assert check(directory, caplog) == 6
    assert reason in caplog.text


@pytest.mark.parametrize("content", [b"[" * DEEP + b"]" * DEEP, b"[1]", b"\xff"])
def test_what_no_run_needs_may_be_damaged_beside_what_it_needs(directory, caplog, content):
    """Orbax reads this one when it lists the checkpoints."""
    for micro_step in (4, 6, 8):
        (directory / str(micro_step) / "_CHECKPOINT_METADATA").write_bytes(content)
    cut(directory / "8" / "about" / "metadata", 40)
    assert check(directory, caplog) == 6
    saved(directory, 8, worths=[0.6], keep=1)
    assert sorted(os.listdir(directory)) == ["8", "damaged-8"]


def test_metadata_that_would_fill_the_memory_are_not_read(directory):
    path = directory / "8" / "state" / "_METADATA"
    os.truncate(path, 2**40)
    with pytest.raises(ValueError, match="state/_METADATA has 1,099,512 MB, which is too much"):
        stored.read_arrays(path.parent, None)


def test_metadata_that_end_in_an_unknown_type_are_one_line(directory, caplog):
    """Orbax has begun to read the arrays before, and leaves coroutines behind."""
    path = directory / "8" / "state" / "_METADATA"
    start, word, end = path.read_text().rpartition("np.ndarray")
    path.write_text(f"{start}{word.upper()}{end}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert check(directory, caplog) == 6
        gc.collect()
    assert [str(one.message) for one in caught if "never awaited" in str(one.message)] == []


# ---- sizes that no machine has

HUGE = 10**6  # squared, in float32: 4 TB, at which TensorStore ends the process


def set_array(checkpoint, **changes):
    """Changes what TensorStore believes of an array when it allocates it."""
    state = {"driver": "ocdbt", "base": f"file://{checkpoint / 'state'}/"}
    store = tensorstore.KvStore.open(state).result()
    key = "0.params.dense.kernel/.zarray"
    store[key] = json.dumps(json.loads(store[key]) | changes)


def without_kinds(checkpoint):
    """Makes a checkpoint one of an earlier version, which did not say what its arrays are."""
    path = checkpoint / "about" / "metadata"
    about = _files.read_json(path, {})
    path.write_text(json.dumps({name: about[name] for name in ("seconds", "worth", "digest")}))


@pytest.mark.parametrize("is_earlier", [False, True])
@pytest.mark.parametrize(
    "changes, reason, reason_of_earlier",
    [
        ({"shape": [HUGE, HUGE]}, "dense.kernel is float32[1000000, 1000000] there", "4,000.0 GB"),
        ({"shape": [HUGE, HUGE], "chunks": [HUGE, HUGE]}, "float32[1000000, 1000000]", "GB"),
        ({"chunks": [HUGE, HUGE]}, "the chunks of an array", "the chunks of an array"),
        ({"shape": [2, 10**15]}, "float32[2, 1000000000000000]", "8,000,000.0 GB"),
    ],
)
def test_arrays_of_a_huge_shape_are_damage_and_no_end_of_the_process(
    directory, caplog, changes, reason, reason_of_earlier, is_earlier
):
    set_array(directory / "8", **changes)
    if is_earlier:
        without_kinds(directory / "8")
    assert check(directory, caplog) == 6
    assert (reason_of_earlier if is_earlier else reason) in caplog.text


def test_a_checkpoint_of_an_earlier_version_is_read(directory, caplog):
    for micro_step in (4, 6, 8):
        without_kinds(directory / str(micro_step))
    assert check(directory, caplog) == 8
    assert best_of(directory) == 4


def test_an_earlier_checkpoint_of_zeros_is_not_too_large(tmp_path, caplog):
    """Momentum and its like are zeros at first, which compress to nothing."""
    noise = {"w": np.random.default_rng(0).normal(size=200_000)}
    zeros = jax.tree.map(lambda leaf: np.zeros((20, *leaf.shape)), noise)
    state = snapshot(6).state._replace(params=noise, opt_state=zeros)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(snapshot(6)._replace(state=state))
    without_kinds(tmp_path / "6")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.arrays()["0.opt_state.w"].shape == (20, 200_000)


# ---- the best


def best_of(directory):
    with Checkpoints(directory, read_only=True) as checkpoints:
        return int(checkpoints.best_arrays()["0.micro_step"])


def torn(directory, micro_step):
    cut(directory / str(micro_step) / "about" / "metadata", 40)


@pytest.mark.parametrize("micro_step", [4, 6, 8])
def test_where_one_may_be_the_best_and_does_not_say_so_there_is_no_best(directory, micro_step):
    torn(directory, micro_step)
    with pytest.raises(CheckpointError) as caught:
        best_of(directory)
    line = str(caught.value)
    assert line.startswith(f"checkpoint {directory / str(micro_step)} is damaged (about/metadata")
    assert line.endswith("), and may be the best: use the newest, with --checkpoint=newest.")


def test_a_run_sets_aside_the_best_before_it_would_be_removed(directory, caplog):
    torn(directory, 4)
    with Checkpoints(directory, keep=1) as checkpoints:
        assert int(checkpoints.restore(START).state.micro_step) == 8
        checkpoints.save(snapshot(10), 0.45)
    (line,) = warnings_in(caplog)
    assert line.startswith(f"checkpoint {directory / '4'} is damaged (about/metadata: ")
    assert line.endswith("); it may be the best")
    assert sorted(os.listdir(directory)) == ["10", "damaged-4"]


def test_what_is_damaged_for_another_process_is_set_aside_too(directory, monkeypatch, caplog):
    """All processes must agree, or one waits for ever for the others."""
    answers = iter([(0.0, 0.0), (1.0, 0.0)])  # the newest is read; of 4 and 6, 4 is damaged there
    monkeypatch.setattr(checkpoints_module, "largest_of_all", lambda values: next(answers))
    with Checkpoints(directory) as checkpoints:
        assert int(checkpoints.restore(START).state.micro_step) == 8
    assert sorted(os.listdir(directory)) == ["6", "8", "damaged-4"]
    assert "4 is damaged (in another process); it may be the best" in caplog.text


def test_the_best_of_those_left_is_told_from_the_best(directory, caplog):
    torn(directory, 4)
    cut(next((directory / "6" / "state" / "d").iterdir()), 40)  # what it is worth is known
    with Checkpoints(directory) as checkpoints:
        checkpoints.restore(START)
    (directory / "6").rename(directory / "damaged-6")
    caplog.clear()
    assert best_of(directory) == 8
    lines = [f"{directory / f'damaged-{step}'} was renamed as damaged" for step in (4, 6)]
    assert [any(line in told for told in warnings_in(caplog)) for line in lines] == [True, True]
    saved(directory, 9, 10, worths=[0.45, None], keep=4)
    caplog.clear()
    assert best_of(directory) == 9  # worth more than 6 was
    assert len(warnings_in(caplog)) == 1 and "damaged-4" in caplog.text
    shutil.copytree(directory / "9", directory / "4")
    about = read_about(directory / "9")._replace(micro_step=4)
    about_module.write_entries(directory / "4", about.entries(None))
    caplog.clear()
    assert best_of(directory) == 9 and not warnings_in(caplog)  # the run has saved 4 again


def test_a_worth_that_comes_later_has_a_checksum_too(directory):
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(snapshot(8), 0.75)
    before = read_about(directory / "8")
    assert before.worth == 0.75
    path = directory / "8" / "about" / "metadata"
    path.write_text(path.read_text().replace("0.75", "0.25"))
    with pytest.raises(DamagedError, match="its checksum does not fit"):
        read_about(directory / "8")


@pytest.mark.parametrize("worth", [float("nan"), float("inf"), None])
def test_a_worth_that_is_no_number_is_none(tmp_path, worth):
    saved(tmp_path, 4, worths=[worth])
    assert read_about(tmp_path / "4").worth is None
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.hold(snapshot(6), float("nan"))
        checkpoints.save(snapshot(8))
    assert sorted(os.listdir(tmp_path)) == ["4", "8"]


@pytest.mark.parametrize("best, score", [("max", 0.75), ("min", -0.75)])
def test_the_score_stands_there_by_its_name(tmp_path, best, score):
    with Checkpoints(tmp_path, judged_by=("loss", best)) as checkpoints:
        checkpoints.save(snapshot(4), 0.75)
        checkpoints.wait()
        checkpoints.save(snapshot(6))
        checkpoints.save(snapshot(6), 0.75)
    for micro_step in (4, 6):
        entries = json.loads((tmp_path / str(micro_step) / "about" / "metadata").read_text())
        assert entries["val_loss"] == score and entries["worth"] == 0.75
        assert read_about(tmp_path / str(micro_step)).worth == 0.75


def test_the_identity_of_a_damaged_checkpoint_is_an_error(directory):
    digest = read_about(directory / "8").digest
    assert identity(directory) == f"checkpoint 8, {digest[:16]}"
    torn(directory, 8)
    with pytest.raises(CheckpointError, match=f"^checkpoint {directory / '8'} is damaged "):
        identity(directory)


# ---- a run that goes on while its checkpoints are read


def arrays_of(directory):
    with Checkpoints(directory, read_only=True) as checkpoints:
        return float(checkpoints.arrays()["0.params.dense.kernel"][0, 0])


def best_array_of(directory):
    with Checkpoints(directory, read_only=True) as checkpoints:
        return float(checkpoints.best_arrays()["0.params.dense.kernel"][0, 0])


def a_save_removes(directory):
    saved(directory, 10, 12, worths=[0.1, 0.9], keep=1)


def a_save_is_removing(directory):
    a_save_removes(directory)
    folders = [directory / str(micro_step) for micro_step in (4, 6, 8)]
    for folder in folders:  # their files go first
        (folder / "state").mkdir(parents=True)
    threading.Timer(0.2, lambda: [shutil.rmtree(folder) for folder in folders]).start()


@pytest.mark.parametrize("read", [arrays_of, best_array_of, identity])
@pytest.mark.parametrize("happens", [a_save_removes, a_save_is_removing])
@pytest.mark.parametrize("at", ["read_about", "read_arrays"])
def test_what_is_removed_while_it_is_read_is_no_damage(
    directory, monkeypatch, caplog, read, happens, at
):
    calls, original = itertools.count(), getattr(checkpoints_module, at)

    def read_after_it_happens(*args):
        if next(calls) == 0:
            with monkeypatch.context() as patch:
                patch.setattr(checkpoints_module, at, original)
                happens(directory)
        return original(*args)

    monkeypatch.setattr(checkpoints_module, at, read_after_it_happens)
    monkeypatch.setattr(checkpoints_module, "_PATIENCE", 5.0)
    found = read(directory)
    assert not warnings_in(caplog)
    if read is identity and at == "read_arrays":  # which it does not read
        assert found.startswith("checkpoint 8, ")
    else:
        assert found == (identity(directory) if read is identity else np.float32(12.1))


def test_one_that_was_being_removed_before_anything_was_listed_is_no_damage(
    directory, monkeypatch, caplog
):
    monkeypatch.setattr(checkpoints_module, "_PATIENCE", 5.0)
    a_save_is_removing(directory)
    assert best_array_of(directory) == np.float32(12.1) and not warnings_in(caplog)


def test_a_directory_that_changes_all_the_time_is_an_error(directory, monkeypatch):
    steps = itertools.count(100)

    def removed(*args):
        (directory / str(next(steps))).mkdir()
        raise DamagedError("about/metadata is missing")

    monkeypatch.setattr(checkpoints_module, "read_about", removed)
    with pytest.raises(CheckpointError, match="cannot be read: it keeps changing"):
        arrays_of(directory)


def test_damage_that_stays_is_told_while_a_run_goes_on(directory, monkeypatch, caplog):
    torn(directory, 8)
    assert arrays_of(directory) == np.float32(6.1)
    assert "8 is damaged" in caplog.text
    assert sorted(os.listdir(directory)) == ["4", "6", "8"]
