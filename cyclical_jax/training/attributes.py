"""Keys for the attributes of a class: a type annotation and a default become a `Field`."""

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union

from cyclical_jax.training.fields import Field, any_of, flag, knob, number, or_none, text, whole

_INT32 = 2**31


def field_of(
    annotation: Any, default: Any, meaning: str, *, may_cycle: bool = True
) -> Field | None:
    """Returns the key of an attribute; None where no key can express its type or its default.

    The types are bool, int, float, str, Literal, tuples and sequences of them, and unions of all
    these and None. A float is a number, which is part of the program, or a cycle.

    Args:
      annotation: Its type.
      default: Its default; None is also allowed for a type without None.
      meaning: Its meaning, in words.
      may_cycle: Whether a float may cycle.
    """
    field = _float() if annotation is float and may_cycle else _of_type(annotation)
    if field is None:
        return None
    if default is None and "None" not in field.type:
        field = or_none(field)
    try:
        field.check("", default)
    except ValueError:
        return None
    return field._replace(default=default, meaning=meaning)


def _of_type(annotation: Any) -> Field | None:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is Literal:
        return _one_of(arguments)
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin in (tuple, list, Sequence) and arguments:
        return _tuple(arguments, is_any_length=origin is not tuple or arguments[-1] is Ellipsis)
    return None


_PLAIN: dict[Any, Field] = {
    bool: flag(False, ""),
    int: whole(0, "", minimum=-_INT32, maximum=_INT32 - 1)._replace(type="whole number"),
    float: number(0.0, "")._replace(type="number"),
    str: text("", ""),
}


def _float() -> Field:
    """Returns a number, which is part of the program, or a cycle, whose ends are arguments."""
    plain, cycle = number(0.0, ""), knob(0.0, "")

    def check(key, value):
        return (cycle if isinstance(value, Mapping) else plain).check(key, value)

    return Field(0.0, check, "number, which may cycle", "", may_cycle=True)


def _one_of(allowed: tuple[Any, ...]) -> Field:
    def check(key, value):
        if not any(value == one and type(value) is type(one) for one in allowed):
            listed = ", ".join(map(repr, allowed))
            raise ValueError(f"{key} must be one of {listed}, got {value!r}.")
        return value

    return Field(allowed[0], check, any_of(*map(str, allowed)), "")


def _union(members: tuple[Any, ...]) -> Field | None:
    fields = [_of_type(member) for member in members if member is not types.NoneType]
    known = [field for field in fields if field is not None]
    if len(known) < len(fields):
        return None
    words = ", or ".join(field.type for field in known)

    def check(key, value):
        for field in known:
            try:
                return field.check(key, value)
            except ValueError:
                continue
        raise ValueError(f"{key} must be a {words}, got {value!r}.")

    field = known[0] if len(known) == 1 else Field(None, check, words, "")
    return or_none(field) if types.NoneType in members else field


def _tuple(members: tuple[Any, ...], *, is_any_length: bool) -> Field | None:
    fields = [_of_type(member) for member in members if member is not Ellipsis]
    known = [field for field in fields if field is not None]
    if len(known) < len(fields):
        return None
    listed = f"({', '.join(field.type for field in known)})"
    words = f"tuple of {_plural(known[0].type)}" if is_any_length else f"tuple {listed}"

    def check(key, value):
        of = known * len(value) if is_any_length and isinstance(value, tuple | list) else known
        if not isinstance(value, tuple | list) or len(value) != len(of):
            raise ValueError(f"{key} must be a {words}, got {value!r}.")
        return tuple(field.check(key, one) for field, one in zip(of, value, strict=True))

    return Field((), check, words, "")


def _plural(words: str) -> str:
    return f"{words}s" if words in ("number", "whole number", "string") else words
