"""The time of training 32 configurations on digits, as a population and in two other ways.

    python -m benchmarks.population

Each of five rounds starts every way in new processes, without a compilation cache:

- population: all 32 go through one compiled program, with one device per core. The time is that of
  the whole process.
- compiled each: the numbers are constants of the program, which is compiled for each configuration,
  one after the other on one device. The time is the start of the process plus 8 times that of 4
  configurations.
- processes: `experiments.train` runs for each, one after the other. The time is 16 times that of 2
  processes.

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
import time
import jax
from configs import digits
from cyclical_jax import data
from cyclical_jax.training import evaluation, loop, population, run, turns, ways
from cyclical_jax.catalogue import parse
from cyclical_jax.training.technique import spec_of

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
in_turn = turns.chunks_in_turn(recipes[0], dataset, num_members=len(recipes))
members = population.Population(recipes[0], dataset, in_turn=in_turn)
assert all(o.scores["test"]["accuracy"] > 0.9 for o in members.outcomes(recipes, ["test"]))
"""
_COMPILED = 4
COMPILED_EACH = f"""
{_RECIPES}
start = time.perf_counter()
for index in range({_COMPILED}):
    own = recipe(index)
    ways.compiled.cache_clear()
    make_program = ways.make_program
    def with_constants(*args):
        program = make_program(*args)
        return lambda state, inputs: program(state, inputs._replace(numbers=own.numbers))
    ways.make_program = with_constants
    state = loop.train(own, dataset, report=lambda row: None)
    ways.make_program = make_program
    evaluation._sums_on_all_devices.cache_clear()
    run._compiled_start.cache_clear()
    static = own.structure, spec_of(dataset)
    assert evaluation.evaluate(*static, state.evaluated, dataset.test)["accuracy"] > 0.9
print(time.perf_counter() - start)
"""
_PROCESSES = 2


def main():
    ways = {"population": _population, "compiled each": _compiled_each, "processes": _processes}
    rounds = [{name: way() for name, way in ways.items()} for _ in range(ROUNDS)]
    for name in ways:
        seconds = statistics.median(each[name] for each in rounds)
        ratio = statistics.median(each[name] / each["population"] for each in rounds)
        print(f"{name:>14} {seconds:>8.1f} s {ratio:>8.1f}x", flush=True)


def _population():
    return _run("-c", POPULATION)[0]


def _compiled_each():
    seconds, out = _run("-c", COMPILED_EACH)
    training = float(out)
    return seconds - training + training * CONFIGURATIONS / _COMPILED


def _processes():
    total = 0.0
    for index in range(_PROCESSES):
        with tempfile.TemporaryDirectory() as workdir:
            config = ("--config=configs/digits.py:all", f"--config.seed={index}")
            total += _run("-m", "experiments.train", *config, f"--workdir={workdir}")[0]
    return total * CONFIGURATIONS / _PROCESSES


def _run(*arguments):
    """Returns the seconds, and the text that was printed."""
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout


if __name__ == "__main__":
    main()
