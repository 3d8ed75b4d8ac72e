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
from tests.docs.pages import ROOT, Block, blocks_of, file_of, name_of

_ANY = r"[-+]?\d+(?:,\d{3})*(?:\.\d*)?(?:e[-+]?\d+)?"
_NUMBER = re.compile(rf"(?<![\w.]){_ANY}|(?<![A-Za-z_])\d+(?:\.\d+)?")


def run(page: Path, folder: Path, *, is_slow: bool) -> None:
    """Runs the blocks of a page; without `is_slow` those that are not marked as slow.

    Raises:
      AssertionError: A block fails, or prints something else than the page says.
    """
    __tracebackhide__ = True
    names, printed, language = {"__name__": "__main__"}, None, ""
    with _alone_in(folder):
        for block in blocks_of(page):
            if block.language == "text":
                check(page, block, printed, numbers=language == "python")
            elif "not run" in block.notes or ("slow" in block.notes and not is_slow):
                printed = None
            elif block.language != "plain":
                printed, language = _run_block(page, block, folder, names), block.language


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
    if name := file_of(block):
        _write(name, block.text, folder)
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


def check(page: Path, block: Block, printed: str | None, *, numbers: bool) -> None:
    """Compares a block of text with what the block before it printed, if that was run.

    With `numbers` the numbers agree too, but for rounding; else any number is as good as another,
    such as a time.
    """
    __tracebackhide__ = True
    if printed is None:
        return
    expected, found = _lines(block.text), _lines(printed)
    parts = (r"(?:.*\n)*?" if line == "..." else _pattern(line) for line in expected)
    match = re.fullmatch("".join(parts), "".join(f"{line}\n" for line in found))
    told = [number[0] for line in expected for number in _NUMBER.finditer(line)]
    if match is None or (numbers and not all(map(_is_near, match.groups(), told))):
        difference = "\n".join(difflib.ndiff(expected, found))
        raise AssertionError(f"{name_of(page)}:{block.line}: other output\n{difference}")


def _lines(text: str) -> list[str]:
    """Lines that are not empty, with one space for several."""
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def _pattern(line: str) -> str:
    """Returns a pattern of the line, with a group for each of its numbers."""
    pieces, start = "", 0
    for number in _NUMBER.finditer(line):
        pieces += re.escape(line[start : number.start()]) + f"({_ANY})"
        start = number.end()
    return pieces + re.escape(f"{line[start:]}\n")


def _is_near(found: str, told: str) -> bool:
    """Whether two numbers are the same to 2 %, or but for the last digit that the page has."""
    mantissa, _, exponent = told.replace(",", "").partition("e")
    last = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2])) if "." in mantissa else 0
    one, other = (float(number.replace(",", "")) for number in (found, told))
    return abs(one - other) <= max(0.02 * abs(other), 1.001 * last)


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
