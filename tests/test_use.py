"""The commands and the snippets of docs/use.md run as they are there, in their order."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest

from tests import commands

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "use.md"
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), re.S)


def test_the_page_runs(tmp_path):
    pytest.importorskip("flatbuffers")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    found = {}
    with contextlib.chdir(tmp_path):
        for language, text in BLOCKS:
            if language == "python":
                exec(compile(text, PAGE, "exec"), found)
                continue
            python, _, module, *arguments = shlex.split(text.replace("\\\n", ""))
            assert python == "python"
            script = module.removeprefix("experiments.")
            ended = commands.in_this_process(script, *arguments, cwd=tmp_path)
            assert ended.returncode == 0, ended.stderr
    assert (found["numbers"] == found["labels"]).mean() > 0.9
    assert (tmp_path / "runs/digits/confusion.png").exists() and len(BLOCKS) == 6
