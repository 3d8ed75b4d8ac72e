"""Whether a run may be made longer: whether it is, bit for bit, the beginning of the longer run.

Nothing is assumed of a schedule. Both runs' schedules are computed for every update of the shorter
run, and compared.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cyclical_jax import data
from cyclical_jax._words import counted
from cyclical_jax.accumulation import Windows
from cyclical_jax.data.dataset import Dataset
from cyclical_jax.training import assembly
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.keys import DURATION, KEYS
from cyclical_jax.training.structure import Recipe

_CHUNK = 2**16  # updates whose schedules are computed at once


class Extension:
    """The run of a recipe, for a workdir that may hold the same run with a shorter duration.

    Args:
      recipe: The recipe of the longer run.
      dataset: Its data.

    Attributes:
      told: What was accepted, such as "extended from 72 to 144 updates"; None if nothing was.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset):
        self.told: str | None = None
        self._recipe = recipe
        self._num_train = data.num_examples(dataset.train)
        self._is_validated = data.num_examples(dataset.validation) > 0

    def problem(self, duration: Any) -> str | None:
        """Returns why a run of the same recipe with another `duration` cannot become this run.

        The reason is a sentence. None says that it can: its updates, its rows and its validations
        are those with which this run begins.
        """
        try:
            shorter = KEYS[DURATION].check(DURATION, duration)
            there = dataclasses.replace(self._recipe, duration=shorter).timetable(self._num_train)
        except ValueError as error:
            return str(error).replace("`", "")
        here = self._recipe.timetable(self._num_train)
        reason = next(self._problems(there, here), None)
        if reason is None:
            total = counted(here.total_steps, "update")
            self.told = f"extended from {there.total_steps:,} to {total}"
        return reason

    def _problems(self, there: Timetable, here: Timetable) -> Iterator[str]:
        """Yields a sentence for each difference; the later ones hold only if there is no other."""
        yield from _length_problems(there, here)
        yield from _window_problems(there, here)
        yield from _schedule_problems(self._recipe, there, here)
        yield from _row_problems(there, here, self._is_validated)


def _length_problems(there: Timetable, here: Timetable) -> Iterator[str]:
    lengths = f"{there.total_steps:,} updates there, {here.total_steps:,} here"
    if here.micro_steps < there.micro_steps:
        yield f"A run can be made longer, but not shorter: {lengths}."
    elif here.micro_steps == there.micro_steps:
        yield f"Both durations are as long: give the one that is there ({lengths})."


def _window_problems(there: Timetable, here: Timetable) -> Iterator[str]:
    """Yields a sentence unless the updates take the same batches, in a state of one form."""
    update, was, now = _first_other_window(there.windows, here.windows)
    if was != now:
        yield (
            f"This run cannot be made longer: its update {update:,} takes "
            f"{counted(was, 'batch', 'batches')}, and would take {now} in a run of that length."
        )
    elif there.accumulates != here.accumulates:
        yield "This run cannot be made longer: its updates take one batch each, later ones more."


def _first_other_window(there: Windows, here: Windows) -> tuple[int, int, int]:
    """Returns the first update of another size and both sizes, which are equal if there is none."""
    (was_ends, was), (now_ends, now) = (_ends_and_sizes(windows) for windows in (there, here))
    starts = np.union1d(was_ends, now_ends)
    starts = np.append(0, starts[starts < was_ends[-1]])  # between two of them no size changes
    old = was[np.searchsorted(was_ends, starts, side="right")]
    new = now[np.minimum(np.searchsorted(now_ends, starts, side="right"), len(now) - 1)]
    place = int(np.argmax(old != new))
    return int(starts[place]) + 1, int(old[place]), int(new[place])


