"""What a short run does before its first step and after its last, where most of its seconds go."""

import os
import subprocess
import sys

import jax
import pytest

from tests.commands import ROOT

RUN = """
import runpy
import sys

from cyclical_jax._compilations import compilations

with compilations() as compiled:
    try:
        runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, end.code
with open("found.txt", "w") as file:
    print(len(compiled), *sys.modules, file=file)
"""
UNUSED = {"cv2", "grain", "matplotlib", "pandas", "scipy.stats", "sklearn"}
UNUSED |= {"tensorboard", "tensorflow", "tensorflow_datasets", "torch"}
# First state, steps, scores of two splits, norm of the parameters; and copies, of seven shapes.
PROGRAMS = 5 + 7


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The number of programs that a run on digits compiled, and the names of all modules."""
    folder = tmp_path_factory.mktemp("start")
    config = [f"--config={ROOT}/configs/digits.py", "--config.duration=2 steps"]
    command = [sys.executable, "-c", RUN, *config, "--workdir=out"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)
    cache = jax.config.jax_compilation_cache_dir
    environment |= (
        {"JAX_COMPILATION_CACHE_DIR": cache} if cache else {"XDG_CACHE_HOME": str(folder)}
    )
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    number, *modules = (folder / "found.txt").read_text().split()
    return int(number), set(modules)


def test_a_run_imports_nothing_that_it_does_not_use(found):
    _, modules = found
    assert {"experiments.command_line", "orbax.checkpoint"} <= modules
    assert modules & UNUSED == set()


def test_a_run_compiles_no_program_of_one_operation_but_copies(found):
    number, _ = found
    assert 5 < number <= PROGRAMS
