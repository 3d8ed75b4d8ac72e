"""Chooses the searched values of a table's arms on validation, with as many trials for every arm.

python -m experiments.tune --table=weight_decay --datasets=digits --workdir=runs/tables

Trials are points of a Halton sequence; each is trained with the same few seeds, of which no run of
a table has one. Chosen is the trial with the highest mean validation accuracy after the last
update; of equal ones, that with the lowest validation loss. `experiments.table` does the same by
itself, and keeps the record of all trials; this script prints what is chosen.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.population import Outcome
from cyclical_jax.training.structure import Recipe
from experiments import arms, command_line, runs
from experiments.arms import Arm, Budget, Changes, Table, plain

TABLE = flags.DEFINE_string("table", None, "A table of experiments/tables, or the path of one.")
DATASETS = flags.DEFINE_list("datasets", None, "Of the table's; all that are there if not given.")
NUM_SEEDS = flags.DEFINE_integer("num_seeds", None, "Seeds an arm; the table's own if not given.")
NUM_TRIALS = flags.DEFINE_integer("num_trials", None, "Trials an arm; likewise.")
WORKDIR = flags.DEFINE_string("workdir", "runs/tables", "Where runs are kept and results go.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps its datasets.")
CHUNK = flags.DEFINE_integer(
    "chunk", None, "Runs a device trains at once; measured if not given.", lower_bound=1
)
MIX = flags.DEFINE_bool("mix_versions", False, "Take runs of another version of the code too.")

SPLITS = ("validation",)


@dataclass(frozen=True)
class Trials:
    """The trials of an arm on a dataset."""

    arm: Arm
    base: ConfigDict
    budget: Budget

    @property
    def seeds(self) -> list[int]:
        return [arms.FIRST_TUNING_SEED + index for index in range(self.budget.seeds_a_trial)]

    @property
    def values(self) -> list[Changes]:
        return self.arm.trials(self.budget.num_trials)

    def recipes(self) -> list[Recipe]:
        """Of each trial with each seed; none where nothing is searched."""
        values = self.values if self.arm.search else []
        return [arms.recipe_of(self.base, self.arm, v, seed) for v in values for seed in self.seeds]

    def record(self, outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
        """What became of the trials, and which is chosen; of the outcomes of `recipes`.

        Raises:
          RecipeError: In each trial a run stopped being finite.
        """
        if not self.arm.search:
            return None
        count = len(self.seeds)
        trials = [
            {"values": plain(values)} | _scores(outcomes[count * trial : count * (trial + 1)])
            for trial, values in enumerate(self.values)
        ]
        return {"seeds": self.seeds, "trials": trials, "chosen": best(trials)}


def best(trials: Sequence[Mapping[str, Any]]) -> int:
    """The index of the trial to choose."""
    finite = [i for i, trial in enumerate(trials) if None not in trial["val_accuracy"]]
    if not finite:
        raise RecipeError("in no trial did all runs stay finite: search lower learning rates.")
    return max(
        finite,
        key=lambda i: (np.mean(trials[i]["val_accuracy"]), -np.mean(trials[i]["val_loss"])),
    )


def tune(trials: Mapping[Any, Trials], lab: runs.Lab) -> dict[Any, dict[str, Any] | None]:
    """The record of each arm's trials, by what names the arm."""
    recipes = {name: these.recipes() for name, these in trials.items()}
    outcomes = iter(lab.complete([r for own in recipes.values() for r in own], SPLITS))
    own_outcomes = {name: [next(outcomes) for _ in own] for name, own in recipes.items()}
    records = {}
    for name, these in trials.items():
        try:
            records[name] = these.record(own_outcomes[name])
        except RecipeError as error:
            raise RecipeError(f"{', arm '.join(name)}: {error}") from error
    return records


def chosen(record: Mapping[str, Any] | None) -> Changes:
    """The values of the trial that was chosen; none where nothing was searched."""
    return record["trials"][record["chosen"]]["values"] if record else {}


def trials_of(table: Table, datasets: Sequence[str], data_dir: str | None) -> dict[Any, Trials]:
    """Of each arm on each dataset, {(dataset, arm): its trials}, all of them checked."""
    bases = {
        dataset: arms.base_config(dataset, data_dir=data_dir, common=table.common)
        for dataset in datasets
    }
    for dataset, base in bases.items():
        arms.check_arms(table.arms, base, table.budgets[dataset].num_trials)
    return {
        (dataset, name): Trials(arm, base, table.budgets[dataset])
        for dataset, base in bases.items()
        for name, arm in table.arms.items()
    }


def _scores(outcomes: Sequence[Outcome]) -> dict[str, list[float | None]]:
    """{"val_accuracy", "val_loss"}, a number a seed; None of one that is not finite."""
    names = {"val_accuracy": "accuracy", "val_loss": "loss"}
    return {
        ours: [o.scores["validation"][theirs] if o.scores else None for o in outcomes]
        for ours, theirs in names.items()
    }


def planned() -> tuple[Table, dict[Any, Trials]]:
    """The table that the flags name, and its trials."""
    table = arms.with_budget(
        arms.load_table(TABLE.value), num_seeds=NUM_SEEDS.value, num_trials=NUM_TRIALS.value
    )
    datasets = arms.choose_datasets(table, DATASETS.value, DATA_DIR.value)
    return table, trials_of(table, datasets, DATA_DIR.value)


@contextlib.contextmanager
def open_lab() -> Iterator[runs.Lab]:
    """Where the flags say."""
    with runs.Store(Path(WORKDIR.value), mix=MIX.value) as store:
        yield runs.Lab(store, CHUNK.value)


def _told(dataset: str, name: str, record: Mapping[str, Any]) -> str:
    trial = record["trials"][record["chosen"]]
    accuracy = np.mean(trial["val_accuracy"])
    values = ", ".join(f"{key} = {value}" for key, value in trial["values"].items())
    return f"{dataset}, {name}: {values} (validation accuracy {accuracy:.2%})"


def main():
    _, trials = planned()
    recipes = [recipe for these in trials.values() for recipe in these.recipes()]
    with open_lab() as lab:
        seconds = lab.seconds_left(recipes, SPLITS)
        print(f"{len(recipes)} runs, about {runs.duration(seconds)}", flush=True)
        records = tune(trials, lab)
    for (dataset, name), record in records.items():
        if record:
            print(_told(dataset, name, record))


if __name__ == "__main__":
    flags.mark_flags_as_required(["table"])
    command_line.run(main, device_a_core=True)
