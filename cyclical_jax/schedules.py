"""The hardness schedule, which says where in the cycle training is, and schedules made from it.

A schedule maps the count of optimizer updates to a value, as in Optax. Every value that cycles is
`(1 - h) * easy + h * hard`, where the hardness h goes from 0 (easy) to 1 (hard) and back to 0:

    x = count / (total_steps - 1), clamped to [0, 1]
    h = factor x                           while x <= 1 / factor     (easy -> hard)
    h = factor (1 - x) / (factor - 1)      after that                (hard -> easy)

The first and the last update are exactly easy, and past the end the last value holds. The peak is
at the fraction 1 / factor of training; the mean of h is 1/2 for every factor > 1. With `factor=1`
hardness only rises: h = x.

Source: L. N. Smith, General Cyclical Training of Neural Networks (arXiv 2202.08835). With one
count per epoch, h is one minus the easiness of the published code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax import _checks
from cyclical_jax._dtypes import as_array, as_count, standard_promotion, widened
from cyclical_jax._types import ArraySchedule, Number, NumberOrSchedule, Schedule

Growth = Literal[
    "linear",
    "cosine",
    "exponential",
    "late_exponential",
    "rex",
    "early_rex",
    "published_exponential",
    "late_published_exponential",
]
Shape = Growth | tuple[Growth, Growth]
Scale = Literal["linear", "log"]

# Growth in terms of the linear hardness h and its complement e = 1 - h, which is an argument
# because the slope of REX at the peak is 10: the rounding of 1 - h would show. The products of the
# late exponentials are 1 - exponential(e), without the loss of digits of a difference near 0.
_GROWTH: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "linear": lambda h, e: h,
    "cosine": lambda h, e: jnp.sin(0.5 * jnp.pi * h) ** 2,
    "exponential": lambda h, e: jnp.expm1(-4 * h) / math.expm1(-4),
    "late_exponential": lambda h, e: jnp.exp(-4 * e) * (jnp.expm1(-4 * h) / math.expm1(-4)),
    "rex": lambda h, e: h / (h + 10 * e),
    "early_rex": lambda h, e: 10 * h / (10 * h + e),
    "published_exponential": lambda h, e: -jnp.expm1(-4 * h),
    "late_published_exponential": lambda h, e: jnp.exp(-4 * e),
}
SHAPES = tuple(_GROWTH)
SCALES = ("linear", "log")
_MOST_STEPS = 2**31  # counts are int32
MOST_CYCLES = 2**15  # its square fits in int32


# The first signature of each overloaded function is for type checkers: they give every argument of
# `**cycle` one type, so that `cycle = dict(total_steps=10_000, factor=4)` would not fit `shape`.


@overload
def hardness_schedule(
    total_steps: Number, *, factor: Number = ..., num_cycles: float = ...
) -> ArraySchedule: ...


@overload
def hardness_schedule(
    total_steps: Number, *, factor: Number = ..., shape: Shape = ..., num_cycles: float = ...
) -> ArraySchedule: ...


def hardness_schedule(
    total_steps: Number,
    *,
    factor: Number = 2.0,
    shape: Shape = "linear",
    num_cycles: float = 1,
) -> ArraySchedule:
    """Returns the hardness in [0, 1] as a function of the update count: easy -> hard -> easy.

    Args:
      total_steps: Number of updates of the whole training, from 2 to 2^31. Hardness is 0 at count
        0 and at count `total_steps - 1`; after that the last value holds.
      factor: At least 1. The peak is at the fraction `1 / factor` of a cycle: 2 is the middle, 4
        the end of the first quarter, 1 the end of the cycle (hardness never falls).
      shape: How hardness grows towards the peak and, mirrored, falls from it; a pair (way up, way
        back) gives each way its own growth. In terms of the linear hardness h:

        - "linear": h
        - "cosine": (1 - cos(pi h)) / 2
        - "exponential": (1 - exp(-4 h)) / (1 - exp(-4))
        - "late_exponential": (exp(4 h) - 1) / (exp(4) - 1), which is 1 - exponential(1 - h)
        - "rex": h / (10 - 9 h)
        - "early_rex": 10 h / (1 + 9 h), which is 1 - rex(1 - h)
        - "published_exponential": 1 - exp(-4 h), which ends at 0.982
        - "late_published_exponential": exp(-4 (1 - h)), which begins at 0.018

      num_cycles: How many times easy -> hard -> easy is repeated, from 1 to `total_steps - 1`.

    `total_steps` and `factor` may be traced scalars; traced numbers are not checked. The gradient
    with respect to `factor` is finite, even at 1.

    Returns:
      A schedule: counts (any shape) -> float32 hardness of the same shape. Its error is at most
      1e-6 * num_cycles at every count; 2e-6 * num_cycles for "rex" with traced numbers. With traced
      numbers and more than 2^24 updates, rounding may leave the peak just below 1.

    Raises:
      ValueError: A Python or NumPy number is out of its range, or `shape` is unknown.

    Source: arXiv 2202.08835 for the linear shape (the cycle of the published code). The other
    shapes are the growth functions of Wolfe & Kyrillidis (arXiv 2403.02243) and their mirror
    images, which their triangular schedules have on one way or on both. Their exponential is
    "published_exponential": it ends at 0.982, which their rounding to whole bits hides.
    "exponential" is scaled to reach 1.

    Examples:
      >>> hardness = hardness_schedule(total_steps=9, factor=4)
      >>> [round(float(hardness(count)), 2) for count in range(9)]
      [0.0, 0.5, 1.0, 0.83, 0.67, 0.5, 0.33, 0.17, 0.0]

      Slow at first on the way up, slow at first on the way back:

      >>> hardness = hardness_schedule(total_steps=9, shape=("rex", "early_rex"))
      >>> [round(float(hardness(count)), 2) for count in range(9)]
      [0.0, 0.03, 0.09, 0.23, 1.0, 0.97, 0.91, 0.77, 0.0]
    """
    _checks.whole_number("total_steps", total_steps, minimum=2, maximum=_MOST_STEPS)
    _checks.number("factor", factor, minimum=1, maximum=_MOST_STEPS)
    up, back = as_pair(checked_shape("shape", shape))
    last = _whole(total_steps) - 1
    most_cycles = min(last, MOST_CYCLES) if _checks.is_plain(total_steps) else MOST_CYCLES
    _checks.whole_number("num_cycles", num_cycles, minimum=1, maximum=most_cycles)
    factor = _real(factor)

    @standard_promotion
    def schedule(count):
        count = jnp.clip(as_count(count), 0, last)
        to_easy, to_peak = _steps_to_turns(count, last, factor, int(num_cycles))
        to_hard = jnp.abs(to_peak)
        length = to_easy + to_hard
        h, e = to_easy / length, to_hard / length
        hardness = _GROWTH[up](h, e)
        if up != back:
            hardness = jnp.where(to_peak >= 0, hardness, _GROWTH[back](h, e))
        return hardness.astype(jnp.float32)

    return schedule


def between(
    easy: Number,
    hard: Number,
    hardness_schedule: Schedule,
    *,
    scale: Scale = "linear",
) -> ArraySchedule:
    """Returns the schedule that is `easy` at hardness 0 and `hard` at hardness 1.

    Args:
      easy: Value at hardness 0, a scalar.
      hard: Value at hardness 1, a scalar; may be the smaller one.
      hardness_schedule: count -> hardness h in [0, 1].
      scale: "linear" is `(1 - h) easy + h hard`; "log" is `easy^(1 - h) hard^h`, for values
        above 0 that differ by orders of magnitude.

    `easy` and `hard` may be traced; traced numbers are not checked.

    Returns:
      A schedule: counts -> float32 values; exactly `easy` at h = 0 and `hard` at h = 1.

    Raises:
      ValueError: An end is not a scalar. A Python or NumPy number is not finite, is too large or
        too small for float32 (it must be 0 or, in size, from 1.2e-38 to 3.4e38), or is not above 0
        on the log scale. `scale` is unknown, or `hardness_schedule` is not a function.

    Source: arXiv 2202.08835 (linear). The log scale is an addition of this library.
    """
    _checks.one_of("scale", scale, SCALES)
    above = 0 if scale == "log" else -math.inf
    for name, end in {"easy": easy, "hard": hard}.items():
        _check_not_infinite(name, end)
        _checks.number(name, end, above=above)
    if not callable(hardness_schedule):
        raise ValueError(f"`hardness_schedule` must be a function, got {hardness_schedule!r}.")
    mix = _MIXES[scale]

    @standard_promotion
    def schedule(count):
        numbers = easy, hard, hardness_schedule(count)
        return mix(*(as_array(number, jnp.float32) for number in numbers))

    return schedule


@overload
def cyclical_schedule(
    easy: Number,
    hard: Number,
    total_steps: Number,
    *,
    factor: Number = ...,
    num_cycles: float = ...,
) -> ArraySchedule: ...


@overload
def cyclical_schedule(
    easy: Number,
    hard: Number,
    total_steps: Number,
    *,
    factor: Number = ...,
    shape: Shape = ...,
    num_cycles: float = ...,
    scale: Scale = ...,
) -> ArraySchedule: ...


def cyclical_schedule(
    easy: Number,
    hard: Number,
    total_steps: Number,
    *,
    factor: Number = 2.0,
    shape: Shape = "linear",
    num_cycles: float = 1,
    scale: Scale = "linear",
) -> ArraySchedule:
    """Returns the schedule `easy` -> `hard` -> `easy`: `between` on `hardness_schedule`.

    Args:
      easy: Value at the first and the last update.
      hard: Value at the peak of hardness.
      total_steps, factor, shape, num_cycles: As in `hardness_schedule`.
      scale: As in `between`.

    Returns:
      A schedule: counts -> float32 values.

    Raises:
      ValueError: As in `hardness_schedule` and `between`.

    Source: arXiv 2202.08835.

    Examples:
      Weight decay that is small, large, small:

      >>> weight_decay = cyclical_schedule(1e-5, 8e-5, total_steps=101)
      >>> [f"{weight_decay(count):.1e}" for count in (0, 25, 50, 100)]
      ['1.0e-05', '4.5e-05', '8.0e-05', '1.0e-05']

      A warm-up of 10 updates followed by the cycle, joined by Optax:

      >>> import optax
      >>> learning_rate = optax.join_schedules(
      ...     [optax.linear_schedule(0.0, 0.1, 10), cyclical_schedule(0.1, 0.5, 91)],
      ...     boundaries=[10],
      ... )
      >>> [round(float(learning_rate(count)), 2) for count in (0, 5, 10, 55, 100)]
      [0.0, 0.05, 0.1, 0.5, 0.1]
    """
    hardness = hardness_schedule(total_steps, factor=factor, shape=shape, num_cycles=num_cycles)
    return between(easy, hard, hardness, scale=scale)


def per_epoch(schedule_of_epochs: Schedule, steps_per_epoch: Number) -> ArraySchedule:
    """Returns a schedule that changes once per epoch, as in the published code.

    Args:
      schedule_of_epochs: epoch (from 0) -> value, e.g. `hardness_schedule(num_epochs)`.
      steps_per_epoch: Updates per epoch, at least 1; may be traced, and is then not checked.

    Returns:
      The schedule `schedule_of_epochs(count // steps_per_epoch)`.

    Raises:
      ValueError: `steps_per_epoch` is not a scalar, or not a whole number of at least 1.
    """
    _checks.whole_number("steps_per_epoch", steps_per_epoch, minimum=1, maximum=2**31 - 1)

    @standard_promotion
    def schedule(count):
        return schedule_of_epochs(as_count(count) // _whole(steps_per_epoch))

    return schedule


def as_integer(schedule: NumberOrSchedule, *, minimum: int = 1) -> ArraySchedule:
    """Returns a schedule rounded to int32 (halves to even), e.g. for `optax.MultiSteps`.

    Args:
      schedule: A number in the range of int32, or a schedule.
      minimum: Smallest value returned.

    Returns:
      The schedule `max(round(schedule(count)), minimum)`, int32.

    Raises:
      ValueError: A number is not a scalar or is not in the range of int32, or `minimum` is not a
        whole number.
    """
    int32 = {"minimum": -(2**31), "maximum": 2**31 - 1}
    _checks.whole_number("minimum", minimum, **int32)
    if not callable(schedule):
        _checks.number("schedule", schedule, **int32)
    value_at = as_schedule(schedule)

    @standard_promotion
    def rounded(count):
        return jnp.maximum(jnp.round(value_at(count)).astype(jnp.int32), minimum)

    return rounded


def as_schedule(value: NumberOrSchedule) -> Callable[[Any], Any]:
    """Returns a schedule as it is, and for a number the constant schedule."""
    return value if callable(value) else lambda count: value


def checked_shape(name: str, value: Any) -> Shape:
    """Returns a shape as `hardness_schedule` takes it; a list becomes a tuple, to be hashable.

    Raises ValueError unless it is a word or a pair of words.
    """
    if not isinstance(value, tuple | list):
        _checks.one_of(name, value, SHAPES)
        return value
    if len(value) != 2:
        raise ValueError(f"`{name}` must be a word or a pair (way up, way back), got {value!r}.")
    for word in value:
        _checks.one_of(name, word, SHAPES)
    up, back = value
    return up, back


def as_pair(shape: Shape) -> tuple[Growth, Growth]:
    """Returns the growth on the way up and the one on the way back."""
    return shape if isinstance(shape, tuple) else (shape, shape)


def _check_not_infinite(name: str, end: Any) -> None:
    if _checks.is_plain(end) and end in (np.inf, -np.inf):
        raise ValueError(
            f"`{name}` must be finite, got {end}: every value between the ends would be infinite "
            "too. For a threshold that clips nothing, write a number above all norms, such as 1e3."
        )


def _mix_linearly(easy, hard, h):
    mixed = (1 - h) * easy + h * hard
    # If both ends are equal, the value is exactly constant, without a rounding error.
    return mixed + jax.lax.stop_gradient(jnp.where(easy == hard, easy - mixed, 0))


def _mix_geometrically(easy, hard, h):
    # The quotient of the ends may leave the range of float32; that of their cube roots does not.
    third = (jnp.cbrt(hard) / jnp.cbrt(easy)) ** h
    return jnp.where(h == 1, hard, easy * third * third * third)  # the product misses by a rounding


_MIXES = dict(zip(SCALES, (_mix_linearly, _mix_geometrically), strict=True))


class _Position(NamedTuple):
    """A point between two counts, `whole + part`.

    float32 cannot tell counts above 2^24 apart. So the whole steps stay integers until they are
    subtracted.
    """

    whole: Any  # int32
    part: Any  # float32


def _distance(start: _Position, end: _Position) -> jax.Array:
    return (end.whole - start.whole) + (end.part - start.part)


def _shifted(position: _Position, steps: Any, sign: int) -> _Position:
    whole = math.floor(steps) if isinstance(steps, float) else jnp.floor(steps).astype(jnp.int32)
    return _Position(position.whole + sign * whole, position.part + sign * (steps - whole))


def _steps_to_turns(count, last, factor, num_cycles):
    """Returns the steps from `count` to the easy end on its side of the peak, and to the peak.

    The steps to the peak are negative on the way back.
    """
    now = _Position(count, 0.0)
    cycle = _cycle_of(count, last, num_cycles)
    begin, end = _cycle_begin(cycle, last, num_cycles), _cycle_begin(cycle + 1, last, num_cycles)
    to_peak = _distance(now, _peak(begin, end, last / num_cycles, factor))
    to_easy = jnp.where(to_peak >= 0, _distance(begin, now), _distance(now, end))
    return to_easy, to_peak


def _peak(begin: _Position, end: _Position, cycle_length, factor) -> _Position:
    """Returns the peak, measured from the nearer end: its error is small on both sides of it."""
    from_end = _shifted(end, cycle_length * (factor - 1) / factor, -1)
    from_begin = _shifted(begin, cycle_length / factor, +1)
    return jax.tree.map(lambda e, b: jnp.where(factor < 2, e, b), from_end, from_begin)


def _cycle_of(count, last, num_cycles):
    """Returns the index of the cycle of `count`; float32's quotient may be off by one."""
    if num_cycles == 1:
        return 0
    guess = jnp.clip((count / last * num_cycles).astype(jnp.int32), 0, num_cycles - 1)
    is_early = _distance(_cycle_begin(guess, last, num_cycles), _Position(count, 0.0)) < 0
    guess = jnp.where(is_early, guess - 1, guess)
    is_late = _distance(_cycle_begin(guess + 1, last, num_cycles), _Position(count, 0.0)) >= 0
    return jnp.minimum(jnp.where(is_late, guess + 1, guess), num_cycles - 1)


def _cycle_begin(cycle, last, num_cycles) -> _Position:
    """Returns the point `cycle * last / num_cycles`, without a product that overflows int32."""
    quotient, remainder = last // num_cycles, last % num_cycles
    rest = cycle * remainder
    return _Position(cycle * quotient + rest // num_cycles, (rest % num_cycles) / num_cycles)


def _real(value: Any) -> Any:
    """Returns a known number as a Python float, whose arithmetic is float64."""
    return float(value) if _checks.is_plain(value) else widened(value)


def _whole(value: Any) -> Any:
    return int(value) if _checks.is_plain(value) else jnp.asarray(value).astype(jnp.int32)
