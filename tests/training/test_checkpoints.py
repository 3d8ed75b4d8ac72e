"""Checkpoints: what is restored equals what was saved, and nothing else is believed."""

import builtins
import contextlib
import errno
import os
import pathlib
import pickle
import resource
import shutil
import subprocess

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from cyclical_jax import _files
from cyclical_jax.training import about as abouts
from cyclical_jax.training import checkpoints as checkpoints_module
from cyclical_jax.training.checkpoints import CheckpointError, Checkpoints
from cyclical_jax.training.reading import read_variables
from cyclical_jax.training.snapshots import Snapshot
from cyclical_jax.training.state import JUDGED, TrainState, Variables
from cyclical_jax.training.technique import Task
from cyclical_jax.training.totals import Totals


def snapshot(micro_step, value=1.0, width=3):
    params = {"dense": {"kernel": jnp.full((2, width), value), "bias": jnp.arange(3.0)}}
    state = TrainState(
        params=params,
        model_state={"mean": jnp.full((2,), value, ml_dtypes.bfloat16)},
        opt_state=({"momentum": params}, (), jnp.int32(7)),
        memory={},
        step=jnp.int32(micro_step // 2),
        micro_step=jnp.int32(micro_step),
        skipped=jnp.int32(1),
        key=jax.random.key(micro_step),
    )
    totals = Totals(jnp.int32(5), {"loss": jnp.float32(value)}, {}, {"step": jnp.int32(-1)})
    return Snapshot(state, totals, 2.5 * micro_step)


START = snapshot(0)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if hasattr(a, "dtype") and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert jnp.asarray(a).dtype == jnp.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(checkpoints_module, "_PATIENCE", 0.0)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "new" / "checkpoints"


def saved(directory, *micro_steps, worths=None, **options):
    worths = worths or [None] * len(micro_steps)
    with Checkpoints(directory, **options) as checkpoints:
        for micro_step, worth in zip(micro_steps, worths, strict=True):
            checkpoints.save(snapshot(micro_step, value=micro_step + 0.1), worth)


def restored(directory):
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore(START)


def test_what_is_restored_is_what_was_saved_last(directory):
    saved(directory, 4, 20, 6)
    assert_same(restored(directory), snapshot(20, 20.1))


def test_where_nothing_was_saved_nothing_is_restored(directory):
    assert restored(directory) is None


def test_what_is_saved_is_of_the_moment(directory):
    """On a CPU NumPy may see the very memory that the next step is given."""
    with Checkpoints(directory) as checkpoints:
        change = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
        now = snapshot(3)
        expected = snapshot(3)
        checkpoints.save(now)
        jax.block_until_ready(change(now.state.params))
        checkpoints.wait()
        assert_same(checkpoints.restore(START), expected)


def test_the_newest_and_the_best_are_kept(directory):
    saved(directory, 1, 2, 3, 4, 5, worths=[0.1, 0.9, 0.9, 0.3, None], keep=1)
    assert sorted(os.listdir(directory)) == ["3", "5"]  # the last of equals
    saved(directory, 6, 7, 8, keep=2)
    assert sorted(os.listdir(directory)) == ["3", "7", "8"]


def save_ends(directory, *micro_steps, **options):
    with Checkpoints(directory, **options) as checkpoints:
        for micro_step in micro_steps:
            now = snapshot(micro_step, value=micro_step + 0.1)
            checkpoints.save(now, is_cycle_end=micro_step % 10 == 0)


def test_ends_of_cycles_are_kept_for_good_beside_the_newest_and_the_best(directory):
    save_ends(directory, 0, 8, 10, 12, 20, 22, keep=1)
    assert sorted(map(int, os.listdir(directory))) == [0, 10, 20, 22]
    saved(directory, 24, 26, worths=[0.5, 0.4], keep=1)  # by a start that keeps no ends
    assert sorted(map(int, os.listdir(directory))) == [0, 10, 20, 24, 26]
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.cycle_ends() == {0: 0, 5: 10, 10: 20}  # two micro steps an update
        assert checkpoints.arrays_at(5)["0.params.dense.kernel"][0, 0] == np.float32(10.1)


@pytest.mark.parametrize("worths", [(None, None), (0.5, None), (None, 0.5), (0.5, 0.5)])
def test_an_end_that_is_there_already_is_marked_and_keeps_its_worth(directory, worths):
    """A run that kept no ends was saved there, stopped or ended; it goes on and keeps them."""
    saved(directory, 10, worths=worths[:1], keep=1)
    with Checkpoints(directory, keep=1) as checkpoints:
        checkpoints.save(snapshot(10), worths[1], is_cycle_end=True)
        checkpoints.save(snapshot(12))
        checkpoints.save(snapshot(14))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.cycle_ends() == {5: 10}
    assert abouts.read_about(directory / "10").worth == max((w for w in worths if w), default=None)
    saved(directory, 14, keep=1)
    assert sorted(os.listdir(directory)) == ["10", "14"]


def test_an_end_that_is_not_kept_is_a_line(directory):
    saved(directory, 8, 10)
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.cycle_ends() == {}
        with pytest.raises(CheckpointError) as error:
            checkpoints.arrays_at(5)
    line = f"{directory} keeps no end of a cycle after 5 updates; "
    assert str(error.value) == f"{line}it keeps none."
    save_ends(directory, 20)
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError) as error:
            checkpoints.arrays_at(5)
    assert str(error.value) == f"{line}there are 10."


