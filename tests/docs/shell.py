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
# With the environment that is there, which may have been made by hand.
MAKE_DEMO = "make --old-file=.venv/installed demo"


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


def run(text: str, folder: Path, *, shortened: str = "", makes: bool = False) -> str:
    """Runs the block in a folder and returns what it prints; `makes` allows `make demo`.

    Raises:
      AssertionError: A command does not end with 0, or is of no known kind.
    """
    __tracebackhide__ = True
    each = [_with(command, shortened) for command in commands_of(text)]
    each = [command.replace("make demo", MAKE_DEMO) if makes else command for command in each]
    each = [command for command in each if not _is_proved(command, makes)]
    if any(map(_CHANGES_THE_SHELL.match, each)):
        each = ["".join(each)]
    return "".join(
        _of_ours(command, folder) if _is_ours(command) else _of_bash(command, folder)
        for command in each
    )


_CHANGES_THE_SHELL = re.compile(r"\s*(?:(?:cd|export|set)\b|\w+=\S*\s*$)")


def _with(command: str, shortened: str) -> str:
    """Options `--config.*` go to what has a config, others to every program."""
    of_config = shortened.startswith(("--config", "'--config"))
    if "python -m " not in command or (of_config and "--config=" not in command):
        return command
    words = command.partition(" #")[0].rstrip()
    return f"{words} {shortened}\n"


def _is_ours(command: str) -> bool:
    """Whether it is one program of `experiments`, and nothing that only a shell understands."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    is_plain = not any(set(word) <= set("|&;<>()") or "$" in word for word in words)
    is_program = " ".join(words[:3]).startswith("python -m experiments.")
    return is_plain and is_program


def _of_ours(command: str, folder: Path) -> str:
    __tracebackhide__ = True
    script, *arguments = shlex.split(command.replace("\\\n", ""), comments=True)[2:]
    script = script.removeprefix("experiments.")
    ended = commands.in_this_process(script, *arguments, cwd=folder, together=True)
    return _printed(command, ended.returncode, ended.stdout)


def _of_bash(command: str, folder: Path) -> str:
    __tracebackhide__ = True
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=os.environ | environment(folder) | commands.compiled(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return _printed(command, done.returncode, commands.without_waits(done.stdout))


def _printed(command: str, code: int, printed: str) -> str:
    __tracebackhide__ = True
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


def _is_proved(command: str, makes: bool) -> bool:
    """Checks a command that changes the machine; False where it is to be run."""
    words = shlex.split(command, comments=True)
    if words in (["make"], ["make", "help"], MAKE_DEMO.split()):
        return False
    proof = PROOFS.get(words[0])
    if proof is not None:
        proof(words[1:])
    return proof is not None


def _make(words: list[str]) -> None:
    for target in (word for word in words if "=" not in word):
        assert target in _reached_by_ci() | set(UNREACHED), f".ci/run does not make {target}"
        _dry_run(target)


# Targets that .ci/run leaves out, and why.
UNREACHED = {
    "tables": "takes some minutes; tests/experiments has smaller ones",
    "benchmarks": "needs a machine that nobody else uses",
    "clean": "would remove the environment that runs this",
}


def _reached_by_ci() -> set[str]:
    """The targets that .ci/run makes, and those that they need."""
    needs = {
        target: after.partition("##")[0].split()
        for target, after in re.findall(r"^([a-z-]+):(.*)", MAKEFILE, re.M)
    }
    reached, found = set(), set(re.findall(r"\bmake ([a-z-]+)", CI))
    while found:
        reached |= found
        found = {need for target in found for need in needs.get(target, ())} - reached
    return reached


def _dry_run(target: str) -> None:
    """The programs that make would start are there."""
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for module in re.findall(r"python -m ((?:experiments|benchmarks)\S+)", done.stdout):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module


def _pip(words: list[str]) -> None:
    assert words[0] == "install", words
    for word in words[1:]:
        if word in ("-e", "-r", "-U", "--upgrade"):
            continue
        name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?", word).groups()
        known = _extras_of(name)
        assert known is not None, f"no file of this project installs {name}"
        missing = set(filter(None, (extras or "").split(","))) - known
        assert not missing, f"{name} has no extra {missing}"


def _extras_of(name: str) -> set[str] | None:
    """The extras of a package that this project installs, or None for another package."""
    if name == ".":
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


def _apt_get(words: list[str]) -> None:
    for word in words[1:]:
        assert word.startswith("-") or re.search(rf"install .*\b{word}\b", CI), word


def _source(words: list[str]) -> None:
    (script,) = words
    assert script == ".venv/bin/activate" and "VENV := .venv" in MAKEFILE


PROOFS = {
    "make": _make,
    "pip": _pip,
    "apt-get": _apt_get,
    "source": _source,
}
