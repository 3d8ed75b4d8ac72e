"""The numbers of batches that the updates of a run accumulate, for a cyclical batch size.

A window is the number of batches of an update. Windows and the number of updates depend on each
other: the schedule of the windows needs the number of updates, and the windows of that many updates
must add up to the batches of the run. Both are computed together on the host, before anything is
compiled, so that the hardness is 0 again at the last update and no gradient is lost.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from cyclical_jax import _checks
from cyclical_jax._piecewise import constant_between
from cyclical_jax._types import ArraySchedule, Number, Schedule
from cyclical_jax.schedules import as_integer

Windows = tuple[tuple[int, int], ...]  # (updates in a row, micro steps of each)
ScheduleOf = Callable[[int], Schedule]  # total_steps -> micro steps an update
_MOST_COUNTED = 2**31 - 1
_MOST_LISTED = 10**7  # of a schedule, whose updates are listed one by one


def updates_of(micro_steps: int, every: Number | Schedule | ScheduleOf) -> int:
    """Returns how many updates `accumulate_gradients` makes of a number of micro steps.

    This is the `total_steps` of all schedules of such a run. Usually the schedule `every` needs it
    too; then `every` is given as a function of `total_steps`.

    Args:
      micro_steps: Batches of the whole run, e.g. `num_epochs * batches_per_epoch`.
      every: Micro steps per update: a number; a function of `total_steps` that returns the
        schedule, e.g. `lambda total_steps: cyclical_schedule(4, 1, total_steps)`; or a schedule
        that is already made. As in `accumulate_gradients` it is rounded and is at least 1.

    Returns:
      The number of updates T that are complete after `micro_steps`. For a function of
      `total_steps`, T updates of `every(T)` fit and T + 1 updates of `every(T + 1)` do not. Micro
      steps that are left over belong to an update that is never made; they are fewer than it needs.

    Raises:
      ValueError: `micro_steps` is not a whole number of at least 1, is above 10^7 for a schedule,
        or allows no update, or not as many as the cycle needs.

    Examples:
      >>> from cyclical_jax import accumulate_gradients, cyclical_schedule
      >>> updates_of(150, 4)
      37
      >>> updates_of(150, lambda total_steps: cyclical_schedule(4, 1, total_steps))
      60
    """
    most = _MOST_LISTED if callable(every) else _MOST_COUNTED
    _checks.whole_number("micro_steps", micro_steps, minimum=1, maximum=most)
    if not callable(every):
        _checks.whole_number("every", every, minimum=1, maximum=_MOST_COUNTED)
        updates = int(micro_steps) // int(every)
    elif callable(every(micro_steps)):
        updates = _updates_of_cycle(int(micro_steps), every)
    else:
        taken = np.cumsum(_every(lambda _: every, micro_steps, micro_steps), dtype=np.int64)
        updates = int(np.searchsorted(taken, micro_steps, side="right"))
    if not updates:
        raise ValueError(f"`micro_steps` must be enough for one update, got {micro_steps}.")
    return updates


def _updates_of_cycle(micro_steps: int, schedule_of: Any) -> int:
    """Returns how many updates fit, where their number decides how long each of them is."""

    def taken(total_steps):
        try:
            schedule = schedule_of(total_steps)
        except ValueError:  # too few updates for a cycle: more are needed
            return 0
        return int(_every(lambda _: schedule, total_steps, micro_steps).sum(dtype=np.int64))

    updates = bisect.bisect_right(range(1, micro_steps + 1), micro_steps, key=taken)
    try:
        schedule_of(max(updates, 1))
    except ValueError as error:
        raise ValueError(f"`micro_steps` {micro_steps} are too few for a cycle: {error}") from None
    return updates


def uniform_windows(micro_steps: int, every: int) -> Windows:
    """Returns windows of `every` micro steps each; the last one takes the rest."""
    _checks.whole_number("micro_steps", micro_steps, minimum=0, maximum=_MOST_COUNTED)
    _checks.whole_number("every", every, minimum=1, maximum=_MOST_COUNTED)
    updates, rest = divmod(micro_steps, every)
    windows = (updates, every), (1, rest)
    return tuple((count, size) for count, size in windows if count and size)


def windows_of_updates(schedule_of: ScheduleOf, total_steps: int) -> Windows:
    """Returns the windows of that many updates."""
    _checks.whole_number("total_steps", total_steps, minimum=0, maximum=_MOST_COUNTED)
    return _run_lengths(_every(schedule_of, total_steps, total_steps))


def windows_of_micro_steps(
    schedule_of: ScheduleOf, micro_steps: int, *, least: int, minimum: int
) -> Windows:
    """Returns the windows of the fewest updates that take that many micro steps.

    Args:
      schedule_of: Number of updates -> the schedule of micro steps per update.
      micro_steps: Micro steps of the run.
      least: Fewest updates within which the schedule can turn.
      minimum: Micro steps per update at the schedule's lower end.

    Returns:
      Windows whose sum is `micro_steps`: the last ones are shortened to fit.
    """
    for name, value in {"least": least, "minimum": minimum}.items():
        _checks.whole_number(name, value, minimum=1, maximum=_MOST_COUNTED)
    _checks.whole_number("micro_steps", micro_steps, minimum=0, maximum=_MOST_COUNTED)
    if micro_steps < least:
        return uniform_windows(micro_steps, 1)
    most = max(least, -(-micro_steps // minimum))

    def taken(total_steps):
        return int(_every(schedule_of, total_steps, most).sum())

    updates = least + bisect.bisect_left(range(least, most), micro_steps, key=taken)
    return _run_lengths(_shortened(_every(schedule_of, updates, most), micro_steps))


def powers_of_two(schedule_of: ScheduleOf) -> ScheduleOf:
    """Returns the same schedules, rounded to the nearest power of two on the log scale."""

    def rounded(total_steps):
        schedule = schedule_of(total_steps)
        return lambda count: 2 ** jnp.round(jnp.log2(schedule(count)))

    return rounded


def windows_schedule(windows: Windows) -> ArraySchedule:
    """Returns the schedule count -> micro steps of that update, int32.

    Raises ValueError if there are no windows.
    """
    if not windows:
        raise ValueError("`windows` must have at least one entry, got ().")
    counts, sizes = zip(*windows, strict=True)
    return constant_between([0, *itertools.accumulate(counts[:-1])], sizes)


def _every(schedule_of, total_steps: int, size: int) -> np.ndarray:
    """Returns [total_steps] values, computed for `size` counts: one shape serves a whole search."""
    every = np.asarray(as_integer(schedule_of(total_steps))(np.arange(size)))
    if every.shape not in ((), (size,)):
        raise ValueError(f"`every` must have one value for each count, got shape {every.shape}.")
    return np.broadcast_to(every, size)[:total_steps]  # of a constant it is one number


def _shortened(every: np.ndarray, micro_steps: int) -> np.ndarray:
    """Returns the windows with the last ones shortened; each keeps at least one micro step."""
    excess = every.sum() - micro_steps
    room = np.cumsum(every[::-1] - 1)[::-1]  # of each window and those after it
    after = np.append(room[1:], 0)
    return every - np.clip(excess - after, 0, every - 1)


def _run_lengths(every: np.ndarray) -> Windows:
    runs = itertools.groupby(every.tolist())
    return tuple((sum(1 for _ in run), size) for size, run in runs)
