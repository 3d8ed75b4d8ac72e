"""The lengths of a recipe in micro steps, for a number of training examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cyclical_jax.accumulation import (
    Windows,
    powers_of_two,
    uniform_windows,
    windows_of_micro_steps,
    windows_of_updates,
)
from cyclical_jax.training import cycles
from cyclical_jax.training.durations import Duration, Timetable, Units
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.keys import RESTART
from cyclical_jax.training.technique import Technique

if TYPE_CHECKING:  # whose `Recipe.timetable` is `timetable_of`
    from cyclical_jax.training.structure import Recipe, Structure

_MOST_WINDOWS = 10**7


def timetable_of(recipe: Recipe, num_train: int) -> Timetable:
    """Returns what `Recipe.timetable` returns."""
    structure = recipe.structure
    epoch = _micro_steps_per_epoch(structure, num_train)
    units = Units(structure.batch_size, epoch)
    windows = _windows(structure, recipe.duration, units, num_train)
    timetable = Timetable(windows, epoch, 1, 1, as_one_batch=structure.as_one_batch)
    _check_updates(structure.num_cycles, timetable.total_steps, num_train)
    every = _micro_steps_an_update(structure, timetable)

    def interval(length: Duration) -> int:
        return min(length.in_micro_steps(units, every), timetable.micro_steps)

    own = tuple(
        (key, max(1, round(length.in_micro_steps(units, every) / every)))
        for key, length in recipe.durations
    )
    _check_shorter(own, timetable.total_steps, structure.restarting)
    validate = recipe.validate_every
    return timetable._replace(
        log_every=interval(recipe.log_every),
        validate_every=interval(validate) if isinstance(validate, Duration) else None,
        own=own,
        cycle_ends=_cycle_ends(recipe, dict(own), units, timetable.micro_steps),
    )


def _cycle_ends(
    recipe: Recipe, updates: Mapping[str, int], units: Units, micro_steps: int
) -> tuple[int, ...]:
    """Returns the ends of the cycles of a run that restarts, in micro steps."""
    structure = recipe.structure
    entry, every = structure.restarting, structure.accumulate.least
    if entry is None or entry.restarts is None:
        return ()
    own = dict(dict(structure.entries)[entry])
    ends, why = entry.restarts.ends(own, updates), str(entry.restarts)
    found = cycles.ends_within(ends, recipe.duration, units, every, micro_steps, why)
    if structure.span == RESTART:
        cycles.check_turns(found, every, structure.num_cycles)
    return found


def _micro_steps_per_epoch(structure: Structure, num_train: int) -> int:
    size, rest = divmod(num_train, structure.batch_size)
    size += structure.remainder == "pad" and rest > 0
    if not size:
        raise RecipeError(
            f"batch_size {structure.batch_size} is more than the {num_train} training examples."
        )
    return size


def _windows(structure: Structure, duration: Duration, units: Units, num_train: int) -> Windows:
    """Returns the micro steps of each update of a run."""
    every, num_cycles = structure.accumulate, structure.num_cycles
    schedule_of, least = every.schedule_of(num_cycles), every.least
    if structure.as_one_batch and not every.is_constant:
        schedule_of, least = powers_of_two(schedule_of), 2 ** int(math.log2(least))
    micro_steps = duration.in_micro_steps(units, every.least)
    _check_micro_steps(micro_steps, every.is_constant, num_train)
    if every.is_constant:
        return uniform_windows(micro_steps, every.least)
    if duration.unit == "steps":
        _check_updates(num_cycles, int(duration.amount), num_train)
        return windows_of_updates(schedule_of, int(duration.amount))
    ends = {"least": num_cycles + 1, "minimum": least}
    return windows_of_micro_steps(schedule_of, micro_steps, **ends)


def _check_micro_steps(micro_steps: int, is_constant: bool, num_train: int) -> None:
    """Raises RecipeError for more micro steps than int32 can count, or a cycle can list."""
    most, what = (2**31 - 1, "counted") if is_constant else (_MOST_WINDOWS, "cycled over")
    if micro_steps > most:
        raise RecipeError(
            f"duration makes {micro_steps} batches of {num_train} training examples; at most "
            f"{most} can be {what}."
        )


def _check_updates(num_cycles: int, total_steps: int, num_train: int) -> None:
    """Raises RecipeError unless each cycle has two updates to turn between."""
    if total_steps <= num_cycles:
        raise RecipeError(
            f"duration must make more updates than cycle.num_cycles {num_cycles}, got "
            f"{total_steps} of {num_train} training examples."
        )


def _micro_steps_an_update(structure: Structure, timetable: Timetable) -> float:
    """Returns the micro steps of an update; their mean where they cycle."""
    if structure.accumulate.is_constant:
        return structure.accumulate.least
    return timetable.micro_steps / timetable.total_steps


def _check_shorter(
    durations: tuple[tuple[str, int], ...], total_steps: int, restarting: Technique | None
) -> None:
    """Raises RecipeError for a part that is as long as the run; one cycle may be the run."""
    for key, updates in durations:
        may_be_all = restarting is not None and key in restarting.keys
        if updates >= total_steps + may_be_all:
            words = "at most as long as" if may_be_all else "shorter than"
            raise RecipeError(
                f"{key} must be {words} the run, got {updates} of {total_steps} updates."
            )
