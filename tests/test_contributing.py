"""CONTRIBUTING.md names the files that are there."""

import pathlib
import re
from collections import Counter

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_each_file_of_the_engine_has_one_row():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if re.match(r"\| `\w+\.py`", line)]
    named = Counter(name for row in rows for name in re.findall(r"`(\w+\.py)`", row))
    engine = {path.name for path in (ROOT / "cyclical_jax/training").glob("*.py")}
    assert named == Counter(engine - {"__init__.py"})


def test_every_file_that_is_named_is_there_even_without_its_folder():
    """tests/docs looks for the others in all pages: names that begin at the root."""
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    there = [path.as_posix() for path in ROOT.glob("[a-z]*/**/*.py")]
    assert len(named) > 40
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in there)} == set()