def test_a_damaged_end_is_told_and_left_out_of_nothing_in_silence(directory, caplog):
    save_ends(directory, 10, 20)
    path = directory / "10" / "about" / "metadata"
    whole = path.read_text()
    path.write_text(whole.replace('"cycle_end": 5', '"cycle_end": 7'))
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match="10 is damaged .*may be the end of a cycle"):
            checkpoints.cycle_ends()
    path.write_text(whole)
    (directory / "10").rename(directory / "damaged-10")  # as a start of the run would do it
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.cycle_ends() == {10: 20}
    (told,) = caplog.messages
    assert told.endswith("damaged-10 was renamed as damaged, and may be the end of a cycle")


def test_without_a_validation_the_newest_alone_are_kept(directory):
    saved(directory, 1, 2, 3, keep=1)
    assert os.listdir(directory) == ["3"]


def values_of(directory):
    """Returns {micro step: its value} of all that are there."""
    with Checkpoints(directory, read_only=True) as checkpoints:
        steps = checkpoints._steps()
        return {s: float(checkpoints._read(s)[0]["0.params.dense.kernel"][0, 0]) for s in steps}


def test_the_best_that_is_held_is_written_before_the_next(directory):
    with Checkpoints(directory, keep=1) as checkpoints:
        checkpoints.save(snapshot(1), 0.5)
        for micro_step, worth in ((2, 0.4), (3, 0.8), (4, 0.9), (5, 0.9), (6, 0.7)):
            checkpoints.hold(snapshot(micro_step, value=micro_step), worth)
        checkpoints.wait()
        assert sorted(os.listdir(directory)) == ["1"]  # until then it is in memory
        checkpoints.save(snapshot(7, value=7), 0.6)
        checkpoints.hold(snapshot(8, value=8), 0.8)  # no longer the best
        checkpoints.save(snapshot(9, value=9))
    assert values_of(directory) == {5: 5, 9: 9}
    assert best_of(directory) == 5
    with Checkpoints(directory, keep=3) as checkpoints:  # a run that goes on knows the best
        checkpoints.hold(snapshot(10, value=10), 0.85)
        checkpoints.save(snapshot(11, value=11))
        checkpoints.hold(snapshot(12, value=12), 1.0)
        checkpoints.save(snapshot(12, value=12), 1.0)  # the end of a run, say
    assert values_of(directory) == {9: 9, 11: 11, 12: 12}


def test_what_is_held_is_of_the_moment(directory):
    with Checkpoints(directory) as checkpoints:
        change = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
        now = snapshot(3, value=2.0)
        checkpoints.hold(now, 0.5)
        jax.block_until_ready(change(now.state.params))
        checkpoints.save(snapshot(4))
    assert values_of(directory) == {3: 2, 4: 1}


