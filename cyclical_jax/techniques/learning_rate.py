"""The learning rate over a run: a knob, times a schedule, after a warm-up."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from cyclical_jax.restarts import LEAST_GROWTH, ends_of_cycles, warm_restart_schedule
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.fields import duration, knob, number, one_of, or_none
from cyclical_jax.training.technique import (
    Own,
    Part,
    Place,
    Restarts,
    Schedules,
    Site,
    Technique,
)

RATE = "optimizer.learning_rate"
SCHEDULE = "optimizer.learning_rate_schedule"
WARM_RESTARTS = "warm_restarts"
FIRST_CYCLE = "optimizer.first_cycle"
MULTIPLIER = "optimizer.restart_multiplier"
WARMUP = "optimizer.warmup"

KEYS = {
    RATE: knob(0.1, "learning rate; the schedule and the warm-up multiply it", above=0),
    SCHEDULE: or_none(
        one_of(
            "cosine",
            ("cosine", "one_cycle", WARM_RESTARTS),
            "schedule that multiplies the learning rate, which may cycle too; see "
            "cyclical_jax/techniques/learning_rate.py",
        )
    ),
    FIRST_CYCLE: or_none(
        duration(None, "length of the first cycle of warm restarts, which begins after the warm-up")
    ),
    MULTIPLIER: number(
        2.0,
        "length of each cycle over that of the one before it, 1 or at least "
        f"{LEAST_GROWTH}; read only with warm restarts",
        minimum=1,
        maximum=1e6,
    ),
    WARMUP: or_none(
        duration(None, "length of the warm-up, in which the learning rate grows from 0")
    ),
}
_ONE_CYCLE = {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4}  # Optax's defaults


def problems(checked: Own) -> Iterator[str]:
    if checked[SCHEDULE] == WARM_RESTARTS and checked[FIRST_CYCLE] is None:
        yield f"{FIRST_CYCLE} must be set, such as '2 epochs', where {RESTARTS}; got None."
    if 1 < checked[MULTIPLIER] < LEAST_GROWTH:
        yield f"{MULTIPLIER} must be 1, or at least {LEAST_GROWTH}, got {checked[MULTIPLIER]}."


def schedules(own: Own, schedules: Schedules, timetable: Timetable) -> Schedules:
    """Returns the knob times the schedule that is named, after a warm-up.

    "cosine" falls from 1 to 0. "one_cycle" is `optax.cosine_onecycle_schedule`: from 1 / 25 up to 1
    within the first 30 % and down to 4e-6. With both, the warm-up is a line from 0, which is not
    reached, to what follows it; the rest keeps its place: a cosine has fallen by then.

    "warm_restarts" is `cyclical_jax.warm_restart_schedule`: the warm-up is a line from 0, which the
    first update has, to 1, and the first cosine begins after it.
    """
    rate, updates = schedules[RATE], dict(timetable.own)
    if own[SCHEDULE] == WARM_RESTARTS:
        factor, warmup = warm_restart_schedule(**_cycles(own, updates)), 0
    else:
        factor = _FACTORS[own[SCHEDULE]](timetable.total_steps)
        warmup = updates.get(WARMUP, 0)

    def scheduled(count):
        return rate(count) * factor(count)

    def warmed_up(count):
        growing = scheduled(warmup) * (count + 1) / (warmup + 1)
        return jnp.where(count < warmup, growing, scheduled(count))

    return {RATE: warmed_up if warmup else scheduled}


def part(site: Site) -> Part:
    return Part(chain=((Place.RATE, optax.scale_by_learning_rate(site.schedules[RATE])),))


def _ends(own: Own, updates: Mapping[str, int]) -> Iterator[int]:
    return ends_of_cycles(**_cycles(own, updates))


def _cycles(own: Own, updates: Mapping[str, int]) -> dict[str, Any]:
    """Returns the arguments of the warm restarts."""
    warmup = updates.get(WARMUP, 0)
    return {"first_cycle": updates[FIRST_CYCLE], "multiplier": own[MULTIPLIER], "warmup": warmup}


def _constant(total_steps):
    return lambda count: 1.0


def _cosine(total_steps):
    return optax.cosine_decay_schedule(1.0, total_steps)


def _one_cycle(total_steps):
    # Optax's takes no array of counts, which a preview asks for.
    return jnp.vectorize(optax.cosine_onecycle_schedule(total_steps, 1.0, **_ONE_CYCLE))


_FACTORS: dict[str | None, Callable[[int], optax.Schedule]] = {
    None: _constant,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
}
RESTARTS = Restarts(SCHEDULE, WARM_RESTARTS, _ends)

TECHNIQUE = Technique(
    "learning_rate",
    KEYS,
    part,
    schedules=schedules,
    restarts=RESTARTS,
    options={
        SCHEDULE: {
            "cosine": (),
            "one_cycle": (),
            WARM_RESTARTS: ("first_cycle", "restart_multiplier"),
        }
    },
    problems=problems,
    about="Sets the learning rate, its schedule and its warm-up.",
)
