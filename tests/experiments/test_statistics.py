"""Statistics of a table against the formulas by hand."""

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics import (
    compare,
    holm,
    interval,
    paired_differences,
    summary,
    with_comparisons,
)

TREATMENT = [0.981, 0.975, None, 0.990, 0.968, 0.979]
CONTROL = [0.970, 0.976, 0.980, 0.971, None, 0.961]
# What is there in both: the seeds 0, 1, 3 and 5.
DIFFERENCES = [0.011, -0.001, 0.019, 0.018]


# ---- one arm


def test_a_summary_is_of_the_finite_runs():
    n, mean, std = summary([2.0, None, 5.0, 11.0])
    assert (n, mean) == (3, 6.0)
    assert std == pytest.approx(math.sqrt((16 + 1 + 25) / 2))


@pytest.mark.parametrize(
    "scores, expected",
    [([], (0, None, None)), ([None, None], (0, None, None)), ([None, 0.5], (1, 0.5, None))],
)
def test_a_summary_says_no_more_than_its_runs(scores, expected):
    assert summary(scores) == expected


def test_the_interval_of_a_mean_by_hand():
    low, high = interval([2.0, None, 5.0, 11.0])
    half = 4.302652729911275 * math.sqrt(21) / math.sqrt(3)  # Student's t, 2 degrees of freedom
    assert [low, high] == pytest.approx([6 - half, 6 + half])
    assert interval([0.5, None]) is None and interval([]) is None


# ---- two arms


def in_float32(*scores):
    return np.float32(scores).tolist()


def test_the_comparison_is_the_paired_t_test_by_hand():
    n, difference, (low, high), p = compare(TREATMENT, CONTROL)
    mean, standard_error = np.mean(DIFFERENCES), np.std(DIFFERENCES, ddof=1) / math.sqrt(4)
    assert n == 4 and difference == pytest.approx(mean)
    half = 3.182446305284263 * standard_error  # Student's t, 3 degrees of freedom, 97.5 %
    assert [low, high] == pytest.approx([mean - half, mean + half])
    assert p == pytest.approx(2 * stats.t(3).sf(mean / standard_error))


def test_a_worked_example_of_the_paired_t_test():
    """Student 1908: hours of sleep gained with two drugs; p as commonly quoted."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    n, difference, interval, p = compare(first, second)
    assert n == 10 and difference == pytest.approx(-1.58)
    assert interval == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert p == pytest.approx(0.002833, abs=1e-6)


def test_exchanging_the_arms_changes_only_the_sign():
    n, difference, (low, high), p = compare(CONTROL, TREATMENT)
    other = compare(TREATMENT, CONTROL)
    assert (n, difference, -high, -low) == (4, -other.difference, *other.interval)
    assert p == other.p


@pytest.mark.parametrize(
    "treatment, control, n, difference",
    [
        ([], [], 0, None),
        ([None, 0.5], [0.5, None], 0, None),
        ([0.5, None], [0.25, 0.5], 1, 0.25),
        ([0.0, 0.0], [0.0, 0.0], 2, 0.0),
        ([0.97, 0.98, 0.99], [0.97, 0.98, 0.99], 3, 0.0),  # the same runs twice
        ([0.94, 0.9525, 0.97], [0.93, 0.9425, 0.96], 3, 0.01),  # equal but for the last bit
        (in_float32(0.91, 0.96, 0.92), in_float32(0.9, 0.95, 0.91), 3, 0.01),
    ],
)
def test_without_a_spread_there_is_no_interval_and_no_p(treatment, control, n, difference):
    comparison = compare(treatment, control)
    assert comparison.n == n and comparison.interval is None and comparison.p is None
    assert comparison.difference == pytest.approx(difference, abs=1e-7)


def test_one_image_more_of_a_million_is_a_spread():
    comparison = compare([0.900003, 0.9], [0.9, 0.9])
    assert comparison.p == pytest.approx(0.5)  # t = 1 with 1 degree of freedom


@pytest.mark.parametrize("absent", [math.nan, math.inf])
def test_what_is_not_finite_is_not_there(absent):
    assert compare([0.5, 0.7, absent], [0.4, 0.5, 0.6]) == compare([0.5, 0.7], [0.4, 0.5])
    assert summary([0.5, absent]) == summary([0.5])


def test_arms_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="^3 scores cannot be paired with 2.$"):
        compare([0.1, 0.2, 0.3], [0.1, 0.2])


scores = st.lists(st.none() | st.sampled_from([0.0, 0.9, 0.9025, 0.905, 1.0]), min_size=0)


@given(scores, scores)
def test_no_scores_make_a_nan_or_a_warning(treatment, control):
    shared = min(len(treatment), len(control))
    comparison = compare(treatment[:shared], control[:shared])
    json.dumps(comparison, allow_nan=False)
    if comparison.interval:
        low, high = comparison.interval
        assert low < comparison.difference < high and 0 <= comparison.p <= 1
        # The interval and the test are the same statement.
        assert (comparison.p < 0.05) == (not low <= 0 <= high)


# ---- many comparisons


def holm_by_the_definition(p_values):
    """The smallest level at which Holm's procedure, run step by step, rejects each hypothesis."""

    def rejected(level):
        waiting = dict(enumerate(p_values))
        while waiting:
            smallest = min(waiting, key=waiting.get)
            if waiting[smallest] > level / len(waiting):
                break
            del waiting[smallest]
        return set(range(len(p_values))) - set(waiting)

    levels = [0.0, 1.0] + [k * p for p in p_values for k in range(1, len(p_values) + 1)]
    levels = sorted(level for level in levels if level <= 1)
    # A hair above each level, as p * k / k may be a rounding above p.
    reject = {level: rejected(level * (1 + 1e-12)) for level in levels}
    return [next((x for x in levels if i in reject[x]), 1.0) for i in range(len(p_values))]


