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


def test_every_file_and_folder_that_is_named_exists():
    files = set(re.findall(r"`([\w./]*\w\.py|[\w.]+/[\w./]*)`", PAGE)) - {"dist/"}
    assert len(files) > 40
    places = [ROOT, *(ROOT / name for name in ("cyclical_jax", "experiments", "examples", "tests"))]
    found = {name for name in files for place in places if is_in(place, name)}
    assert files - found == set()


def is_in(place, name):
    return (place / name).exists() or (place != ROOT and any(place.rglob(name)))
