"""`make help` and the pages name the targets that the Makefile has."""

import pathlib
import re
import subprocess
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
PHONY = set(re.search(r"^\.PHONY: (.*?[^\\])\n", MAKEFILE, re.M | re.S)[1].split()) - {"\\"}
PAGES = [
    ROOT / ".ci/run",
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob(".github/**/*"),
]


def make(*arguments):
    """Returns the lines that `make` prints with the repository's Makefile."""
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_help_has_one_line_for_each_target():
    lines = [re.fullmatch(r"make (\S+) +(\S.*)", line) for line in make("help").splitlines()]
    assert None not in lines
    names = [line[1] for line in lines]
    assert len(names) > 10 and len(set(names)) == len(names)
    assert set(names) == PHONY
    assert max(len(line[0]) for line in lines) <= 100


def test_every_target_that_is_no_file_is_phony():
    targets = re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.M)
    assert sorted(targets) == sorted(PHONY)


def test_make_alone_shows_help():
    assert make() == make("help")


def test_pages_name_targets_that_exist():
    """Words after `make` count where the text marks them as a command."""
    named = {
        target
        for page in PAGES
        if page.is_file()
        for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", page.read_text(), re.M)
    }
    assert len(named) > 5
    assert named - PHONY == set()


def test_the_bare_environments_are_the_oldest_and_the_newest_supported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    of_python = re.compile(r"Programming Language :: Python :: 3\.(\d+)")
    minors = [int(found[1]) for found in map(of_python.fullmatch, project["classifiers"]) if found]
    assert minors == list(range(min(minors), max(minors) + 1))
    assert project["requires-python"] == f">=3.{min(minors)}"
    assert f"\nOLDEST ?= python3.{min(minors)}\n" in MAKEFILE
    assert f"\nNEWEST ?= python3.{max(minors)}\n" in MAKEFILE
