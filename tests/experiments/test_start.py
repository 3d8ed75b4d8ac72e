"""What a command says where it cannot start, in environments that lack what it needs."""

import ast
import subprocess
import sys

import pytest

import experiments
from tests import commands
from tests.experiments.test_paths import SCRIPTS

PACKAGE = commands.ROOT / "experiments"
FIRST = PACKAGE / "__init__.py"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python with nothing installed."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def run(python, module, **environment):
    command = [python, "-m", f"experiments.{module}", "--help"]
    names = {"PATH": "/usr/bin", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(command, cwd=commands.ROOT, env=names, capture_output=True, text=True)


def install(bare, name, version):
    """Puts what `importlib.metadata` reads of a package there."""
    (site,) = bare.glob("lib/python*/site-packages")
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_the_extra_a_command_says_how_to_get_it(bare, script):
    done = run(bare / "bin" / "python", script)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("not installed: jax, optax, absl-py, ") and "flax" in line
    assert ". Give this command first: " in line


@pytest.mark.parametrize("is_made", [True, False])
def test_the_environment_that_make_has_made_is_to_be_activated(is_made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "orig_argv", ["python3"])
    (tmp_path / ".venv").mkdir()
    if is_made:
        (tmp_path / ".venv" / "installed").touch()
    install = "python3 -m pip install '.[train]'"
    assert experiments._command() == ("source .venv/bin/activate" if is_made else install)


def test_what_is_too_old_is_named_with_the_version_that_is_needed(bare):
    install(bare, "jax", "0.4.38")
    install(bare, "optax", "0.2.8")
    (line,) = run(bare / "bin" / "python", "train").stderr.splitlines()
    assert line.startswith("jax must be 0.10 or newer, but is 0.4.38; not installed: absl-py, ")


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 6, 0), (2, 7)])
def test_an_old_python_is_named_before_anything_else(version):
    program = (
        f"import sys; sys.version_info = {version}; sys.argv = ['-m']; import experiments.train"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=commands.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        f"cyclical_jax needs Python 3.11 or newer, but this is Python {version[0]}.{version[1]}. "
        "Use another, as in make demo PYTHON=python3.12\n"
    )


def test_an_old_python_can_read_what_says_so():
    ast.parse(FIRST.read_text(), feature_version=(3, 6))


def test_make_asks_the_same_file():
    assert subprocess.run([sys.executable, FIRST], capture_output=True, text=True).stderr == ""
    makefile = (commands.ROOT / "Makefile").read_text()
    assert "$(PYTHON) experiments/__init__.py" in makefile


def test_whoever_imports_the_package_is_not_ended():
    program = "import sys; sys.version_info = (3, 10); import experiments"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=commands.ROOT, text=True)
    assert done.returncode == 0
