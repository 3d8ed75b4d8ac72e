"""32 configurations of digits, end to end, by a population and by what people do instead.

    python -m benchmarks.population

Each of five rounds starts every way in a process of its own, without a compilation cache, and
counts from the first import to the last test accuracy:

- population: all 32 through one compiled program, a device a core;
- compiled each: the numbers are constants of the program, which is compiled for each configuration
  (4 of them, times 8);
- processes: `experiments.train` (2 of them, one after the other, times 16).

The claims: at most 10 s; 8 times as fast as compiled each, 20 times as fast as processes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 5
CONFIGURATIONS = 32
_RECIPES = """
import dataclasses, jax
from configs import digits
from cyclical_jax import data
from cyclical_jax.training import evaluation, loop, population, ways
from cyclical_jax.training.recipe import Knob, parse

def recipe(index):
    config = digits.get_config("all")
    config.seed, config.optimizer.learning_rate = index, 0.02 + 0.01 * index
    config.cycle.factor = 1 + index % 8
    return parse(config)

dataset = data.load("digits")
"""
POPULATION = f"""
import jax
jax.config.update("jax_num_cpu_devices", {len(os.sched_getaffinity(0))})
{_RECIPES}
recipes = [recipe(index) for index in range({CONFIGURATIONS})]
members = population.Population(recipes[0], dataset)
assert all(o.scores["test"]["accuracy"] > 0.9 for o in members.outcomes(recipes, ["test"]))
"""
_COMPILED = 4
COMPILED_EACH = f"""
{_RECIPES}
for index in range({_COMPILED}):
    own = recipe(index)
    ways.compiled.cache_clear()
    make_program = ways.make_program
    def with_constants(*args):
        program = make_program(*args)
        def run(state, inputs):
            totals, _, *rest = inputs
            return program(state, (totals, own.numbers, *rest))
        return run
    ways.make_program = with_constants
    state = loop.train(own, dataset, seed=own.seed, report=lambda row: None)
    ways.make_program = make_program
    evaluation._sums_on_all_devices.cache_clear()
    loop._initial_state.clear_cache()
    assert evaluation.evaluate(own.structure, 10, state, dataset.test)["accuracy"] > 0.9
"""
_PROCESSES = 2


def main():
    ways = {
        "population": (_population, 1),
        "compiled each": (_compiled_each, CONFIGURATIONS / _COMPILED),
        "processes": (_processes, CONFIGURATIONS / _PROCESSES),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (way, times) in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(times * (time.perf_counter() - start))
    for name, values in seconds.items():
        ratio = statistics.median(
            value / own for value, own in zip(values, seconds["population"], strict=True)
        )
        print(f"{name:>14} {statistics.median(values):>8.1f} s {ratio:>8.1f}x", flush=True)


def _population():
    _run("-c", POPULATION)


def _compiled_each():
    _run("-c", COMPILED_EACH)


def _processes():
    for index in range(_PROCESSES):
        with tempfile.TemporaryDirectory() as workdir:
            config = ("--config=configs/digits.py:all", f"--config.seed={index}")
            _run("-m", "experiments.train", *config, f"--workdir={workdir}")


def _run(*arguments):
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)


if __name__ == "__main__":
    main()
