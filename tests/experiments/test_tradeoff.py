"""Trade-off curves: their statistics by hand, the rows that are read, and the command."""

import math

import numpy as np
import pytest

from cyclical_jax.training.durations import parse_duration
from cyclical_jax.training.population import Outcome
from experiments import lengths
from experiments import tradeoff_statistics as statistics
from experiments.lengths import Lengths
from experiments.score import ACCURACY, Score

LOSS = Score("loss", "min", False)


# ---- statistics, by hand


def test_a_gap_is_one_run_minus_separate_runs_in_pairs():
    found = statistics.gap([0.5, 0.7, None, 0.9], [0.4, 0.8, 0.1, 0.6])
    assert found.n == 3
    assert found.difference == pytest.approx((0.1 - 0.1 + 0.3) / 3)
    assert found.rms == pytest.approx(math.sqrt((0.01 + 0.01 + 0.09) / 3))
    # Student's t with 2 degrees of freedom: 4.302653; the standard deviation of .1, -.1, .3 is .2.
    half = 4.302653 * 0.2 / math.sqrt(3)
    assert found.interval == pytest.approx((0.1 - half, 0.1 + half), rel=1e-6)
    assert statistics.gap([None], [0.5]) == (0, None, None, None)


def test_the_distance_of_two_curves_is_over_their_lengths():
    gaps = [statistics.Gap(2, 0.3, None, 9.0), statistics.Gap(2, -0.4, None, 9.0)]
    assert statistics.distance(gaps) == pytest.approx(math.sqrt((0.09 + 0.16) / 2))
    assert statistics.distance([statistics.Gap(0, None, None, None)]) is None


def test_correlation_and_signs_are_of_the_means_over_seeds():
    one = np.array([[[1.0, 3.0], [0.0, 2.0], [-1.0, -3.0]]])  # means 2, 1, -2
    other = np.array([[[2.0, 2.0], [-1.0, -1.0], [-3.0, -3.0]]])  # means 2, -1, -3
    # Centred: 5/3, 2/3, -7/3 and 8/3, -1/3, -7/3.
    expected = (40 - 2 + 49) / math.sqrt((25 + 4 + 49) * (64 + 1 + 49))
    assert statistics.correlation(one, other).value == pytest.approx(expected)
    assert statistics.same_sign(one, other).value == pytest.approx(2 / 3)


def test_signs_of_zero_agree_with_zero_alone_and_rounding_is_zero():
    one = np.array([[[0.1 + 0.2 - 0.3], [0.0], [0.5]]])
    other = np.array([[[0.0], [0.2], [0.1]]])
    assert statistics.same_sign(one, other).value == pytest.approx(2 / 3)


def test_the_interval_is_that_of_resampled_seeds():
    generator = np.random.default_rng(3)
    one, other = generator.normal(size=(2, 3, 4, 12))
    found = statistics.correlation(one, other)
    low, high = found.interval
    assert low < found.value < high and high - low > 0.3
    same = statistics.correlation(one, 2 * one + 1)
    assert (same.value, *same.interval) == pytest.approx((1, 1, 1))
    assert statistics.correlation(one[..., :1], other[..., :1]).interval is None


def test_both_curves_and_all_methods_are_resampled_with_the_same_seeds():
    """A luck of the seed that all share leaves each resample perfectly correlated."""
    luck = np.random.default_rng(0).normal(size=20) * 100
    one = np.array([[[1.0]], [[2.0]], [[5.0]]]) + luck
    other = np.array([[[10.0]], [[20.0]], [[50.0]]]) + luck
    assert statistics.correlation(one, other).interval == pytest.approx((1, 1))


def test_a_run_that_is_not_there_counts_in_no_mean():
    method, control = [[0.9, None, 0.7], [0.5, 0.5, 0.5]], [[0.5, 0.1, 0.6], [0.4, None, 0.3]]
    found = statistics.differences(method, control)
    np.testing.assert_allclose(found, [[0.4, np.nan, 0.1], [0.1, np.nan, 0.2]])
    nothing = statistics.same_sign(found[None, :, 1:2], found[None, :, 1:2])
    assert nothing == (None, None)


def test_a_correlation_without_any_spread_has_no_answer():
    same = np.ones((2, 3, 4))
    assert statistics.correlation(same, same) == (None, None)
    assert statistics.same_sign(same, same) == (1, (1, 1))


def test_the_order_is_that_of_all_pairs_of_arms():
    one = [[[0.1]], [[0.2]], [[0.3]]]
    other = [[[0.1]], [[0.3]], [[0.2]]]  # one of three pairs is turned round
    assert statistics.same_order(one, other).value == pytest.approx(2 / 3)


