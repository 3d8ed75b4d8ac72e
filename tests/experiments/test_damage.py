"""One bit is flipped in a file of a run: each later command says so, or does as if it were not.

A finished and an unfinished run are made once. Then a seeded bit of a file is flipped, and the
commands that read the file are given: training again, evaluation of both checkpoints, the report.
"""

import fnmatch
import os
import random
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from cyclical_jax.training import files
from tests import commands
from tests.helpers import stored

pytestmark = pytest.mark.usefixtures("fast_compilation")

TIMES = {"seconds", "images_per_second", "training_seconds"}
EVALUATE = ("evaluate --checkpoint=best", "evaluate --checkpoint=newest")
COMMANDS = ("train", *EVALUATE, "report")


class Run(NamedTuple):
    """A workdir, and what each command made of it before anything was damaged."""

    workdir: Path
    config: list[str]
    expected: dict[str, tuple]


def train(workdir, config, *arguments):
    return commands.in_this_process("train", *config, f"--workdir={workdir}", *arguments)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """An index file gives the run an inputs.json; the best checkpoint is not the newest."""
    listed = tmp_path_factory.mktemp("lists") / "some.txt"
    listed.write_text(" ".join(map(str, range(300))))
    return [
        "--config=configs/digits.py:all",
        "--config.model.hidden_sizes=(16,)",
        "--config.duration=6 epochs",
        "--config.batch_size=30",
        "--config.optimizer.max_norm=None",
        "--config.optimizer.learning_rate=cyclical(0.05, 8.0, factor=1)",  # too much in the end
        f"--config.subset={listed}",
        "--save_every=0",
        "--keep=2",
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    ended = train(workdir, config, "--tensorboard")
    assert ended.returncode == 0, ended.stderr
    best = re.search(r"best validation .*, after (\d) epochs?", ended.stdout)
    assert best and best[1] != "6", "choose a config whose best is not its newest checkpoint"
    return Run(workdir, config, {})


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory, finished):
    """It was killed after its last save, before its last row."""
    workdir = tmp_path_factory.mktemp("runs") / "unfinished"
    shutil.copytree(finished.workdir, workdir)
    (workdir / "result.json").unlink()
    newest = max(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*"))
    shutil.rmtree(workdir / "checkpoints" / str(newest))
    path = workdir / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - len(path.read_bytes().splitlines(keepends=True)[-1]))
    return Run(workdir, finished.config, {})


def expected(run, command):
    """Returns the outcome of an undamaged run."""
    if command not in run.expected:
        run.expected[command], err = outcome(run, command)
        assert run.expected[command][0] == 0, err
    return run.expected[command]


def outcome(run, command):
    """Returns what a command comes to, without times, and what it says on stderr."""
    script, *arguments = command.split()
    if script == "train":
        return trained(run)
    if script == "report":
        page = run.workdir.parent / "page.html"
        ended = commands.in_this_process("report", f"--results={run.workdir}", f"--output={page}")
        text = page.read_text() if ended.returncode == 0 else ""
        page.unlink(missing_ok=True)
        return (ended.returncode, without_ids(text)), ended.stderr
    ended = commands.in_this_process(script, f"--workdir={run.workdir}", "--split=test", *arguments)
    return (ended.returncode, ended.stdout), ended.stderr


def trained(run):
    """Trains in a copy, which it changes."""
    copy = run.workdir.parent / "copy"
    shutil.copytree(run.workdir, copy)
    try:
        ended = train(copy, run.config)
        found = [ended.stdout]
        if ended.returncode == 0 and not (run.workdir / "result.json").exists():
            contents = [*stored(copy / "metrics.jsonl"), stored(copy / "result.json")]
            found = [{key: own[key] for key in own.keys() - TIMES} for own in contents]
        return (ended.returncode, *found), ended.stderr
    finally:
        shutil.rmtree(copy)


def without_ids(page):
    """Returns a page without the names that Plotly draws anew each time."""
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", page)


