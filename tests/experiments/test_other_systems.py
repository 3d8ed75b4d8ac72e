"""What a system may refuse: another user's files, and hard links."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests import commands, faults

CONFIG = ["--config=configs/digits.py", "--config.duration=1 epoch", "--save_every=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert commands.in_this_process("train", *CONFIG, f"--workdir={workdir}").returncode == 0
    return workdir


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
def test_another_users_files_are_used_or_told_in_a_line(run, tmp_path):
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv")
    less = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable]
    script = ["-m", "tests.experiments.call_as_another_user", tmp_path, run, *CONFIG]
    done = subprocess.run(
        [*less, *script],
        cwd=commands.ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) > 50
    for what, mode, script, code, err in outcomes:
        case = f"{script} with {what or 'a workdir'} {mode:o}: {err}"
        assert code in (0, 2), case
        assert err == "" if code == 0 else err.count("\n") == 1 and str(tmp_path) in err, case
    refused = {(what, mode) for what, mode, _, code, _ in outcomes if code == 2}
    assert {("", 0o700), ("config.json", 0o600), ("parent", 0o555)} <= refused
    worked = {(what, script) for what, mode, script, code, _ in outcomes if code == 0}
    assert {("", "evaluate"), ("config.json", "train"), ("", "report")} <= worked


@pytest.mark.slow
def test_a_file_system_without_hard_links_holds_a_run(tmp_path):
    library = faults.compiled(tmp_path)
    environment = faults.environment(library, "link,linkat", tmp_path, errno.EPERM)
    workdir = f"--workdir={tmp_path / 'run'}"
    ended = commands.in_a_process("train", *CONFIG, workdir, **environment)
    assert (ended.returncode, ended.stderr) == (0, "")
