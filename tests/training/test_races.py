"""Another process does its work, or moves the folder, at each moment of a look at a workdir."""

import fcntl
import itertools
import shutil

import pytest

from cyclical_jax import _files
from cyclical_jax.catalogue import CATALOGUE
from cyclical_jax.training import earlier, facts, files, inputs, workdirs
from cyclical_jax.training.earlier import one_run, read_recipe
from cyclical_jax.training.facts import read_facts
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import CONFIG, DATASET, LOCK, RESULT, WorkdirError
from cyclical_jax.training.logs import RunLog
from cyclical_jax.training.workdirs import opened_workdir, read_result, write_result
from tests import commands
from tests.helpers import recipe_of, stored
from tests.moments import at_each
from tests.training.test_logs import ROWS, STRUCTURE, TIMETABLE

MODULES = [workdirs, files, _files]
OPENING = [workdirs, files]
DESCRIBED = {"source": "mine", "class_names": [], "shape": [2], "dtype": "uint8"}
DESCRIBED |= {"normalisation": None, "num_examples": {"train": 9}}


class Opening:
    """What came of a run that opened a workdir: it owned it, was shown a result, or was told."""

    def __init__(self, workdir, seed, *, is_ended):
        self.workdir, self.seed, self.is_ended = workdir, seed, is_ended
        self.outcome = "not asked"

    def __call__(self):
        try:
            with opened_workdir(self.workdir, {"seed": self.seed}, CATALOGUE) as folder:
                if read_result(self.workdir, "loss"):
                    self.outcome = "shown"
                    return
                folder.check()
                (self.workdir / "checkpoints").mkdir()
                (self.workdir / "checkpoints" / "0").mkdir()
                if self.is_ended:
                    result = {
                        "steps": self.seed,
                        "seconds": 1.0,
                        "training_seconds": 0.5,
                        "test_num_examples": 2,
                    }
                    write_result(self.workdir, result | {"test_loss": 0.5})
                self.outcome = "owned"
        except WorkdirError as error:
            self.outcome = str(error)


def in_folders(tmp_path):
    return (tmp_path / str(number) / "run" for number in itertools.count())


def test_a_second_run_at_each_moment_of_an_opening_is_refused_or_refuses(tmp_path):
    """The second opens, trains and ends within the moment."""
    folders, runs = in_folders(tmp_path), []

    def first():
        workdir = next(folders)
        runs.append((Opening(workdir, 7, is_ended=False), Opening(workdir, 1, is_ended=True)))
        runs[-1][0]()

    refused = {0: 0, 1: 0}
    for _ in at_each(OPENING, first, lambda: runs[-1][1]()):
        outcomes = [run.outcome for run in runs[-1]]
        assert outcomes.count("owned") == 1, outcomes
        owner = outcomes.index("owned")
        run, other = runs[-1][owner], outcomes[1 - owner]
        assert "another process trains in" in other or "holds a run of another config" in other
        assert stored(run.workdir / CONFIG) == {"seed": run.seed}
        assert (run.workdir / RESULT).exists() is run.is_ended
        refused[1 - owner] += 1
        shutil.rmtree(run.workdir)
    assert min(refused.values()) > 5  # there were moments of both kinds


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_folder_that_is_moved_at_each_moment_of_an_opening_is_told(tmp_path, is_replaced):
    folders, opened, told = in_folders(tmp_path), [], []

    def open_it():
        opened.append(next(folders))
        try:
            with opened_workdir(opened[-1], {"seed": 7}, CATALOGUE) as folder:
                folder.check()
        except WorkdirError as error:
            told.append(str(error))

    def move():
        if opened[-1].exists():
            opened[-1].rename(opened[-1].with_name("moved"))
            if is_replaced:
                opened[-1].mkdir()

    for _ in at_each(OPENING, open_it, move):
        if len(told) == len(opened):
            assert "moved or deleted" in told[-1] or "cannot be written" in told[-1]
            assert "\n" not in told[-1]
        else:  # it was moved before the opening, or after its last look
            told.append(None)
            places = [opened[-1], opened[-1].with_name("moved")]
            assert [stored(p / CONFIG) for p in places if (p / CONFIG).exists()] == [{"seed": 7}]
    assert any(told) and not all(told)


