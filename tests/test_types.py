"""The types of public names, as the strict type checker of another project sees them."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest

import cyclical_jax
from tests.docs.pages import blocks_of

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
CALLS = TESTS / "typed_calls.py"


def strict_errors(files, folder, cache):
    """Returns what mypy says of these files, as if this package were installed."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}"]
    # Optax has no types of its own; mypy says so of every import of it.
    command += ["--follow-imports=silent", "--disable-error-code=import-untyped"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *map(str, files)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("Success")]


@pytest.mark.slow
def test_calls_and_the_readme_pass_a_strict_type_checker(tmp_path, pytestconfig):
    """pyright finds nothing in them either."""
    blocks = [b.text for b in blocks_of(ROOT / "README.md") if b.language == "python"]
    assert "import cyclical_jax as cj\n" in blocks[0]
    texts = {f"block_{number}": text for number, text in enumerate(blocks)}
    names = [f"cj.{name}\n" for name in [*cyclical_jax.__all__, "__version__"]]
    texts["names"] = "import cyclical_jax as cj\n\n" + "".join(names)
    files = [tmp_path / f"{name}.py" for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        file.write_text(text)
    cache = pytestconfig.cache.mkdir("mypy")
    assert strict_errors([CALLS, *files], tmp_path, cache) == []


@pytest.mark.usefixtures("fast_compilation")
def test_the_calls_run():
    made = runpy.run_path(str(CALLS))["calls"]()
    assert made["total_steps"] == 60 and made["same"] == [60, 60] and made["longer"] == 37
    assert made["row"].keys() == {"every", "max_delta", "clipping", "weight_decay", "share"}
    assert made["count"] == 0
