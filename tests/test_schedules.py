import functools
import json
import pathlib
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cyclical_jax as cj

PUBLISHED = json.loads(
    (pathlib.Path(__file__).parent / "reference" / "published_values.json").read_text()
)["schedule"]
LAST_COUNT = 2**31 - 1
PAIRS = [("exponential", "late_exponential"), ("rex", "early_rex"), ("early_rex", "rex")]
PUBLISHED_SHAPES = ["published_exponential", "late_published_exponential"]
SHAPES = ["linear", "cosine", "exponential", "late_exponential", "rex", "early_rex", *PAIRS]
ALL_SHAPES = [*SHAPES, *PUBLISHED_SHAPES]  # a pair of the last two jumps at the peak
FACTORS = [1, 1.01, 1.5, 2, 2.5, 3, 4, 8]
TOTALS = [2, 3, 11, 101, 10_000, 2**24 + 5, 2**31 - 1, 2**31]
CASES = [(total, factor) for total in TOTALS for factor in FACTORS]


def growth_by_hand(shape, h):
    if shape == "cosine":
        return (1 - np.cos(np.pi * h)) / 2
    if shape.startswith(("late", "early")):
        return 1 - growth_by_hand(shape.partition("_")[2], 1 - h)
    if shape.endswith("exponential"):
        return (1 - np.exp(-4 * h)) / (1 if shape[0] == "p" else 1 - np.exp(-4))
    return h if shape == "linear" else h / (10 - 9 * h)


