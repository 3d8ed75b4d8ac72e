"""What JSON may hold, in patterns, and what is told of that which does not fit."""

import os

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
    ({"runs": {}}, "'runs' is an object, no list"),
    ({"runs": [{}]}, "entry 0 of 'runs' has no 'step'"),
    ({"runs": [{"step": True}]}, "'step' of entry 0 of 'runs' is true, not a whole number"),
    ({"runs": [{"step": 1, "note": 3}]}, "'note' of entry 0 of 'runs' is 3, not text"),
    (
        {"runs": [{"step": 1, "x": [1, []]}]},
        "entry 1 of 'x' of entry 0 of 'runs' is a list, not a number",
    ),
    ({"about": {"is": 1}}, "'is' of 'about' is 1, not true or false"),
    ({"about": 7}, "'about' is 7, no object"),
]


@pytest.mark.parametrize("change, problem", CASES)
def test_a_pattern_names_the_place_that_does_not_fit(change, problem):
    assert _files.misfit(GOOD | change, PATTERN) == problem


UNREADABLE = {
    b"1e400": "1e400 is no number of JSON",
    b"9" * 400: "9" * 40 + " is no number of JSON",
    b"NaN": "NaN is no number of JSON",
    b'"\\ud800"': "surrogates not allowed",
    b"[" * 41 + b"]" * 41: "it is nested too deep",
    b"[" * 100_000: "it is nested too deep",
}


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: text[:5].decode())
def test_what_cannot_be_kept_or_written_again_is_refused(text):
    line = b'{"a": %s}' % text
    with pytest.raises(DamagedError) as error:
        _files.of_line(line, {}, "line 3")
    assert str(error.value).startswith("line 3 is damaged: ")
    assert UNREADABLE[text] in str(error.value) and "\n" not in str(error.value)


def test_a_pair_of_surrogates_is_one_character():
    assert _files.of_line(b'{"a": "\\ud83d\\ude00"}', {}, "it") == {"a": "\U0001f600"}


def test_a_link_stays_and_its_file_is_replaced_and_a_device_stays_one(tmp_path):
    (tmp_path / "file").write_text("old")
    for name, place in (("link", "file"), ("null", os.devnull)):
        (tmp_path / name).symlink_to(place)
        with _files.whole(tmp_path / name) as temporary:
            temporary.write_text("new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    assert not os.path.isfile(os.devnull)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link", "null"}
