"""Functions that make the keys of a config: a default, a check, a type in words, and a meaning.

The engine, each task and each technique declare their keys with these functions. A check takes
(key, value) and returns the value as the recipe holds it, or raises a ValueError with a line for
each problem.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np

from cyclical_jax import _checks
from cyclical_jax.schedules import SCALES, SHAPES, Scale, Shape, checked_shape
from cyclical_jax.training.durations import Duration, parse_duration

Check = Callable[[str, Any], Any]


class RecipeError(ValueError):
    """A config that cannot be run. The message has one line for each of its problems."""


class Field(NamedTuple):
    """One key of a config.

    Attributes:
      default: Its value unless another is set.
      check: (key, value) -> the value as the recipe holds it; raises ValueError.
      type: What a value may be, in words.
      meaning: What it is for, in words.
      is_run: Whether the value is the workdir of an earlier run.
      may_cycle: Whether the value may be a cycle.
      is_whole: Whether its numbers are whole; the log then shows those of a knob as such.
      high_is_easy: Whether its larger numbers are the easy ones.
      is_bits: Whether it is a number of bits, of which a range test knows a published rule.
    """

    default: Any
    check: Check
    type: str
    meaning: str
    is_run: bool = False
    may_cycle: bool = False
    is_whole: bool = False
    high_is_easy: bool = False
    is_bits: bool = False


class Limits(TypedDict, total=False):
    """The limits of a number, as `_checks.number` takes them."""

    minimum: float
    maximum: float
    above: float
    below: float


_FOR_FLOAT32 = 1e9  # nobody wants a larger number, and float32 holds what is computed from it
FACTOR: Limits = {"minimum": 1, "maximum": _FOR_FLOAT32}


class Cycle(NamedTuple):
    """A knob as in the config; None for factor or shape means the value of `config.cycle`."""

    easy: float
    hard: float
    factor: float | None = None
    shape: Shape | None = None
    scale: Scale = "linear"


def one_of(default: str | None, allowed: tuple[str, ...], meaning: str) -> Field:
    """Returns a key whose value is one of several words."""

    def check(key, value):
        _checks.one_of(key, value, allowed)
        return value

    return Field(default, check, any_of(*allowed), meaning)


def shape(default: Shape, meaning: str) -> Field:
    """Returns a key whose value is the shape of a cycle: a word, or a pair (way up, way back)."""
    words = f"{any_of(*SHAPES)}; or a pair of them: (way up, way back)"
    return Field(default, checked_shape, words, meaning)


def any_of(*words: str) -> str:
    """Returns words as a sentence lists them: "a, b or c"."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def whole(default: int | None, meaning: str, *, minimum: int, maximum: int = 2**31 - 1) -> Field:
    """Returns a key whose value is a whole number."""

    def check(key, value):
        _check_scalar(key, value)
        _checks.whole_number(key, value, minimum=minimum, maximum=maximum)
        return int(value)

    return Field(default, check, f"whole number, at least {minimum}", meaning)


def number(default: float, meaning: str, **limits: Unpack[Limits]) -> Field:
    """Returns a key whose value is a number, which is part of the compiled program."""

    def check(key, value):
        _check_number(key, value, **limits)
        return float(value)

    return Field(default, check, _number_in_words(**limits), meaning)


def flag(default: bool, meaning: str) -> Field:
    """Returns a key whose value is True or False."""

    def check(key, value):
        if not isinstance(value, bool):
            raise ValueError(f"{key} must be True or False, got {value!r}.")
        return value

    return Field(default, check, "True or False", meaning)


def text(default: str | None, meaning: str) -> Field:
    """Returns a key whose value is any string."""

    def check(key, value):
        if not isinstance(value, str):
            raise ValueError(f"{key} must be a string, got {value!r}.")
        return value

    return Field(default, check, "string", meaning)


def path(meaning: str) -> Field:
    """Returns a key whose value is a path on this machine, or None."""
    plain = text(None, meaning)

    def check(key, value):
        return str(_checks.local_path(key, plain.check(key, value)))

    return or_none(plain._replace(check=check, type="path"))


def earlier_run(meaning: str) -> Field:
    """Returns a key whose value is the workdir of an earlier run, or None."""
    return path(meaning)._replace(is_run=True)


def sizes(default: tuple[int, ...], meaning: str) -> Field:
    """Returns a key whose value is a tuple of whole numbers, each at least 1."""

    def check(key, value):
        if not isinstance(value, tuple | list):
            raise ValueError(
                f"{key} must be a tuple of whole numbers, such as (64,), got {value!r}."
            )
        return tuple(whole(1, "", minimum=1).check(key, size) for size in value)

    return Field(default, check, "tuple of whole numbers, at least 1", meaning)


def names(allowed: tuple[str, ...], meaning: str, *, default: tuple[str, ...] = ()) -> Field:
    """Returns a key whose value is a tuple of words."""

    def check(key, value):
        if not isinstance(value, tuple | list):
            raise ValueError(f"{key} must be a tuple, such as ({allowed[0]!r},), got {value!r}.")
        raise_all(line for name in value for line in problem(_checks.one_of, key, name, allowed))
        return tuple(value)

    return Field(default, check, f"tuple of any of {', '.join(allowed)}", meaning)


