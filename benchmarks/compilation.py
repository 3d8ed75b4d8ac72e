"""The time of compiling a run's programs, without the persistent compilation cache over with it.

    python -m benchmarks.compilation

Each of five rounds trains twice, in two processes, with one new cache directory: first cold, then
warm. The claim: warm is at least 5 times as fast as cold. A whole run also traces its programs, and
no cache saves that time.
"""

import os
import statistics
import subprocess
import sys
import tempfile

ROUNDS = 5
PROGRAM = """
import sys, time
import jax
from configs import digits
from cyclical_jax import data
from cyclical_jax.training import loop
from cyclical_jax.catalogue import parse
from experiments.command_line import use_compilation_cache

use_compilation_cache()
compiling = 0.0

def listen(event, seconds, **_):
    global compiling
    if event == "/jax/core/compile/backend_compile_duration":
        compiling += seconds

jax.monitoring.register_event_duration_secs_listener(listen)
config = digits.get_config("all")
config.duration = "2 steps"
{changes}
start = time.perf_counter()
loop.train(parse(config), data.load("digits"), report=lambda row: None)
print(compiling, time.perf_counter() - start)
"""
CASES = {
    "digits, MLP": "",
    "digits, CNN": "config.model.name = 'cnn'; config.model.batch_norm = True",
}


def main():
    print(f"{'':>12} {'cold':>9} {'warm':>9} {'cold / warm':>12} {'whole run, cold / warm':>23}")
    for name, changes in CASES.items():
        program = PROGRAM.format(changes=changes)
        cold, warm = zip(*(_cold_and_warm(program) for _ in range(ROUNDS)), strict=True)
        ratios = [
            statistics.median(c[i] / w[i] for c, w in zip(cold, warm, strict=True)) for i in (0, 1)
        ]
        cold_seconds, warm_seconds = (
            statistics.median(seconds[0] for seconds in side) for side in (cold, warm)
        )
        print(
            f"{name:>12} {cold_seconds:>7.2f} s {warm_seconds:>7.2f} s {ratios[0]:>11.1f}x"
            f" {ratios[1]:>22.1f}x",
            flush=True,
        )


def _cold_and_warm(program):
    with tempfile.TemporaryDirectory() as directory:
        return [_seconds(program, directory) for _ in range(2)]


def _seconds(program, directory):
    environment = {**os.environ, "XDG_CACHE_HOME": directory}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [float(seconds) for seconds in done.stdout.split()]


if __name__ == "__main__":
    main()
