"""The workdir of a run: one process at a time opens it, and a run keeps what it began with."""

import os
from pathlib import Path

import numpy as np
import pytest

from cyclical_jax.catalogue import CATALOGUE, default_config
from cyclical_jax.training import files
from cyclical_jax.training.checkpoints import CheckpointError
from cyclical_jax.training.fields import Field
from cyclical_jax.training.files import WorkdirError, plain
from cyclical_jax.training.structure import Catalogue
from cyclical_jax.training.technique import Task
from cyclical_jax.training.workdirs import (
    Folder,
    as_defaults,
    config_differences,
    opened_workdir,
    read_result,
    write_result,
)
from tests.helpers import other_user, stored


def test_a_workdir_is_made_and_holds_the_config(tmp_path):
    workdir = tmp_path / "new" / "run"
    config = {"seed": 3, "section": {"off": None, "sizes": (1, 2)}}
    with opened_workdir(workdir, config, CATALOGUE):
        config = stored(workdir / "config.json")
    assert config == {"seed": 3, "section": {"off": None, "sizes": [1, 2]}}
    assert sorted(os.listdir(workdir)) == [".lock", "config.json"]


def test_a_workdir_in_which_nothing_was_saved_may_be_used_again(tmp_path):
    for seed in (1, np.int32(2)):
        with opened_workdir(tmp_path, {"seed": seed}, CATALOGUE):
            (tmp_path / "metrics.jsonl").touch()
            (tmp_path / "checkpoints").mkdir(exist_ok=True)
    assert stored(tmp_path / "config.json") == {"seed": 2}


def open_again(workdir, config):
    old = {"seed": 1, "data_dir": "a", "section": {"x": 1, "y": (2,)}}
    with opened_workdir(workdir, old, CATALOGUE):
        (workdir / "checkpoints" / "0").mkdir(parents=True, exist_ok=True)
    with opened_workdir(workdir, config, CATALOGUE):
        pass


def test_a_run_goes_on_with_its_config_wherever_its_data_is(tmp_path):
    config = {"seed": 1.0, "data_dir": "b", "section": {"x": 1, "y": [2]}}
    open_again(tmp_path, config)
    assert stored(tmp_path / "config.json")["data_dir"] == "a"


def test_another_config_is_refused_with_what_is_different(tmp_path):
    with pytest.raises(WorkdirError) as error:
        open_again(tmp_path, {"seed": 2, "section": {"x": {"easy": 1}, "z": None, "y": (2,)}})
    assert str(error.value).splitlines() == [
        f"{tmp_path} holds a run of another config; choose another --workdir:",
        "  section.x: 1 there, {'easy': 1} here",
        "  seed: 1 there, 2 here",
    ]
    assert stored(tmp_path / "config.json")["seed"] == 1


def test_a_config_of_an_earlier_version_has_the_defaults_of_what_it_lacks(tmp_path):
    config = plain(default_config().to_dict())
    lacking = ("ema_decay", "curriculum", "running_curriculum")
    old = {name: value for name, value in config.items() if name not in lacking}
    old["multilabel"] = {k: v for k, v in config["multilabel"].items() if k != "margin"}
    defaults = as_defaults(CATALOGUE)
    assert config_differences(old, config, defaults) == []
    config["multilabel"]["margin"], config["running_curriculum"]["average_decay"] = 0.5, 0.1
    assert config_differences(old, config, defaults) == [
        "multilabel.margin: 0.05 there, 0.5 here",
        "running_curriculum.average_decay: 0.9 there, 0.1 here",
    ]


@pytest.mark.parametrize(
    "old, new, lines",
    [
        ({}, {"rate": 0.5, "own": {"sizes": [1, 2]}}, []),  # as by default
        ({"rate": 0.5, "own": {"sizes": [1, 2]}}, {"own": {}}, []),
        ({}, {"rate": 0.1}, ["rate: 0.5 there, 0.1 here"]),
        ({"rate": 0.1}, {}, ["rate: 0.1 there, 0.5 here"]),
        ({"own": {}}, {"own": {"sizes": []}}, ["own.sizes: [1, 2] there, [] here"]),
        ({"rate": None}, {"rate": 0.5}, ["rate: None there, 0.5 here"]),  # off is no default
        ({}, {"sizes": 3}, ["sizes: None there, 3 here"]),  # a default is of its whole key
        ({"data_dir": "a"}, {"data_dir": "b"}, []),
        ({"b": 1, "a": 1}, {"a": 2, "b": 2}, ["a: 1 there, 2 here", "b: 1 there, 2 here"]),
    ],
)
def test_differences_are_told_by_whole_keys_and_defaults_fill_what_is_missing(old, new, lines):
    assert config_differences(old, new, {"rate": 0.5, "own.sizes": [1, 2]}) == lines


