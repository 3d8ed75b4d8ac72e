"""Trains one model from a config.

python -m experiments.train --config=configs/digits.py:all --workdir=runs/digits_all

The word after ':' picks a variant of the config; `--config.optimizer.momentum=0.8` changes one
value, '--config.optimizer.weight_decay=cyclical(1e-4, 2e-3)' makes one cycle. --print_config lists
all keys. The test split is read once, when training has ended.
"""

import time
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from cyclical_jax import data
from cyclical_jax.training import evaluation, logs, loop
from cyclical_jax.training.logs import WorkdirError
from cyclical_jax.training.recipe import Recipe, describe, parse
from experiments import command_line

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file, e.g. configs/digits.py")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where metrics.jsonl and the rest are written.")
_TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Write TensorBoard's files there too.")
_PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "List all keys of the config, and end.")


def run(
    config: ConfigDict, recipe: Recipe, workdir: Path, *, tensorboard: bool = False
) -> dict[str, Any]:
    """Trains by the `recipe` of `config` and returns what is written to `result.json`."""
    start = time.perf_counter()
    if tensorboard:
        logs.require_tensorboard()
    dataset = data.load(
        recipe.dataset, data_dir=recipe.data_dir, train_on=recipe.train_on, subset=recipe.subset
    )
    timetable = loop.plan(recipe, dataset)
    logs.start_workdir(workdir, config.to_dict())
    rows: list[loop.Row] = []
    log = logs.RunLog(workdir, timetable, recipe.structure.batch_size, tensorboard=tensorboard)
    with log:
        state = loop.train(
            recipe,
            dataset,
            seed=recipe.seed,
            report=lambda row: rows.append(row) or log.row(row),
            progress=log.progress,
        )
    test = evaluation.evaluate(recipe.structure, dataset.num_classes, state, dataset.test)
    loop.check_finite("test_loss", test["loss"], int(state.step))
    result = {f"test_{name}": value for name, value in test.items()}
    result |= _best_validation(rows) | {
        "steps": int(state.step),
        "training_seconds": rows[-1]["seconds"],
        "seconds": time.perf_counter() - start,
    }
    logs.write_result(workdir, result)
    return result


def main():
    config = command_line.config_of(_CONFIG)
    recipe = parse(config, num_devices=jax.device_count())
    if _PRINT_CONFIG.value:
        print(describe(config))
        return
    if not _WORKDIR.value:
        raise WorkdirError("--workdir must be given: where metrics.jsonl and the rest are written.")
    workdir = Path(_WORKDIR.value)
    print(_summary(run(config, recipe, workdir, tensorboard=_TENSORBOARD.value), workdir))


def _best_validation(rows: list[loop.Row]) -> dict[str, Any]:
    """The best row, to be looked at; the model is that of the last one."""
    validated = [row for row in rows if "val_accuracy" in row]
    best = max(validated, key=lambda row: row["val_accuracy"], default={})
    names = {"val_accuracy": "best_val_accuracy", "epoch": "best_val_epoch"}
    return {ours: best[name] for name, ours in names.items() if best}


def _summary(result: dict[str, Any], workdir: Path) -> str:
    validation = (
        f"best validation accuracy {result['best_val_accuracy']:.2%}, after "
        f"{result['best_val_epoch']:g} epochs\n"
        if "best_val_accuracy" in result
        else ""
    )
    return (
        f"test accuracy {result['test_accuracy']:.2%}, loss {result['test_loss']:.4f}, on "
        f"{result['test_num_examples']:,} examples after {result['steps']:,} updates\n"
        f"{validation}"
        f"{result['training_seconds']:.2f} s of training, {result['seconds']:.1f} s in all\n"
        f"{workdir}: {', '.join(sorted(path.name for path in workdir.iterdir()))}"
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    command_line.run(main)
