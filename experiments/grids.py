"""The grid of a range test, and the interval that its losses suggest.

This is Smith's learning-rate range test for any knob, on a grid, with several seeds per value.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cyclical_jax.training.fields import RecipeError, any_of
from experiments import drawing
from experiments.score import Score
from experiments.statistics import Scores, is_finite

SCALES = ("linear", "log")
LOSS = Score("loss", "min", False)
MOST_WHOLE = 64  # values of a grid of whole numbers; more are a mistake, and would train for hours
_LOG_ABOVE = 10.0  # losses that differ by more than this factor are drawn on a log axis

_KEY = "dot: a run; line: mean; band: standard deviation; cross: a run stopped being finite"


class Suggestion(NamedTuple):
    """The interval of values that do as well as the best one, as far as the seeds can tell."""

    low: float
    high: float
    best: float  # the value of the lowest mean loss
    best_is_at_end: bool  # whether it is an end of the grid: a better one may lie beyond


def grid(low: float, high: float, num: int, scale: str) -> list[float]:
    """Returns `num` values from `low` to `high`, evenly spaced, or geometrically for "log".

    Both ends are exact.

    Raises:
      RecipeError: There is no such grid.
    """
    if scale not in SCALES:
        raise RecipeError(f"--scale must be one of {', '.join(SCALES)}, got {scale!r}.")
    if num < 2:
        raise RecipeError(f"--num must be at least 2, for both ends of the grid, got {num}.")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RecipeError(f"--low must be below high, and both finite, got low={low}, high={high}.")
    if scale == "log" and low <= 0:
        raise RecipeError(f"--low must be above 0 on a log scale, got {low}.")
    spaced = np.geomspace if scale == "log" else np.linspace
    return spaced(low, high, num).tolist()


def whole_grid(low: float, high: float, num: int | None, scale: str) -> list[int]:
    """Returns whole numbers from `low` to `high`: `num` of them, spaced as in `grid`, or all.

    Raises:
      RecipeError: There is no such grid, or it has a number that is not whole.
    """
    for name, end in (("low", low), ("high", high)):
        if not float(end).is_integer():
            raise RecipeError(f"--{name} must be a whole number for this knob, got {end}.")
    if num is None and scale == "linear":
        num = max(2, round(high - low) + 1)
    if num is None:
        raise RecipeError("--num must be given for whole numbers on a log scale.")
    if num > MOST_WHOLE:
        raise RecipeError(f"--num must be at most {MOST_WHOLE}, got {num} whole numbers.")
    spaced = np.array(grid(low, high, num, scale))
    values = np.rint(spaced)
    if abs(spaced - values).max() > 1e-6:
        raise RecipeError(_not_whole(int(low), int(high), num, scale))
    return [int(value) for value in values]


def _not_whole(low: int, high: int, num: int, scale: str) -> str:
    gap = high - low
    fitting = [gap // step + 1 for step in range(gap, 0, -1) if gap % step == 0]
    words = any_of(*(str(number) for number in fitting if number <= MOST_WHOLE))
    hint = f": --num={words} fits a linear scale" if scale == "linear" else ""
    return f"--num={num} from {low} to {high} is a grid with numbers that are not whole{hint}."


def first_rise(
    values: Sequence[int], accuracies: Sequence[Scores], rise: float = 0.2
) -> int | None:
    """Returns the lowest width of the published precision range test; None if there is none.

    It is the first value whose mean training accuracy is above 1 + `rise` times that of the value
    before. A value with a run that stopped being finite counts as accuracy 0. The upper width is
    the one that would be used without a cycle.

    Source: Y. Fu et al., CPT, arXiv 2101.09868, from memory. Their released code has no range
    test, so we could not check that the threshold is relative and has the default 0.2, nor over
    how many updates they average.

    Args:
      values: Numbers of bits, ascending.
      accuracies: [values][seeds], training accuracies in [0, 1]; None: the run stopped.
      rise: The threshold, a fraction of the accuracy before.
    """
    means = [np.mean(of_value) if all(map(is_finite, of_value)) else 0.0 for of_value in accuracies]
    for value, before, mean in zip(values[1:], means, means[1:], strict=False):
        if mean > (1 + rise) * before:
            return value
    return None


def suggest(values: Sequence[float], losses: Sequence[Scores]) -> Suggestion:
    """Returns the values around the best whose mean loss is within a standard error of the best.

    The best value has the lowest mean; its standard error is std / sqrt(n) over its n seeds,
    with ddof = 1. The interval goes from the best to both sides until a value does worse, or has a
    run that stopped being finite. Source: the one-standard-error rule of L. Breiman et al.,
    Classification and Regression Trees, 1984.

    Args:
      values: Ascending, as from `grid`.
      losses: [values][seeds], validation losses; None: the run stopped being finite.

    Raises:
      RecipeError: A value has fewer than two seeds, or none has all its runs finite.
    """
    num_seeds = min(map(len, losses))
    if num_seeds < 2:
        raise RecipeError(f"A standard error needs at least 2 seeds per value, got {num_seeds}.")
    means = np.array([_mean_if_all_finite(scores) for scores in losses])
    if not np.isfinite(means).any():
        raise RecipeError(
            "At every value a run stopped being finite: try other values or a lower learning rate."
        )
    best = int(means.argmin())
    limit = means[best] + np.std(losses[best], ddof=1) / math.sqrt(len(losses[best]))
    low, high = _run_around(best, means <= limit)
    return Suggestion(values[low], values[high], values[best], best in (0, len(values) - 1))


def _mean_if_all_finite(scores):
    return np.mean(scores) if all(map(is_finite, scores)) else np.inf


def _run_around(index, is_in):
    """Returns the first and last index of the unbroken run of True that holds `index`."""
    low = high = index
    while low > 0 and is_in[low - 1]:
        low -= 1
    while high < len(is_in) - 1 and is_in[high + 1]:
        high += 1
    return low, high


def panels(judged: Score) -> list[Score]:
    """Returns the scores to draw: the loss, and the one that the task judges by."""
    return [judged] if judged.name == LOSS.name else [LOSS, judged]


def picture(
    values: Sequence[float],
    scores: Mapping[Score, Sequence[Scores]],
    interval: tuple[float, float],
    knob: str,
    scale: str,
    path: Path,
) -> None:
    """Draws validation scores against the knob's value as a PNG, with `interval` shaded.

    Each run is a dot. A line shows the mean, and a band ± one standard deviation over the seeds. A
    cross marks a value at which a run stopped being finite; it has no mean.

    Args:
      values: As of `grid`.
      scores: {what `panels` returns: [values][seeds]}; an accuracy is a fraction.
      interval, knob, scale, path: The interval, the knob's name and scale, and the file.
    """
    with drawing.style() as theme:
        figure = Figure(figsize=(drawing.WIDTH, 1 + 2.5 * len(scores)), layout="constrained")
        rows = figure.subplots(len(scores), sharex=True, squeeze=False)[:, 0]
        rows[0].set_xscale(scale)
        for axes, (score, runs) in zip(rows, scores.items(), strict=True):
            if score.name == LOSS.name and _is_wide(runs):
                axes.set_yscale("log")
            _draw_scores(axes, values, _in_percent(runs) if score.percent else runs, theme)
            # The edge shows an interval that is a single value.
            shade = theme.lines[1]
            axes.axvspan(*interval, facecolor=(shade, 0.15), edgecolor=shade, zorder=0)
            axes.set_title(f"validation {score.label}")
        rows[-1].set_xlabel(knob)
        figure.supxlabel(_KEY, fontsize=drawing.SIZE)
        low, high = interval
        words = f"within a standard error of the best: {low:.3g} to {high:.3g}"
        figure.suptitle(words, color=theme.lines[1], fontsize=drawing.SIZE)
        drawing.save(figure, path)


def _in_percent(runs):
    return [[score and 100 * score for score in scores] for scores in runs]


def _is_wide(losses):
    finite = [score for scores in losses for score in scores if is_finite(score)]
    return bool(finite) and 0 < min(finite) < max(finite) / _LOG_ABOVE


def _draw_scores(axes, values, scores, theme):
    """Draws mean and spread, with a gap where a value has a run that is not finite."""
    scores = np.array(scores, float)  # [values, seeds], NaN for None
    scores[~np.isfinite(scores)] = np.nan
    means, stds = scores.mean(1), scores.std(1, ddof=1)
    axes.fill_between(
        values, means - stds, means + stds, color=theme.lines[0], alpha=0.2, linewidth=0
    )
    axes.plot(values, means, color=theme.lines[0])
    axes.plot(values, scores, "o", color=theme.lines[0], markersize=4, alpha=0.6, markeredgewidth=0)
    failed = np.array(values)[np.isnan(scores).any(1)]
    if len(failed):
        top = {"transform": axes.get_xaxis_transform(), "color": theme.ink}
        axes.plot(failed, np.full(len(failed), 0.95), "x", **top)
