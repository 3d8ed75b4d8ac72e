"""Trains one model from a config.

python -m experiments.train --config=configs/digits.py:all --workdir=runs/digits_all

The word after ':' picks a variant of the config. `--config.optimizer.momentum=0.8` changes one
value, and '--config.optimizer.weight_decay=cyclical(1e-4, 2e-3)' makes one cycle. --print_config
lists all keys, --summary the layers of the model. The test split is read once, when training has
ended.

The same command, given again, continues the run, however it ended; it refuses a changed config. A
longer duration is accepted where the run is, bit for bit, the beginning of the longer one.
After SIGTERM or Ctrl-C, the run is saved before it stops. Several processes can train one model:
with --distributed where a cluster numbers them (SLURM, TPU pods), otherwise with --coordinator,
--num_processes and --process_id.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from cyclical_jax._words import counted
from cyclical_jax.catalogue import describe, parse
from cyclical_jax.data import num_examples
from cyclical_jax.models import summary
from cyclical_jax.training import evaluation, files, loggers, logs, loop, workdirs
from cyclical_jax.training import run as runs
from cyclical_jax.training.assembly import assemble_model, example_of, summary_of
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.devices import is_first_process
from cyclical_jax.training.earlier import prepare
from cyclical_jax.training.extension import Extension
from cyclical_jax.training.facts import facts_of
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import CHECKPOINTS, WorkdirError
from cyclical_jax.training.inputs import of_devices, unchanged
from cyclical_jax.training.keeper import Keeper, StoppedError
from cyclical_jax.training.keys import DURATION
from cyclical_jax.training.recipe import load_dataset
from cyclical_jax.training.structure import Recipe
from cyclical_jax.training.technique import spec_of
from experiments import clocks, command_line, paths, plugins
from experiments.environment import record_start
from experiments.waiting import Waiting

_CONFIG = command_line.define_config()
_WORKDIR = paths.define("workdir", None, "Folder for the files of the run; needed to train.")
_LOGGER = flags.DEFINE_list(
    "logger", [], f"Where the log goes besides metrics.jsonl: {', '.join(loggers.LOGGERS)}."
)
_TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Same as --logger=tensorboard.")
_PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "List all keys of the config, and end.")
_SUMMARY = flags.DEFINE_bool(
    "summary", False, "List the layers of the model with shapes and parameters, and end."
)
_SAVE_EVERY = flags.DEFINE_float(
    "save_every",
    30.0,
    "Least seconds between two checkpoints, which are saved at ends of epochs.",
    lower_bound=0,
)
flags.register_validator("save_every", math.isfinite, "must be a finite number of seconds.")
_KEEP = flags.DEFINE_integer(
    "keep", 2, "Number of newest checkpoints to keep, besides the best.", lower_bound=1
)

_KEEP_CYCLE_ENDS = flags.DEFINE_bool(
    "keep_cycle_ends",
    False,
    "Keep a checkpoint of the end of each cycle too, where the learning rate restarts; it stays.",
)

_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    command_line.num_cores(),
    "Number of processes that read images, if these do not fit in memory.",
    lower_bound=0,
)

_NO_CYCLES = (
    "--keep_cycle_ends needs a run whose learning rate restarts: set "
    "optimizer.learning_rate_schedule='warm_restarts' and optimizer.first_cycle."
)
_LONGER = (
    "To train that long from the start, choose another --workdir. To go on from what this run has "
    "learned, choose another and add --config.finetuning.start={workdir}. A new run can "
    "be made longer later with optimizer.learning_rate_schedule='warm_restarts' and "
    "cycle.span='restart'."
)


def run(
    config: ConfigDict,
    recipe: Recipe,
    workdir: Path,
    *,
    further: Sequence[str] = (),
    save_every: float = 30.0,
    keep: int = 2,
    keep_cycle_ends: bool = False,
    num_workers: int = 0,
    is_stopping: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains by the `recipe` of `config`, or goes on, and returns the content of `result.json`.

    Rows also go to the `further` loggers, which are names of `loggers.LOGGERS`.
    """
    start = time.perf_counter()
    loggers.require(further)
    with Waiting(f"loading {recipe.dataset}"):
        dataset = load_dataset(recipe)
    timetable = runs.plan(recipe, dataset)
    if keep_cycle_ends and not timetable.cycle_ends:
        raise RecipeError(_NO_CYCLES)
    with Waiting("preparing the examples"), unchanged(recipe) as inputs:
        dataset, earlier = prepare(recipe, dataset)
    inputs |= of_devices(recipe, jax.device_count())
    facts = facts_of(recipe.dataset, dataset).as_json()
    extension = Extension(recipe, dataset)
    opened = workdirs.opened_workdir(
        workdir,
        config.to_dict(),
        recipe.catalogue,
        inputs,
        facts,
        advice={DURATION: _LONGER.format(workdir=workdir)},
        why_not_longer=extension.problem,
    )
    with opened as folder:
        _tell([extension.told] if extension.told else [])
        if result := workdirs.read_result(workdir, recipe.task.judged_by[0]):
            return result
        folder.check()
        keep_as = {
            "every": save_every,
            "keeps_cycle_ends": keep_cycle_ends,
            "is_stopping": is_stopping,
        }
        options = {"further": further, "num_workers": num_workers}
        judged_by = recipe.task.judged_by
        with (
            folder.watched(),
            Checkpoints(workdir / CHECKPOINTS, keep=keep, judged_by=judged_by) as checkpoints,
        ):
            state, rows = _train(recipe, dataset, earlier, folder, checkpoints, keep_as, **options)
            test = _test(recipe, dataset, state, Keeper(checkpoints, **keep_as), num_workers)
        runs.check_finite("test_loss", test["loss"], int(state.step))
        result = summary_of(recipe, num_examples(dataset.train))
        result |= {f"test_{name}": files.finite(value) for name, value in test.items()}
        result.setdefault("test_num_examples", num_examples(dataset.test))
        result |= _best_validation(recipe, rows) | {
            "steps": int(state.step),
            "training_seconds": rows[-1]["seconds"] if rows else None,  # the first process has all
            "seconds": time.perf_counter() - start,
        }
        folder.check()
        workdirs.write_result(workdir, result)
    return result


