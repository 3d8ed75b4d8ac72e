"""Pages fit their width, and their links, anchors and pictures are there."""

import collections
import itertools
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import PAGES, ROOT, TEXTS, name_of, tokens_of

MOST_CHARACTERS = 115  # of a table's row, as it is rendered
MOST_LINES = 150  # of README
LONGEST_LINE = 120


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_no_table_is_wider_than_the_page(page):
    wide = {line: width for line, width in rows_of(page) if width > MOST_CHARACTERS}
    assert wide == {}, "{line: characters}"


@pytest.mark.parametrize("page", [p for p in TEXTS if p.name != "CHANGELOG.md"], ids=name_of)
def test_no_line_is_long_outside_of_tables(page):
    lines = enumerate(page.read_text().splitlines(), 1)
    long = [n for n, line in lines if len(line) > LONGEST_LINE and not line.startswith("|")]
    assert long == []


def rows_of(page):
    """Yields (line, characters of its cells and what is between them) of each table's rows."""
    line, width = 0, 0
    for token in tokens_of(page):
        if token.type == "tr_open":
            line, width = token.map[0] + 1, 0
        elif token.type in ("th_open", "td_open"):
            width += 3
        elif token.type == "inline":
            width += sum(len(child.content) for child in token.children)
        elif token.type == "tr_close":
            yield line, width - 3


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_are_there(page):
    missing = [link for link in links_of(page) if not is_there(page, link)]
    assert missing == []


def links_of(page):
    """Returns the targets of links and pictures, those of raw HTML too."""
    found = []
    for token in tokens_of(page):
        for child in [token, *(token.children or ())]:
            found += [child.attrs[name] for name in ("href", "src") if name in child.attrs]
            if child.type in ("html_block", "html_inline"):
                found += re.findall(r'(?:href|src|srcset)="([^"]+)"', child.content)
    return found


def is_there(page: Path, link: str) -> bool:
    if re.match(r"https?://|mailto:", link):
        return True  # not looked up: tests need no network
    place, _, anchor = unquote(link).partition("#")
    target = page.parent / place if place else page
    if not target.exists() or not target.resolve().is_relative_to(ROOT):
        return False
    return not anchor or (target.suffix == ".md" and anchor in anchors_of(target))


def anchors_of(page: Path) -> set[str]:
    """GitHub's: a heading's letters, digits, hyphens, underscores; a repeated one has a number."""
    anchors = set(re.findall(r'<a (?:id|name)="([^"]+)"', page.read_text()))
    tokens, seen = tokens_of(page), collections.Counter()
    for heading, inline in itertools.pairwise(tokens):
        if heading.type == "heading_open":
            text = "".join(child.content for child in inline.children)
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return anchors


def test_an_anchor_is_githubs(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b_c`: d & e\n## Same\n## Same\n\nText\n")
    assert anchors_of(page) == {"a-b_c-d--e", "same", "same-1"}
