"""A power failure: whatever a disk holds after it, the next start finds all that was complete."""

import errno
import os
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax import _files
from cyclical_jax.data import num_examples
from cyclical_jax.training import files, run, synced
from cyclical_jax.training.checkpoints import CheckpointError, Checkpoints
from cyclical_jax.training.facts import facts_of
from cyclical_jax.training.logs import RunLog
from cyclical_jax.training.recipe import load_dataset
from cyclical_jax.training.snapshots import Snapshot, arrays_of
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.totals import Totals
from cyclical_jax.training.workdirs import opened_workdir, read_result
from tests import commands, power, power_run
from tests.power import Change, Disk

ROOT = commands.ROOT


# ---- what a disk may hold

OLD = [
    Change("create", "a"),
    Change("write", "a", 0, b"old"),
    Change("sync", "a"),
    Change("sync", ""),
]
NEW = [Change("create", "b"), Change("write", "b", 0, b"newer")]
REPLACED = [*OLD, *NEW, Change("rename", "b", target="a")]


@pytest.mark.parametrize(
    "changes, names, contents, left",
    [
        (REPLACED, "all", "all", {"a": b"newer"}),
        (REPLACED, "all", "synced", {"a": b""}),
        (REPLACED, "all", "half", {"a": b"ne"}),
        (REPLACED, "all", "zeros", {"a": b"\0\0\0\0\0"}),
        (REPLACED, "synced", "all", {"a": b"old"}),
        (REPLACED, "removals", "all", {"a": b"old"}),
        ([*OLD, *NEW, Change("sync", "")], "synced", "synced", {"a": b"old", "b": b""}),
        ([*OLD, *NEW, Change("sync", "b")], "synced", "synced", {"a": b"old"}),
        ([*REPLACED, Change("sync", "")], "synced", "synced", {"a": b""}),
        ([*OLD, Change("remove", "a")], "synced", "synced", {"a": b"old"}),
        ([*OLD, Change("remove", "a")], "removals", "synced", {}),
        ([*OLD, Change("write", "a", 3, b"and more")], "all", "synced", {"a": b"old"}),
        ([*OLD, Change("write", "a", 3, b"and more")], "all", "half", {"a": b"oldand "}),
        ([*OLD, Change("truncate", "a", 1)], "all", "synced", {"a": b"old"}),
        ([*OLD, Change("truncate", "a", 1)], "all", "all", {"a": b"o"}),
        ([*OLD, Change("link", "a", target="c")], "all", "synced", {"a": b"old", "c": b"old"}),
        ([*OLD, Change("rename", "a", target="c")], "additions", "all", {"a": b"old", "c": b"old"}),
        ([*OLD, Change("mkdir", "d"), Change("rename", "a", target="d/a")], "all", "synced",
         {"d": None, "d/a": b"old"}),
        ([*OLD, Change("mkdir", "d"), Change("sync", "d")], "synced", "synced", {"a": b"old"}),
        ([*OLD, Change("mkdir", "d"), Change("sync", "")], "synced", "all",
         {"a": b"old", "d": None}),
    ],
)  # fmt: skip
def test_what_was_not_synced_may_be_left_in_any_way(changes, names, contents, left):
    assert Disk(changes).left(names, contents) == left


# ---- one file

# Without JAX, which would take seconds: `_files` needs the standard library alone.
WRITES = f"""
import os, sys, threading
from pathlib import Path
sys.path.insert(0, {str(ROOT / "cyclical_jax")!r})
import _files
root = Path(sys.argv[1])
marks = os.open(root / {power.MARKS!r}, os.O_WRONLY | os.O_CREAT)
def write(number):
    _files.make_folder(root / "a" / "b")
    _files.write_json(root / "a" / "b" / "config.json", {{"number": number, "text": "x" * 99}})
    os.write(marks, f"{{number}}\\n".encode())
for number in (1, 2):
    thread = threading.Thread(target=write, args=[number])
    thread.start()
    thread.join()
"""


@power.needs_compiler
def test_a_file_that_was_written_is_old_or_new_after_a_power_failure(tmp_path):
    def check(folder, lines):
        path = folder / "a" / "b" / "config.json"
        there = _files.read_json(path, {"number": int})["number"] if path.exists() else 0
        assert there in (len(lines), len(lines) + 1)

    (tmp_path / "disk").mkdir()
    command = sys.executable, "-S", "-c", WRITES, str(tmp_path / "disk")
    changes = power.record(tmp_path / "disk", tmp_path, *command)
    assert sum(change.name == "rename" for change in changes) == 2
    assert power.assert_safe(changes, check, tmp_path) > 10


# ---- checkpoints


