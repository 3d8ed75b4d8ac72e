"""A learning rate that restarts, in absolute numbers of updates, and the ends of its cycles.

After a warm-up, each cycle is one cosine from 1 to 0. Cycle k has

    P_k = round(first_cycle multiplier^k)          k = 0, 1, 2, ...

updates. No length depends on the length of training. So a run that stops at the end of a cycle is
the beginning of every longer run, and the end of each cycle is that of a finished training.

Source: I. Loshchilov & F. Hutter, SGDR (arXiv 1608.03983). The warm-up, and the reading of one run
at the end of each cycle: J. Portes et al., Fast Benchmarking of Accuracy vs. Training Time with
Cyclic Learning Rates (arXiv 2206.00832).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from cyclical_jax import _checks
from cyclical_jax._dtypes import as_count, standard_promotion
from cyclical_jax._piecewise import MOST_COUNT, constant_between
from cyclical_jax._types import ArraySchedule
from cyclical_jax.schedules import MOST_CYCLES

LEAST_GROWTH = 1.01  # of the cycles, unless all are equal: about 1,700 of them then fill int32


def warm_restart_schedule(
    first_cycle: int, *, multiplier: float = 2.0, warmup: int = 0
) -> ArraySchedule:
    """Returns a factor of the learning rate: a warm-up, then cosines from 1 to 0, without end.

    While count < `warmup`, the factor is count / `warmup`. After that, update n of a cycle of P
    updates, counted from 0, has the factor

        (1 + cos(pi n / P)) / 2

    which is 1 at the first update of the cycle, and sin(pi / (2 P))^2 at its last.

    Args:
      first_cycle: Number of updates of the first cycle, from 1 to 2^31 - 1.
      multiplier: Length of a cycle over that of the cycle before it: 1, or at least 1.01. Cycle k
        has `round(first_cycle * multiplier**k)` updates; halves are rounded to even.
      warmup: Number of updates before the first cycle, from 0 to 2^31 - 1.

    The arguments are never traced: the host computes where each cycle begins.

    Returns:
      A schedule: counts (any shape) -> float32 factors of the same shape. Its error is at most 1e-6
      at every count of int32.

    Raises:
      ValueError: A number is out of its range.

    Source: arXiv 1608.03983; the warm-up is that of arXiv 2206.00832.

    Examples:
      A warm-up of 2 updates, then cycles of 2, 4, 8, ... updates:

      >>> factor = warm_restart_schedule(2, warmup=2)
      >>> [round(float(factor(count)), 2) for count in range(9)]
      [0.0, 0.5, 1.0, 0.5, 1.0, 0.85, 0.5, 0.15, 1.0]
    """
    ends = ends_of_cycles(first_cycle, multiplier=multiplier, warmup=warmup)
    first, warmup = int(first_cycle), int(warmup)
    repeats = float(multiplier) == 1
    begins = [warmup, *([] if repeats else itertools.takewhile(_is_count, ends))]
    lengths = [round(first * float(multiplier) ** k) for k in range(len(begins))]
    held = [min(length, MOST_COUNT) for length in lengths]  # what int32 holds of them
    begin_at, length_at = constant_between(begins, begins), constant_between(begins, held)
    surplus = float(lengths[-1] - held[-1])

    @standard_promotion
    def schedule(count):
        count = jnp.maximum(as_count(count), 0)
        passed = (count - warmup) % first if repeats else count - begin_at(count)
        more = jnp.where(count >= begins[-1], jnp.float32(surplus), 0)
        left = jnp.maximum(length_at(count) - passed, 0) + more
        cosine = jnp.sin(0.5 * jnp.pi * left / (length_at(count) + more)) ** 2
        return jnp.where(count < warmup, count / max(warmup, 1), cosine).astype(jnp.float32)

    return schedule


def cycle_ends(
    total_steps: int, first_cycle: int, *, multiplier: float = 2.0, warmup: int = 0
) -> tuple[int, ...]:
    """Returns the numbers of updates after which a cycle of `warm_restart_schedule` has ended.

    Args:
      total_steps: Number of updates of the training, from 1 to 2^31 - 1.
      first_cycle, multiplier, warmup: As in `warm_restart_schedule`.

    Returns:
      All ends that are at most `total_steps`, in their order. If `total_steps` is the last of them,
      training ends with a whole cycle.

    Raises:
      ValueError: A number is out of its range, or there are more than 2^15 ends.

    Source: arXiv 2206.00832.

    Examples:
      The published lengths, in epochs: 8 of warm-up, then 8, 16, 32, ...

      >>> cycle_ends(512, 8, warmup=8)
      (16, 32, 64, 128, 256, 512)
    """
    _checks.whole_number("total_steps", total_steps, minimum=1, maximum=MOST_COUNT)
    ends = ends_of_cycles(first_cycle, multiplier=multiplier, warmup=warmup)
    within = itertools.takewhile(lambda end: end <= total_steps, ends)
    found = tuple(itertools.islice(within, MOST_CYCLES + 1))
    if len(found) > MOST_CYCLES:
        raise ValueError(
            f"`total_steps` must be at most {found[-2]}, the end of cycle {MOST_CYCLES}, got "
            f"{total_steps}."
        )
    return found


def ends_of_cycles(first_cycle: int, *, multiplier: float, warmup: int) -> Iterator[int]:
    """Returns an iterator of the ends of all cycles, without end; raises as `cycle_ends`."""
    _checks.whole_number("first_cycle", first_cycle, minimum=1, maximum=MOST_COUNT)
    _checks.whole_number("warmup", warmup, minimum=0, maximum=MOST_COUNT)
    _checks.number("multiplier", multiplier, minimum=1)
    if 1 < multiplier < LEAST_GROWTH:
        raise ValueError(f"`multiplier` must be 1, or at least {LEAST_GROWTH}, got {multiplier}.")
    lengths = (round(int(first_cycle) * float(multiplier) ** k) for k in itertools.count())
    ends = itertools.accumulate(lengths, initial=int(warmup))
    return itertools.islice(ends, 1, None)


def _is_count(number: Any) -> bool:
    return number <= MOST_COUNT
