"""Scores of a run's checkpoint: the newest, or the best on validation of those that were saved.

python -m experiments.evaluate --workdir=runs/digits_all --checkpoint=best --split=test

The run may still be training; nothing of it is changed. To choose a run or a config, read the
validation split; the test split is for what is chosen.
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
from experiments import command_line, plugins


def scores_of(
    workdir: Path,
    split: str,
    *,
    best: bool = False,
    data_dir: str | None = None,
    num_workers: int = 0,
) -> tuple[evaluation.Scores, int]:
    """Of one checkpoint of the run in `workdir`, on a split of its dataset, and its step.

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
    return evaluation.evaluate(*arguments, num_workers=num_workers), trained.step


def main(workdir: Path, checkpoint: str, split: str, **options) -> None:
    scores, step = scores_of(workdir, split, best=checkpoint == "best", **options)
    print(
        f"{checkpoint} of the checkpoints that {workdir} has kept, after {step:,} updates: {split} "
        f"accuracy {scores['accuracy']:.2%}, "
        f"loss {scores['loss']:.4f}, calibration error {scores['calibration_error']:.4f}, on "
        f"{scores['num_examples']:,} examples"
    )


if __name__ == "__main__":
    chosen = {
        "workdir": flags.DEFINE_string("workdir", None, "That of experiments.train."),
        "checkpoint": flags.DEFINE_enum(
            "checkpoint", "newest", ["newest", "best"], "Which of its states."
        ),
        "split": flags.DEFINE_enum(
            "split", "validation", ["validation", "test"], "What it is judged on."
        ),
        "data_dir": flags.DEFINE_string("data_dir", None, "Where the data is, if it has moved."),
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
        main(Path(values.pop("workdir")), **values)

    command_line.run(call)
