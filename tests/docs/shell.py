"""Blocks of shell commands: each is run, or proved by what else is known of it."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from tests import commands
from tests.docs.pages import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
CI = (ROOT / ".ci" / "run").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What `make` is really asked for, in the page's folder; all else is run by .ci/run.
RUN_BY_MAKE = ("help", "demo")


def commands_of(text: str) -> list[str]:
    """Splits a block where bash sees the end of a command."""
    found, held = [], ""
    for line in text.splitlines(keepends=True):
        held += line
        if not held.endswith("\\\n") and _is_whole(held):
            found.append(held)
            held = ""
    if held.strip():
        raise ValueError(f"bash sees no end of this command: {held}")
    return [command for command in found if shlex.split(command, comments=True)]


def _is_whole(text: str) -> bool:
    if "<<" not in text and not re.search(r"['\"(){}]|^\s*(for|while|if)\b|&&$|\|$", text):
        return True  # most lines, without asking
    seen = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    return seen.returncode == 0 and not seen.stderr


def run(text: str, folder: Path, shortened: str = "") -> str:
    """Runs the block in a folder and returns what it prints.

    Raises:
      AssertionError: A command does not end with 0, or is of no known kind.
    """
    each = [_with(command, shortened) for command in commands_of(text)]
    is_one = any(re.match(r"\s*(cd|export|set|\w+=\S*\s*$)", command) for command in each)
    printed = ""
    for command in ["".join(c for c in each if not _proved(c))] if is_one else each:
        if not is_one and _proved(command):
            continue
        printed += _of_ours(command, folder) if _is_ours(command) else _of_bash(command, folder)
    return printed


def _with(command: str, shortened: str) -> str:
    """Options `--config.*` go to what has a config, others to every program."""
    is_program = re.search(r"\bpython -m ", command)
    of_config = shortened.startswith(("--config", "'--config"))
    if not shortened or not is_program or (of_config and "--config=" not in command):
        return command
    words = command.rstrip("\n").split(" #")[0].rstrip()
    return f"{words} {shortened}\n"


def _is_ours(command: str) -> bool:
    """Whether it is one program of `experiments`, and nothing that only a shell understands."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    bare = re.sub(r"'[^']*'|\"[^\"$]*\"", "", command)
    is_plain = not re.search(r"[$`*~|&;<>]", bare)
    return is_plain and words[:2] == ["python", "-m"] and words[2].startswith("experiments.")


def _of_ours(command: str, folder: Path) -> str:
    script, *arguments = shlex.split(command, comments=True)[2:]
    script = script.removeprefix("experiments.")
    ended = commands.in_this_process(script, *arguments, cwd=folder, together=True)
    return _printed(command, ended.returncode, ended.stdout)


def _of_bash(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=os.environ | environment(folder) | commands.compiled(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return _printed(command, done.returncode, commands.without_waits(done.stdout))


def _printed(command: str, code: int, printed: str) -> str:
    assert code == 0, f"`{command.strip()}` ended with {code}:\n{printed}"
    return printed


def environment(folder: Path) -> dict[str, str]:
    """`python` is this Python, and the home is a folder of the page's own."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder / "home"),
        "JAX_PLATFORMS": "cpu",
        "NPROC": "4",  # tests/conftest.py says why
    }


# ---- what is not run here


def _proved(command: str) -> bool:
    """Checks a command that changes the machine; False where it is to be run."""
    words = shlex.split(command, comments=True)
    words = words[1:] if words[0] == "sudo" else words
    proof = PROOFS.get(words[0])
    if proof is None:
        return False
    return proof(words[1:]) is not False


def _make(words: list[str]):
    targets = [word for word in words if "=" not in word]
    if targets and set(targets) <= set(RUN_BY_MAKE) and targets == words:
        return False
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.M), f"the Makefile has no target {target}"
        assert re.search(rf"\bmake {target}\b", CI), f".ci/run does not run `make {target}`"


def _pip(words: list[str]):
    assert words[0] == "install", words
    for word in words[1:]:
        name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?", word).groups()
        if word.startswith("-"):
            assert word in ("-e", "-r", "--upgrade", "-U"), word
            continue
        known = _extras_of(name)
        assert known is not None, f"no file of this project installs {name}"
        missing = set(filter(None, (extras or "").split(","))) - known
        assert not missing, f"{name} has no extra {missing}"


def _extras_of(name: str) -> set[str] | None:
    """The extras of a package that this project installs, or None for another package."""
    if name in (".", PROJECT["name"]):
        return set(PROJECT["optional-dependencies"])
    if name == "requirements.txt":
        return set()
    texts = [MAKEFILE, (ROOT / "requirements.txt").read_text(), str(PROJECT)]
    if not any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) for text in texts):
        return None
    try:
        return set(metadata.metadata(name).get_all("Provides-Extra") or ())
    except metadata.PackageNotFoundError:
        return set()


def _apt_get(words: list[str]):
    for word in words[1:]:
        assert word.startswith("-") or re.search(rf"install .*\b{word}\b", CI), word


def _source(words: list[str]):
    (script,) = words
    assert script == ".venv/bin/activate" and "VENV := .venv" in MAKEFILE


def _git(words: list[str]):
    assert words[0] == "clone" and words[1] in PROJECT["urls"].values(), words


PROOFS = {
    "make": _make,
    "pip": _pip,
    "apt-get": _apt_get,
    "source": _source,
    "git": _git,
}