def _ends_and_sizes(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    counts, sizes = np.array(windows, np.int64).T
    return np.cumsum(counts), sizes


def _schedule_problems(recipe: Recipe, there: Timetable, here: Timetable) -> Iterator[str]:
    """Yields a sentence unless all schedules have the same values, bit for bit."""
    found = first_other(recipe, there, here)
    if found:
        keys, update = found
        yield (
            f"This run cannot be made longer: {keys} would have other values from update "
            f"{update:,} on, because a schedule spans the whole run."
        )


def first_other(recipe: Recipe, there: Timetable, here: Timetable) -> tuple[str, int] | None:
    """Returns which schedules of a recipe are the first to differ between two lengths of it.

    Args:
      recipe: The run.
      there: The timetable of a shorter run of it.
      here: That of the longer run.

    Returns:
      Their keys, in words, and the first update, counted from 1, at which they have other values.
      None if all schedules have the same values, bit for bit, in all updates of the shorter run.
    """
    moved = _moved(recipe, there, here)
    if not moved:
        return None
    count = min(moved.values())
    first = [key for key, at in moved.items() if at == count]
    return " and ".join(_knobs_of(recipe, first)), count + 1


def _knobs_of(recipe: Recipe, first: Sequence[str]) -> list[str]:
    """Returns those that are knobs, or else the knobs from which they follow, or else all."""
    if named := [key for key in first if key in recipe.catalogue.keys]:
        return named
    followed = [
        entry
        for entry, _ in recipe.structure.entries
        if any(key in (entry.columns or {}) for key in first)
    ]
    on = dict(recipe.structure.curves)
    return [key for entry in followed for key in entry.keys if key in on] or list(first)


def _moved(recipe: Recipe, there: Timetable, here: Timetable) -> dict[str, int]:
    """Returns {key: the first count at which its schedule differs}."""
    moved: dict[str, int] = {}
    was, now = (_values(recipe, timetable) for timetable in (there, here))
    numbers = jax.tree.map(np.float32, recipe.numbers)
    for start in range(0, there.total_steps, _CHUNK):
        size = min(_CHUNK, there.total_steps - start)
        both = (values(numbers, start + np.arange(size, dtype=np.int32)) for values in (was, now))
        old, new = jax.device_get(tuple(both))
        for key in old.keys() | new.keys():
            if (at := _first_other_bit(old.get(key), new.get(key))) is not None:
                moved.setdefault(key, start + at)
    return dict(sorted(moved.items()))


def _values(recipe: Recipe, timetable: Timetable):
    """Returns the function (numbers, counts) -> {key: its values}, traced as the train step is."""

    @jax.jit
    def values(numbers, counts):
        schedules = assembly.make_schedules(recipe.structure, numbers, timetable)
        return {key: jax.vmap(at)(counts) for key, at in schedules.items()}

    return values


def _first_other_bit(one: np.ndarray | None, other: np.ndarray | None) -> int | None:
    """Returns the first place at which two arrays differ in a bit; None if there is none."""
    if one is None or other is None or one.dtype != other.dtype:
        return 0
    bits = [np.ascontiguousarray(array).view(f"u{array.itemsize}") for array in (one, other)]
    (places,) = np.nonzero(bits[0] != bits[1])
    return int(places[0]) if places.size else None


def _row_problems(there: Timetable, here: Timetable, is_validated: bool) -> Iterator[str]:
    """Yields a sentence unless all rows of the shorter run are rows of the longer one."""
    pairs = itertools.zip_longest(*(_rows(table, there.micro_steps) for table in (there, here)))
    for was, now in pairs:
        if was == now or (was and now and was[0] == now[0] and not is_validated):
            continue
        epochs = there.epoch(min(row[0] for row in (was, now) if row))
        yield (
            f"This run cannot be made longer: after {counted(epochs, 'epoch')} a run of that "
            "length has another row, or none. A new run can be, if log_every and validate_every "
            "divide its duration, or with validate_every='cycle'."
        )
        return


def _rows(timetable: Timetable, stop: int) -> Iterator[tuple[int, bool]]:
    """Yields (micro step, whether it validates) of each row up to `stop`."""
    row = timetable.next_row(0)
    while row <= stop:
        yield row, timetable.validates_at(row)
        if row == timetable.micro_steps:
            return
        row = timetable.next_row(row)