def _train(recipe, dataset, earlier, folder, checkpoints, keep_as, *, further, num_workers):
    """Trains from the newest checkpoint or from the start, whose checkpoint shows a full disk."""
    with Waiting("making and saving the first parameters"):
        start = runs.begin(recipe, dataset, earlier=earlier)
        if restored := checkpoints.restore(start):
            start = restored
        else:
            checkpoints.save(start)
            checkpoints.wait()
    timetable = recipe.timetable(num_examples(dataset.train))
    _tell_where(folder, start)
    _tell([*dataset.notes, *clocks.told(recipe, timetable)])
    log_options = {
        "loggers": further,
        "start": int(start.state.micro_step),
        "is_to_come": runs.has_row_to_come(timetable, start),
        "folder": folder,
    }
    with (
        logs.run_log(folder.path, timetable, recipe.structure, **log_options) as log,
        Waiting("compiling") as compiling,
    ):

        def progress(micro_step):
            compiling.end()
            log.progress(micro_step)

        state = loop.train(
            recipe,
            dataset,
            report=log.row,
            progress=progress,
            earlier=earlier,
            start=start,
            keeper=Keeper(checkpoints, before_save=log.sync, **keep_as),
            num_workers=num_workers,
        )
    return state, log.rows


def _test(recipe, dataset, state, keeper, num_workers) -> evaluation.Scores:
    """Returns the scores on the test split, of a run that has ended and is saved."""

    def end_if_asked():
        if keeper.is_asked():
            raise StoppedError("stopped during the test; all updates are saved")

    arguments = recipe.structure, spec_of(dataset), state.evaluated, dataset.test
    return evaluation.evaluate(*arguments, num_workers=num_workers, after_batch=end_if_asked)