def test_a_stopped_validation_that_is_the_best_gives_its_worth_at_once(directory):
    saved(directory, 4, 6, worths=[0.5, None])
    with Checkpoints(directory) as checkpoints:
        checkpoints.hold(snapshot(6, 6.1), 0.7)
    assert best_of(directory) == 6


def test_a_micro_step_is_saved_once(directory):
    saved(directory, 4)
    before = os.stat(directory / "4").st_ino
    saved(directory, 4)
    assert os.stat(directory / "4").st_ino == before


def test_what_was_cut_off_is_no_checkpoint_and_is_removed(directory):
    """Before anything is read or written: what removes in the background removes twice."""
    saved(directory, 4, 6)
    (directory / "6").rename(directory / "8.orbax-checkpoint-tmp")
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert "0.step" in checkpoints.arrays()
    assert sorted(os.listdir(directory)) == ["4", "8.orbax-checkpoint-tmp"]
    with Checkpoints(directory) as checkpoints:
        assert os.listdir(directory) == ["4"]
        assert int(checkpoints.restore(START).state.micro_step) == 4


def test_what_is_being_written_has_the_name_that_is_removed(directory, monkeypatch):
    names = []
    with Checkpoints(directory) as checkpoints:
        rename = os.rename

        def renamed(source, *args, **kwargs):
            names.append(source)
            return rename(source, *args, **kwargs)

        monkeypatch.setattr(os, "rename", renamed)
        checkpoints.save(snapshot(4))
        checkpoints.wait()
    pattern = checkpoints_module._UNFINISHED
    assert [name for name in map(pathlib.Path, names) if name.match(pattern)]


def files_of(directory, micro_step):
    paths = (directory / str(micro_step)).rglob("*")
    return [path for path in sorted(paths) if path.is_file() and path.stat().st_size]


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def test_a_value_that_the_digest_does_not_know_is_damage(directory, caplog):
    saved(directory, 4, 6)
    set_about(directory, 6, digest="0" * 64)
    assert int(restored(directory).state.micro_step) == 4
    assert "its digest does not match" in caplog.text


def test_after_damage_the_micro_step_can_be_saved_again(directory):
    saved(directory, 4, 6)
    truncate(directory / "6" / "about" / "metadata")
    with Checkpoints(directory) as checkpoints:
        assert int(checkpoints.restore(START).state.micro_step) == 4
        checkpoints.save(snapshot(6, 8.0))
    assert_same(restored(directory), snapshot(6, 8.0))


def test_where_all_are_damaged_no_run_is_started_anew(directory):
    saved(directory, 4, 6)
    for micro_step in (4, 6):
        truncate(directory / str(micro_step) / "about" / "metadata")
    for _ in range(2):  # the second time, too
        with pytest.raises(CheckpointError) as error:
            restored(directory)
        assert str(error.value).startswith(f"no checkpoint in {directory} can be read: 6: ")
        assert sorted(os.listdir(directory)) == ["4", "6"]


def test_what_may_pass_is_no_damage(directory, monkeypatch):
    saved(directory, 4, 6)

    def fail(self, micro_step):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Checkpoints, "_read", fail)
    with pytest.raises(CheckpointError, match="cannot be read: .*Input/output error"):
        restored(directory)
    monkeypatch.undo()
    assert_same(restored(directory), snapshot(6, 6.1))


def test_what_one_process_cannot_read_none_begins_with(directory, monkeypatch, caplog):
    saved(directory, 4, 6)
    answers = iter([(1.0, 0.0), (0.0, 0.0)])  # another process failed to read the newest
    monkeypatch.setattr(checkpoints_module, "largest_of_all", lambda values: next(answers))
    assert_same(restored(directory), snapshot(4, 4.1))
    assert "6 is damaged (in another process)" in caplog.text
    assert sorted(os.listdir(directory)) == ["4", "damaged-6"]


def test_damage_at_the_same_place_again_is_set_aside_again(directory):
    saved(directory, 4)
    for _ in range(2):
        saved(directory, 6)
        truncate(directory / "6" / "about" / "metadata")
        assert int(restored(directory).state.micro_step) == 4
    assert sorted(os.listdir(directory)) == ["4", "damaged-6"]


