"""The pictures of the idea that are committed are those that the command draws."""

import re

import numpy as np
import pytest

from experiments import pictures

NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.mark.parametrize("theme", pictures.THEMES)
@pytest.mark.parametrize("name", pictures.PICTURES)
def test_what_is_committed_is_what_is_drawn(name, theme, tmp_path):
    pictures.draw(name, theme, tmp_path / "drawn.svg")
    drawn = (tmp_path / "drawn.svg").read_text()
    committed = (pictures.FOLDER / f"{name}-{theme}.svg").read_text()
    # The rounding of another processor may move a point by 0.01.
    assert NUMBER.sub("", drawn) == NUMBER.sub("", committed), "run python -m experiments.pictures"
    numbers = [np.array(NUMBER.findall(svg), float) for svg in (drawn, committed)]
    np.testing.assert_allclose(*numbers, atol=0.02, err_msg="run python -m experiments.pictures")


def test_every_file_of_the_folder_is_drawn():
    names = {f"{name}-{theme}.svg" for name in pictures.PICTURES for theme in pictures.THEMES}
    assert {path.name for path in pictures.FOLDER.iterdir()} == names
