"""Grids of values, and the interval that their losses suggest, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image

from cyclical_jax.training.fields import RecipeError
from experiments import grids
from experiments.grids import grid, suggest
from experiments.score import ACCURACY, Score

# ---- the grid


def test_a_linear_grid_is_evenly_spaced():
    assert grid(-1.5, 2, 8, "linear") == pytest.approx([-1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2])


def test_a_log_grid_has_equal_ratios():
    assert grid(1e-5, 1e-2, 4, "log") == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2], rel=1e-12)
    values = grid(0.3, 0.7, 5, "log")
    assert np.diff(np.log(values)) == pytest.approx(math.log(0.7 / 0.3) / 4)


@given(
    st.floats(1e-8, 1e3),
    st.floats(1.001, 1e5),
    st.integers(2, 40),
    st.sampled_from(["log", "linear"]),
)
def test_the_ends_are_exact_and_values_ascend(low, ratio, num, scale):
    high = low * ratio
    values = grid(low, high, num, scale)
    assert len(values) == num and (values[0], values[-1]) == (low, high)
    assert values == sorted(set(values)) and all(type(value) is float for value in values)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0.0, 1.0, 5, "log"), "--low must be above 0 on a log scale, got 0.0."),
        ((-1.0, 1.0, 5, "log"), "--low must be above 0 on a log scale, got -1.0."),
        (
            (2.0, 1.0, 5, "linear"),
            "--low must be below high, and both finite, got low=2.0, high=1.0.",
        ),
        ((1.0, 1.0, 5, "log"), "--low must be below high, and both finite, got low=1.0, high=1.0."),
        (
            (0.0, math.inf, 5, "linear"),
            "--low must be below high, and both finite, got low=0.0, high=inf.",
        ),
        (
            (-math.inf, 1.0, 5, "linear"),
            "--low must be below high, and both finite, got low=-inf, high=1.0.",
        ),
        (
            (math.nan, 1.0, 5, "log"),
            "--low must be below high, and both finite, got low=nan, high=1.0.",
        ),
        ((1.0, 2.0, 1, "log"), "--num must be at least 2, for both ends of the grid, got 1."),
        ((1.0, 2.0, 5, "cosine"), "--scale must be one of linear, log, got 'cosine'."),
    ],
)
def test_what_is_no_grid_is_said_in_a_line(arguments, message):
    with pytest.raises(RecipeError) as caught:
        grid(*arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "arguments, values",
    [
        ((2.0, 8.0, None, "linear"), [2, 3, 4, 5, 6, 7, 8]),
        ((2.0, 8.0, 4, "linear"), [2, 4, 6, 8]),
        ((3.0, 4.0, None, "linear"), [3, 4]),
        ((1.0, 16.0, 5, "log"), [1, 2, 4, 8, 16]),
    ],
)
def test_a_grid_of_whole_numbers_has_no_others(arguments, values):
    found = grids.whole_grid(*arguments)
    assert found == values and {type(value) for value in found} == {int}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            (2.0, 8.0, 5, "linear"),
            "--num=5 from 2 to 8 is a grid with numbers that are not whole: --num=2, 3, 4 or 7 "
            "fits a linear scale.",
        ),
        (
            (1.0, 8.0, 3, "log"),
            "--num=3 from 1 to 8 is a grid with numbers that are not whole.",
        ),
        ((2.5, 8.0, 3, "linear"), "--low must be a whole number for this knob, got 2.5."),
        ((2.0, math.inf, 3, "linear"), "--high must be a whole number for this knob, got inf."),
        (
            (8.0, 2.0, None, "linear"),
            "--low must be below high, and both finite, got low=8.0, high=",
        ),
        ((1.0, 8.0, None, "log"), "--num must be given for whole numbers on a log scale."),
        ((1.0, 100.0, None, "linear"), "--num must be at most 64, got 100 whole numbers."),
        ((1.0, 8.0, 1, "linear"), "--num must be at least 2, for both ends of the grid, got 1."),
    ],
)
def test_what_is_no_grid_of_whole_numbers_is_said_in_a_line(arguments, message):
    with pytest.raises(RecipeError) as caught:
        grids.whole_grid(*arguments)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


# ---- the published rule for bits

CURVE = [[0.10, 0.12], [0.11, 0.11], [0.50, 0.40], [0.90, 0.94], [0.95, 0.95]]


@pytest.mark.parametrize(
    "accuracies, rise, low",
    [
        (CURVE, 0.2, 4),  # .45 is 4.1 times .11
        (CURVE, 3.0, 4),
        (CURVE, 3.2, None),
        (CURVE[2:], 0.2, 3),  # .92 is 2.04 times .45
        (CURVE[3:], 0.2, None),  # all learn
        ([[0.1, 0.1]] * 5, 0.2, None),  # none learns
        ([[0.50], [0.60], [0.72]], 0.2, None),  # a rise of just the threshold is none
        ([[0.50], [0.601], [0.8]], 0.2, 3),  # the first, not the largest
        ([[0.50], [0.60], [0.8]], 0.0, 3),
        ([[0.8], [0.50], [0.7]], 0.2, 4),  # over the one before, not over the best so far
        ([[0.8, None], [0.50, 0.5], [0.5, 0.5]], 0.2, 3),  # a run stopped
        ([[0.8, 0.8], [math.nan, 0.9], [0.9, 0.9]], 0.2, 4),
    ],
)
def test_the_lowest_width_is_the_first_whose_training_accuracy_rises(accuracies, rise, low):
    assert grids.first_rise([2, 3, 4, 5, 6][: len(accuracies)], accuracies, rise) == low


# ---- the suggestion

VALUES = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
# Of 1, 2, 6 the mean is 3, the sample variance 7: the standard error sqrt(7 / 3) = 1.5275.
BEST = [1.0, 2.0, 6.0]


def around_the_best(*means):
    """Three losses a value; None in place of a mean is the best."""
    return [BEST if mean is None else [mean - 1, mean, mean + 1] for mean in means]


@pytest.mark.parametrize(
    "means, low, high",
    [
        ((9, 4.5, None, 4.6, 9, 9), 0.2, 0.4),  # 4.5 < 4.5275 < 4.6
        ((9, 4.6, None, 4.5, 4.52, 9), 0.4, 1.6),
        ((9, 9, 4.6, None, 4.6, 9), 0.8, 0.8),
        ((3.5, 9, None, 3.5, 9, 3.5), 0.4, 0.8),  # what is behind a worse value does not count
        ((3.5, 3.5, 3.5, None, 3.5, 3.5), 0.1, 3.2),
        ((None, 4.0, 9, 9, 9, 4.0), 0.1, 0.2),
        ((9, 9, 9, 9, 4.0, None), 1.6, 3.2),
    ],
)
def test_the_interval_is_what_is_within_a_standard_error_of_the_best(means, low, high):
    suggestion = suggest(VALUES, around_the_best(*means))
    assert (suggestion.low, suggestion.high) == (low, high)
    assert suggestion.best == VALUES[means.index(None)]
    assert suggestion.best_is_at_end == (suggestion.best in (0.1, 3.2))


@pytest.mark.parametrize("absent", [None, math.nan, math.inf])
def test_a_value_with_a_run_that_failed_is_out(absent):
    losses = around_the_best(9, 3.5, None, 3.5, 3.5, 9)
    losses[3] = [3.4, absent, 3.5]
    assert suggest(VALUES, losses)[:3] == (0.2, 0.4, 0.4)
    losses[2] = [0.0, 0.0, absent]  # the best, but for one run
    assert suggest(VALUES, losses).best == 0.2


def test_equal_losses_suggest_all_values_that_have_them():
    assert suggest([1, 2, 3], [[0.5, 0.5]] * 3)[:3] == (1, 3, 1)


def test_a_standard_error_needs_two_seeds():
    with pytest.raises(RecipeError) as caught:
        suggest([1.0, 2.0], [[0.5], [0.4]])
    assert str(caught.value) == "A standard error needs at least 2 seeds per value, got 1."


def test_without_a_finite_value_there_is_no_suggestion():
    with pytest.raises(RecipeError, match="^At every value a run stopped being finite"):
        suggest([1.0, 2.0], [[0.5, None], [None, None]])


# ---- the picture

ACCURACIES = [[0.90, 0.91, 0.89], [0.92, 0.93, 0.92], [0.94, 0.95, 0.91], [None, 0.5, 0.6]]
LOSSES = [[0.5, 0.4, 0.6], [0.3, 0.2, 0.3], [0.2, 0.1, 0.4], [None, 5.0, 7.0]]


def draw(path, interval=(0.2, 0.4), losses=LOSSES, accuracies=ACCURACIES, scale="log"):
    scores = dict(zip(grids.panels(ACCURACY), (losses, accuracies), strict=True))
    grids.picture([0.1, 0.2, 0.4, 0.8], scores, interval, "max_norm", scale, path)
    return path.read_bytes()


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn within a test."""
    drawn = []

    class Figure(grids.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr(grids, "Figure", Figure)
    return drawn


def test_the_picture_shows_every_finite_run_and_the_interval(figures, tmp_path):
    draw(tmp_path / "test.png")
    upper, lower = figures[0].axes
    assert (upper.get_title("left"), lower.get_title("left")) == (
        "validation loss",
        "validation accuracy, %",
    )
    assert upper.get_xscale() == lower.get_xscale() == "log" == upper.get_yscale()
    assert lower.get_xlabel() == "max_norm"
    for axes, scores, unit in ((upper, LOSSES, 1), (lower, ACCURACIES, 100)):
        means, *dots, failed = [line.get_ydata() for line in axes.lines]
        expected = [unit * np.mean(three) for three in scores[:3]] + [math.nan]
        np.testing.assert_allclose(means, expected)
        expected = unit * np.array(scores, float)
        np.testing.assert_allclose(np.array(dots).T, expected)
        assert len(failed) == 1 and axes.lines[-1].get_xdata() == [0.8]
        (shade,) = axes.patches
        assert (shade.get_x(), shade.get_x() + shade.get_width()) == pytest.approx((0.2, 0.4))
        spread = axes.collections[0].get_paths()[0].vertices[:, 1]
        at_first = unit * (np.mean(scores[0]) + np.array([-1, 1]) * np.std(scores[0], ddof=1))
        assert set(np.round(at_first, 9)) <= set(np.round(spread, 9))


def test_a_score_that_is_no_fraction_is_drawn_as_it_is(figures, tmp_path):
    surprise = Score("mean_surprise", "min", False)
    assert grids.panels(surprise) == [grids.LOSS, surprise]
    scores = {grids.LOSS: ACCURACIES, surprise: LOSSES}
    grids.picture([0.1, 0.2, 0.4, 0.8], scores, (0.2, 0.4), "max_norm", "log", tmp_path / "a.png")
    upper, lower = figures[0].axes
    assert lower.get_title("left") == "validation mean surprise"
    # Losses alone get a log axis: any other score may be below 0.
    assert (upper.get_yscale(), lower.get_yscale()) == ("linear", "linear")
    means, *_ = [line.get_ydata() for line in lower.lines]
    np.testing.assert_allclose(means, [*(np.mean(three) for three in LOSSES[:3]), math.nan])


def test_a_task_that_is_judged_by_its_loss_has_one_panel(figures, tmp_path):
    judged = Score("loss", "min", False)
    assert grids.panels(judged) == [judged]
    scores = {judged: LOSSES}
    grids.picture([0.1, 0.2, 0.4, 0.8], scores, (0.2, 0.4), "max_norm", "log", tmp_path / "a.png")
    (axes,) = figures[0].axes
    assert (axes.get_title("left"), axes.get_xlabel()) == ("validation loss", "max_norm")
    assert axes.get_yscale() == "log" and "0.2 to 0.4" in figures[0].get_suptitle()


def test_losses_of_one_size_are_on_a_linear_axis(figures, tmp_path):
    losses = [*LOSSES[:3], [0.5, 0.6, 0.7]]
    draw(tmp_path / "test.png", losses=losses, accuracies=ACCURACIES, scale="linear")
    assert [axes.get_yscale() for axes in figures[0].axes] == ["linear", "linear"]
    assert figures[0].axes[0].get_xscale() == "linear"


def test_the_picture_is_a_png_of_the_same_bytes_each_time(tmp_path):
    first, second = draw(tmp_path / "a.png"), draw(tmp_path / "b.png")
    assert first == second != draw(tmp_path / "c.png", interval=(0.4, 0.4))
    assert image.imread(tmp_path / "a.png").std() > 0.05


def test_an_infinite_loss_is_drawn_as_one_that_is_not_there(tmp_path):
    infinite = [*LOSSES[:3], [math.inf, 5.0, 7.0]]
    assert draw(tmp_path / "a.png") == draw(tmp_path / "b.png", losses=infinite)


def test_nothing_finite_can_be_drawn(tmp_path):
    assert draw(tmp_path / "test.png", losses=[[None] * 3] * 4, accuracies=[[None] * 3] * 4)
