"""The pictures of the idea that are committed are those that the command draws."""

import re

import numpy as np
import pytest

from experiments import pictures

NUMBER = re.compile(r"\d+(?:\.\d+)?")
TO_DO = "run python -m experiments.pictures"


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_what_is_committed_is_what_is_drawn(name, tmp_path):
    for theme in pictures.THEMES:
        pictures.draw(name, theme, tmp_path / "drawn.svg")
        drawn = (tmp_path / "drawn.svg").read_text()
        committed = (pictures.FOLDER / f"{name}-{theme}.svg").read_text()
        same_but_for_rounding(drawn, committed)


def same_but_for_rounding(drawn, committed):
    """Another processor may move a point by a hundredth."""
    assert NUMBER.sub("", drawn) == NUMBER.sub("", committed), TO_DO
    numbers = [np.array(NUMBER.findall(svg), float) for svg in (drawn, committed)]
    np.testing.assert_allclose(*numbers, atol=0.02, err_msg=TO_DO)


def test_every_file_of_the_folder_is_drawn():
    names = {f"{name}-{theme}.svg" for name in pictures.PICTURES for theme in pictures.THEMES}
    assert {path.name for path in pictures.FOLDER.iterdir()} == names
