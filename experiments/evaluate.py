"""Scores a checkpoint of a run, the newest or the best on validation, and each class.

python -m experiments.evaluate --workdir=runs/digits_all --checkpoint=best --split=test

The run may still be training; this command changes nothing in it. Choose a run or a config by the
validation split, and read the test split only for what you have chosen. If each example has one
class, the command also prints the scores of each class and the confusion matrix;
--confusion=FILE.png draws the matrix, and --predictions=FILE.csv lists every example. --export=FILE
writes the model as a program that needs only JAX; docs/models.md shows how to load it.

--bits=3,4,6,8 instead prints a table: the scores of the run as it is, and with weights of so few
bits. A run that was trained with precision.* has its own quantizer, and activations of few bits if
they had so in training. Any other run has symmetric levels in its weights alone.

--checkpoint=cycle_ends scores each end of a cycle that experiments.train --keep_cycle_ends has
kept, and their averaged probabilities, a snapshot ensemble.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from cyclical_jax import data
from cyclical_jax._words import counted
from cyclical_jax.data import Stream
from cyclical_jax.data.dataset import SPLITS, Split
from cyclical_jax.tasks.classification import ACCURACY
from cyclical_jax.trained import CHECKPOINTS, LoadedRun, read_run
from cyclical_jax.training import evaluation
from cyclical_jax.training.devices import place
from cyclical_jax.training.facts import facts_of
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import whole
from cyclical_jax.training.recipe import load_dataset
from cyclical_jax.training.structure import Recipe
from cyclical_jax.training.technique import CLASS_LOGITS
from experiments import class_scores, command_line, cycle_ends, deployment, paths, plugins
from experiments.score import Score, in_order, words

CYCLE_ENDS = "cycle_ends"  # a value of --checkpoint
_SUFFIXES = {"confusion": ".png", "predictions": ".csv"}


def split_of(
    run: LoadedRun, split: str, *, dataset: str | None = None, data_dir: str | None = None
) -> Split:
    """Returns a split of a run's dataset; images of a stream are cropped at their centre.

    Args:
      run: The run.
      split: "train", "validation" or "test".
      dataset, data_dir: Where the data is, if it has moved.

    Raises:
      RecipeError: The split is empty, or the dataset is not that of the run; a line.
    """
    moved = {"dataset": dataset, "data_dir": data_dir}
    moved = {key: place for key, place in moved.items() if place is not None}
    recipe, facts = dataclasses.replace(run.recipe, **moved), run.facts
    try:
        data.check_data_dir(recipe.dataset, data_dir)
    except ValueError as error:
        raise RecipeError(f"--{str(error).replace('`', '')}") from error
    loaded = load_dataset(recipe)
    here = facts_of(recipe.dataset, loaded)
    if (here.num_classes, here.shape) != (facts.num_classes, facts.shape):
        raise RecipeError(
            f"--workdir: the run was trained on images {list(facts.shape)} of {facts.num_classes} "
            f"classes, but its dataset has images {list(here.shape)} of {here.num_classes} classes."
        )
    if not facts.is_seen_like(here):
        raise RecipeError("--workdir: the run's dataset is not normalised as it was in training.")
    examples = getattr(loaded, split)
    if not data.num_examples(examples):
        raise RecipeError(f"--split: the run was trained on {recipe.train_on}; {split} is empty.")
    is_stream = isinstance(examples, Stream)
    return dataclasses.replace(examples, augmented=False) if is_stream else examples


def scores_of(
    run: LoadedRun, examples: Split, *, num_workers: int = 0, look: evaluation.Look | None = None
) -> evaluation.Scores:
    """Returns the scores of a run on a split.

    Args:
      run: The run.
      examples: What `split_of` returns.
      num_workers: Processes that read images which do not fit in memory.
      look: As in `evaluation.evaluate`.
    """
    trained = run.trained
    arguments = trained.structure, trained.spec, place(trained.variables), examples
    scores = evaluation.evaluate(*arguments, num_workers=num_workers, look=look)
    return {"num_examples": data.num_examples(examples)} | scores


def scores_by_bits(
    run: LoadedRun, examples: Split, bits: Sequence[int], *, num_workers: int = 0
) -> dict[int | None, evaluation.Scores]:
    """Returns {None: the scores of a run as it is, a number of bits: those with so few}.

    All numbers of bits go through one compiled program.

    Args:
      run, examples, num_workers: As in `scores_of`.
      bits: Numbers from 2 to 16, as in `LoadedRun.with_bits`.

    Raises:
      ValueError: As in `LoadedRun.with_bits`.
    """
    runs = {None: run} | {number: run.with_bits(number) for number in bits}
    return {
        number: scores_of(of_number, examples, num_workers=num_workers)
        for number, of_number in runs.items()
    }


def told(recipe: Recipe, scores: evaluation.Scores, top_5: float | None = None) -> str:
    """Returns the scores in one line; the score that the task judges by comes first.

    `top_5` comes after the accuracy, if the task has that score.
    """
    names = in_order(Score.of_recipe(recipe).name, scores)
    parts = [f"{words(name)} {recipe.structure.shown(name, scores[name])}" for name in names]
    if top_5 is not None and ACCURACY in names:
        parts.insert(names.index(ACCURACY) + 1, f"top-5 accuracy {top_5:.2%}")
    return f"{', '.join(parts)}, on {counted(scores['num_examples'], 'example')}"


def main(
    workdir: Path,
    *,
    checkpoint: str,
    split: str,
    files: dict[str, Path],
    bits: Sequence[str] | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    num_workers: int = 0,
) -> None:
    """Prints the scores, and writes the files that are asked for.

    Args:
      workdir: The workdir of the run, which is only read.
      checkpoint: "best", "newest" or "cycle_ends".
      split: "train", "validation" or "test".
      files: {"confusion", "predictions" or "export": where it is written}.
      bits: Numbers of bits, as texts; the scores at each are then all that is printed.
      dataset, data_dir: Where the data is, if it has moved.
      num_workers: Processes that read images which do not fit in memory.

    Raises:
      RecipeError: There is no such run, checkpoint, split or place; a line.
      WorkdirError: A file cannot be written; a line.
    """
    for name, path in files.items():
        _check_file(name, path)
    moved = {"dataset": dataset, "data_dir": data_dir}
    if bits is not None:
        _tell_bits(workdir, checkpoint, split, files, bits, num_workers, moved)
    elif checkpoint == CYCLE_ENDS:
        _tell_cycle_ends(workdir, split, files, num_workers, moved)
    else:
        _tell_run(workdir, checkpoint, split, files, num_workers, moved)


def _tell_run(workdir, checkpoint, split, files, num_workers, moved) -> None:
    """Prints the scores of a checkpoint and of each class, and writes the files."""
    run = read_run("--workdir", workdir, plugins.catalogue(), checkpoint=checkpoint)
    _check_task(run, files)
    if "export" in files:
        _export(run, files["export"])
    examples = split_of(run, split, **moved)
    reader = class_scores.Reader() if _has_classes(run) else None
    scores = scores_of(run, examples, num_workers=num_workers, look=reader and reader.look)
    number = run.facts.num_classes
    top_5 = reader and class_scores.top_5_accuracy(reader.predictions(), number)
    print(f"{_place(run, workdir, checkpoint)}: {split} {told(run.recipe, scores, top_5)}")
    if reader:
        _tell_classes(reader.predictions(), run, f"{workdir}, {split}", files)


def _place(run: LoadedRun, workdir: Path, checkpoint: str) -> str:
    return f"{checkpoint} checkpoint kept in {workdir}, after {counted(run.step, 'update')}"


def _tell_bits(workdir, checkpoint, split, files, bits, num_workers, moved) -> None:
    """Prints the scores of a checkpoint at several numbers of bits."""
    widths = deployment.bits_of(bits)
    if files:
        raise RecipeError(f"--bits prints scores and writes no file; leave out --{min(files)}.")
    if checkpoint == CYCLE_ENDS:
        raise RecipeError(f"--bits needs one checkpoint, got --checkpoint={CYCLE_ENDS}.")
    run = read_run("--workdir", workdir, plugins.catalogue(), checkpoint=checkpoint)
    examples = split_of(run, split, **moved)
    scores = scores_by_bits(run, examples, widths, num_workers=num_workers)
    number = counted(data.num_examples(examples), "example")
    print(f"{_place(run, workdir, checkpoint)}: {split}, {number}")
    print(deployment.as_text(run, scores))


def _tell_cycle_ends(workdir, split, files, num_workers, moved) -> None:
    """Prints the scores of the ends of cycles that a run has kept, alone and together."""
    if files:
        raise RecipeError(f"--{min(files)} needs one checkpoint, got --checkpoint={CYCLE_ENDS}.")
    ends = cycle_ends.read_ends("--workdir", workdir, plugins.catalogue())
    examples = split_of(ends.runs[0], split, **moved)
    scores = cycle_ends.scores_of(ends, examples, num_workers=num_workers)
    print(cycle_ends.told(ends, scores, examples, f"{workdir}, {split}"))


def _export(run: LoadedRun, path: Path) -> None:
    try:
        content = run.export()
    except ImportError as error:
        raise RecipeError(f"--export: {error}") from error
    with whole(path) as temporary:
        temporary.write_bytes(content)


def _tell_classes(
    predictions: class_scores.Predictions, run: LoadedRun, title: str, files: dict[str, Path]
) -> None:
    """Prints the scores of each class, and writes the files of the predictions."""
    matrix = class_scores.confusion_matrix(predictions, run.facts.num_classes)
    names = run.class_names
    print(class_scores.as_text(matrix, names))
    if "confusion" in files:
        with whole(files["confusion"]) as path:
            class_scores.draw(matrix, names, title, path)
    if "predictions" in files:
        with whole(files["predictions"]) as path:
            class_scores.write_csv(predictions, names, path)


def _has_classes(run: LoadedRun) -> bool:
    """Returns whether each example has one class."""
    return CLASS_LOGITS in run.recipe.task.offers


def _check_task(run: LoadedRun, files: dict[str, Path]) -> None:
    """Raises RecipeError if a file is asked for that the task cannot fill."""
    if not _has_classes(run) and (names := sorted(files.keys() & _SUFFIXES)):
        task = run.recipe.task
        raise RecipeError(f"--{names[0]} needs one class per example, but the task is {task}.")


# ---- files


def _check_file(name: str, path: Path) -> None:
    """Raises RecipeError unless a file can be written there."""
    suffix = _SUFFIXES.get(name, path.suffix)
    if path.suffix.lower() != suffix.lower():
        raise RecipeError(f"--{name} must be a {suffix} file, got {path}.")
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise RecipeError(f"--{name} {path} cannot be written: {_why_not(path)}.")


def _why_not(path: Path) -> str:
    if path.is_dir():
        return "it is a directory"
    is_there = path.parent.is_dir()
    return f"{path.parent} is read-only" if is_there else f"there is no directory {path.parent}"


if __name__ == "__main__":
    chosen = {
        "checkpoint": flags.DEFINE_enum(
            "checkpoint", "newest", (*CHECKPOINTS, CYCLE_ENDS), "Checkpoint to score."
        ),
        "split": flags.DEFINE_enum("split", "validation", SPLITS, "Split to score it on."),
        "bits": flags.DEFINE_list(
            "bits", None, "Numbers of bits to score the network with, such as 3,4,6,8."
        ),
        "dataset": flags.DEFINE_string(
            "dataset", None, "Data of the run, if it has moved, such as npz:moved/mine.npz."
        ),
        "data_dir": paths.define("data_dir", None, "Folder of TFDS's datasets, if it has moved."),
        "num_workers": flags.DEFINE_integer(
            "num_workers",
            command_line.num_cores(),
            "Number of processes that read images, if these do not fit in memory.",
            lower_bound=0,
        ),
    }
    workdir_flag = paths.define("workdir", None, "Folder of a run of experiments.train.")
    written = {
        "confusion": "PNG file to draw the confusion matrix in.",
        "predictions": "CSV file to write the five likeliest classes of each example to.",
        "export": "File to write the model to, as a program of jax.export for cpu, cuda and tpu.",
    }
    file_flags = {name: paths.define(name, None, help) for name, help in written.items()}
    flags.declare_key_flag("plugin")
    flags.mark_flags_as_required(["workdir"])

    def call():
        values = {name: flag.value for name, flag in chosen.items()}
        given = {name: flag.value for name, flag in file_flags.items()}
        files = {name: path for name, path in given.items() if path is not None}
        main(workdir_flag.value, files=files, **values)

    command_line.run(call)
