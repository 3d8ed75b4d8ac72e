"""The lengths of a trade-off curve, the runs that give them, and the rows that are read."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from cyclical_jax.data import num_examples
from cyclical_jax.training import extension, run
from cyclical_jax.training.durations import Duration, Timetable
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.population import Outcome
from cyclical_jax.training.structure import Recipe
from experiments import arms, runs
from experiments.arms import Changes, Table

if TYPE_CHECKING:  # it defines the flags of a command
    from experiments.tune import Trials

_ROUNDING = 1e-9  # of a fraction of an epoch
# Of a separate run: the published warm-up grows with the length. Here it multiplies the cosine,
# which has then fallen to 0.98; there the cosine begins after it.
WARMUP_SHARE = 8 / 90
_REASONS = {
    "duration": "--first_cycle and --num_cycles set the lengths",
    "cycle.span": "this command sets it",
    "optimizer.learning_rate_schedule": "this command sets it",
    "optimizer.first_cycle": "--first_cycle sets it",
    "optimizer.restart_multiplier": "every length is twice the one before",
    "optimizer.warmup": "this command sets it",
}


class Lengths(NamedTuple):
    """The lengths of training: 2w, 4w, ..., 2^K w."""

    first_cycle: Duration  # w
    num_cycles: int  # K, at least 2

    def of(self, cycle: int) -> Duration:
        """Returns the length of training at the end of a cycle, counted from 0."""
        return self.first_cycle._replace(amount=self.first_cycle.amount * 2 ** (cycle + 1))

    def of_one_run(self) -> Changes:
        """Returns the changes of the run that gives all lengths."""
        first, whole = str(self.first_cycle), str(self.of(self.num_cycles - 1))
        return {
            "duration": whole,
            "log_every": whole,
            "validate_every": "cycle",
            "cycle.span": "restart",
            "optimizer.learning_rate_schedule": "warm_restarts",
            "optimizer.first_cycle": first,
            "optimizer.restart_multiplier": 2.0,
            "optimizer.warmup": first,
        }

    def of_separate_run(self, cycle: int) -> Changes:
        """Returns the changes of the run that gives one length alone."""
        length = self.of(cycle)
        share = length.amount * WARMUP_SHARE
        amount = share if length.unit == "epochs" else float(max(1, round(share)))
        return {
            "duration": str(length),
            "log_every": str(length),
            "validate_every": str(length),
            "cycle.span": "run",
            "optimizer.learning_rate_schedule": "cosine",
            "optimizer.first_cycle": None,
            "optimizer.warmup": str(length._replace(amount=amount)),
        }


class Plan(NamedTuple):
    """The runs of an arm on a dataset."""

    one_run: list[Recipe]  # [seeds]
    separate: list[list[Recipe]]  # [lengths][seeds]; empty without --check
    timetable: Timetable  # of `one_run`

    @property
    def recipes(self) -> list[Recipe]:
        return [recipe for own in self.groups for recipe in own]

    @property
    def groups(self) -> list[list[Recipe]]:
        """The runs, apart by what takes equally long."""
        return [self.one_run, *self.separate]

    @property
    def steps(self) -> list[int]:
        """The updates at the ends of the cycles."""
        return [self.timetable.updates(end) for end in self.timetable.cycle_ends]

    @property
    def epochs(self) -> list[float]:
        """The epochs at the ends of the cycles."""
        return [self.timetable.epoch(end) for end in self.timetable.cycle_ends]


def plan(trials: "Trials", values: Changes, lengths: Lengths, *, check: bool) -> Plan:
    """Returns the runs of an arm with the `values` chosen for it; `check` adds the separate runs.

    Raises:
      RecipeError: They cannot be run; a line for each problem.
    """
    cycles = range(lengths.num_cycles) if check else ()
    changes = [lengths.of_one_run(), *map(lengths.of_separate_run, cycles)]
    alone = arms.recipe_of(trials.base, trials.arm, {**values, **lengths.of_separate_run(0)}, 0)
    _check_whole(lengths.first_cycle, alone)
    one_run, *separate = [
        [
            arms.recipe_of(trials.base, trials.arm, {**values, **own}, seed)
            for seed in range(trials.budget.num_seeds)
        ]
        for own in changes
    ]
    timetable, *_ = [
        run.plan(own[0], runs.load(own[0]), num_devices=1) for own in (one_run, *separate)
    ]
    _check_beginning(one_run[0], timetable, lengths.of(lengths.num_cycles - 2))
    return Plan(one_run, separate, timetable)


def _check_whole(first_cycle: Duration, recipe: Recipe) -> None:
    """Raises RecipeError unless the first cycle is a whole number of updates of the recipe."""
    structure, every = recipe.structure, recipe.structure.accumulate.least
    epoch = recipe.timetable(num_examples(runs.load(recipe).train)).micro_steps_per_epoch
    of_unit = {"steps": 1.0, "epochs": epoch / every, "examples": 1 / structure.batch_size / every}
    updates = first_cycle.amount * of_unit[first_cycle.unit]
    nearest = max(1, round(updates))
    if abs(updates - nearest) > _ROUNDING * nearest:
        raise RecipeError(
            f"--first_cycle must be a whole number of updates, such as '{nearest} steps', got "
            f"'{first_cycle}', which is {updates:.4g} updates."
        )


def _check_beginning(recipe: Recipe, timetable: Timetable, shorter: Duration) -> None:
    """Raises RecipeError unless a run that ends a cycle earlier is the beginning of this run.

    Only then is the end of a cycle a finished training of that length. Nothing is assumed of a
    schedule: those of both runs are compared at every update, bit for bit.
    """
    num_train = num_examples(runs.load(recipe).train)
    there = dataclasses.replace(recipe, duration=shorter).timetable(num_train)
    if found := extension.first_other(recipe, there, timetable):
        keys, update = found
        raise RecipeError(
            f"{keys} must not depend on the length of the run: from update {update:,} on, a run of "
            f"{shorter} would have other values, so that no end of a cycle is a finished training."
        )


def check_keys(given: dict[str, Changes]) -> None:
    """Raises RecipeError if anything sets what this command sets; a line for each key.

    Args:
      given: {what sets them, in words: its changes}.
    """
    lines = [
        f"{where} must not set {key}: {reason}."
        for where, changes in given.items()
        for key, reason in _REASONS.items()
        if key in changes
    ]
    if lines:
        raise RecipeError("\n".join(lines))


def given_by(table: Table) -> dict[str, Changes]:
    """Returns what the parts of a table set, for `check_keys`."""
    of_arms = {f"arm {name}": {**arm.changes, **arm.search} for name, arm in table.arms.items()}
    return {"common": table.common} | of_arms


def at_ends(outcome: Outcome, epochs: Sequence[float], name: str) -> list[float | None]:
    """Returns the validation score in the very rows at `epochs`, the ends of cycles.

    It takes no maximum over the rows around them: the best of several noisy scores is higher than
    a new one would be. A run that stopped being finite has None from there on.
    """
    scores = {row["epoch"]: row.get(f"val_{name}") for row in outcome.rows}
    return [scores.get(epoch) if outcome.error else scores[epoch] for epoch in epochs]
