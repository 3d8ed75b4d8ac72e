"""The statistics of a table: means, paired differences, corrected p-values.

A run that stopped being finite is None, and so is every statistic that the data do not determine.
No result is NaN, which JSON cannot hold.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.score import Score

Scores = Sequence[float | None]  # one entry a seed; None: the run stopped being finite

CONFIDENCE = 0.95
_EQUAL = 1e-6  # differences closer than this, relative to the scores, are equal up to float32


class Summary(NamedTuple):
    """Mean and spread of the runs that stayed finite."""

    n: int
    mean: float | None  # None: n = 0
    std: float | None  # of a sample, ddof = 1; None: n < 2


class Comparison(NamedTuple):
    """Two arms, compared by the paired t test."""

    n: int  # pairs
    difference: float | None  # mean of treatment - control; None: n = 0
    interval: tuple[float, float] | None  # 95 %, Student's t with n - 1 degrees of freedom
    p: float | None  # two-sided


def is_finite(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def summary(scores: Scores) -> Summary:
    """Returns how many scores are finite, their mean and their sample standard deviation."""
    finite = np.array([score for score in scores if is_finite(score)], float)
    mean = float(np.mean(finite)) if len(finite) else None
    std = float(np.std(finite, ddof=1)) if len(finite) > 1 else None
    return Summary(len(finite), mean, std)


def interval(scores: Scores) -> tuple[float, float] | None:
    """Returns the 95 % interval of the mean, by Student's t; None for fewer than two scores."""
    n, mean, std = summary(scores)
    if mean is None or std is None:
        return None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / math.sqrt(n)
    return mean - half, mean + half


def compare(treatment: Scores, control: Scores) -> Comparison:
    """Returns the paired t test of two arms.

    Entry i of both has the same seed; it counts if both are there. If all differences are equal,
    the test has no answer: it gives 0 / 0 if they are 0, and otherwise p = 0, as if two runs that
    both gained three test images proved anything. Then the interval and p are None, as they are for
    fewer than two pairs.

    Raises:
      ValueError: The two are not equally long.
    """
    if len(treatment) != len(control):
        raise ValueError(f"{len(treatment)} scores cannot be paired with {len(control)}.")
    pairs = np.array(_complete(treatment, control), float).reshape(-1, 2)
    if not len(pairs):
        return Comparison(0, None, None, None)
    differences = pairs[:, 0] - pairs[:, 1]
    n, difference = len(pairs), float(differences.mean())
    if np.ptp(differences) <= _EQUAL * np.abs(pairs).max():  # also where n = 1
        return Comparison(n, difference, None, None)
    result = stats.ttest_rel(pairs[:, 0], pairs[:, 1])
    low, high = result.confidence_interval(CONFIDENCE)
    return Comparison(n, difference, (float(low), float(high)), float(result.pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values corrected so that the chance of any false finding stays at its level.

    With m p-values in ascending order, the k-th of them (k = 1, ...) becomes
    `max over i <= k of min(1, (m - i + 1) p_i)`. None stays None and does not count in m.
    Source: S. Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    tested = [i for i, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(tested, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def paired_scores(dataset: Mapping[str, Any], name: str) -> tuple[list, list]:
    """Returns the judged test scores of an arm and, in the order of its seeds, of its control.

    Args:
      dataset: The record of a dataset in a table.
      name: The arm, which has a control.
    """
    arms, score = dataset["arms"], Score.of_record(dataset).name
    arm, control = arms[name], arms[arms[name]["control"]]
    of_control = dict(zip(control["seeds"], control["test"][score], strict=True))
    return arm["test"][score], [of_control.get(seed) for seed in arm["seeds"]]


def paired_differences(dataset: Mapping[str, Any], name: str) -> list[float]:
    """Returns an arm's scores minus its control's, in the order of seeds, where both exist."""
    return [ours - theirs for ours, theirs in _complete(*paired_scores(dataset, name))]


def with_comparisons(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a table's record in which every arm has its comparison with its control.

    The comparison is `"comparison": {"n", "difference", "interval", "p", "p_holm"}`: the difference
    is arm minus control in the score that the dataset is judged by, whatever its better direction;
    an accuracy is a fraction. An arm without a control has None. Holm's correction in `p_holm` is
    over all comparisons of the record, those of its other datasets too.
    """
    record = copy.deepcopy(dict(record))
    compared = []
    for dataset in record["datasets"].values():
        for name, arm in dataset["arms"].items():
            arm["comparison"] = _comparison(dataset, name)
            compared.append(arm["comparison"])
    compared = [comparison for comparison in compared if comparison]
    for comparison, p_holm in zip(compared, holm([c["p"] for c in compared]), strict=True):
        comparison["p_holm"] = p_holm
    return record


def _comparison(dataset, name):
    if dataset["arms"][name]["control"] is None:
        return None
    comparison = compare(*paired_scores(dataset, name))
    return comparison._asdict() | {"interval": comparison.interval and list(comparison.interval)}


def _complete(first, second):
    """Returns the pairs in which both are there."""
    return [pair for pair in zip(first, second, strict=True) if all(map(is_finite, pair))]
