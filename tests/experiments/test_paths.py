"""Every path that a command takes: "~" is the home directory, and a bucket is refused at once."""

import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest
from absl import flags

from cyclical_jax import _checks
from cyclical_jax.catalogue import CATALOGUE
from tests import commands
from tests.training.test_recipe import lines_of

SCRIPTS = sorted(
    path.stem
    for path in (commands.ROOT / "experiments").glob("*.py")
    if "command_line.run(" in path.read_text() and path.stem != "command_line"
)
# Flags that take words. A new flag belongs here, or is defined by `paths`.
WORDS = {"set", "coordinator", "datasets", "dataset", "knob", "duration", "logger", "bits"}
WORDS |= {"first_cycle"}
OTHERS = ["--knob=optimizer.weight_decay", "--low=1", "--high=2"]
FILES = {"config", "table"}  # with a variant after a colon; a name or a path


def flags_of(script):
    """{name: flag} of what the script defines, as a command has them."""
    with (
        commands.as_if_new(),
        mock.patch("absl.app.run"),
        mock.patch.object(sys, "argv", [script]),
    ):
        runpy.run_path(str(commands.ROOT / "experiments" / f"{script}.py"), run_name="__main__")
        names = [
            name
            for name in flags.FLAGS
            if flags.FLAGS.find_module_defining_flag(name).partition(".")[0]
            not in ("absl", "etils", "grain", "orbax", "jax", "chex", "tests")
        ]
        return {name: flags.FLAGS[name] for name in names}


def is_path(flag):
    return type(flag.parser).__name__ in ("LocalPath", "LocalPaths")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_flag_takes_a_path_of_this_machine_or_is_known_to_take_none(script, tmp_path):
    found = flags_of(script)
    text = {name for name, flag in found.items() if type(flag.parser) is flags.ArgumentParser}
    text |= {name for name, flag in found.items() if isinstance(flag.parser, flags.ListParser)}
    assert "set" in text and text <= WORDS | FILES
    taken = [name for name, flag in found.items() if is_path(flag)]
    assert taken
    for name in [*taken, *(text & FILES)]:
        given = "gs://bucket/x.py"
        others = OTHERS if script == "range_test" else []
        ended = commands.in_this_process(script, f"--{name}={given}", *others, cwd=tmp_path)
        assert ended.returncode == 2 and ended.stdout == ""
        begin = f"--{name} must be a path on this machine, got {given!r}: copy or mount what is "
        assert ended.stderr.startswith(begin) and ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_path_of_one_of_several_places_is_refused(tmp_path):
    ended = commands.in_this_process("report", "--results=runs/a,s3://b/c", cwd=tmp_path)
    assert ended.stderr.startswith("--results must be a path on this machine, got 's3://b/c'")


@pytest.mark.parametrize(
    "given, path",
    [("~", ""), ("~/a b/c", "a b/c"), (Path("~/x"), "x")],
)
def test_a_home_directory_is_looked_up(given, path, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _checks.local_path("x", given) == tmp_path / path


@pytest.mark.parametrize("given", ["a/~/b", "./~", "/x/y", "a:b", "C:", "runs/a:/b", "."])
def test_any_other_path_is_left_alone(given):
    assert str(_checks.local_path("x", given)) == str(Path(given))


@pytest.mark.parametrize(
    "given",
    ["gs://b/x", "s3://b", "hdfs://h/x", "file:///x", "https://h/x", Path("gs://b/x"), "az+x://y"],
)
def test_an_address_is_refused(given):
    with pytest.raises(ValueError, match="`x` must be a path on this machine, got '"):
        _checks.local_path("x", given)


def test_an_unknown_user_and_nothing_are_refused():
    with pytest.raises(ValueError, match="`x` must be a path, got '~nobody_9/a', of no known user"):
        _checks.local_path("x", "~nobody_9/a")
    with pytest.raises(ValueError, match="`x` must be a path, got ''"):
        _checks.local_path("x", "")


# ---- keys of a config

# The place of a class, which model.name has, is checked in tests/techniques/test_own_network.py.
PATHS = [
    key for key, field in CATALOGUE.keys.items() if "path" in field.type and key != "model.name"
]


def test_a_key_that_means_a_place_takes_a_path():
    places = [
        key
        for key, field in CATALOGUE.keys.items()
        if {"workdir", "folder", "file"} & set(field.meaning.split()) and key != "image_size"
    ]
    assert len(places) > 3 and set(places) <= set(PATHS)


@pytest.mark.parametrize("key", PATHS)
def test_a_key_with_an_address_is_a_line(key):
    given = "gs://bucket/x.txt"
    found = [line for line in lines_of({key: given}) if line.startswith(f"{key} must be a path")]
    assert found == [
        f"{key} must be a path on this machine, got {given!r}: copy or mount what is there."
    ]


@pytest.mark.parametrize("key", PATHS)
def test_a_key_with_a_home_directory_is_looked_up(key, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.txt").write_text("1 2 3")
    checked = CATALOGUE.keys[key].check(key, "~/x.txt")
    assert checked in (str(tmp_path / "x.txt"), "~/x.txt")  # the latter is opened as the former
    if checked == "~/x.txt":
        from cyclical_jax.data import index_file_of

        assert index_file_of(checked) == tmp_path / "x.txt"


# ---- a run


def test_a_run_at_home_is_there_and_no_folder_is_called_tilde(tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    small = ["--config.model.hidden_sizes=(4,)", "--config.duration=3 steps"]
    config = f"--config={commands.ROOT}/configs/digits.py"
    ended = commands.in_this_process(
        "train", config, *small, "--workdir=~/a/run", cwd=here, HOME=str(home)
    )
    assert ended.returncode == 0, ended.stderr
    assert (home / "a" / "run" / "result.json").exists() and list(here.iterdir()) == []
