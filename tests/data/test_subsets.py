"""The examples of a subset, where labels are unbalanced and out of order."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclical_jax.data.index_files import Names, Positions
from cyclical_jax.data.subsets import (
    SUBSETS,
    LongTailed,
    Subset,
    first_per_class,
    linear_quotas,
    long_tailed_quotas,
    parse_subset,
    subset_indices,
    subset_size,
)

LABELS = np.array([2, 0, 1, 1, 2, 0, 0, 1, 2, 2, 0], np.int32)


@pytest.mark.parametrize(
    "quotas, expected",
    [
        ([2, 1, 3], [0, 1, 2, 4, 5, 8]),
        ([0, 3, 0], [2, 3, 7]),
        ([4, 0, 4], [0, 1, 4, 5, 6, 8, 9, 10]),
        ([1], [1]),
    ],
)
def test_the_first_of_each_class_in_the_order_of_the_file(quotas, expected):
    assert first_per_class(LABELS, quotas).tolist() == expected
    assert first_per_class(LABELS, np.array(quotas)).tolist() == expected


@pytest.mark.parametrize(
    "quotas, line",
    [
        ([2, 4, 5], "class 1 has 3 examples, but needs 4."),
        ([4, 3, 4, 1], "class 3 has 0 examples, but needs 1."),
    ],
)
def test_a_class_that_is_too_small_is_one_line(quotas, line):
    with pytest.raises(ValueError) as error:
        first_per_class(LABELS, quotas)
    assert str(error.value) == line


@given(data=st.data(), labels=st.lists(st.integers(0, 4), min_size=1, max_size=60))
@settings(derandomize=True, database=None, max_examples=100, deadline=None)
def test_a_naive_reading_chooses_the_same(data, labels):
    quotas = [data.draw(st.integers(0, labels.count(label))) for label in range(5)]
    left, expected = list(quotas), []
    for index, label in enumerate(labels):
        if left[label]:
            left[label] -= 1
            expected.append(index)
    assert first_per_class(np.array(labels), quotas).tolist() == expected


# ---- how many of each class


@pytest.mark.parametrize(
    "subset, counts",
    [
        ("4k", [400] * 10),
        ("4k_5_3", [490, 470, 450, 430, 410, 390, 370, 350, 330, 310]),
        ("4k_6_2", [580, 540, 500, 460, 420, 380, 340, 300, 260, 220]),
    ],
)
def test_the_counts_of_ten_classes_are_the_published_ones(subset, counts):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 700))
    indices = subset_indices(SUBSETS[subset], labels, 10)
    assert np.bincount(labels[indices]).tolist() == counts
    assert (np.diff(indices) > 0).all()
    for label in range(10):
        members = np.flatnonzero(labels == label)
        assert set(members[: counts[label]]) <= set(indices)


@pytest.mark.parametrize("subset, high, low", [("4k_5_3", 50, 30), ("4k_6_2", 60, 20)])
def test_the_counts_of_a_hundred_classes_are_the_rule_to_the_nearest(subset, high, low):
    quotas = linear_quotas(100, 4000, SUBSETS[subset].ratio)
    exact = [Fraction(high) - (high - low) * Fraction(2 * k + 1, 200) for k in range(100)]
    assert quotas.sum() == 4000 and quotas[0] == high and quotas[-1] in (low, low + 1)
    pairs = zip(quotas.tolist(), exact, strict=True)
    assert all(abs(count - value) <= Fraction(1, 2) for count, value in pairs)
    assert (np.diff(quotas) <= 0).all()


@given(
    num_classes=st.integers(1, 120),
    total=st.integers(0, 5000),
    ratio=st.sampled_from([Fraction(1), Fraction(5, 3), Fraction(3), Fraction(1, 2), Fraction(10)]),
)
@settings(derandomize=True, database=None, max_examples=200, deadline=None)
def test_quotas_are_the_largest_remainders_of_the_rule(num_classes, total, ratio):
    low = 2 * total / (num_classes * (1 + ratio))
    high = ratio * low
    exact = [high - (high - low) * Fraction(2 * k + 1, 2 * num_classes) for k in range(num_classes)]
    expected = [int(value) for value in exact]
    by_fraction = sorted(range(num_classes), key=lambda k: (int(exact[k]) - exact[k], k))
    for k in by_fraction[: total - sum(expected)]:
        expected[k] += 1
    assert sum(expected) == total
    assert linear_quotas(num_classes, total, float(ratio)).tolist() == expected


def test_what_does_not_divide_goes_to_the_first():
    assert linear_quotas(7, 4000).tolist() == [572] * 3 + [571] * 4


@pytest.mark.parametrize(
    "num_classes, most, totals",
    [
        (10, 5000, {10: 20431, 50: 13996, 100: 12406, 200: 11203}),
        (100, 500, {10: 19573, 50: 12608, 100: 10847, 200: 9502}),
    ],
)
def test_long_tails_have_the_sizes_of_the_published_ones(num_classes, most, totals):
    for factor, total in totals.items():
        quotas = long_tailed_quotas(num_classes, most, factor)
        assert quotas.sum() == total and quotas[0] == most and quotas[-1] == most // factor
        assert subset_size(LongTailed(most, factor), num_classes) == total


def test_a_long_tail_class_by_class():
    published = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert long_tailed_quotas(10, 5000, 100).tolist() == published
    assert long_tailed_quotas(4, 9, 1).tolist() == [9] * 4
    assert long_tailed_quotas(1, 9, 3).tolist() == [9]


@pytest.mark.parametrize("most", [3, 5, 490, 1280])
def test_the_last_class_of_a_long_tail_is_not_rounded_down_from_a_whole_number(most):
    for factor in range(1, most + 1):
        if most % factor == 0:
            assert long_tailed_quotas(7, most, factor)[-1] == most // factor


def test_a_long_tail_takes_the_first_of_each_class():
    labels = np.array([1, 0, 2, 0, 2, 1, 0, 0, 1, 0])
    indices = subset_indices(LongTailed(4, 4), labels, 3)
    assert indices.tolist() == [0, 1, 2, 3, 5, 6, 7]


# ---- from what a config says


@pytest.mark.parametrize("name", SUBSETS)
def test_a_name_is_one_of_the_table(name):
    assert parse_subset(name) is SUBSETS[name]


@pytest.mark.parametrize(
    "text, subset",
    [("long_tailed 5000 100", LongTailed(5000, 100)), (" long_tailed 50 2.5", LongTailed(50, 2.5))],
)
def test_a_long_tail_is_read(text, subset):
    assert parse_subset(text) == subset


@pytest.mark.parametrize(
    "words",
    ["", " 5000", " 5000 100 2", " x 100", " 5e3 10", " 50 y", " 50 0.9", " 50 51", " 50 nan"],
)
def test_a_wrong_long_tail_is_one_line(words):
    text = f"long_tailed{words}"
    with pytest.raises(ValueError) as error:
        parse_subset(text)
    assert str(error.value) == (
        "`subset` must be 'long_tailed N F' with a whole number N, the examples of the first "
        "class, and a number F from 1 to N, how many times fewer the last class has, got "
        f"{text!r}."
    )


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_a_path_is_read(tmp_path, suffix):
    positions, names = tmp_path / f"p.{suffix}", tmp_path / f"n o.{suffix}"
    positions.write_text("5 3 1")
    names.write_text("a\nb\n")
    assert isinstance(parse_subset(str(positions)), Positions)
    assert isinstance(parse_subset(str(names)), Names)
    assert subset_size(parse_subset(str(positions)), 10) == 3
    assert subset_size(parse_subset(str(names)), 10) == 2
    found = subset_indices(parse_subset(str(names)), LABELS, 3, names=np.array([b"b", b"x", b"a"]))
    assert found.tolist() == [0, 2]


@pytest.mark.parametrize("wrong", ["4k_62", "5k", "", " ", 4000, None, ["4k"], "subset.npy"])
def test_anything_else_is_told_the_forms(wrong):
    with pytest.raises(ValueError) as error:
        parse_subset(wrong)
    hint = " Did you mean '4k_6_2'?" if wrong == "4k_62" else ""
    assert str(error.value).startswith(
        "`subset` must be one of '4k', '4k_5_3', '4k_6_2', 'first_4k', or 'balanced N', such as "
        "'balanced 250', or 'long_tailed N F', such as 'long_tailed 5000 100', or the path of an "
        f"index file in .txt or .csv, such as 'ImageNet_LT_train.txt', got {wrong!r}."
    )
    assert hint in str(error.value)


@pytest.mark.parametrize("wrong", ["balanced", "balanced 0", "balanced 2.5", "balanced 1 2"])
def test_a_balanced_subset_needs_a_whole_number(wrong):
    with pytest.raises(ValueError, match=r"'balanced N' with a whole number N .*, got 'balanced"):
        parse_subset(wrong)


def test_a_balanced_subset_has_equal_parts():
    labels = np.arange(90) % 3
    indices = subset_indices(parse_subset("balanced 31"), labels, 3)
    assert np.bincount(labels[indices]).tolist() == [11, 10, 10]


# ---- the table


def test_a_subset_without_a_ratio_is_what_comes_first():
    labels = np.arange(5000) % 3
    indices = subset_indices(SUBSETS["first_4k"], labels, 3)
    np.testing.assert_array_equal(indices, np.arange(4000))


@pytest.mark.parametrize("subset", [Subset(11, ratio=None), Subset(9, ratio=1.0)])
def test_just_enough_examples_are_enough(subset):
    assert len(subset_indices(subset, LABELS, 3)) == subset.total


@pytest.mark.parametrize(
    "subset, line",
    [
        (Subset(12, ratio=None), "there are 11 examples, but 12 are needed."),
        (Subset(12, ratio=1.0), "class 1 has 3 examples, but needs 4."),
    ],
)
def test_too_few_examples_are_one_line(subset, line):
    with pytest.raises(ValueError) as error:
        subset_indices(subset, LABELS, 3)
    assert str(error.value) == line


def test_every_subset_of_the_table_has_its_total():
    labels = np.tile(np.arange(100), 100)
    for subset in SUBSETS.values():
        assert len(subset_indices(subset, labels, 100)) == subset.total == 4000
