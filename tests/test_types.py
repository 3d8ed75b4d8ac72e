"""The types of public names, as the strict type checker of another project sees them."""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

import cyclical_jax

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
CALLS = TESTS / "typed_calls.py"
# What a snippet of the README may take from the code around it.
AROUND = """
import jax
import jax.numpy as jnp
import optax
import cyclical_jax as cj

optimizer = optax.sgd(0.1)
params = {"kernel": jnp.ones((3, 2))}
opt_state = optimizer.init(params)
logits, labels, step, key = jnp.zeros((4, 10)), jnp.arange(4), jnp.int32(3), jax.random.key(0)
images = jnp.zeros((4, 8, 8, 1))
"""


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
def test_calls_and_snippets_pass_a_strict_type_checker(tmp_path, pytestconfig):
    """pyright finds nothing in them either."""
    texts = {"names": "import cyclical_jax as cj\n\n"}
    texts["names"] += "".join(f"cj.{name}\n" for name in [*cyclical_jax.__all__, "__version__"])
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    texts |= {f"snippet_{number}": AROUND + text for number, text in enumerate(snippets)}
    assert len(snippets) > 1
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