def files_of(run):
    """Returns all files that a run has left, but those of nothing."""
    found = (path for path in sorted(run.workdir.rglob("*")) if path.is_file())
    return [path for path in found if path.stat().st_size]


def readers_of(run, path):
    """Returns the commands that may read a file."""
    if "checkpoints" not in path.relative_to(run.workdir).parts:
        return COMMANDS
    is_finished = (run.workdir / "result.json").exists()
    return EVALUATE if is_finished else ("train",)


def check(run, path, bit, command, caplog):
    """Flips a bit, gives a command, and requires a line that tells, or the same outcome."""
    undamaged = expected(run, command)
    caplog.clear()
    with path.open("r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, bit // 8)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1 << bit % 8]), bit // 8)
        try:
            found, err = outcome(run, command)  # raises what would be a traceback
        finally:
            os.pwrite(file.fileno(), byte, bit // 8)
    lines = [line for line in err.splitlines() if not line.startswith("resumed elsewhere")]
    told = [*lines, *(record.getMessage() for record in caplog.records)]
    where = f"{path.relative_to(run.workdir)}, bit {bit}, {command}: {told}"
    if found == undamaged:
        return
    if found[0] == 0:  # it went on by other means, and says so
        assert any("damaged" in line for line in told), where
    else:
        assert found[0] == 2 and told and "Traceback" not in err, where
        assert len(lines) == 1 or "holds a run of" in lines[0], where


def sampled(run, rng, path):
    return rng.randrange(8 * path.stat().st_size)


# ---- docs/files.md

# Files that an undisturbed run without W&B does not leave.
NOT_HERE = ("wandb", "damaged-", ".<name>")


def sections_of_docs():
    """Returns {file: what the page says of it, in one line} of the workdir of a run."""
    text = (commands.ROOT / "docs" / "files.md").read_text()
    section = text.partition("\n## The workdir of a run\n")[2].partition("\n## ")[0]
    of_files = [part.partition("\n") for part in section.split("\n### ")[1:]]
    return {name.strip("`"): " ".join(text.split()) for name, _, text in of_files}


def test_the_files_of_a_run_are_those_of_the_docs(finished):
    sections = sections_of_docs()
    found = [path for path in sorted(finished.workdir.rglob("*")) if path.is_file()]
    named = {path: name_in_docs(sections, finished.workdir, path) for path in found}
    expected = [name for name in sections if not any(part in name for part in NOT_HERE)]
    assert set(named.values()) == set(expected)


def name_in_docs(sections, workdir, path):
    where = str(path.relative_to(workdir))
    return next((n for n in sections if fnmatch.fnmatch(where, re.sub("<.*?>", "*", n))), where)


@pytest.mark.parametrize("name", files.KINDS)
def test_the_docs_have_the_remedy_of_each_kind(name):
    assert files.KINDS[name].remedy in sections_of_docs()[name]


# ---- damage


# One command that reads it for each file of JSON, and for one file of the checkpoints.
FEW = {
    "finished": {"config.json": "train", "inputs.json": EVALUATE[0], "dataset.json": EVALUATE[0]}
    | {"result.json": "train", "metrics.jsonl": "report", "checkpoints/*": EVALUATE[0]},
    "unfinished": {"environment.json": "train", "metrics.jsonl": "train", "checkpoints/*": "train"},
}


@pytest.mark.parametrize("which", FEW)
def test_a_bit_of_some_files_is_told_or_harmless(which, request, caplog):
    run, rng = request.getfixturevalue(which), random.Random(which)
    for name, command in FEW[which].items():
        names = {path: str(path.relative_to(run.workdir)) for path in files_of(run)}
        path = rng.choice([path for path in names if fnmatch.fnmatch(names[path], name)])
        check(run, path, sampled(run, rng, path), command, caplog)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["finished", "unfinished"])
def test_a_bit_of_any_file_is_told_or_harmless(which, request, caplog):
    run, rng = request.getfixturevalue(which), random.Random(f"all of {which}")
    for path in files_of(run):
        for command in readers_of(run, path):
            check(run, path, sampled(run, rng, path), command, caplog)
