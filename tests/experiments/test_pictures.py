"""The pictures of the idea that are committed are those that the command draws."""

import re

import matplotlib
import numpy as np
import pytest
from matplotlib import image

from experiments import drawing, front_page, pictures

DRAWN_BY = "3.11.2"  # of Matplotlib; another version may write other elements of SVG
TEXT = re.compile(r"<text[^>]*>([^<]+)</text>")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
TO_DO = "run python -m experiments.pictures"


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_what_is_committed_is_what_is_drawn(name, tmp_path):
    for theme in drawing.THEMES:
        pictures.draw(name, theme, tmp_path / "drawn.svg")
        drawn = (tmp_path / "drawn.svg").read_text()
        committed = (pictures.FOLDER / f"{name}-{theme}.svg").read_text()
        assert sorted(TEXT.findall(drawn)) == sorted(TEXT.findall(committed)) != [], TO_DO
        if matplotlib.__version__ == DRAWN_BY:
            same_but_for_rounding(drawn, committed)


def same_but_for_rounding(drawn, committed):
    """Another processor may move a point by a hundredth."""
    assert NUMBER.sub("", drawn) == NUMBER.sub("", committed), TO_DO
    numbers = [np.array(NUMBER.findall(svg), float) for svg in (drawn, committed)]
    np.testing.assert_allclose(*numbers, atol=0.02, err_msg=TO_DO)


def test_every_file_of_the_folder_is_drawn():
    names = {f"{name}-{theme}.svg" for name in pictures.PICTURES for theme in drawing.THEMES}
    assert {path.name for path in pictures.FOLDER.iterdir()} == names


@pytest.mark.slow
def test_the_pictures_of_results_are_those_of_their_records(tmp_path):
    paths = {path: write for path, write in pictures.files() if path.suffix == ".png"}
    assert set(paths) == {*front_page.RESULTS.rglob("*.png")}
    for path, write in paths.items():
        write(tmp_path / "drawn.png")
        drawn, committed = image.imread(tmp_path / "drawn.png"), image.imread(path)
        assert drawn.shape == committed.shape, f"{path.name}: {TO_DO}"
        # Another version of Matplotlib may draw the edges of letters otherwise.
        assert np.abs(drawn - committed).mean() < 0.001, f"{path.name}: {TO_DO}"