def duration(default: str | None, meaning: str) -> Field:
    """Returns a key whose value is a length of training, such as "1.5 epochs"."""

    def check(key, value) -> Duration:
        try:
            return parse_duration(str(value))
        except ValueError as error:
            raise ValueError(f"{key} {error}.") from error

    return Field(
        default, check, "number of steps, epochs or examples, such as '40 epochs'", meaning
    )


def knob(default: Any, meaning: str, **limits: Unpack[Limits]) -> Field:
    """Returns a key whose value may cycle; its numbers are arguments of the compiled program."""

    def check(key, value) -> Cycle:
        if isinstance(value, str | tuple | list) or callable(value):
            raise ValueError(f"{key} must be a number or cyclical(easy, hard), got {value!r}.")
        if not isinstance(value, Mapping):
            _check_number(key, value, **limits)
            return Cycle(float(value), float(value))
        raise_all(_problems_of_cycle(key, value, limits))
        own_factor = value.get("factor")
        numbers = {"easy": float(value["easy"]), "hard": float(value["hard"])}
        factor = None if own_factor is None else float(own_factor)
        own = value.get("shape")
        own_shape = None if own is None else checked_shape(key, own)
        return Cycle(**{**value, **numbers, "factor": factor, "shape": own_shape})

    words = f"{_number_in_words(**limits)}, or cyclical(easy, hard)"
    return Field(default, check, words, meaning, may_cycle=True)


def constant(default: float, meaning: str, **limits: Unpack[Limits]) -> Field:
    """Returns a key whose value is an argument of the program, as a knob is, but does not cycle."""
    plain = number(default, meaning, **limits)

    def check(key, value) -> Cycle:
        return Cycle(*[plain.check(key, value)] * 2)

    return plain._replace(check=check)


def whole_knob(default: int, meaning: str, *, minimum: int) -> Field:
    """Returns a knob whose ends are whole numbers."""
    plain, ends = (make(default, meaning, minimum=minimum) for make in (knob, whole))

    def check(key, value) -> Cycle:
        if not isinstance(value, Mapping):
            return plain.check(key, ends.check(key, value))
        cycle = plain.check(key, value)
        raise_all(
            line
            for end in ("easy", "hard")
            for line in problem(ends.check, f"{key}.{end}", getattr(cycle, end))
        )
        return cycle

    return plain._replace(check=check, type=f"whole {plain.type}", is_whole=True)


def or_none(field: Field) -> Field:
    """Returns the same key, which may also be None: off."""

    def check(key, value):
        return None if value is None else field.check(key, value)

    return field._replace(check=check, type=f"{field.type}, or None")


def or_word(word: str, field: Field) -> Field:
    """Returns the same key, which may also be a word."""

    def check(key, value):
        return word if isinstance(value, str) and value == word else field.check(key, value)

    return field._replace(check=check, type=f"{field.type}, or {word!r}")


_LINEAR = ("scale", "linear")


def shown(value: Any) -> str:
    """Returns a value as a person writes it in a config."""
    if not isinstance(value, Mapping):
        return repr(value)
    entries = [f"{name}={entry!r}" for name, entry in value.items() if (name, entry) != _LINEAR]
    return f"cyclical({', '.join(entries)})"


def problem(check, key, value, *args, **limits) -> Iterator[str]:
    """Yields the message of the ValueError that `check` raises, if it raises one."""
    try:
        check(key, value, *args, **limits)
    except ValueError as error:
        yield str(error)


def raise_all(problems) -> None:
    """Raises one ValueError with a line for each problem, if there is any."""
    lines = list(problems)
    if lines:
        raise ValueError("\n".join(lines))


def _problems_of_cycle(key, value, limits):
    """Yields a line for each problem within a `cyclical(...)`."""
    allowed = ", ".join(Cycle._fields)
    for name in sorted(value.keys() - set(Cycle._fields), key=str):
        yield f"{key}.{name} is not a key of a cycle: {allowed}."
    if isinstance(scale := value.get("scale"), str) and scale == "log":  # no minimum is above 0
        limits = {name: limits[name] for name in limits.keys() - {"minimum"}} | {"above": 0}
    for end, other in (("easy", "hard"), ("hard", "easy")):
        if value.get(end) is None:
            given = f" beside {key}.{other}" if value.get(other) is not None else ""
            yield f"{key}.{end} is missing{given}; a cycle needs easy and hard."
        else:
            yield from problem(_check_number, f"{key}.{end}", value[end], **limits)
    if value.get("factor") is not None:
        yield from problem(_check_number, f"{key}.factor", value["factor"], **FACTOR)
    if value.get("shape") is not None:
        yield from problem(checked_shape, f"{key}.shape", value["shape"])
    yield from problem(_checks.one_of, f"{key}.scale", value.get("scale", "linear"), SCALES)


def _check_number(key: str, value: Any, **limits: Unpack[Limits]) -> None:
    """Checks one number, and that float32 can hold it without overflow or underflow."""
    _check_scalar(key, value)
    _checks.number(key, value, **limits)


def _check_scalar(key: str, value: Any) -> None:
    if not np.isscalar(value):
        raise ValueError(f"{key} must be a number, got {value!r}.")


def _number_in_words(**limits: Unpack[Limits]) -> str:
    if limits.get("maximum") == _FOR_FLOAT32:
        del limits["maximum"]
    if limits.keys() == {"minimum", "maximum"}:
        return f"number from {limits['minimum']:g} to {limits['maximum']:g}"
    return ", ".join(filter(None, ["number", " and ".join(_checks.limits_in_words(**limits))]))