def test_a_lock_that_is_deleted_before_it_is_taken_is_told(tmp_path, monkeypatch):
    """Another process would lock the next file of that name."""
    flock = fcntl.flock

    def delete_first(file, operation):
        (tmp_path / LOCK).unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    with pytest.raises(WorkdirError) as error, opened_workdir(tmp_path, {"seed": 1}, CATALOGUE):
        pass
    line = f"{tmp_path} was moved or deleted just now; give the command again."
    assert str(error.value) == line and list(tmp_path.iterdir()) == []


def test_a_reader_at_each_moment_of_which_another_run_begins_sees_one_of_them(tmp_path):
    def begin(seed):
        files.write(tmp_path / CONFIG, {"seed": seed})  # the rest is as by default
        files.write(tmp_path / DATASET, DESCRIBED | {"num_classes": seed})

    found = []

    def look():
        begin(2)
        try:
            with one_run("a key", tmp_path):
                recipe = read_recipe("a key", tmp_path, CATALOGUE)
                read = recipe.seed, read_facts("a key", tmp_path, recipe).num_classes
        except RecipeError as error:
            read = str(error)
        found.append(read)

    for _ in at_each([earlier, facts], look, lambda: begin(3)):
        told = f"a key: another run began in {tmp_path} just now; give the command again."
        assert found[-1] in ((2, 2), (3, 3), told)
    assert set(found) == {(2, 2), (3, 3), told}


# ---- a run that trains


@pytest.mark.parametrize("is_replaced", [False, True])
@pytest.mark.parametrize("act", ["row", "sync"])
def test_a_row_or_a_save_in_a_folder_that_was_moved_is_told(tmp_path, act, is_replaced):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    workdir.mkdir()
    with pytest.raises(WorkdirError) as error:
        with RunLog(workdir, TIMETABLE, STRUCTURE, loggers=["tensorboard"]) as log:
            log.row(ROWS[0])
            workdir.rename(moved)
            if is_replaced:
                workdir.mkdir()
            log.row(ROWS[1]) if act == "row" else log.sync()
    assert str(error.value) == (
        f"{workdir} was moved or deleted while the run trained in it. If it was moved, give its "
        "new place as --workdir: the run goes on from its last checkpoint."
    )
    assert stored(moved / "metrics.jsonl") == ROWS[:1]
    assert (list(workdir.iterdir()) == []) if is_replaced else not workdir.exists()


def test_a_run_whose_workdir_is_moved_ends_with_a_line_and_goes_on_at_the_new_place(
    tmp_path, monkeypatch
):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    config = ["--config=configs/digits.py", "--config.model.hidden_sizes=(6,)"]
    config += ["--config.duration=4 epochs"]
    row = RunLog.row

    def move_first(log, given):
        if given["epoch"] == 2:
            workdir.rename(moved)
        row(log, given)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "row", move_first)
        ended = commands.in_this_process("train", *config, f"--workdir={workdir}")
    assert ended.returncode == 2 and not workdir.exists()
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{workdir} was moved or deleted while the run trained in it.")
    ended = commands.in_this_process("train", *config, f"--workdir={moved}")
    assert ended.returncode == 0, ended.stderr
    assert [row["epoch"] for row in stored(moved / "metrics.jsonl")] == [1, 2, 3, 4]


def test_an_earlier_run_that_is_saved_while_it_is_read_is_told(tmp_path, monkeypatch):
    """Its checkpoint is another than the one that inputs.json would name."""
    saved = ["checkpoint 3, a1"]
    monkeypatch.setattr(inputs, "identity", lambda directory: saved[-1])
    recipe = recipe_of(finetuning__start=str(tmp_path))
    with inputs.unchanged(recipe) as found:
        assert found == {"finetuning.start": "checkpoint 3, a1"}
    with pytest.raises(RecipeError) as error, inputs.unchanged(recipe):
        saved.append("checkpoint 5, b2")
    assert str(error.value) == (
        f"finetuning.start: {tmp_path} was saved while it was read; give the command again when "
        "that run has ended."
    )


# ---- what a killed writer left behind


def test_files_that_were_not_finished_are_deleted_when_the_workdir_is_opened(tmp_path):
    stale = [".config.json.0123abcd.new", ".result.json.new", ".metrics.jsonl.0123abcd.new"]
    others = [".report.html.0123abcd.new", "config.json.new", ".mine.new"]  # of a report, of a user
    for name in (*stale, *others):
        (tmp_path / name).touch()
    with opened_workdir(tmp_path, {"seed": 1}, CATALOGUE):
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {*others, ".lock", CONFIG}
