"""Trains one model from a config.

python -m experiments.train --config=configs/digits.py:all --workdir=runs/digits_all

The word after ':' picks a variant of the config; `--config.optimizer.momentum=0.8` changes one
value. The test split is read once, when training has ended.
"""

import time
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from cyclical_jax import data
from cyclical_jax.training import evaluation, logs, loop
from cyclical_jax.training.devices import place
from cyclical_jax.training.recipe import parse
from experiments import command_line

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file, e.g. configs/digits.py")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where metrics.jsonl and the rest are written.")


def run(config, workdir: Path) -> dict[str, float]:
    """Trains as `config` says and returns what is written to `result.json`."""
    recipe = parse(config)
    loop.check_devices(recipe.structure)
    dataset = data.load(recipe.dataset, data_dir=recipe.data_dir)
    loop.check_data(recipe, dataset)
    logs.start_workdir(workdir, config.to_dict())
    start = time.perf_counter()
    log = logs.RunLog(workdir, recipe.structure.num_epochs)
    state = loop.train(recipe, dataset, seed=recipe.seed, report=log)
    test = evaluation.evaluate(recipe.structure, dataset.num_classes, state, place(dataset.test))
    result = {f"test_{name}": value for name, value in test.items()}
    result |= {"steps": int(state.step), "seconds": time.perf_counter() - start}
    logs.write_result(workdir, result)
    return result


def main():
    workdir = Path(_WORKDIR.value)
    result = run(command_line.config_of(_CONFIG), workdir)
    print(
        f"test accuracy {result['test_accuracy']:.2%}, loss {result['test_loss']:.4f} on "
        f"{result['test_num_examples']:,} examples after {result['steps']:,} updates in "
        f"{result['seconds']:.1f} s; see {workdir / logs.METRICS}"
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.run(main)