def test_holm_of_a_worked_example():
    # 4 x .005, 3 x .01, then 2 x .03 holds up .04.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_keeps_the_order_and_what_was_not_tested():
    assert holm([None, 0.5, None, 0.01]) == [None, 0.5, None, 0.02]
    assert holm([0.4, 0.6, 0.7]) == [1.0, 1.0, 1.0]
    assert holm([0.04]) == [0.04] and holm([None]) == [None] and holm([]) == []


@given(st.lists(st.floats(0, 1) | st.sampled_from([0.01, 0.02, 0.04]), min_size=1, max_size=7))
def test_holm_is_the_step_down_procedure(p_values):
    adjusted = holm(p_values)
    assert adjusted == pytest.approx(holm_by_the_definition(p_values), rel=1e-12, abs=1e-300)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    in_order = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert in_order == sorted(in_order)


# ---- a record


def arm(control, accuracy, seeds=None):
    seeds = list(range(len(accuracy))) if seeds is None else seeds
    return {"control": control, "seeds": seeds, "test": {"accuracy": accuracy}}


@pytest.fixture
def record():
    digits = {
        "plain": arm(None, [0.90, 0.92, 0.91]),
        "cyclical": arm("plain", [0.93, 0.94, 0.96]),
        "tuned": arm("cyclical", [0.931, 0.925, None]),
    }
    fashion = {
        "plain": arm(None, [0.80, 0.81, 0.85]),
        "cyclical": arm("plain", [0.80, 0.81, 0.85]),
        "tuned": arm("plain", [0.85, 0.93, 0.84], seeds=[2, 1, 7]),
    }
    return {"table": "t", "datasets": {"digits": {"arms": digits}, "fashion": {"arms": fashion}}}


def test_a_record_gets_its_comparisons(record):
    before = copy.deepcopy(record)
    datasets = with_comparisons(record)["datasets"]
    assert record == before
    digits, fashion = datasets["digits"]["arms"], datasets["fashion"]["arms"]
    assert digits["plain"]["comparison"] is fashion["plain"]["comparison"] is None

    expected = compare([0.93, 0.94, 0.96], [0.90, 0.92, 0.91])
    comparison = digits["cyclical"]["comparison"]
    assert list(comparison) == ["n", "difference", "interval", "p", "p_holm"]
    assert comparison["interval"] == list(expected.interval)
    assert (comparison["n"], comparison["p"]) == (3, expected.p)
    tuned = digits["tuned"]["comparison"]  # against the cyclical arm, where both are there
    assert (tuned["n"], tuned["p"]) == (2, compare([0.931, 0.925], [0.93, 0.94]).p)


def test_pairs_are_by_seed_whatever_their_order(record):
    fashion = with_comparisons(record)["datasets"]["fashion"]
    # Seeds 2 and 1; the control has no seed 7.
    assert paired_differences(fashion, "tuned") == pytest.approx([0.85 - 0.85, 0.93 - 0.81])
    assert fashion["arms"]["tuned"]["comparison"]["n"] == 2


def test_the_score_of_a_comparison_is_that_of_its_dataset(record):
    for name, one in record["datasets"]["fashion"]["arms"].items():
        one["test"]["loss"] = [0.25, 0.25, 0.125] if name == "tuned" else [0.5, 0.25, 0.75]
    judged = record | {"datasets": {**record["datasets"]}}
    judged["datasets"]["fashion"] = {
        **record["datasets"]["fashion"],
        "judged_by": {"name": "loss", "best": "min"},
    }
    fashion = with_comparisons(judged)["datasets"]["fashion"]
    # Arm minus control, also where less is better: seeds 2 and 1 of "plain" have 0.75 and 0.25.
    assert paired_differences(fashion, "tuned") == pytest.approx([0.25 - 0.75, 0.25 - 0.25])
    assert fashion["arms"]["tuned"]["comparison"]["difference"] == pytest.approx(-0.25)
    others = [with_comparisons(one)["datasets"]["digits"] for one in (record, judged)]
    assert [other["arms"]["cyclical"]["comparison"]["p"] for other in others] == [
        compare([0.93, 0.94, 0.96], [0.90, 0.92, 0.91]).p
    ] * 2


def test_holm_is_over_the_whole_record(record):
    datasets = with_comparisons(record)["datasets"].values()
    comparisons = [a["comparison"] for d in datasets for a in d["arms"].values()]
    # The same runs twice have no p, and count in nothing.
    p_values = [c["p"] for c in comparisons if c]
    assert [p is None for p in p_values] == [False, False, True, False]
    smallest = min(p for p in p_values if p is not None)
    told = next(c for c in comparisons if c and c["p"] == smallest)
    assert told["p_holm"] == pytest.approx(3 * smallest)
    assert [c["p_holm"] for c in comparisons if c] == holm(p_values)


def test_a_compared_record_is_json_and_compares_to_itself(record):
    compared = with_comparisons(record)
    assert json.loads(json.dumps(compared, allow_nan=False)) == compared
    assert with_comparisons(compared) == compared
