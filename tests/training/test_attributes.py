"""Attributes of somebody's class become keys: what a type lets pass, and what it refuses."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Optional

import pytest

from cyclical_jax.training.attributes import field_of
from cyclical_jax.training.fields import Cycle

# type, default, values that are right and what they become, values that are wrong
TYPES = [
    (bool, True, [(False, False)], [1, "yes", None]),
    (int, 3, [(-4, -4), (5.0, 5)], [1.5, True, "3", None, 2**31]),
    (float, 0.5, [(2, 2.0), (-1e-3, -1e-3)], ["a", None, (1.0,), True]),
    (str, "relu", [("", "")], [1, None]),
    (Literal["relu", "gelu"], "relu", [("gelu", "gelu")], ["tanh", None, 1]),
    (Literal[1, 2], 1, [(2, 2)], [3, True, "1"]),
    (Optional[int], None, [(None, None), (3, 3)], ["a", 1.5]),  # noqa: UP045
    (int | None, 4, [(None, None), (3, 3)], ["a", 1.5]),
    (int, None, [(None, None), (3, 3)], ["a", 1.5]),
    (int | tuple[int, ...], 4, [((1, 2), (1, 2)), (3, 3)], ["a", (1.5,)]),
    (tuple[int, ...], (1, 2), [([3, 4, 5], (3, 4, 5)), ((), ())], [3, (1.5,), "ab"]),
    (Sequence[int], (1, 2), [([3], (3,))], [3, ("a",)]),
    (list[float], (1.0,), [([3], (3.0,))], [3, ("a",)]),
    (tuple[int, str], (1, "a"), [([2, "b"], (2, "b"))], [(1,), (1, 2), (1, "a", "b")]),
    (tuple[tuple[int, int], ...], ((1, 2),), [([[3, 4]], ((3, 4),))], [(1, 2), ((1, 2, 3),)]),
]


@pytest.mark.parametrize("annotation, default, right, wrong", TYPES, ids=str)
def test_a_type_is_a_check(annotation, default, right, wrong):
    field = field_of(annotation, default, "what it is")
    assert field.default == default and field.meaning == "what it is" and field.type
    assert field.check("key", default) == default
    for value, checked in right:
        found = field.check("key", value)
        assert found == checked and type(found) is type(checked)
        hash(found)
    for value in wrong:
        with pytest.raises(ValueError, match="key.* must be ") as error:
            field.check("key", value)
        assert len(str(error.value).splitlines()) == 1


def test_a_float_may_cycle():
    field = field_of(float, 0.5, "")
    assert field.check("key", {"easy": 1, "hard": 2, "scale": "log"}) == Cycle(1, 2, scale="log")
    with pytest.raises(ValueError, match="key.hard is missing"):
        field.check("key", {"easy": 1})
    assert isinstance(field.check("key", 0.1), float)  # part of the program


@pytest.mark.parametrize(
    "annotation, default",
    [
        (Any, 1),
        (Callable, max),
        (Callable[..., Any], max),
        (dict[str, int], {}),
        (tuple, (1,)),
        (Callable | None, None),
        (tuple[Any, ...], ()),
        ("int", 3),  # a string that could not be resolved
        (int, 1.5),  # a default of another type
        (Literal["a"], "b"),
    ],
    ids=str,
)
def test_what_no_key_can_express_is_none(annotation, default):
    assert field_of(annotation, default, "") is None
