"""How many batches each update of a run accumulates: a cyclical batch size.

The windows and the number of updates depend on each other: a schedule needs the number of updates,
and that many updates need their sum of batches. They are solved together on the host, before
anything is compiled, so that the hardness is 0 again at the last update and no gradient is lost.
"""

import bisect
import itertools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax

from cyclical_jax.schedules import as_integer

Windows = tuple[tuple[int, int], ...]  # (updates in a row, micro steps of each)
ScheduleOf = Callable[[int], optax.Schedule]  # total_steps -> micro steps an update


def uniform_windows(micro_steps: int, every: int) -> Windows:
    """`every` micro steps an update, and what is left for the last one."""
    updates, rest = divmod(micro_steps, every)
    windows = (updates, every), (1, rest)
    return tuple((count, size) for count, size in windows if count and size)


def windows_of_updates(schedule_of: ScheduleOf, total_steps: int) -> Windows:
    """The windows of that many updates."""
    return _run_lengths(_every(schedule_of, total_steps, total_steps))


def windows_of_micro_steps(
    schedule_of: ScheduleOf, micro_steps: int, *, least: int, minimum: int
) -> Windows:
    """The windows of as many updates as take that many micro steps, where one fewer do not.

    Args:
      schedule_of: The schedule of micro steps an update, for a number of updates.
      micro_steps: Of the run.
      least: Fewest updates that the schedule can turn within.
      minimum: Micro steps an update, at the schedule's lower end.

    Returns:
      Windows whose sum is `micro_steps`: the last ones are shortened to fit.
    """
    if micro_steps < least:
        return uniform_windows(micro_steps, 1)
    most = max(least, -(-micro_steps // minimum))

    def taken(total_steps):
        return int(_every(schedule_of, total_steps, most).sum())

    updates = least + bisect.bisect_left(range(least, most), micro_steps, key=taken)
    return _run_lengths(_shortened(_every(schedule_of, updates, most), micro_steps))


def powers_of_two(schedule_of: ScheduleOf) -> ScheduleOf:
    """The same, rounded to the nearest power of two on the log scale."""

    def rounded(total_steps):
        schedule = schedule_of(total_steps)
        return lambda count: 2 ** jnp.round(jnp.log2(schedule(count)))

    return rounded


def windows_schedule(windows: Windows) -> optax.Schedule:
    """Micro steps of the update `count`, int32."""
    counts, sizes = (np.array(part, np.int32) for part in zip(*windows, strict=True))
    last_of_each = np.cumsum(counts)[:-1]

    def every(count):
        return jnp.asarray(sizes)[jnp.searchsorted(jnp.asarray(last_of_each), count, side="right")]

    return every


def _every(schedule_of, total_steps: int, size: int) -> np.ndarray:
    """[total_steps]; computed for `size` counts, so that one shape serves a whole search."""
    return np.asarray(as_integer(schedule_of(total_steps))(np.arange(size)))[:total_steps]


def _shortened(every: np.ndarray, micro_steps: int) -> np.ndarray:
    """From the end, so far as each keeps a micro step."""
    excess = every.sum() - micro_steps
    room = np.cumsum(every[::-1] - 1)[::-1]  # of each window and those after it
    after = np.append(room[1:], 0)
    return every - np.clip(excess - after, 0, every - 1)


def _run_lengths(every: np.ndarray) -> Windows:
    runs = itertools.groupby(every.tolist())
    return tuple((sum(1 for _ in run), size) for size, run in runs)
