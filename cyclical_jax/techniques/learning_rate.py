"""The learning rate over a run: a knob, times a schedule of Optax, after a warm-up."""

import itertools
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
import optax

from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.fields import duration, knob, one_of, or_none, whole
from cyclical_jax.training.technique import Own, Part, Place, Schedules, Site, Technique

RATE = "optimizer.learning_rate"
SCHEDULE = "optimizer.learning_rate_schedule"
NUM_RESTARTS = "optimizer.num_restarts"
WARMUP = "optimizer.warmup"

KEYS = {
    RATE: knob(0.1, "learning rate; the schedule and the warm-up multiply it", above=0),
    SCHEDULE: or_none(
        one_of(
            "cosine",
            ("cosine", "one_cycle", "warm_restarts"),
            "schedule that multiplies the learning rate, which may cycle too; see "
            "cyclical_jax/techniques/learning_rate.py",
        )
    ),
    NUM_RESTARTS: or_none(
        whole(
            None,
            "number of warm restarts; each cosine is twice as long as the one before",
            minimum=1,
            maximum=20,
        )
    ),
    WARMUP: or_none(
        duration(None, "length of the warm-up, in which the learning rate grows from 0")
    ),
}
_ONE_CYCLE = {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4}  # Optax's defaults


def problems(checked: Own) -> Iterator[str]:
    if checked.keys() >= {SCHEDULE, NUM_RESTARTS}:
        schedule, number = checked[SCHEDULE], checked[NUM_RESTARTS]
        if (schedule == "warm_restarts") != (number is not None):
            yield (
                f"{NUM_RESTARTS} must be set where {SCHEDULE} is 'warm_restarts', and there alone, "
                f"got {number} and {schedule!r}."
            )


def schedules(own: Own, schedules: Schedules, timetable: Timetable) -> Schedules:
    """Returns the knob times the schedule that is named, after a warm-up.

    "cosine" falls from 1 to 0. "one_cycle" is `optax.cosine_onecycle_schedule`: from 1 / 25 up to 1
    within the first 30 % and down to 4e-6. "warm_restarts" is `num_restarts + 1` cosines from 1 to
    0, each twice as long as the one before it (Loshchilov & Hutter, 1608.03983).

    The warm-up is a line from 0, which is not reached, to what follows it; the rest keeps its
    place: a cosine has fallen by then.
    """
    rate = schedules[RATE]
    factor = _FACTORS[own[SCHEDULE]](own, timetable.total_steps)
    warmup = dict(timetable.own).get(WARMUP, 0)

    def scheduled(count):
        return rate(count) * factor(count)

    def warmed_up(count):
        growing = scheduled(warmup) * (count + 1) / (warmup + 1)
        return jnp.where(count < warmup, growing, scheduled(count))

    return {RATE: warmed_up if warmup else scheduled}


def part(site: Site) -> Part:
    return Part(chain=((Place.RATE, optax.scale_by_learning_rate(site.schedules[RATE])),))


def _constant(own, total_steps):
    return lambda count: 1.0


def _cosine(own, total_steps):
    return optax.cosine_decay_schedule(1.0, total_steps)


def _one_cycle(own, total_steps):
    # Optax's takes no array of counts, which a preview asks for.
    return jnp.vectorize(optax.cosine_onecycle_schedule(total_steps, 1.0, **_ONE_CYCLE))


def _warm_restarts(own, total_steps):
    number = own[NUM_RESTARTS] + 1
    starts = total_steps * (2 ** np.arange(number + 1) - 1) / (2**number - 1)
    starts = starts.round().astype(int).tolist()
    cosines = [
        optax.cosine_decay_schedule(1.0, max(1, stop - start))
        for start, stop in itertools.pairwise(starts)
    ]
    return optax.join_schedules(cosines, starts[1:-1])


_FACTORS: dict[str | None, Callable[[Own, int], optax.Schedule]] = {
    None: _constant,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
    "warm_restarts": _warm_restarts,
}

TECHNIQUE = Technique(
    "learning_rate",
    KEYS,
    part,
    schedules=schedules,
    problems=problems,
    about="Sets the learning rate, its schedule and its warm-up.",
)