def test_one_that_was_saved_within_its_validation_gets_its_worth_later(directory):
    saved(directory, 4, 6, worths=[0.8, None])
    saved(directory, 6, 8, 9, worths=[0.9, 0.7, 0.6], keep=2)
    assert sorted(os.listdir(directory)) == ["6", "8", "9"]
    assert_same(restored(directory), snapshot(9, 9.1))
    with Checkpoints(directory, read_only=True) as checkpoints:
        best = checkpoints.best_arrays()
    np.testing.assert_array_equal(best["0.params.dense.kernel"], np.full((2, 3), 6.1, np.float32))


def test_the_best_is_of_those_that_were_validated_and_are_whole(directory):
    saved(directory, 4, 6)
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match="was saved after a validation"):
            checkpoints.best_arrays()
    saved(directory, 8, 9, worths=[0.9, 0.8])
    for path in files_of(directory, 8):
        if "state" in path.parts:
            truncate(path)
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match="8 is damaged"):
            checkpoints.best_arrays()


def best_of(directory):
    """Returns the micro step of the best checkpoint."""
    with Checkpoints(directory, read_only=True) as checkpoints:
        return int(checkpoints.best_arrays()["0.micro_step"])


def test_the_best_has_the_least_loss_where_the_task_judges_so(directory):
    task = Task("task", {}, judged_by=("loss", "min"))
    losses = [0.7, 0.2, 5.0, 0.4]
    saved(directory, 1, 2, 3, 4, worths=[task.worth({"loss": loss}) for loss in losses], keep=1)
    assert sorted(os.listdir(directory)) == ["2", "4"]
    assert best_of(directory) == 2
    saved(directory, 6, 7, worths=[task.worth({"loss": 0.1}), None], keep=1)
    assert sorted(os.listdir(directory)) == ["6", "7"]
    assert best_of(directory) == 6


def set_about(directory, micro_step, *, without=(), **changes):
    """Changes what a checkpoint says beside its state, as if it had been written so."""
    path = directory / str(micro_step) / "about" / "metadata"
    about = _files.read_json(path, {}) | changes
    _files.write_json(path, {name: about[name] for name in about if name not in without})


@pytest.mark.parametrize("about", [{"without": ["worth"]}, {"worth": None}])
def test_a_checkpoint_without_a_worth_is_whole_and_never_the_best(directory, about):
    saved(directory, 4, 6, 8, worths=[-0.5, -0.9, -0.1], keep=3)
    set_about(directory, 8, **about)
    assert best_of(directory) == 4
    assert_same(restored(directory), snapshot(8, 8.1))
    saved(directory, 9, keep=1)
    assert sorted(os.listdir(directory)) == ["4", "9"]


def test_a_checkpoint_of_another_model_is_refused(directory):
    saved(directory, 4)
    with Checkpoints(directory) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(snapshot(0, width=5))
    assert str(error.value) == (
        f"checkpoint {directory / '4'} does not fit this run: 0.opt_state.0.momentum.dense.kernel "
        "is float32[2, 3] there, float32[2, 5] here; it was written by other versions of the code "
        "or its libraries."
    )
    assert os.listdir(directory) == ["4"]


def test_nothing_is_unpickled(directory, monkeypatch):
    saved(directory, 4)

    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert_same(restored(directory), snapshot(4, 4.1))


# ---- what cannot be written


def test_a_disk_too_small_for_a_checkpoint_is_told_before_it_is_written(directory, monkeypatch):
    saved(directory, 4)
    usage = shutil._ntuple_diskusage(2_000_000, 1_500_000, 500_000)
    monkeypatch.setattr(checkpoints_module.shutil, "disk_usage", lambda path: usage)
    with Checkpoints(directory) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.save(snapshot(6))
    told = "a checkpoint takes 1.0 MB, but only 0.5 MB of the disk is free."
    assert str(error.value) == f"{directory} cannot be written: {told}"
    assert_same(restored(directory), snapshot(4, 4.1))


