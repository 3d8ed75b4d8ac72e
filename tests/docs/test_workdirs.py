"""A reader who follows all pages in one folder finds no workdir and no file of another page."""

import re

from tests.docs.pages import TEXTS, blocks_of, file_of, name_of

_ARGUMENT = re.compile(r"""'(--[^']*)'|(--[\w.]+(?:="[^"]*"|=[^\s"]*)?)""")
_OF_THE_RUN = ("--config", "--plugin")  # other options may differ when a run goes on

# Commands that a page gives to show that they are refused.
REFUSED = {
    ("runs/digits_all", "--config.duration=50 epochs", "--config=configs/digits.py:all"),
}


def found_in(pages, entries_of):
    """Returns {name: {its content: the places that have it}} of what `entries_of` blocks yields."""
    found = {}
    for page in pages:
        for block in blocks_of(page):
            for name, content in entries_of(block):
                place = f"{name_of(page)}:{block.line}"
                found.setdefault(name, {}).setdefault(content, []).append(place)
    return found


def runs_in(block):
    """Yields (workdir, what makes the run) of each command that trains."""
    text = block.text.replace("\\\n", " ") if block.language == "bash" else ""
    for options in re.findall(r"experiments\.train\b(.*)", text):
        arguments = [one.replace('"', "") or other for other, one in _ARGUMENT.findall(options)]
        workdirs = [one.partition("=")[2] for one in arguments if one.startswith("--workdir=")]
        run = tuple(sorted(one for one in arguments if one.startswith(_OF_THE_RUN)))
        if any("first_cycle" in one for one in run):  # it may be made longer
            run = tuple(one for one in run if not one.startswith("--config.duration"))
        if workdirs and (*workdirs, *run) not in REFUSED:
            yield workdirs[0], run


def files_in(block):
    """Yields (name, content) of a file of one's own."""
    if name := file_of(block):
        yield name, block.text


def test_a_workdir_has_one_run():
    found = found_in(TEXTS, runs_in)
    assert len(found) > 40
    assert {workdir: runs for workdir, runs in found.items() if len(runs) > 1} == {}


def test_a_file_has_one_content():
    found = found_in(TEXTS, files_in)
    assert len(found) > 5
    several = {name: list(texts.values()) for name, texts in found.items() if len(texts) > 1}
    assert several == {}
