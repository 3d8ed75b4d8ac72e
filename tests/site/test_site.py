"""The documentation site is built without a warning, and every page looks as it should."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments import drawing

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-docs" / "bin" / "python"  # made by `make docs` and `make test-slow`


@pytest.mark.parametrize("name", ["site.css", "logo.svg"])
def test_the_colours_are_those_of_the_pictures(name):
    colours = {colour.lower() for theme in drawing.THEMES.values() for colour in theme.lines}
    found = re.findall(r"#[0-9a-f]{6}\b", (ROOT / "docs" / "assets" / name).read_text().lower())
    assert found and set(found) <= colours


def output_of(*command):
    """Returns all that a program of the site's environment prints; it must end with 0."""
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "default"}
    environment = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [PYTHON, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="the tools of `make docs` are not installed")
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_every_page_is_sound_wide_narrow_light_dark_and_without_a_network(tmp_path):
    site = os.environ.get("BUILT_SITE", tmp_path)  # where `make docs` has just built it
    if site == tmp_path:
        output_of("-m", "mkdocs", "build", "--strict", "--site-dir", site)
    assert output_of("tests/site/browse.py", site) == ""