def snapshot(micro_step: int) -> Snapshot:
    params = {"kernel": jnp.full(3, float(micro_step))}
    step = jnp.int32(micro_step)
    state = TrainState(params, {}, (), {}, step, step, jnp.int32(0), jax.random.key(0))
    return Snapshot(state, Totals(step, {}, {}, {}), 1.0)


def test_a_checkpoint_is_on_the_disk_before_an_older_one_is_deleted(tmp_path, monkeypatch):
    order = []

    def sync(path):
        order.append((path.name, {one.name for one in tmp_path.glob("*")}))
        _files.sync(path)

    monkeypatch.setattr(synced, "sync", sync)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(snapshot(1))
        checkpoints.wait()
        order.clear()
        checkpoints.save(snapshot(2))
    names = [name for name, _ in order]
    temporary = "2.orbax-checkpoint-tmp"
    assert {"metadata", "about", "state", "_METADATA", "d"} <= set(names[: names.index(temporary)])
    assert order[names.index(temporary)][1] == {"1", temporary}
    assert order[-1] == (tmp_path.name, {"1", "2"})
    assert {"2", "_CHECKPOINT_METADATA"} <= set(names[names.index(temporary) :])
    assert {path.name for path in tmp_path.glob("*")} == {"2"}


def test_a_checkpoint_that_cannot_be_synced_is_an_error_and_older_ones_stay(tmp_path, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(snapshot(1))
        checkpoints.wait()
        monkeypatch.setattr(synced, "sync", fail)
        checkpoints.save(snapshot(2))
        with pytest.raises(CheckpointError, match="cannot be written: .*Input/output error"):
            checkpoints.wait()
        assert int(checkpoints.restore(snapshot(0)).state.micro_step) == 1


# ---- a run


class Found(NamedTuple):
    """What the next start reads before it trains."""

    arrays: dict[str, np.ndarray] | None
    best: dict[str, np.ndarray] | None
    result: dict | None


class NextStart:
    """The next start of the run, as experiments/train.py has it, until it would train."""

    def __init__(self):
        self._recipe, self._config = power_run.recipe_and_config()
        dataset = load_dataset(self._recipe)
        self._facts = facts_of(self._recipe.dataset, dataset).as_json()
        self._start = run.begin(self._recipe, dataset)
        self._timetable = self._recipe.timetable(num_examples(dataset.train))

    def __call__(self, workdir: Path, is_validated: bool) -> Found:
        of_run = self._config.to_dict(), self._recipe.catalogue, {}, self._facts
        with opened_workdir(workdir, *of_run):
            result = read_result(workdir, self._recipe.task.judged_by[0])
            with Checkpoints(workdir / files.CHECKPOINTS, keep=1) as checkpoints:
                restored = checkpoints.restore(self._start)
                best = checkpoints.best_arrays() if is_validated else None
            self._read_rows(workdir, restored or self._start)
        return Found(arrays_of(restored) if restored else None, best, result)

    def _read_rows(self, workdir: Path, start: Snapshot) -> None:
        """Raises WorkdirError unless all rows before the snapshot are there."""
        ends = {
            "start": int(start.state.micro_step),
            "is_to_come": run.has_row_to_come(self._timetable, start),
        }
        with RunLog(workdir, self._timetable, self._recipe.structure, **ends):
            pass


@pytest.mark.slow
@power.needs_compiler
def test_after_a_power_failure_a_run_finds_its_last_complete_save(tmp_path):
    def check(folder, lines):
        _check_run(folder / power_run.WORKDIR, lines, next_start, tmp_path)

    (tmp_path / "disk").mkdir()
    command = sys.executable, "-m", "tests.power_run", str(tmp_path)
    environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    changes = power.record(tmp_path / "disk", tmp_path, *command, **environment)
    next_start = NextStart()
    assert power.assert_safe(changes, check, tmp_path) > 100


def _check_run(workdir, lines, next_start, saved):
    """Raises an error unless the next start finds what the lines say was complete."""
    complete = {kind: [] for kind in ("wrote", "saved", "best")}
    for line in lines:
        kind, _, what = line.partition(":")
        complete[kind].append(what)
    there = {path.name for path in workdir.glob("*.json")}
    for name in there | set(complete["wrote"]):
        files.read(workdir / name)  # raises, if it is not there or not whole
    found = next_start(workdir, is_validated=bool(complete["best"]))
    assert found.result or files.RESULT not in complete["wrote"]
    assert found.arrays or not complete["saved"]
    if found.arrays:
        micro_step = int(found.arrays["0.micro_step"])
        assert micro_step >= max(map(int, complete["saved"]), default=0)
        with np.load(saved / f"{micro_step}.npz") as arrays:
            assert arrays.keys() == found.arrays.keys()
            for name, array in arrays.items():
                np.testing.assert_array_equal(found.arrays[name], array)
    if complete["best"]:
        assert int(found.best["0.micro_step"]) >= int(complete["best"][-1])
