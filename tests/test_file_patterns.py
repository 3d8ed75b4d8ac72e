"""Patterns of JSON: the place that does not fit is named."""

import pytest

from cyclical_jax import _files
from cyclical_jax._files import NUMBER, DamagedError, Maybe

RUN = {"step": int, Maybe("note"): (str, None), ...: [NUMBER]}
PATTERN = {"name": str, "runs": [RUN], "about": ({"is": bool}, None)}
GOOD = {"name": "x", "runs": [{"step": 1, "loss": [1, 2.5, None]}], "about": None}
CASES = [
    ({}, None),
    ({"runs": []}, None),
    ({"runs": [{"step": 1, "note": None}]}, None),
    ({"about": {"is": True, "more": [1]}}, None),
    ({"name": None}, "'name' is null, not text"),
    ({"runs": {}}, "'runs' is an object, not a list"),
    ({"runs": [{}]}, "entry 0 of 'runs' has no 'step'"),
    ({"runs": [{"step": True}]}, "'step' of entry 0 of 'runs' is true, not a whole number"),
    ({"runs": [{"step": 1, "note": 3}]}, "'note' of entry 0 of 'runs' is 3, not text"),
    (
        {"runs": [{"step": 1, "x": [1, []]}]},
        "entry 1 of 'x' of entry 0 of 'runs' is a list, not a number",
    ),
    ({"about": {"is": 1}}, "'is' of 'about' is 1, not true or false"),
    ({"about": 7}, "'about' is 7, not an object"),
]


@pytest.mark.parametrize("change, problem", CASES)
def test_a_pattern_names_the_place_that_does_not_fit(change, problem):
    assert _files.misfit(GOOD | change, PATTERN) == problem


def test_half_of_a_pair_of_surrogates_is_no_text():
    with pytest.raises(DamagedError, match="line 3 is damaged: .* surrogates not allowed"):
        _files.of_line(b'{"a": "\\ud800"}', {}, "line 3")
    assert _files.of_line(b'{"a": "\\ud83d\\ude00"}', {}, "it") == {"a": "\U0001f600"}
