"""The memory of a table of 500 runs, each with 100 rows. The claim: at most 600 MB.

    python -m benchmarks.table_memory

The runs are real, of a small network on digits; each row has some 15 numbers. Every table is a
process of its own. The first has two runs, for what JAX and the libraries take; the last finds all
500 runs on the disk.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = """
from experiments.arms import Arm, Budget, Table

TABLE = Table(
    about="500 runs.",
    common={"duration": "100 epochs", "batch_size": 400, "model.hidden_sizes": (4,)},
    arms={
        "plain": Arm(),
        "decayed": Arm({"optimizer.weight_decay": 0.01}, control="plain"),
    },
    budgets={"digits": Budget(num_seeds=250)},
)
"""
COMMAND = [sys.executable, "-m", "experiments.table", "--table=many.py", "--workdir=out"]


def main():
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "many.py").write_text(TABLE)
        for num_seeds, what in ((1, "trained"), (250, "trained"), (250, "read")):
            start = time.perf_counter()
            megabytes = _peak([*COMMAND, f"--num_seeds={num_seeds}"], directory)
            seconds = time.perf_counter() - start
            print(f"{2 * num_seeds:>4} runs {what:>8}: {megabytes:,.0f} MB, {seconds:.0f} s")
        size = (Path(directory) / "out" / "runs.jsonl").stat().st_size
        print(f"runs.jsonl: {size / 1e6:.0f} MB")


def _peak(command: list[str], directory: str) -> float:
    """Returns the most memory that a command has at any time, in megabytes."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