def test_what_separate_runs_show_clearly_is_counted():
    def effect(difference, interval):
        return {"difference": difference, "interval": interval}

    separate = [effect(1, [0.5, 1.5]), effect(-1, [-2, -0.1]), effect(1, [-1, 3]), effect(1, None)]
    one_run = [effect(0.1, [-1, 1]), effect(2, [1, 3]), effect(-5, [-6, -4]), effect(1, [0.5, 2])]
    found = statistics.clear({"one_run": one_run, "separate": separate})
    assert found == {"clear": 2, "clear_alike": 1, "opposite": 1}


@pytest.mark.parametrize("cycles, ratio", [(1, 1), (2, 1.5), (5, 1.9375), (6, 1.96875)])
def test_separate_runs_cost_nearly_twice_the_updates_of_one(cycles, ratio):
    ends = [3 * 2**k for k in range(1, cycles + 1)]
    assert statistics.ratio_of_updates(cycles) == ratio == sum(ends) / ends[-1]


def test_the_advice_is_the_shortest_length_within_a_standard_error_of_the_best():
    curve = [[0.50, 0.52], [0.80, 0.82], [0.80, 0.86], [0.81, 0.87]]
    # The best mean is .84, its standard error .0424 / sqrt(2) = .03: .81 is just within it.
    found = statistics.advice(curve, ACCURACY)
    assert (found.length, found.best) == (1, 3)
    assert found.doubled.difference == pytest.approx(0.02) and found.doubled.n == 2
    assert statistics.advice([[0.1, 0.1], [0.9, 0.9]], ACCURACY) == (1, 1, None)


def test_where_lower_is_better_the_advice_is_so_too():
    found = statistics.advice([[3.0, 3.0], [1.0, 1.1], [1.0, 1.2]], LOSS)
    assert (found.length, found.best) == (1, 1)
    assert found.doubled.difference == pytest.approx(0.05)


def test_a_length_at_which_a_run_failed_is_not_advised():
    assert statistics.advice([[0.5, 0.6], [0.9, None]], ACCURACY).length == 0
    assert statistics.advice([[None, 0.6]], ACCURACY) is None
    assert statistics.advice([[0.5], [0.6]], ACCURACY)[:2] == (1, 1)  # one seed: the best


# ---- what is read


def rows(*pairs):
    return [{"step": 1, "epoch": epoch, "val_accuracy": score} for epoch, score in pairs]


def test_the_row_of_the_end_itself_is_read():
    """Neither the best row around it, nor the row before or after it."""
    found = rows((1, 0.99), (2, 0.5), (3, 0.9), (3.5, 0.95), (4, 0.6), (5, 0.98))
    outcome = Outcome(found, {"validation": {"accuracy": 0.98}, "test": {"accuracy": 1.0}}, None)
    assert lengths.at_ends(outcome, [2, 4], "accuracy") == [0.5, 0.6]
    with pytest.raises(KeyError):
        lengths.at_ends(outcome, [2, 8], "accuracy")


def test_a_run_that_stopped_being_finite_is_read_up_to_there():
    outcome = Outcome(rows((2, 0.5), (4, None)), {}, "loss is nan")
    assert lengths.at_ends(outcome, [2, 4, 8], "accuracy") == [0.5, None, None]


# ---- lengths


def test_the_lengths_double_and_all_are_ends_of_one_run():
    of = Lengths(parse_duration("1.5 epochs"), 3)
    assert [str(of.of(cycle)) for cycle in range(3)] == ["3 epochs", "6 epochs", "12 epochs"]
    one_run = of.of_one_run()
    assert one_run["optimizer.first_cycle"] == one_run["optimizer.warmup"] == "1.5 epochs"
    assert one_run["duration"] == "12 epochs" and one_run["validate_every"] == "cycle"
    assert one_run["cycle.span"] == "restart"


def test_the_warm_up_of_a_separate_run_grows_with_its_length():
    of = Lengths(parse_duration("8 epochs"), 6)
    warmups = [of.of_separate_run(cycle)["optimizer.warmup"] for cycle in range(6)]
    amounts = [parse_duration(text).amount for text in warmups]
    assert amounts == pytest.approx([16 * 2**k * 8 / 90 for k in range(6)])
    steps = Lengths(parse_duration("1 step"), 2)
    assert steps.of_separate_run(0)["optimizer.warmup"] == "1 steps"
    assert steps.of_separate_run(1)["duration"] == "4 steps"