def _tell_where(folder: workdirs.Folder, start) -> None:
    """Records where a run starts, and prints whether it is resumed, and what has changed since."""
    if not is_first_process():
        return
    step = int(start.state.step)
    folder.check()
    differences = record_start(folder.path, step)
    if step:
        print(f"resumed after {counted(step, 'update')}", flush=True)
    if differences:
        listed = ", ".join(differences)
        print(f"resumed with changes ({listed}): results agree up to rounding", file=sys.stderr)


def _tell(lines: list[str]) -> None:
    if lines and is_first_process():
        print("\n".join(lines), flush=True)


def main():
    command_line.join_processes()
    config = command_line.config_of(_CONFIG)
    recipe = parse(config, num_devices=jax.device_count(), catalogue=plugins.catalogue())
    options = {"save_every": _SAVE_EVERY.value, "keep": _KEEP.value}
    options["keep_cycle_ends"] = _KEEP_CYCLE_ENDS.value
    command_line.check_alike(config, plugins=dict(recipe.catalogue.plugins), **options)
    if _PRINT_CONFIG.value:
        print(describe(config, recipe.catalogue))
        return
    if _SUMMARY.value:
        print(model_summary(recipe))
        return
    if not _WORKDIR.value:
        raise WorkdirError("--workdir must be given: the folder for the files of the run.")
    workdir = _WORKDIR.value
    with command_line.Stopping() as is_stopping:
        result = run(
            config,
            recipe,
            workdir,
            further=list(dict.fromkeys(_LOGGER.value + ["tensorboard"] * _TENSORBOARD.value)),
            save_every=_SAVE_EVERY.value,
            keep=_KEEP.value,
            keep_cycle_ends=_KEEP_CYCLE_ENDS.value,
            num_workers=_NUM_WORKERS.value,
            is_stopping=is_stopping,
        )
    if is_first_process():
        print(_summary(recipe, result, workdir))


def model_summary(recipe: Recipe) -> str:
    """Returns the layers of the model for the data of a recipe, as text."""
    dataset = load_dataset(recipe)
    runs.plan(recipe, dataset)
    static = recipe.structure, spec_of(dataset)
    return summary(assemble_model(*static), example_of(*static))


def _best_validation(recipe: Recipe, rows: list[runs.Row]) -> dict[str, Any]:
    """Returns the score and epoch of the best row, the last of equals, as the best checkpoint."""
    score, best_is = recipe.task.judged_by
    validated = [row for row in rows if row.get(f"val_{score}") is not None]
    if not validated:
        return {}
    choose = max if best_is == "max" else min
    best = choose(reversed(validated), key=lambda row: row[f"val_{score}"])
    return {f"best_val_{score}": best[f"val_{score}"], "best_val_epoch": best["epoch"]}


def _summary(recipe: Recipe, result: dict[str, Any], workdir: Path) -> str:
    score, _ = recipe.task.judged_by
    shown = recipe.structure.shown
    validation = (
        f"best validation {score} {shown(score, result[f'best_val_{score}'])}, after "
        f"{counted(result['best_val_epoch'], 'epoch')}\n"
        if result.keys() >= {f"best_val_{score}", "best_val_epoch"}
        else ""
    )
    names = [name for name in dict.fromkeys((score, "loss")) if result[f"test_{name}"] is not None]
    test = ", ".join(f"{name} {shown(name, result[f'test_{name}'])}" for name in names)
    return (
        f"test {test}, on {counted(result['test_num_examples'], 'example')} after "
        f"{counted(result['steps'], 'update')}\n{validation}"
        f"training took {result['training_seconds']:.2f} s; the last start took "
        f"{result['seconds']:.1f} s, with loading, compiling and scoring\n"
        f"files in {workdir}: {', '.join(sorted(path.name for path in workdir.glob('[!.]*')))}"
    )


if __name__ == "__main__":
    flags.adopt_module_key_flags(command_line)
    flags.mark_flags_as_required(["config"])
    command_line.run(main)
