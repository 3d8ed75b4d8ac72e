"""Runs a page: its blocks in their order, in one fresh folder."""

import contextlib
import difflib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import tensorflow_datasets as tfds

from tests.docs import shell
from tests.docs.pages import ROOT, Block, blocks_of, name_of

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(,\d{3})*(\.\d+)?(e[-+]?\d+)?|(?<![A-Za-z_])\d+(\.\d+)?")
_FILE = re.compile(r"# ([\w/]+\.py)\n")


def run(page: Path, folder: Path, *, is_slow: bool) -> None:
    """Runs the blocks of a page; without `is_slow` those that are not marked as slow.

    Raises:
      AssertionError: A block fails, or prints something else than the page says.
    """
    __tracebackhide__ = True
    names, printed = {"__name__": "__main__"}, ""
    with _alone_in(folder):
        for block in blocks_of(page):
            if block.language == "text":
                check(page, block, printed)
            elif "not run" in block.notes or ("slow" in block.notes and not is_slow):
                printed = None
            elif block.language != "plain":
                printed = _run_block(page, block, folder, names)


def _run_block(page: Path, block: Block, folder: Path, names: dict) -> str:
    __tracebackhide__ = True
    try:
        if block.language == "python":
            return _of_python(page, block, folder, names)
        shortened, makes = block.notes.get("shortened", ""), "slow" in block.notes
        return shell.run(block.text, folder, shortened=shortened, makes=makes)
    except AssertionError as error:
        raise AssertionError(f"{name_of(page)}:{block.line}: {error}") from None


def _of_python(page: Path, block: Block, folder: Path, names: dict) -> str:
    code = compile("\n" * (block.line - 1) + block.text, page, "exec", dont_inherit=True)
    if named := _FILE.match(block.text):
        _write(named[1], block.text, folder)
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return out.getvalue()


def _write(name: str, text: str, folder: Path) -> None:
    """A block that begins with the name of a file is that file; one of ours must be the same."""
    text = text.partition("\n")[2]
    if (ROOT / name).exists():
        assert text == (ROOT / name).read_text(), f"the page shows another {name}"
    else:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def check(page: Path, block: Block, printed: str | None) -> None:
    """Compares a block of text with what the block before it printed, if that was run."""
    __tracebackhide__ = True
    if printed is None:
        return
    expected, found = _plain(block.text), _plain(printed)
    parts = (r"(?:.*\n)*?" if line == "..." else re.escape(f"{line}\n") for line in expected)
    if re.fullmatch("".join(parts), "".join(f"{line}\n" for line in found)) is None:
        difference = "\n".join(difflib.ndiff(expected, found))
        raise AssertionError(f"{name_of(page)}:{block.line}: other output\n{difference}")


def _plain(text: str) -> list[str]:
    """Lines with # for each number and one space for several."""
    lines = (re.sub(r"\s+", " ", _NUMBER.sub("#", line)).strip() for line in text.splitlines())
    return [line for line in lines if line]


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """The folder is the current one, has what a clone has, and is forgotten afterwards."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("runs", "dist", "build"):
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "home").mkdir()
    data = str(folder / "home" / "tensorflow_datasets")
    before = set(sys.modules)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(mock.patch.object(sys, "path", [*sys.path, str(folder)]))
        stack.enter_context(mock.patch.dict(os.environ, {"HOME": str(folder / "home")}))
        stack.enter_context(mock.patch.object(tfds.core.constants, "DATA_DIR", data))
        yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]