def test_a_run_of_an_earlier_version_goes_on_where_a_new_key_has_its_default(tmp_path):
    field = Field(0.5, lambda key, value: value, "number", "a number")
    catalogue = Catalogue((Task("task", {"task.old": field, "task.new": field}),), ())
    with opened_workdir(tmp_path, {"task": {"old": 1}}, catalogue):
        (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    with opened_workdir(tmp_path, {"task": {"old": 1, "new": 0.5}}, catalogue):
        pass
    with pytest.raises(WorkdirError, match="task.new: 0.5 there, 0.7 here"):
        with opened_workdir(tmp_path, {"task": {"old": 1, "new": 0.7}}, catalogue):
            pass


def test_inputs_of_a_run_that_never_began_are_forgotten(tmp_path):
    for inputs in ({"subset": "content 1"}, {"subset": "content 2"}, None):
        with opened_workdir(tmp_path, {"seed": 1}, CATALOGUE, inputs):
            path = tmp_path / "inputs.json"
            assert (stored(path) if path.exists() else None) == inputs


def test_other_inputs_are_refused_with_what_is_different(tmp_path):
    def open_with(inputs):
        with opened_workdir(tmp_path, {"seed": 1}, CATALOGUE, inputs):
            (tmp_path / "checkpoints" / "0").mkdir(parents=True, exist_ok=True)

    open_with({"subset": "content 1", "finetuning.start": "checkpoint 2"})
    open_with({"subset": "content 1", "finetuning.start": "checkpoint 2"})
    with pytest.raises(WorkdirError) as error:
        open_with({"subset": "content 3", "finetuning.start": "checkpoint 2"})
    assert str(error.value).splitlines() == [
        f"{tmp_path} holds a run whose inputs have changed since; choose another --workdir:",
        "  subset: 'content 1' there, 'content 3' here",
    ]


@pytest.mark.parametrize("left", ["metrics.jsonl", "result.json"])
def test_what_a_run_without_checkpoints_left_is_not_taken_for_this_run_s(tmp_path, left):
    (tmp_path / left).write_text("{}\n")
    with pytest.raises(WorkdirError) as error, opened_workdir(tmp_path, {"seed": 2}, CATALOGUE):
        pass
    reason = "holds a run without checkpoints; choose another --workdir."
    assert str(error.value) == f"{tmp_path} {reason}"
    assert sorted(os.listdir(tmp_path)) == [".lock", left]


def test_a_damaged_config_is_refused(tmp_path):
    with opened_workdir(tmp_path, {"seed": 1}, CATALOGUE):
        (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    (tmp_path / "config.json").write_text("{")
    with (
        pytest.raises(WorkdirError, match="config.json is damaged: Expecting"),
        opened_workdir(tmp_path, {"seed": 1}, CATALOGUE),
    ):
        pass


def test_two_processes_cannot_write_to_one_workdir(tmp_path):
    with (
        opened_workdir(tmp_path, {}, CATALOGUE),
        pytest.raises(WorkdirError, match=f"another process trains in {tmp_path}; wait for it."),
        opened_workdir(tmp_path, {}, CATALOGUE),
    ):
        pass
    with opened_workdir(tmp_path, {}, CATALOGUE):  # the first has left it
        pass


@pytest.mark.parametrize(
    "where, reason", [("file/run", "Not a directory"), ("file", "File exists")]
)
def test_a_workdir_that_cannot_be_written_is_refused(tmp_path, where, reason):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkdirError) as error, opened_workdir(tmp_path / where, {}, CATALOGUE):
        pass
    assert str(error.value) == f"{tmp_path / where} cannot be written: {reason}."


# ---- the result


RESULT = {"steps": 7, "seconds": 1.5, "training_seconds": 0.5, "test_num_examples": 3}
RESULT |= {"test_loss": 0.25, "test_error": 0.5, "test_perplexity": None}


def test_the_result_is_a_file(tmp_path):
    write_result(tmp_path, RESULT)
    assert stored(tmp_path / "result.json") == RESULT == read_result(tmp_path, "error")
    assert read_result(tmp_path, "perplexity") == RESULT


def test_a_run_that_has_not_ended_has_no_result(tmp_path):
    assert read_result(tmp_path, "error") is None


def test_a_result_without_the_score_that_judges_is_a_line(tmp_path):
    write_result(tmp_path, RESULT)
    with pytest.raises(WorkdirError) as error:
        read_result(tmp_path, "accuracy")
    line = "is damaged: it has no 'test_accuracy'. Delete it, and give the same command again: it "
    assert str(error.value) == f"{tmp_path / 'result.json'} {line}scores the run anew."


def test_a_lock_that_is_a_pipe_is_a_line_and_no_wait(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(WorkdirError, match=r"\.lock cannot be written: No such device"):
        open_again(tmp_path, {"seed": 1})


def test_what_cannot_be_written_because_the_workdir_was_moved_is_told_as_that(tmp_path):
    (workdir := tmp_path / "run").mkdir()
    folder = Folder(workdir)
    with pytest.raises(CheckpointError, match="full"), folder.watched():
        raise CheckpointError("the disk is full")
    with pytest.raises(WorkdirError, match="was moved or deleted"), folder.watched():
        workdir.rename(tmp_path / "elsewhere")
        raise CheckpointError("no such file")


# ---- a run that becomes longer


def begun(workdir, duration):
    """A run that has ended."""
    with opened_workdir(workdir, {"seed": 1, "duration": duration}, CATALOGUE):
        (workdir / "checkpoints" / "0").mkdir(parents=True)
        write_result(workdir, RESULT)


def open_longer(workdir, config, reason=None):
    """Opens it with a config; returns the durations that were compared."""
    asked = []

    def why_not_longer(there):
        asked.append(there)
        return reason

    with opened_workdir(workdir, config, CATALOGUE, why_not_longer=why_not_longer):
        pass
    return asked


def test_a_run_that_becomes_longer_has_the_new_config_and_no_result(tmp_path):
    begun(tmp_path, "3 epochs")
    longer = {"seed": 1, "duration": "9 epochs"}
    assert open_longer(tmp_path, longer) == ["3 epochs"]
    assert stored(tmp_path / "config.json") == longer
    assert not (tmp_path / "result.json").exists()
    assert open_longer(tmp_path, longer) == []


def test_the_duration_of_an_earlier_version_s_config_is_the_default(tmp_path):
    begun(tmp_path, "3 epochs")
    files.write(tmp_path / "config.json", {"seed": 1})
    assert open_longer(tmp_path, {"seed": 1, "duration": "90 epochs"}) == ["40 epochs"]


@pytest.mark.parametrize(
    "config, reason, lines",
    [
        ({"seed": 1, "duration": "9 epochs"}, "It would move.", ["  It would move."]),
        (
            {"seed": 2, "duration": "9 epochs"},
            None,
            [
                "  seed: 1 there, 2 here",
                "  To make the run there longer, change only duration: give its other keys again.",
            ],
        ),
    ],
)
def test_a_run_that_cannot_become_longer_stays_as_it_is(tmp_path, config, reason, lines):
    begun(tmp_path, "3 epochs")
    with pytest.raises(WorkdirError) as error:
        open_longer(tmp_path, config, reason)
    assert str(error.value).splitlines() == [
        f"{tmp_path} holds a run of another config; choose another --workdir:",
        "  duration: '3 epochs' there, '9 epochs' here",
        *lines,
    ]
    assert stored(tmp_path / "config.json") == {"seed": 1, "duration": "3 epochs"}
    assert read_result(tmp_path, "error") == RESULT


def test_a_longer_run_of_other_inputs_is_refused_before_anything_changes(tmp_path):
    begun(tmp_path, "3 epochs")
    longer = {"seed": 1, "duration": "9 epochs"}
    options = {"why_not_longer": lambda there: None}
    with pytest.raises(WorkdirError, match="inputs have changed"):
        with opened_workdir(tmp_path, longer, CATALOGUE, {"subset": "content 1"}, **options):
            pass
    assert read_result(tmp_path, "error") == RESULT
    assert stored(tmp_path / "config.json")["duration"] == "3 epochs"


def test_a_run_in_a_folder_that_cannot_be_written_does_not_become_longer(tmp_path):
    begun(tmp_path / "run", "3 epochs")
    (tmp_path / "run" / ".lock").chmod(0o666)
    with other_user(tmp_path), pytest.raises(WorkdirError, match="Permission denied"):
        open_longer(Path("run"), {"seed": 1, "duration": "9 epochs"})
    assert read_result(tmp_path / "run", "error") == RESULT
    assert stored(tmp_path / "run" / "config.json")["duration"] == "3 epochs"