def test_a_write_that_fails_in_the_background_is_told_and_leaves_the_others(directory, monkeypatch):
    saved(directory, 4)
    checkpoints = Checkpoints(directory)
    opened = builtins.open

    def full(path, *args, **kwargs):
        if "checkpoint-tmp" in str(path):
            raise OSError(28, "No space left on device")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", lambda: full("checkpoint-tmp"))
    with pytest.raises(CheckpointError, match="cannot be written: .*No space left on device"):
        checkpoints.wait()
    monkeypatch.undo()
    checkpoints.__exit__(None, None, None)
    assert_same(restored(directory), snapshot(4, 4.1))


@contextlib.contextmanager
def little_room(directory):
    """Yields what is said of a directory that takes a small snapshot and no large one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory]
    if subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield os.strerror(errno.ENOSPC)
        finally:
            subprocess.run(["umount", directory], check=True)
    else:  # not allowed here: no file may be large
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            yield ""  # another reason, and a long one
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_in_the_middle_of_a_write_is_one_line(tmp_path, monkeypatch, caplog):
    """As by a quota, or by somebody else who writes after we have looked."""
    monkeypatch.setattr(Checkpoints, "_check_space", lambda *args: None)
    with little_room(tmp_path) as reason:
        saved(tmp_path / "checkpoints", 4)
        noise = np.random.default_rng(0).normal(size=(2, 500_000))  # which no compression shrinks
        large = snapshot(6)._replace(state=snapshot(6).state._replace(params=noise))
        with pytest.raises(CheckpointError, match=f"cannot be written: .*{reason}"):
            with Checkpoints(tmp_path / "checkpoints") as checkpoints:
                checkpoints.save(large)
                checkpoints.wait()
        assert not [record for record in caplog.records if record.exc_info]
        assert_same(restored(tmp_path / "checkpoints"), snapshot(4, 4.1))


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_directory_is_told(tmp_path, read_only):
    path = tmp_path / "checkpoints"
    path.write_text("in the way")
    with pytest.raises(CheckpointError, match=rf"^{path} is not a directory\.$"):
        Checkpoints(path, read_only=read_only)
    path.unlink()
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=rf"^{path} is a link to {tmp_path}/gone, which does"):
        Checkpoints(path, read_only=read_only)
    assert os.listdir(tmp_path) == ["checkpoints"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
@pytest.mark.parametrize("read_only", [False, True])
def test_a_directory_that_may_not_be_read_is_told(directory, read_only):
    saved(directory, 4)
    os.chmod(directory.parent, 0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError, match="checkpoints cannot be read: Permission denied"):
            Checkpoints(directory, read_only=read_only)
    finally:
        os.seteuid(0)


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="file/checkpoints cannot be written: "):
        Checkpoints(tmp_path / "file" / "checkpoints")


def test_variables_are_read_from_the_newest_that_is_whole_and_nothing_is_moved(directory, caplog):
    saved(directory, 4, 20)
    for path in files_of(directory, 20):
        truncate(path)
    before = sorted(directory.rglob("*"))
    like = Variables(START.state.params, START.state.model_state)
    found, step = read_variables(directory, like)
    assert step == 2
    assert_same(found, Variables(snapshot(4, 4.1).state.params, snapshot(4, 4.1).state.model_state))
    assert "20 is damaged" in caplog.text
    assert sorted(directory.rglob("*")) == before
    (directory / "20").rename(directory.parent / "elsewhere")
    (directory / "4").rename(directory.parent / "elsewhere too")
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        read_variables(directory, like)


def test_variables_that_are_judged_are_read_in_place_of_the_others(directory):
    own, judged = snapshot(4).state, Variables(snapshot(4, 7.0).state.params, {})
    state = own._replace(memory={JUDGED: judged, "other": {"params": jnp.ones(2)}})
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(snapshot(4)._replace(state=state))
    found, step = read_variables(directory, judged)
    assert step == 2
    assert_same(found, judged)


def test_parts_of_the_parameters_can_be_left_out(directory):
    state = snapshot(6).state
    state = state._replace(params={**state.params, "head": jnp.ones(3)})
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(snapshot(6)._replace(state=state))
    like = Variables({"dense": state.params["dense"]}, state.model_state)
    found, _ = read_variables(directory, like, without=Variables(("head",), ()))
    assert_same(found, like)
    with pytest.raises(CheckpointError, match=r"does not fit: params.head is float32"):
        read_variables(directory, like)
