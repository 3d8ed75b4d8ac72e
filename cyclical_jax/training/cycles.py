"""The ends of the cycles of a run that restarts, in micro steps, and what such a run must be."""

import itertools
from collections.abc import Iterator, Sequence

from cyclical_jax.training.durations import Duration, Units
from cyclical_jax.training.fields import RecipeError

MOST_ENDS = 1000  # of cycles, in a run that restarts; each may have a row and a validation
_MOST_MICRO_STEPS = 2**31 - 1


def ends_within(
    ends: Iterator[int], duration: Duration, units: Units, every: int, micro_steps: int, why: str
) -> tuple[int, ...]:
    """Returns the ends of a run's cycles in micro steps; the last is the end of the run.

    Args:
      ends: The numbers of updates after which a cycle has ended, without end.
      duration: Length of the run, as a person says it.
      units: The sizes of a batch and an epoch.
      every: Micro steps of each update.
      micro_steps: Length of the run.
      why: What makes the run restart, in words.

    Raises:
      RecipeError: The run does not end at the end of a cycle, or it has too many cycles; a line.
    """
    found = list(itertools.islice(_until(micro_steps, (end * every for end in ends)), MOST_ENDS))
    if found[-1] < micro_steps and len(found) == MOST_ENDS:
        raise RecipeError(
            f"duration must have at most {MOST_ENDS} cycles where {why}; "
            f"'{_nearest(found[-1], duration.unit, units, every)}' has as many, got '{duration}'."
        )
    if found[-1] != micro_steps:
        raise RecipeError(_cut_short(found[-2:], duration, units, every, why))
    return tuple(found)


def check_turns(ends: Sequence[int], every: int, num_cycles: int) -> None:
    """Raises RecipeError unless hardness can turn in each cycle."""
    for start, end in itertools.pairwise((0, *ends)):
        if (end - start) // every <= num_cycles:
            raise RecipeError(
                "cycle.span 'restart' needs more updates in each cycle than cycle.num_cycles "
                f"{num_cycles}, got {(end - start) // every} in the one that ends at update "
                f"{end // every}."
            )


def _until(micro_steps: int, ends: Iterator[int]) -> Iterator[int]:
    """Yields the ends before `micro_steps`, and the first one that is not."""
    for end in ends:
        yield end
        if end >= micro_steps:
            return


def _cut_short(
    nearest: Sequence[int], duration: Duration, units: Units, every: int, why: str
) -> str:
    """Returns the line for a run that ends within a cycle."""
    possible = [end for end in nearest if end <= _MOST_MICRO_STEPS] or nearest
    words = " or ".join(f"'{_nearest(end, duration.unit, units, every)}'" for end in possible)
    return (
        f"duration must be a whole number of cycles where {why}, such as {words}, got '{duration}'."
    )


def _nearest(micro_steps: int, unit: str, units: Units, every: int) -> Duration:
    """Returns the duration in that unit that makes so many micro steps, with few digits."""
    if unit == "steps":
        return Duration(micro_steps / every, unit)
    if unit == "examples":
        return Duration(float(micro_steps * units.batch_size), unit)
    epochs = micro_steps / units.micro_steps_per_epoch
    rounded = (Duration(round(epochs, digits), unit) for digits in range(16))
    exact = (d for d in rounded if d.in_micro_steps(units, every) == micro_steps)
    return next(duration for duration in exact if duration.amount > 0)
