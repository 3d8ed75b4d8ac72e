"""Chooses the searched values of each arm of a table on validation, with equally many trials.

python -m experiments.tune --table=weight_decay --datasets=digits --workdir=runs/tables

Trials are points of a Halton sequence. Each is trained with the same few seeds, which no run of a
table has. The command chooses the trial whose validation score after the last update has the best
mean over the seeds; the score is the one that the task judges by, such as accuracy. Among equal
trials it chooses the one with the lowest validation loss. `experiments.table` tunes by itself and
keeps the record of all trials; this command prints the chosen values.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from cyclical_jax._words import counted
from cyclical_jax.training.fields import RecipeError, shown
from cyclical_jax.training.population import Outcome
from cyclical_jax.training.structure import Recipe
from experiments import arms, command_line, paths, runs
from experiments.arms import Arm, Budget, Changes, Table, plain
from experiments.score import Score
from experiments.waiting import Waiting

TABLE = flags.DEFINE_string("table", None, "Name of a table in experiments/tables, or a .py file.")
DATASETS = flags.DEFINE_list(
    "datasets", None, "Datasets of the table, with commas between; by default all on this machine."
)
NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", None, "Number of seeds per arm; by default the table's."
)
NUM_TRIALS = flags.DEFINE_integer(
    "num_trials", None, "Number of trials per arm; by default the table's."
)
WORKDIR = paths.define("workdir", "runs/tables", "Folder for the runs and the results.")
DATA_DIR = paths.define("data_dir", None, "Folder of TFDS's datasets; by default TFDS's own.")
CHUNK = flags.DEFINE_integer(
    "chunk",
    None,
    "Number of runs that a device trains at once; by default it is measured.",
    lower_bound=1,
)
MIX = flags.DEFINE_bool("mix_versions", False, "Also use runs of another version of the code.")

flags.declare_key_flag("plugin")

SPLITS = ("validation",)


@dataclass(frozen=True)
class Trials:
    """The trials of an arm on a dataset."""

    arm: Arm
    base: ConfigDict
    budget: Budget

    @property
    def score(self) -> Score:
        """The score that its trials are chosen by."""
        return Score.of_recipe(arms.recipe_of(self.base, self.arm, self.values[0], seed=0))

    @property
    def seeds(self) -> list[int]:
        return [arms.FIRST_TUNING_SEED + index for index in range(self.budget.seeds_a_trial)]

    @property
    def values(self) -> list[Changes]:
        return self.arm.trials(self.budget.num_trials)

    def recipes(self) -> list[Recipe]:
        """Returns a recipe for each trial with each seed; none where nothing is searched."""
        values = self.values if self.arm.search else []
        return [arms.recipe_of(self.base, self.arm, v, seed) for v in values for seed in self.seeds]

    def record(self, outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
        """Returns the scores of the trials, and which is chosen.

        Args:
          outcomes: Those of `recipes`, in their order.

        Raises:
          RecipeError: In each trial a run stopped being finite.
        """
        if not self.arm.search:
            return None
        count, score = len(self.seeds), self.score
        trials = [
            {"values": plain(values)}
            | _scores(outcomes[count * trial : count * (trial + 1)], score)
            for trial, values in enumerate(self.values)
        ]
        return {"seeds": self.seeds, "trials": trials, "chosen": best(trials, score)}


def best(trials: Sequence[Mapping[str, Any]], score: Score) -> int:
    """Returns the index of the trial to choose: the best mean score, then the lowest mean loss."""
    names = f"val_{score.name}", "val_loss"
    finite = [i for i, trial in enumerate(trials) if not any(None in trial[name] for name in names)]
    if not finite:
        raise RecipeError("in every trial a run stopped being finite: search lower learning rates.")

    def worth(index):
        judged, loss = (np.mean(trials[index][name]) for name in names)
        return score.worth(judged), -loss

    return max(finite, key=worth)


def tune(trials: Mapping[Any, Trials], lab: runs.Lab) -> dict[Any, dict[str, Any] | None]:
    """Returns the record of each arm's trials, under the key of the arm."""
    recipes = {name: these.recipes() for name, these in trials.items()}
    outcomes = iter(lab.complete([r for own in recipes.values() for r in own], SPLITS))
    records = {}
    for name, these in trials.items():
        try:
            records[name] = these.record([next(outcomes) for _ in recipes[name]])
        except RecipeError as error:
            raise RecipeError(f"{', arm '.join(name)}: {error}") from error
    return records


def chosen(record: Mapping[str, Any] | None) -> Changes:
    """Returns the values of the trial that was chosen; none where nothing was searched."""
    return record["trials"][record["chosen"]]["values"] if record else {}


def trials_of(table: Table, datasets: Sequence[str], data_dir: str | None) -> dict[Any, Trials]:
    """Returns {(title of a dataset, arm): the arm's trials there}, all of them checked."""
    bases = {
        dataset: arms.base_config(dataset, data_dir=data_dir, common=table.common)
        for dataset in datasets
    }
    for dataset, base in bases.items():
        arms.check_arms(table.arms, base, table.budgets[dataset].num_trials)
    return {
        (arms.title_of(dataset, base), name): Trials(arm, base, table.budgets[dataset])
        for dataset, base in bases.items()
        for name, arm in table.arms.items()
    }


def _scores(outcomes: Sequence[Outcome], score: Score) -> dict[str, list[float | None]]:
    """Returns {"val_<score>", "val_loss"}, a number per seed; None for a run that is not finite."""
    return {
        f"val_{name}": [o.scores["validation"][name] if o.scores else None for o in outcomes]
        for name in (score.name, "loss")
    }


def planned() -> tuple[Table, dict[Any, Trials]]:
    """Returns the table that the flags name, and its trials."""
    table = arms.with_budget(
        arms.load_table(TABLE.value), num_seeds=NUM_SEEDS.value, num_trials=NUM_TRIALS.value
    )
    datasets = arms.choose_datasets(table, DATASETS.value, DATA_DIR.value)
    with Waiting("checking the arms"):
        return table, trials_of(table, datasets, DATA_DIR.value)


@contextlib.contextmanager
def open_lab() -> Iterator[runs.Lab]:
    """Yields the lab whose workdir the flags name."""
    with runs.Store(WORKDIR.value, mix=MIX.value) as store:
        yield runs.Lab(store, CHUNK.value)


def told(dataset: str, name: str, record: Mapping[str, Any], score: Score) -> str:
    """Returns a line with the values that were chosen for an arm, and their score."""
    trial = record["trials"][record["chosen"]]
    judged = score.shown(float(np.mean(trial[f"val_{score.name}"])))
    values = ", ".join(f"{key} = {shown(value)}" for key, value in trial["values"].items())
    return f"{dataset}, {name}: {values} (validation {score.words} {judged})"


def main():
    _, trials = planned()
    recipes = [recipe for these in trials.values() for recipe in these.recipes()]
    with open_lab() as lab:
        seconds = lab.seconds_left(recipes, SPLITS)
        print(f"{counted(len(recipes), 'run')}, about {runs.duration(seconds)}", flush=True)
        records = tune(trials, lab)
    for (dataset, name), record in records.items():
        if record:
            print(told(dataset, name, record, trials[dataset, name].score))


if __name__ == "__main__":
    flags.mark_flags_as_required(["table"])
    command_line.run(main, device_a_core=True)
