"""What a process holds does not grow with the epochs."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

TRAIN = """
import json, os, pathlib, sys, threading
from cyclical_jax.training import loop
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.keeper import Keeper
from tests.helpers import bright_classes, recipe_of


def held():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    tasks, files = (len(os.listdir(f"/proc/self/{name}")) for name in ("task", "fd"))
    threads = threading.active_count()
    megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return {"megabytes": megabytes, "threads": threads, "tasks": tasks, "files": files}


def report(row):
    assert row["val_accuracy"] is not None
    if round(row["epoch"]) in (50, 300):
        checkpoints.wait()
        print(json.dumps(held()))


dataset = bright_classes(53, 40)
recipe = recipe_of(batch_size=12, model__hidden_sizes=(6,), duration="300 epochs")
with Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
    loop.train(recipe, dataset, report=report, keeper=Keeper(checkpoints, every=0))
"""
MEGABYTES = 16  # TensorStore loses about 20 kB of what describes the arrays in each save


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc")
def test_300_epochs_with_a_save_and_a_validation_each_hold_no_more_than_50(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after_50, after_300 = map(json.loads, done.stdout.splitlines())
    growth = {name: after_300[name] - after_50[name] for name in after_50}
    assert growth["megabytes"] < MEGABYTES, growth
    assert max(growth["threads"], growth["tasks"], growth["files"]) <= 4, growth
