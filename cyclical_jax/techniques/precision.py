"""Training with few bits, whose number may cycle. The maths is in cyclical_jax/precision.py."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import optax

from cyclical_jax.models import Model
from cyclical_jax.models.quantized import BITS, GRADIENTS, RANGES, Precision, quantized
from cyclical_jax.precision import LEAST_BITS, MOST_BITS, relative_cost
from cyclical_jax.schedules import as_integer
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.fields import Field, knob, number, one_of, or_none, whole
from cyclical_jax.training.keys import RESTART, SPAN
from cyclical_jax.training.technique import Own, Schedules, Site, Technique

WEIGHTS, ACTIVATIONS = "precision.weights", "precision.activations"
GRADIENT = f"precision.{GRADIENTS}"
QUANTIZER, KEEP = "precision.quantizer", "precision.keep"
DEFICIT, DEFICIT_BITS = "precision.deficit", "precision.deficit_bits"
COST = "precision.relative_cost"  # no key, but a schedule that follows from the bits
KNOBS = (WEIGHTS, ACTIVATIONS, GRADIENT)
_MOST_COUNTS = 2**20  # that are computed at once
_BITS = {"minimum": LEAST_BITS, "maximum": MOST_BITS}


def _bits(of: str) -> Field:
    field = knob(None, f"number of bits of {of}, rounded to a whole number", **_BITS)
    return or_none(field._replace(is_whole=True, high_is_easy=True, is_bits=True))


def _check_names(key, value):
    is_right = isinstance(value, tuple | list) and all(
        isinstance(name, str) and name for name in value
    )
    if not is_right:
        raise ValueError(f"{key} must be a tuple of names, such as ('last',), got {value!r}.")
    return tuple(value)


def _check_span(key, value):
    if value is None:
        return None
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{key} must be (start, end), such as (0, 0.25), got {value!r}.")
    start, end = (number(0.0, "", minimum=0, maximum=1).check(key, part) for part in value)
    if not start < end:
        raise ValueError(f"{key} must be (start, end) with start below end, got {value!r}.")
    return start, end


KEYS = {
    WEIGHTS: _bits("the weights of each dense layer and convolution"),
    ACTIVATIONS: _bits("the inputs of each dense layer and convolution"),
    GRADIENT: _bits("the gradients with respect to the outputs of each such layer"),
    QUANTIZER: one_of(
        "affine",
        ("affine", "symmetric"),
        "levels of weights and activations: affine spans their range, symmetric has 0 as a level",
    ),
    KEEP: Field(
        ("last",),
        _check_names,
        "tuple of 'first', 'last' and names of layers",
        "layers in full precision: the first or the last that is called, or any by its name",
    ),
    DEFICIT: Field(
        None,
        _check_span,
        "(start, end), at least 0 and at most 1, or None",
        "fractions of training between which weights and activations have "
        "precision.deficit_bits instead of their own bits",
    ),
    DEFICIT_BITS: or_none(
        whole(None, "number of bits of weights and activations in the deficit", **_BITS)
    ),
}


def problems(checked: Own) -> Iterator[str]:
    deficit, bits = checked[DEFICIT], checked[DEFICIT_BITS]
    if (deficit is None) != (bits is None):
        yield (
            f"{DEFICIT} and {DEFICIT_BITS} must both be set or both be None, got {deficit} and "
            f"{bits}."
        )
    if deficit is not None and checked.get(SPAN) == RESTART:
        yield (
            f"{DEFICIT} is a part of the whole run; where {SPAN} is {RESTART!r} it must be None, "
            f"got {deficit}."
        )


def model(site: Site, before: Model | None) -> Model:
    if before is None:
        raise TypeError("precision wraps a model, but no entry before it makes one.")
    return quantized(before, how_of(site.own, site.axis_name))


def how_of(own: Own, axis_name: str | None = None) -> Precision:
    """Returns what a run quantizes, and how.

    Args:
      own: The values of all keys but the knobs that are on, which are numbers of the program.
      axis_name: The mapped axis over which ranges are taken in training.
    """
    words = tuple(key.rpartition(".")[2] for key in KNOBS if key not in own)
    is_symmetric = own[QUANTIZER] == "symmetric"
    return Precision(words, is_symmetric, own[KEEP], axis_name, keep_is=KEEP)


def own_of_weights() -> dict[str, object]:
    """Returns the own values of a run that quantizes its weights alone, as Qwix does."""
    own = {key: field.default for key, field in KEYS.items() if key != WEIGHTS}
    return own | {QUANTIZER: "symmetric"}


def schedules(own: Own, schedules: Schedules, timetable: Timetable) -> Schedules:
    """Returns the bits in force at each update, int32, and the relative cost that they make."""
    bits = {key: as_integer(schedules[key], minimum=LEAST_BITS) for key in KNOBS if key not in own}
    if own[DEFICIT] is not None:
        ends = [round(fraction * timetable.total_steps) for fraction in own[DEFICIT]]
        for key in bits.keys() & {WEIGHTS, ACTIVATIONS}:
            bits[key] = _with_deficit(bits[key], ends, own[DEFICIT_BITS])

    def cost(count):
        weights, activations, gradients = (bits[k](count) if k in bits else None for k in KNOBS)
        return relative_cost(weights, gradients, activation_bits=activations)

    return {**bits, COST: jnp.vectorize(cost)}  # an array of counts is what a preview asks for


def _with_deficit(bits: optax.Schedule, ends: list[int], few: int) -> optax.Schedule:
    """Returns the schedule with other bits from the update `ends[0]` to before `ends[1]`."""

    def with_deficit(count):
        is_within = (count >= ends[0]) & (count < ends[1])
        return jnp.where(is_within, few, bits(count))

    return with_deficit


def summary(own: Own, schedules: Schedules, timetable: Timetable) -> dict[str, float]:
    """Returns the mean of the relative cost over all updates."""
    total, stop = 0.0, timetable.total_steps
    for start in range(0, stop, _MOST_COUNTS):
        counts = np.arange(start, min(start + _MOST_COUNTS, stop), dtype=np.int32)
        total += float(np.asarray(schedules[COST](counts), np.float64).sum())
    return {"relative_cost": total / stop}


TECHNIQUE = Technique(
    "precision",
    KEYS,
    model=model,
    model_knobs=KNOBS,
    model_state=(BITS, RANGES),
    schedules=schedules,
    columns={
        WEIGHTS: "weight_bits",
        ACTIVATIONS: "activation_bits",
        GRADIENT: "gradient_bits",
        COST: "relative_cost",
    },
    summary=summary,
    switch=KNOBS,
    read_with=dict.fromkeys((QUANTIZER, DEFICIT, DEFICIT_BITS), (WEIGHTS, ACTIVATIONS)),
    problems=problems,
    about="Trains with few bits, whose number may cycle.",
)
