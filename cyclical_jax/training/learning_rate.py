"""The learning rate over a run: a knob, times a schedule of Optax, after a warm-up."""

import itertools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax

from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.recipe import Structure

_ONE_CYCLE = {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4}  # Optax's defaults


def scheduled_rate(
    structure: Structure, rate: optax.Schedule, timetable: Timetable
) -> optax.Schedule:
    """`rate` times the schedule that the structure names, grown into from 0.

    "cosine" falls from 1 to 0. "one_cycle" is `optax.cosine_onecycle_schedule`: from 1 / 25 up to 1
    within the first 30 % and down to 4e-6. "warm_restarts" is `num_restarts + 1` cosines from 1 to
    0, each twice as long as the one before it (Loshchilov & Hutter, 1608.03983).

    The warm-up is a line from 0, which is not reached, to what follows it; the rest keeps its
    place: a cosine has fallen by then.
    """
    share = _SHARES[structure.learning_rate_schedule](structure, timetable.total_steps)
    warmup = timetable.warmup_steps

    def scheduled(count):
        return rate(count) * share(count)

    def warmed_up(count):
        growing = scheduled(warmup) * (count + 1) / (warmup + 1)
        return jnp.where(count < warmup, growing, scheduled(count))

    return warmed_up if warmup else scheduled


def _constant(structure, total_steps):
    return lambda count: 1.0


def _cosine(structure, total_steps):
    return optax.cosine_decay_schedule(1.0, total_steps)


def _one_cycle(structure, total_steps):
    # Optax's takes no array of counts, which a preview asks for.
    return jnp.vectorize(optax.cosine_onecycle_schedule(total_steps, 1.0, **_ONE_CYCLE))


def _warm_restarts(structure, total_steps):
    number = structure.num_restarts + 1
    starts = total_steps * (2 ** np.arange(number + 1) - 1) / (2**number - 1)
    starts = starts.round().astype(int).tolist()
    cosines = [
        optax.cosine_decay_schedule(1.0, max(1, stop - start))
        for start, stop in itertools.pairwise(starts)
    ]
    return optax.join_schedules(cosines, starts[1:-1])


_SHARES: dict[str | None, Callable[[Structure, int], optax.Schedule]] = {
    None: _constant,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
    "warm_restarts": _warm_restarts,
}
