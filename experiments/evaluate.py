"""Scores a run's checkpoint: the newest, or the best on validation of those that were saved.

python -m experiments.evaluate --workdir=runs/digits_all --checkpoint=best --split=test

The run may still be training; the script changes nothing of it. To choose a run or a config, read
the validation split; the test split is for what is chosen.
"""

import dataclasses
from pathlib import Path

from absl import flags

from cyclical_jax import data
from cyclical_jax.training import evaluation
from cyclical_jax.training.devices import place
from cyclical_jax.training.earlier import read_recipe, read_trained
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.recipe import load_dataset
from cyclical_jax.training.structure import Recipe
from experiments import command_line, paths, plugins
from experiments.score import Score, in_order, words


def scores_of(
    workdir: Path,
    split: str,
    *,
    best: bool = False,
    data_dir: str | None = None,
    num_workers: int = 0,
) -> tuple[evaluation.Scores, int]:
    """Returns the scores of one checkpoint on a split of the run's dataset, and its update.

    Args:
      workdir: The workdir of the run.
      split: "validation" or "test".
      best: Whether to take the checkpoint that is best on validation, not the newest.
      data_dir: Where the data is, if it has moved.
      num_workers: Processes that read images which do not fit in memory.

    Raises:
      RecipeError: There is no such run, checkpoint or split; a line.
    """
    catalogue = plugins.catalogue()
    recipe = read_recipe("--workdir", workdir, catalogue)
    dataset = load_dataset(dataclasses.replace(recipe, data_dir=data_dir or recipe.data_dir))
    examples = getattr(dataset, split)
    if not data.num_examples(examples):
        raise RecipeError(f"--split: {workdir} was trained on {recipe.train_on}; {split} is empty.")
    trained = read_trained("--workdir", str(workdir), dataset, catalogue, best=best)
    arguments = trained.structure, trained.spec, place(trained.variables), examples
    scores = evaluation.evaluate(*arguments, num_workers=num_workers)
    return {"num_examples": data.num_examples(examples)} | scores, trained.step


def told(recipe: Recipe, scores: evaluation.Scores) -> str:
    """Returns the scores in a line, the one that the task judges by first."""
    judged, shown = Score.of_recipe(recipe).name, recipe.structure.shown
    parts = (f"{words(name)} {shown(name, scores[name])}" for name in in_order(judged, scores))
    return f"{', '.join(parts)}, on {scores['num_examples']:,} examples"


def main(workdir: Path, checkpoint: str, split: str, **options) -> None:
    scores, step = scores_of(workdir, split, best=checkpoint == "best", **options)
    recipe = read_recipe("--workdir", workdir, plugins.catalogue())
    print(
        f"{checkpoint} of the checkpoints that {workdir} has kept, after {step:,} updates: {split} "
        f"{told(recipe, scores)}"
    )


if __name__ == "__main__":
    chosen = {
        "workdir": paths.define("workdir", None, "The workdir of experiments.train."),
        "checkpoint": flags.DEFINE_enum(
            "checkpoint", "newest", ["newest", "best"], "Which checkpoint is read."
        ),
        "split": flags.DEFINE_enum(
            "split", "validation", ["validation", "test"], "The split that it is judged on."
        ),
        "data_dir": paths.define("data_dir", None, "Where the data is, if it has moved."),
        "num_workers": flags.DEFINE_integer(
            "num_workers",
            command_line.num_cores(),
            "Processes that read images which do not fit in memory.",
            lower_bound=0,
        ),
    }
    flags.mark_flags_as_required(["workdir"])

    def call():
        values = {name: flag.value for name, flag in chosen.items()}
        main(values.pop("workdir"), **values)

    command_line.run(call)
