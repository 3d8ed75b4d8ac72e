"""The pages that users read, and the blocks of one.

A fenced block is `bash` or `python`, which is run; `text`, which is what the block before it
prints; or `plain`, which is neither. Comments directly above a fence change how it is run:

    <!-- not run: it needs a TPU pod -->
    <!-- slow -->
    <!-- shortened: --config.duration="20 steps" -->
"""

import re
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = FRONT + sorted((ROOT / "docs").rglob("*.md"))
# Without the tables of numbers that a command makes.
TEXTS = [page for page in PAGES if ROOT / "docs" / "results" not in page.parents]
LANGUAGES = ("bash", "python", "text", "plain")
NOTES = ("not run", "slow", "shortened")
_FILE = re.compile(r"# ([\w/]+\.py)\n")
_COMMENT = re.compile(r"<!-- *([a-z ]+?)(?:: *(.*?))? *-->", re.DOTALL)


class Block(NamedTuple):
    line: int  # of its first line of text, from 1
    language: str
    text: str
    notes: dict[str, str]  # {"shortened": "--config.duration=..."}, of the comments above it


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def tokens_of(page: Path):
    """Returns the page as CommonMark with tables has it."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def blocks_of(page: Path) -> list[Block]:
    """Returns the blocks in their order, those within lists too."""
    blocks, notes, end = [], {}, None
    for token in tokens_of(page):
        if token.map is None:
            continue
        if token.map[0] != end:  # whatever is between a comment and a fence
            notes = {}
        if token.type == "html_block":
            notes, end = notes | dict(_COMMENT.findall(token.content)), token.map[1]
        elif token.type in ("fence", "code_block"):
            blocks.append(Block(token.map[0] + 2, token.info.strip(), token.content, notes))
    return blocks


def file_of(block: Block) -> str | None:
    """Returns the name of the file that a Python block is, if it begins with one."""
    named = _FILE.match(block.text) if block.language == "python" else None
    return named and named[1]


def problem_of(block: Block) -> str | None:
    if block.language not in LANGUAGES:
        return f"a block is one of {', '.join(LANGUAGES)}, got {block.language!r}"
    for name, value in block.notes.items():
        if name not in NOTES or (name != "slow") == (value == ""):
            return f"{name!r} above a block is not one of {', '.join(NOTES)}, or has no reason"
    return None