def hardness_by_hand(counts, total_steps, factor=2.0, shape="linear", num_cycles=1):
    """Returns the formula: exact integers for the position in the cycle, the rest in float64."""
    last = np.asarray(total_steps, np.int64) - 1
    count = np.minimum(np.asarray(counts, np.int64), last)
    cycle = np.minimum(count * num_cycles // last, num_cycles - 1)
    x, rest = (
        (count * num_cycles - cycle * last) / last,
        ((cycle + 1) * last - count * num_cycles) / last,
    )
    factor = np.asarray(factor, np.float64)
    way_back = factor * rest / np.where(factor == 1, np.inf, factor - 1)
    up, back = shape if isinstance(shape, tuple) else (shape, shape)
    is_up = (factor == 1) | (x <= 1 / factor)
    h = np.where(is_up, factor * x, way_back)
    return np.where(is_up, growth_by_hand(up, h), growth_by_hand(back, h))


@functools.cache
def counts_of_interest(total_steps, factor, num_cycles):
    """Returns 160 int32 counts: the first, around every turn, past the end, and in between."""
    last = total_steps - 1
    turns = [Fraction(k) + p for k in range(num_cycles) for p in (0, 1 / Fraction(factor))]
    turns = [int(turn * last / num_cycles) for turn in [*turns, Fraction(num_cycles)]]
    near = [turn + offset for turn in turns for offset in (-2, -1, 0, 1, 2, 3)]
    rng = np.random.default_rng(total_steps)
    anywhere = [*rng.integers(0, total_steps, 30), *(2 ** rng.uniform(0, 31, 30)).astype(np.int64)]
    counts = [*near, 0, 1, 2, 2**30, LAST_COUNT - 1, LAST_COUNT, *anywhere, *range(90)]
    return np.clip(counts[:160], 0, LAST_COUNT).astype(np.int32)


def drawn_cases():
    rng = np.random.default_rng(0)
    factors = [*rng.integers(8, 400, 150) / 8, *(1 + 10 ** rng.uniform(-3, 2, 150))]
    totals = 2 + (2 ** rng.uniform(3, 30.9, 300)).astype(int)
    return list(zip(totals.tolist(), np.float32(factors).tolist(), strict=True))


class Traces:
    """Returns a function that counts how often it is traced."""

    def __init__(self, function):
        self.function, self.number = function, 0

    def __call__(self, *args):
        self.number += 1
        return self.function(*args)


@pytest.mark.parametrize("num_cycles", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_the_formula_with_plain_numbers(shape, num_cycles):
    kwargs = dict(shape=shape, num_cycles=num_cycles)
    for total, factor in CASES:
        if num_cycles < total:
            counts = counts_of_interest(total, factor, num_cycles)
            hardness = cj.hardness_schedule(total, factor=factor, **kwargs)(counts)
            assert hardness.dtype == jnp.float32 and not hardness.weak_type
            error = np.abs(hardness - hardness_by_hand(counts, total, factor, **kwargs))
            assert error.max() <= 1e-6 * num_cycles, (total, factor)


@pytest.mark.parametrize("num_cycles", [1, 2, 3, 7])
def test_the_formula_with_traced_numbers(num_cycles):
    @jax.jit
    @jax.vmap
    def hardness_at(total, factor, counts):
        kwargs = dict(factor=factor, num_cycles=num_cycles)
        schedules = [cj.hardness_schedule(total, shape=shape, **kwargs) for shape in ALL_SHAPES]
        return [jax.vmap(schedule)(counts) for schedule in schedules]

    cases = [case for case in [*CASES, *drawn_cases()] if num_cycles < case[0] < 2**31]
    counts = np.stack([counts_of_interest(*case, num_cycles) for case in cases])
    totals, factors = map(np.array, zip(*cases, strict=True))
    factors = factors.astype(np.float32)
    by_shape = hardness_at(totals.astype(np.int32), factors, counts)
    for shape, hardness in zip(ALL_SHAPES, by_shape, strict=True):
        args = totals[:, None], factors[:, None], shape, num_cycles
        assert hardness.dtype == jnp.float32 and not hardness.weak_type
        error = np.abs(hardness - hardness_by_hand(counts, *args))
        assert error.max() <= 1e-6 * num_cycles, (shape, cases[error.max(1).argmax()])


@pytest.mark.parametrize("total, num_cycles", [(3, 2), (2**24 + 5, 3), (2**31, 1)])
def test_the_formula_compiled_with_plain_numbers(total, num_cycles):
    cases = [(shape, factor) for shape in ALL_SHAPES for factor in (1.01, 4)]
    counts = np.stack([counts_of_interest(total, f, num_cycles) for _, f in cases])
    schedules = [
        cj.hardness_schedule(total, factor=f, shape=shape, num_cycles=num_cycles)
        for shape, f in cases
    ]
    compiled = jax.jit(lambda counts: [s(row) for s, row in zip(schedules, counts, strict=True)])
    for (shape, factor), row, values in zip(cases, counts, compiled(counts), strict=True):
        expected = hardness_by_hand(row, total, factor, shape, num_cycles)
        assert values.dtype == jnp.float32 and not values.weak_type
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6 * num_cycles)


def test_the_most_cycles():
    counts = np.random.default_rng(0).integers(0, 2**31, 160).astype(np.int32)
    hardness = jax.jit(cj.hardness_schedule(2**31, factor=4, num_cycles=2**15))(counts)
    expected = hardness_by_hand(counts, 2**31, 4, num_cycles=2**15)
    np.testing.assert_allclose(hardness, expected, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="`num_cycles` .* 32769"):
        cj.hardness_schedule(2**31, num_cycles=2**15 + 1)


def test_the_formula_where_a_traced_factor_rounds_worst():
    """The counts are near the peak of REX, whose slope is 10, with a factor near 1.

    Above 2^24 updates a traced factor cannot place the peak better: here it is 0.1 updates off.
    """
    total, factor, counts = 35_244_463, np.float32(1.0178742), 34_625_559 + np.arange(-80, 80)
    schedule = jax.jit(lambda f, c: cj.hardness_schedule(total, factor=f, shape="rex")(c))
    expected = hardness_by_hand(counts, total, factor, "rex")
    np.testing.assert_allclose(schedule(factor, counts), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_the_longest_training_traced(dtype):
    total = np.array(2**31 if dtype == np.uint32 else 2**31 - 1, dtype)
    counts = counts_of_interest(int(total), 2.5, 1)
    hardness = jax.jit(lambda total: cj.hardness_schedule(total, factor=2.5)(counts))(total)
    expected = hardness_by_hand(counts, int(total), 2.5)
    np.testing.assert_allclose(hardness, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda c: f"factor{c['factor']}-{c['epochs']}")
def test_the_published_hardness_of_every_epoch(case):
    schedule = cj.hardness_schedule(case["epochs"], factor=case["factor"])
    hardness = schedule(np.arange(160))[: case["epochs"]]
    np.testing.assert_allclose(hardness, case["hardness"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
    "count", [0, 3, 10, 500, np.int32(7), np.int64(7), np.uint8(7), jnp.int32(7)], ids=repr
)
def test_a_scalar_count(transform, count):
    hardness = transform(cj.hardness_schedule(21, factor=4, shape="rex"))(count)
    assert hardness.shape == () and hardness.dtype == jnp.float32 and not hardness.weak_type
    expected = hardness_by_hand([count], 21, 4, "rex")[0]
    np.testing.assert_allclose(hardness, expected, rtol=0, atol=1e-6)


def test_an_array_of_counts_keeps_its_shape():
    counts = np.arange(24).reshape(2, 3, 4)
    hardness = jax.jit(cj.hardness_schedule(20, num_cycles=2))(counts)
    expected = hardness_by_hand(counts.ravel(), 20, num_cycles=2).reshape(2, 3, 4)
    np.testing.assert_allclose(hardness, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32])
def test_counts_of_small_integer_types_do_not_overflow(dtype):
    counts = np.array([0, 1, 50, 99, 126, 127], dtype)
    schedule = jax.jit(cj.hardness_schedule(10_000, factor=80.5))
    expected = hardness_by_hand(counts, 10_000, 80.5)
    np.testing.assert_allclose(schedule(counts), expected, rtol=0, atol=1e-6)
    by_epoch = jax.jit(cj.per_epoch(cj.hardness_schedule(3), 1000))(counts)
    np.testing.assert_array_equal(by_epoch, np.zeros(6))


def test_sixty_four_bit_mode_still_gives_float32():
    with jax.enable_x64(True):
        counts = jnp.array([0, 5, LAST_COUNT, 2**31, 2**40])
        numbers = np.int64(11), np.float64(4), np.float64(1), np.float64(9)
        assert counts.dtype == jnp.int64

        @jax.jit
        def values(counts, total, factor, easy, hard):
            schedule = cj.cyclical_schedule(easy, hard, total)
            plain = cj.cyclical_schedule(np.float64(1), np.float64(9), 11)
            hardness = cj.hardness_schedule(total, factor=factor)(counts)
            return hardness, plain(counts), schedule(counts), cj.as_integer(schedule)(counts)

        *floats, whole = values(counts, *numbers)
    assert {array.dtype for array in floats} == {jnp.dtype(jnp.float32)}
    assert whole.dtype == jnp.int32
    np.testing.assert_allclose(floats[0], [0, 2 / 3, 0, 0, 0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal([*floats[1:], whole], [[1, 9, 1, 1, 1]] * 3)


# ---- the turns


def whole_peaks(most_steps):
    """Returns pairs (total_steps, factor) whose peak is at a whole count."""
    rng = np.random.default_rng(0)
    eighths = rng.integers(9, 200, 150)
    lasts = eighths * (2 ** rng.uniform(0, 24, 150)).astype(np.int64)
    drawn = [(int(last) + 1, eighth / 8) for last, eighth in zip(lasts, eighths, strict=True)]
    whole = [(t, f) for t, f in [*CASES, *drawn] if f > 1 and (t - 1) % Fraction(f) == 0]
    return [(t, f) for t, f in whole if t <= most_steps]


@pytest.mark.parametrize("traced", [False, True], ids=["plain", "traced"])
@pytest.mark.parametrize("shape", SHAPES)
def test_first_and_last_are_exactly_easy_and_the_peak_exactly_hard(shape, traced):
    # A traced number is a float32, which holds every whole number only up to 2^24.
    cases = whole_peaks(most_steps=2**24 if traced else 2**31)
    assert len(cases) > 90
    turns = np.array([(0, (t - 1) / f, t - 1) for t, f in cases], np.int32)

    def hardness_at(total, factor, counts):
        return cj.hardness_schedule(total, factor=factor, shape=shape)(counts)

    if traced:
        totals, factors = map(np.array, zip(*cases, strict=True))
        totals, factors = totals.astype(np.int32), factors.astype(np.float32)
        hardness = jax.jit(jax.vmap(hardness_at))(totals, factors, turns)
    else:
        hardness = [hardness_at(*case, row) for case, row in zip(cases, turns, strict=True)]
    np.testing.assert_array_equal(hardness, [[0, 1, 0]] * len(cases))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_cycles", [2, 3, 7])
def test_every_cycle_turns_exactly(shape, num_cycles):
    period = 1_000_000
    kwargs = dict(factor=4, shape=shape, num_cycles=num_cycles)
    schedule = cj.hardness_schedule(period * num_cycles + 1, **kwargs)
    turns = np.add.outer(period * np.arange(num_cycles), [0, period // 4, period])
    hardness = schedule(np.resize(turns, 160))
    np.testing.assert_array_equal(hardness, np.resize([0.0, 1, 0] * num_cycles, 160))


def test_a_one_way_cycle_starts_anew_at_its_first_count():
    """With 49 cycles float32 quotients fall below the whole number, where h jumps by 1."""
    begins = np.resize(1000 * np.arange(49), 160)
    schedule = cj.hardness_schedule(49_001, factor=1, num_cycles=49)
    np.testing.assert_array_equal(schedule(begins), np.zeros(160))
    np.testing.assert_allclose(schedule(begins + 999), np.full(160, 0.999), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor, expected", [(1, 1), (1.5, 0), (4, 0)])
def test_past_the_end_the_last_value_holds(shape, factor, expected):
    counts = np.resize(np.array([10, 11, 12, 1000, 2**24 + 1, LAST_COUNT], np.int32), 160)
    for num_cycles in (1, 3):
        kwargs = dict(factor=factor, shape=shape, num_cycles=num_cycles)
        hardness = cj.hardness_schedule(11, **kwargs)(counts)
        np.testing.assert_array_equal(hardness, np.full(160, expected))


def test_before_the_start_the_first_value_holds():
    hardness = cj.hardness_schedule(11, factor=4, num_cycles=3)(np.full(160, -7))
    np.testing.assert_array_equal(hardness, np.zeros(160))


@pytest.mark.parametrize("num_cycles", [1, 3])
def test_the_mean_hardness_is_one_half(num_cycles):
    def hardness_at(factor):
        schedule = cj.hardness_schedule(60_001, factor=factor, num_cycles=num_cycles)
        return schedule(np.arange(60_000))

    factors = np.array([1.01, 1.5, 2, 2.5, 3, 4, 8, 64.5], np.float32)
    means = np.asarray(jax.jit(jax.vmap(hardness_at))(factors), np.float64).mean(1)
    np.testing.assert_allclose(means, 0.5, rtol=0, atol=2e-5)


def test_the_published_exponentials_do_not_reach_both_ends():
    counts, end = np.resize([0, 4, 8], 160), 1 - np.exp(-4)
    for shape, expected in {
        "published_exponential": (0, end, 0),
        "late_published_exponential": (1 - end, 1, 1 - end),
        tuple(PUBLISHED_SHAPES): (0, end, 1 - end),
    }.items():
        hardness = cj.hardness_schedule(9, shape=shape)(counts)[:3]
        np.testing.assert_allclose(hardness, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", ["rex", "late_exponential"])
def test_a_pair_of_one_word_is_that_word(shape):
    counts, kwargs = np.arange(160), dict(factor=2.5, num_cycles=3)
    one, pair, listed = (
        cj.hardness_schedule(101, shape=s, **kwargs)(counts)
        for s in (shape, (shape, shape), [shape, shape])
    )
    np.testing.assert_array_equal(pair, one)
    np.testing.assert_array_equal(listed, one)


def test_a_late_exponential_keeps_its_digits_near_zero():
    """1 - exponential(1 - h) in float32 would be off by 1 part in 100 there."""
    hardness = cj.hardness_schedule(2**20, factor=1, shape="late_exponential")(np.arange(1, 161))
    expected = np.expm1(4 * np.arange(1, 161) / (2**20 - 1)) / np.expm1(4)
    np.testing.assert_allclose(hardness, expected, rtol=1e-6)


def test_hardness_stays_in_its_range():
    counts = np.arange(160)
    for shape in ALL_SHAPES:
        for factor in (1, 1.01, 2.3, 7):
            hardness = cj.hardness_schedule(150, factor=factor, shape=shape)(counts)
            assert hardness.min() >= 0 and hardness.max() <= 1


# ---- factor, traced


def test_factor_one_is_a_one_way_journey():
    counts = np.arange(160)
    hardness = cj.hardness_schedule(11, factor=1)(counts)
    np.testing.assert_allclose(hardness, np.minimum(counts / 10, 1), rtol=0, atol=1e-7)


def slope_by_hand(count, last, factor):
    """Returns d h / d factor."""
    x = count / last
    return x if x <= 1 / factor else -(1 - x) / (factor - 1) ** 2


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_the_derivative_by_the_factor(mode):
    factors, counts = [1.0, 1.25, 2.0, 3.5], [0, 1, 7, 33, 50, 60, 99]  # none is at a turn
    slope = mode(lambda f: cj.hardness_schedule(102, factor=f)(np.array(counts)))
    slopes = jax.jit(jax.vmap(slope))(np.array(factors, np.float32))
    expected = [[slope_by_hand(count, 101, factor) for count in counts] for factor in factors]
    np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_cycles", [1, 2])
def test_the_derivative_by_the_factor_is_finite_everywhere(num_cycles):
    def hardness_at(factor, count):
        kwargs = dict(factor=factor, num_cycles=num_cycles)
        return sum(cj.hardness_schedule(11, shape=s, **kwargs)(count) for s in ALL_SHAPES)

    slope = jax.jit(jax.vmap(jax.vmap(jax.grad(hardness_at), (None, 0)), (0, None)))
    slopes = slope(np.array([1, 1.0625, 2, 2.5, 10], np.float32), np.arange(14))
    assert np.isfinite(slopes).all()


def test_one_compiled_function_serves_32_factors():
    counts = np.arange(105)
    table = Traces(lambda factor: cj.hardness_schedule(101, factor=factor)(counts))
    compiled = jax.jit(jax.vmap(table))
    for factors in (np.linspace(1, 9, 32), np.linspace(2, 3, 32)):
        expected = [hardness_by_hand(counts, 101, factor) for factor in factors]
        hardness = compiled(factors.astype(np.float32))
        np.testing.assert_allclose(hardness, expected, rtol=0, atol=3e-6)
    assert table.number == 1


def test_nothing_is_compiled_anew_from_step_to_step():
    schedule = Traces(cj.cyclical_schedule(1e-5, 8e-5, 11, factor=4, num_cycles=2))
    compiled = jax.jit(schedule)
    count = jnp.int32(0)
    for _ in range(13):
        compiled(count)
        count = optax.safe_increment(count)
    assert schedule.number == 1


def test_total_steps_may_change_without_a_compilation():
    at_three = Traces(lambda total: cj.hardness_schedule(total)(3))
    compiled = jax.jit(at_three)
    values = [compiled(total) for total in (4, 7, 101)]
    np.testing.assert_allclose(values, [0, 1, 0.06], rtol=0, atol=1e-6)
    assert at_three.number == 1


# ---- values between easy and hard


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("easy, hard", [(1e-5, 8e-5), (2.0, 0.5), (-3.0, 7.0), (0.0, 100.0)])
def test_between_is_linear(transform, easy, hard):
    counts = np.arange(160)
    values = transform(cj.between(easy, hard, cj.hardness_schedule(21, factor=4)))(counts)
    h = hardness_by_hand(counts, 21, 4)
    assert values.dtype == jnp.float32 and not values.weak_type
    np.testing.assert_allclose(values, (1 - h) * easy + h * hard, rtol=1e-5, atol=1e-5 * abs(easy))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("easy, hard", [(1e-5, 8e-5), (10.0, 0.003), (1e-30, 1.0)])
def test_between_is_geometric_on_the_log_scale(transform, easy, hard):
    counts = np.arange(160)
    hardness = cj.hardness_schedule(21, factor=4)
    values = transform(cj.between(easy, hard, hardness, scale="log"))(counts)
    h = hardness_by_hand(counts, 21, 4)
    assert values.dtype == jnp.float32 and not values.weak_type
    np.testing.assert_allclose(values, easy ** (1 - h) * hard**h, rtol=3e-5)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("ends", [(1.17549436e-38, 3.40282346e38), (3e38, 2e-38), (1e-6, 1.0)])
def test_the_log_scale_spans_all_that_float32_holds(transform, ends):
    """The quotient of the ends does not fit into float32."""
    schedule = cj.cyclical_schedule(*ends, 101, scale="log")
    values = np.asarray(transform(schedule)(np.arange(101)), np.float64)
    h = np.asarray(cj.hardness_schedule(101)(np.arange(101)), np.float64)
    easy, hard = np.float64(np.float32(ends))
    np.testing.assert_allclose(values, np.exp((1 - h) * np.log(easy) + h * np.log(hard)), rtol=3e-5)
    assert (values[0], values[50]) == (easy, hard)


@pytest.mark.parametrize("traced", [False, True], ids=["plain", "traced"])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_between_is_exact_at_the_ends(scale, traced):
    ends = np.random.default_rng(0).uniform(1e-6, 1, (200, 2)).astype(np.float32)
    ends[::2] **= 5

    def at_the_turns(easy, hard):
        schedule = cj.between(easy, hard, cj.hardness_schedule(9, factor=4), scale=scale)
        return schedule(np.resize([0, 2, 8, 100], 160))[:4]

    if traced:
        values = jax.jit(jax.vmap(at_the_turns))(*ends.T)
    else:
        values = [at_the_turns(*pair) for pair in ends.tolist()]
    easy, hard = ends.T
    np.testing.assert_array_equal(values, np.stack([easy, hard, easy, easy], 1))


def test_between_takes_any_hardness():
    values = cj.between(1.0, 3.0, lambda count: jnp.float32(0.25) * count)(jnp.arange(3))
    np.testing.assert_allclose(values, [1, 1.5, 2], rtol=1e-6)


def test_the_ends_may_be_learned():
    def value(easy, hard):
        return cj.cyclical_schedule(easy, hard, 9, factor=4)(jnp.int32(1))

    np.testing.assert_allclose(jax.jit(jax.grad(value, (0, 1)))(1.0, 3.0), (0.5, 0.5), rtol=1e-6)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_cyclical_schedule_is_between_on_the_hardness(scale):
    kwargs = dict(factor=3, shape="exponential", num_cycles=2)
    counts = np.arange(160)
    values = cj.cyclical_schedule(0.5, 2.0, 25, **kwargs, scale=scale)(counts)
    h = hardness_by_hand(counts, 25, **kwargs)
    expected = (1 - h) * 0.5 + h * 2 if scale == "linear" else 0.5 ** (1 - h) * 2**h
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_the_cycle_after_a_warm_up():
    """The example of the docstring: the count of the cycle starts at the boundary."""
    schedules = [optax.linear_schedule(0.0, 0.1, 10), cj.cyclical_schedule(0.1, 0.5, 91)]
    learning_rate = jax.jit(optax.join_schedules(schedules, boundaries=[10]))
    values = [learning_rate(count) for count in range(105)]
    h = hardness_by_hand(range(95), 91)
    expected = [*(0.1 * np.arange(10) / 10), *((1 - h) * 0.1 + h * 0.5)]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)


# ---- per_epoch and as_integer


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda c: f"factor{c['factor']}-{c['epochs']}")
def test_per_epoch_is_the_published_step_function(case):
    schedule = cj.per_epoch(cj.hardness_schedule(case["epochs"], factor=case["factor"]), 5)
    expected = np.repeat(case["hardness"], 5)
    hardness = schedule(np.arange(160))[: len(expected)]
    np.testing.assert_allclose(hardness, expected, rtol=0, atol=1e-6)


def test_per_epoch_of_an_optax_schedule_and_traced_steps():
    @jax.jit
    def values(steps):
        return cj.per_epoch(optax.linear_schedule(0.0, 1.0, 4), steps)(jnp.arange(10))

    np.testing.assert_array_equal(values(3), np.repeat([0, 0.25, 0.5, 0.75], 3)[:10])
    np.testing.assert_array_equal(values(5), np.repeat([0, 0.25], 5))


@pytest.mark.parametrize("minimum", [1, 2, -3])
def test_as_integer_rounds_and_raises_to_the_minimum(minimum):
    numbers = np.array([-7.2, 0, 0.4, 0.5, 1.49, 1.5, 2.5, 3.5, 3.51, 1e6], np.float32)
    schedule = cj.as_integer(lambda count: jnp.asarray(numbers)[count], minimum=minimum)
    values = jax.jit(schedule)(np.arange(10))
    assert values.dtype == jnp.int32 and not values.weak_type
    np.testing.assert_array_equal(values, np.maximum(np.rint(numbers), minimum))


@pytest.mark.parametrize("number, expected", [(3, 3), (2.5, 2), (0, 1), (np.float32(3.6), 4)])
def test_as_integer_of_a_number(number, expected):
    value = cj.as_integer(number)(jnp.int32(5))
    assert value.dtype == jnp.int32 and value.shape == () and not value.weak_type
    assert value == expected


def test_as_integer_drives_multi_steps():
    every = cj.as_integer(cj.cyclical_schedule(3.0, 1.0, 3))  # 3, 1, 3, 3, ...
    optimizer = optax.MultiSteps(optax.sgd(1.0), every_k_schedule=every)
    params = jnp.zeros(())
    state, step = optimizer.init(params), jax.jit(optimizer.update)
    updates = []
    for gradient in [1.0, 2.0, 6.0, 10.0, 4.0, 4.0, 7.0]:
        update, state = step(jnp.float32(gradient), state, params)
        updates.append(float(update))
    np.testing.assert_allclose(updates, [0, 0, -3, -10, 0, 0, -5], rtol=1e-6)


# ---- in other dtypes, on more devices

SCHEDULES = {
    "hardness": lambda x: cj.hardness_schedule(21, factor=x(2.5), shape="rex", num_cycles=2),
    "traced length": lambda x: cj.hardness_schedule(x(21), factor=x(2.5), shape="cosine"),
    "linear": lambda x: cj.cyclical_schedule(x(0.3), x(5), 21, factor=x(1.5), shape="exponential"),
    "log": lambda x: cj.cyclical_schedule(x(0.3), x(5), 21, scale="log"),
    "hardness of theirs": lambda x: cj.between(0.7, 0.1, lambda count: x(0.3)),
    "per_epoch": lambda x: cj.per_epoch(cj.cyclical_schedule(x(0.3), x(5), 4), x(5)),
    "as_integer": lambda x: cj.as_integer(lambda count: x(5) * count),
}
COUNTS = np.arange(24)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_traced_numbers_of_low_precision_are_computed_with_in_float32(name, dtype):
    """The numbers themselves are rounded, such as 0.3 to 0.30078; nothing after them is."""

    def values(number):
        numbers = iter(number)
        return SCHEDULES[name](lambda _: next(numbers))(COUNTS)

    given = []
    SCHEDULES[name](lambda number: given.append(number) or number)(0)
    low = [jnp.asarray(number, dtype) for number in given]
    found = jax.jit(values)(low)
    exact = jax.jit(values)([number.astype(jnp.float32) for number in low])
    assert found.dtype == exact.dtype
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_counts_of_low_precision_lose_no_more(dtype):
    counts = jnp.arange(0, 24, 1, dtype)
    schedule = cj.cyclical_schedule(0.3, 5.0, 21, factor=1.7)
    np.testing.assert_array_equal(schedule(counts), schedule(counts.astype(jnp.float32)))


@pytest.mark.parametrize("name", SCHEDULES)
def test_strict_promotion_changes_nothing(name):
    def number(value):
        return jnp.bfloat16(value) if name != "as_integer" else value

    expected = jax.jit(SCHEDULES[name](number))(COUNTS)
    with jax.numpy_dtype_promotion("strict"):
        schedule = SCHEDULES[name](number)
        found = [jax.jit(schedule)(counts) for counts in (COUNTS, COUNTS.astype(np.int8))]
    for values in found:
        np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.skipif(
    not hasattr(jax.sharding, "AxisType"), reason="this JAX has no explicit sharding"
)
@pytest.mark.parametrize("name", SCHEDULES)
def test_counts_that_are_sharded_explicitly(name):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    schedule = SCHEDULES[name](jnp.float32)
    values = jax.jit(schedule)(jax.device_put(COUNTS, sharding))
    np.testing.assert_allclose(values, schedule(COUNTS), rtol=1e-5, atol=1e-7)


# ---- what is refused


NAN, INF = float("nan"), float("inf")
HARDNESS = cj.hardness_schedule(9)


@pytest.mark.parametrize(
    "name, value",
    [
        *[("total_steps", value) for value in (1, 0, -5, 2.5, NAN, INF, 2**31 + 1)],
        *[("total_steps", value) for value in ("100", None, True)],
        *[("factor", value) for value in (0.99, 0, -2, NAN, INF, "2", None, True)],
        *[("shape", value) for value in ("triangle", "Linear", None, 1)],
        *[("num_cycles", value) for value in (0, -1, 1.5, NAN, "2", True, None, 100, 2**15 + 1)],
    ],
)
def test_hardness_schedule_refuses(name, value):
    kwargs = {"total_steps": 100, name: value}
    with pytest.raises(ValueError) as error:
        cj.hardness_schedule(**kwargs)
    assert f"`{name}`" in str(error.value) and str(value) in str(error.value)


def test_a_pair_of_shapes_has_two_known_words():
    with pytest.raises(ValueError, match=r"`shape` must be one of .*, got 'saw'\."):
        cj.hardness_schedule(9, shape=("rex", "saw"))
    for shape in ((), ("rex",), ["rex", "rex", "rex"]):
        line = f"`shape` must be a word or a pair (way up, way back), got {shape!r}."
        with pytest.raises(ValueError, match=re.escape(line)):
            cj.cyclical_schedule(1, 2, 9, shape=shape)


@pytest.mark.parametrize("total", [2, 3, 8])
def test_a_cycle_lasts_at_least_one_step(total):
    cj.hardness_schedule(total, num_cycles=total - 1)
    with pytest.raises(ValueError, match=rf"`num_cycles` .* {total}\.$"):
        cj.hardness_schedule(total, num_cycles=total)


@pytest.mark.parametrize("name", ["easy", "hard"])
@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("value", [NAN, INF, -INF, "1", None, True])
def test_between_refuses_ends_that_are_not_finite(name, scale, value):
    ends = {"easy": 1.0, "hard": 2.0, name: value}
    with pytest.raises(ValueError, match=rf"`{name}` .*{value}"):
        cj.between(**ends, hardness_schedule=HARDNESS, scale=scale)
    with pytest.raises(ValueError, match=rf"`{name}` .*{value}"):
        cj.cyclical_schedule(**ends, total_steps=9, scale=scale)


def test_an_infinite_end_is_told_what_to_write_instead():
    line = "`hard` must be finite, got inf: every value between the ends would be infinite too. "
    line += "For a threshold that clips nothing, write a number above all norms, such as 1e3."
    with pytest.raises(ValueError, match=re.escape(line)):
        cj.cyclical_schedule(1, INF, 9)


@pytest.mark.parametrize("name", ["easy", "hard"])
@pytest.mark.parametrize("value", [0, 0.0, -1.5])
def test_the_log_scale_refuses_ends_not_above_zero(name, value):
    ends = {"easy": 1.0, "hard": 2.0, name: value}
    cj.between(**ends, hardness_schedule=HARDNESS)
    with pytest.raises(ValueError, match=rf"`{name}` .*{value}"):
        cj.between(**ends, hardness_schedule=HARDNESS, scale="log")


@pytest.mark.parametrize(
    "call, name, value",
    [
        (lambda v: cj.between(1, 2, HARDNESS, scale=v), "scale", "exp"),
        (lambda v: cj.cyclical_schedule(1, 2, 9, scale=v), "scale", "exp"),
        (lambda v: cj.between(1, 2, v), "hardness_schedule", 0.5),
        *[(lambda v: cj.cyclical_schedule(1, 2, v), "total_steps", value) for value in (1, 3.5)],
        (lambda v: cj.cyclical_schedule(1, 2, 9, factor=v), "factor", 0.5),
        (lambda v: cj.cyclical_schedule(1, 2, 9, shape=v), "shape", "sawtooth"),
        (lambda v: cj.cyclical_schedule(1, 2, 9, num_cycles=v), "num_cycles", 0),
        *[(lambda v: cj.per_epoch(HARDNESS, v), "steps_per_epoch", v) for v in (0, 2.5, "3", True)],
        *[(lambda v: cj.as_integer(2.0, minimum=v), "minimum", v) for v in (0.5, NAN, 2**31, "1")],
    ],
)
def test_the_others_refuse(call, name, value):
    with pytest.raises(ValueError) as error:
        call(value)
    assert f"`{name}`" in str(error.value) and str(value) in str(error.value)


@pytest.mark.parametrize("name", ["easy", "hard"])
@pytest.mark.parametrize("value", [1e300, -1e300, 3.5e38, 1e-300, 1e-40])
def test_ends_that_float32_cannot_hold_are_refused(name, value):
    """They became infinite, or 0 and so NaN on the log scale."""
    for scale in ("linear", "log") if value > 0 else ("linear",):
        ends = {"easy": 1.0, "hard": 2.0, name: value}
        line = rf"`{name}` must be .*float32 can hold, got {re.escape(str(value))}\."
        with pytest.raises(ValueError, match=line):
            cj.cyclical_schedule(**ends, total_steps=101, scale=scale)
    with pytest.raises(ValueError, match="`schedule` must be at least -2.1.*, got 1e[+]300"):
        cj.as_integer(1e300)


@pytest.mark.parametrize("ends", [dict(easy=np.ones((3, 1))), dict(hard=jnp.ones(3))])
def test_an_end_of_several_values_is_refused(ends):
    with pytest.raises(ValueError, match="must be a scalar, got shape .*`jax.vmap`"):
        cj.between(**{"easy": 1.0, "hard": 2.0, **ends}, hardness_schedule=HARDNESS)


@pytest.mark.parametrize(
    "arguments", [dict(total_steps=jnp.array([9, 17])), dict(factor=np.ones(3))]
)
def test_an_array_of_clocks_is_refused(arguments):
    """It would be broadcast against the counts; `jax.vmap` keeps them apart."""
    with pytest.raises(ValueError, match="must be a scalar, got shape .*`jax.vmap`"):
        cj.hardness_schedule(**{"total_steps": 9, **arguments})


def test_as_many_cycles_as_there_can_be():
    total, num_cycles = 10**6, 2**15
    hardness = jax.jit(cj.hardness_schedule(total, num_cycles=num_cycles))
    counts = np.random.default_rng(0).integers(0, total, 1000)
    expected = hardness_by_hand(counts, total, 2, "linear", num_cycles)
    np.testing.assert_allclose(hardness(counts), expected, rtol=0, atol=1e-4)


def test_equal_ends_are_a_constant():
    values = cj.cyclical_schedule(0.1, 0.1, 1001)(jnp.arange(1001))
    assert set(np.asarray(values).tolist()) == {float(np.float32(0.1))}


def test_a_schedule_that_is_not_a_number_is_at_least_the_minimum():
    assert cj.as_integer(lambda count: jnp.nan)(0) == 1
    with pytest.raises(ValueError, match="`schedule` must be a number, got '3'"):
        cj.as_integer("3")
