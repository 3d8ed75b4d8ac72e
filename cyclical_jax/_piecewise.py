"""Schedules in pieces: constant between counts, or begun anew in each cycle."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax._dtypes import as_count, standard_promotion
from cyclical_jax._types import ArraySchedule, Schedule

MOST_COUNT = 2**31 - 1  # counts are int32


def constant_between(begins: Sequence[int], values: Sequence[int]) -> ArraySchedule:
    """Returns the schedule that is `values[i]` from the count `begins[i]` on, int32.

    Before the first of `begins`, which rise, it is `values[0]`.
    """
    changes_at, steps = np.array(begins[1:], np.int32), np.diff(np.array(values, np.int32))

    @standard_promotion
    def schedule(count):
        count = as_count(count)
        # A sum, where a look-up would have to say how its result is sharded.
        axes = tuple(range(jnp.ndim(count)))
        at, step = (np.expand_dims(part, axes) for part in (changes_at, steps))
        is_past = jnp.expand_dims(count, -1) >= at
        return jnp.sum(jnp.where(is_past, step, 0), -1, dtype=jnp.int32) + values[0]

    return schedule


def in_each_cycle(
    schedule_of: Callable[[jax.Array], Schedule], ends: Sequence[int]
) -> ArraySchedule:
    """Returns a schedule that begins anew in each cycle.

    Args:
      schedule_of: Number of updates of a cycle, traced -> the schedule within that cycle, which
        counts from 0.
      ends: Number of updates after which each cycle has ended.

    Returns:
      The schedule. Its compiled values up to an end have the same bits whatever ends come after it.
      After the last end, the schedule of the last cycle goes on.
    """
    lengths = np.diff([0, *ends]).tolist()
    # The last count begins one cycle more, which no training reaches: XLA rounds differently where
    # it knows a length, and the length of a single cycle would be known.
    begins = [0, *ends[:-1], MOST_COUNT]
    begin_at = constant_between(begins, begins)
    length_at = constant_between(begins, [*lengths, lengths[-1] + 1])

    @standard_promotion
    def schedule(count):
        count = as_count(count)
        within = jnp.vectorize(lambda passed, length: schedule_of(length)(passed))
        return within(count - begin_at(count), length_at(count))

    return schedule
