"""A power failure while a table is trained: each run that had ended is found."""

import sys
from pathlib import Path

import pytest

from experiments.runs import Store
from tests import commands, power

WORKDIR = Path("new", "table")
ADDS = f"""
import os, sys
from pathlib import Path
from configs import digits
from cyclical_jax.catalogue import parse
from cyclical_jax.training.population import Outcome
from experiments.runs import Store
root = Path(sys.argv[1])
marks = os.open(root / {power.MARKS!r}, os.O_WRONLY | os.O_CREAT)
recipe = parse(digits.get_config("plain"), num_devices=1)
rows = [{{"step": step, "epoch": step, "loss": 0.5}} for step in range(1, 100)]
for keys in ("12", "34"):  # a table that goes on
    with Store(root / {str(WORKDIR)!r}) as store:
        for key in keys:
            store.add(key, recipe, Outcome(rows, {{"test": {{"loss": float(key)}}}}, None))
            os.write(marks, f"{{key}}\\n".encode())
"""


@pytest.mark.slow
@power.needs_compiler
def test_after_a_power_failure_a_table_finds_each_run_that_had_ended(tmp_path):
    def check(folder, lines):
        with Store(folder / WORKDIR) as store:
            for key in lines:
                assert store[key].scores == {"test": {"loss": float(key)}}

    (tmp_path / "disk").mkdir()
    command = sys.executable, "-c", ADDS, str(tmp_path / "disk")
    environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(commands.ROOT)}
    changes = power.record(tmp_path / "disk", tmp_path, *command, **environment)
    assert power.assert_safe(changes, check, tmp_path) >= 10
