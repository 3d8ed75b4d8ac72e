"""The time that `import cyclical_jax` adds to `import jax, optax`. The claim: at most 0.3 s.

    python -m benchmarks.import_time

Every import runs in a new process. The first of each kind fills the disk cache and is not counted.
"""

import os
import subprocess
import sys

import numpy as np

from benchmarks import interleaved

STATEMENTS = {"jax, optax": "import jax, optax", "and ours": "import jax, optax, cyclical_jax"}


def main():
    processes = {name: _process(statement) for name, statement in STATEMENTS.items()}
    seconds = interleaved.time_interleaved(processes, rounds=9, round_seconds=0)
    for name in STATEMENTS:
        print(f"{name:>10} {interleaved.median_microseconds(seconds, name) / 1e6:>6.2f} s")
    difference = np.median(seconds["and ours"] - seconds["jax, optax"])
    print(f"{'difference':>10} {difference:>6.2f} s")


def _process(statement):
    command = [sys.executable, "-c", statement]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return lambda: subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
