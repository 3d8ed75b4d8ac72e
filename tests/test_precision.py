"""The levels of quantized arrays, and their cost, against formulas written in NumPy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax import _levels
from cyclical_jax.precision import (
    fake_quantize,
    quantize_gradient,
    quantized_conv,
    quantized_dot_general,
    relative_cost,
)

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(12, 5, 8)) * np.array([0.1, 1, 2, 5, 0.3, 7, 1, 0.01]) + 0.4).astype("f4")
KEY = jax.random.key(3)
both = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
quantize = jax.jit(fake_quantize, static_argnames=("axes", "symmetric"))


# ---- the formulas, in float64; each returns the levels and whether x is clearly nearest to its own


def affine(x, bits, lo, hi):
    n = 2**bits - 1
    s = (hi - lo) / n
    u = (x - lo) / s
    return np.clip(np.rint(u), 0, n) * s + lo, is_clear(u)


def symmetric(x, bits, lo, hi):
    m = 2 ** (bits - 1)
    s = np.maximum(-lo, hi) / (m - 0.5)
    u = x / s
    return np.clip(np.rint(u), -m, m - 1) * s, is_clear(u)


def is_clear(u):
    """Halfway between two levels, as -max|x| is among symmetric ones, a rounding decides."""
    return np.abs(np.abs(u) % 1 - 0.5) > 1e-4


FORMULAS = {False: affine, True: symmetric}


def range_of(x, axes=None):
    x = np.asarray(x, np.float64)
    return x.min(axes, keepdims=True), x.max(axes, keepdims=True)


def step_of(x, bits):
    lo, hi = range_of(x)
    return (hi - lo).item() / (2**bits - 1)


# ---- levels


@both
@pytest.mark.parametrize("is_symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("axes", [None, 0, -1, (0, 1), (0, 2), (0, 1, 2)], ids=str)
def test_levels_are_those_of_the_formula(axes, is_symmetric, transform):
    quantize = transform(functools.partial(fake_quantize, axes=axes, symmetric=is_symmetric))
    for bits in (2, 3, 5, 8):
        expected, clear = FORMULAS[is_symmetric](X.astype("f8"), bits, *range_of(X, axes))
        assert clear.mean() > 0.8
        np.testing.assert_allclose(quantize(X, bits)[clear], expected[clear], atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8, 12, 16])
def test_there_are_2_to_the_bits_levels_and_all_are_used(bits):
    x = np.linspace(-0.7, 1.9, 2**18, dtype=np.float32)
    for is_symmetric in (False, True):
        levels = np.unique(quantize(x, bits, symmetric=is_symmetric))
        wanted = 2**bits
        if is_symmetric:  # the least value is -1.9 / 2.7 of the greatest
            wanted = 2 ** (bits - 1) + np.rint(0.7 / 1.9 * (2 ** (bits - 1) - 0.5))
        assert len(levels) == wanted


def test_each_range_has_levels_of_its_own():
    """One range for all channels would leave the smallest of them a single level."""
    found = np.asarray(quantize(X, 4, axes=(0, 1))).reshape(-1, 8)
    numbers = [len(np.unique(channel)) for channel in found.T]
    assert min(numbers) > 8 and max(numbers) <= 16
    assert len(np.unique(quantize(X, 4)[..., -1])) == 1


@pytest.mark.parametrize("bits", range(2, 17))
def test_once_more_changes_nothing(bits):
    x = jnp.asarray(1e3 + X * np.exp(RNG.normal(size=X.shape)), jnp.float32)
    for axes in (None, (0, 1)):
        once = quantize(x, bits, axes=axes)
        np.testing.assert_array_equal(quantize(once, bits, axes=axes), once)


@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_the_error_is_at_most_half_a_step_and_the_ends_are_kept(bits):
    found = np.asarray(quantize(X, bits), np.float64)
    assert np.abs(found - X).max() <= step_of(X, bits) / 2 + 1e-6
    assert found.min() == X.min() and found.max() == X.max()


@pytest.mark.parametrize("is_symmetric", [False, True], ids=["affine", "symmetric"])
def test_none_is_off_and_a_fraction_is_rounded(is_symmetric):
    quantize = functools.partial(fake_quantize, X, symmetric=is_symmetric)
    np.testing.assert_array_equal(quantize(None), X)
    for given, whole in {4.4: 4, 4.5: 4, 5.5: 6, np.float64(15.7): 16}.items():
        np.testing.assert_array_equal(quantize(given), quantize(whole))
        np.testing.assert_array_equal(quantize(jnp.float32(given)), quantize(whole))


# ---- the same in every program

MAPPED = RNG.normal(size=(16, 301)).astype("f4")
MAPPED[:4, 0] = -np.abs(MAPPED[:4]).max(1) - 0.1  # halfway between two symmetric levels
MAPPED[4:8, 1] = np.abs(MAPPED[4:8]).max(1) + 0.1
MAPPED[4:8, 0], MAPPED[4:8, 2] = -MAPPED[4:8, 1], 0  # 0 is halfway between two affine levels
MAPPED[8:12] = RNG.integers(-8, 9, (4, 301)) * RNG.lognormal(size=(4, 1))


def programs(bits, **options):
    """Returns {name: levels of each row of MAPPED}; a row has one range, or a range for each."""
    quantize = functools.partial(fake_quantize, **options)
    static = functools.partial(quantize, bits=bits)
    of_rows = functools.partial(fake_quantize, axes=1, **options)
    traced, constant = jax.jit(quantize), jax.jit(static)
    found = {
        "eager": np.stack([static(row) for row in MAPPED]),
        "traced": np.stack([traced(row, bits) for row in MAPPED]),
        "static": np.stack([constant(row) for row in MAPPED]),
        "vmap": jax.jit(jax.vmap(quantize, (0, None)))(MAPPED, bits),
        "vmap of static": jax.jit(jax.vmap(static))(MAPPED),
        "vmap of bits": jax.jit(jax.vmap(quantize))(MAPPED, jnp.full(len(MAPPED), bits)),
        "map": jax.jit(lambda x, b: jax.lax.map(lambda row: quantize(row, b), x))(MAPPED, bits),
        "eager ranges": of_rows(MAPPED, bits),
        "traced ranges": jax.jit(of_rows)(MAPPED, bits),
        "static ranges": jax.jit(functools.partial(of_rows, bits=bits))(MAPPED),
    }
    return {name: np.asarray(levels) for name, levels in found.items()}


@pytest.mark.parametrize("bits", [3, 8])
def test_symmetric_levels_are_the_same_in_every_program(bits):
    found = programs(bits, symmetric=True)
    for name, levels in found.items():
        np.testing.assert_array_equal(levels, found["eager"], err_msg=name)


@pytest.mark.parametrize("bits", [3, 8])
def test_affine_levels_are_the_same_in_every_program(bits):
    """Without compilation, the last bit of a level may be another one, but not the level."""
    found = programs(bits)
    steps = (MAPPED.max(1) - MAPPED.min(1))[:, None] / (2**bits - 1)
    for name, levels in found.items():
        of_kind = "eager" if "eager" in name else "traced"
        np.testing.assert_array_equal(levels, found[of_kind], err_msg=name)
        assert (np.abs(levels - found["eager"]) < 1e-4 * steps).all(), name


# ---- arrays at the limits of floats


@pytest.mark.parametrize("value", [0.0, 0.3, -7e-12, 1.2e-38, 3e38])
@pytest.mark.parametrize("key", [None, KEY], ids=["nearest", "random"])
def test_a_constant_array_gives_itself(value, key):
    x = np.full((3, 4), value, np.float32)
    x[:, 1] = 2 * x[:, 1] if value < 1e38 else 0  # constant in each column
    np.testing.assert_array_equal(fake_quantize(x, 3, axes=0, key=key), x)
    np.testing.assert_array_equal(fake_quantize(x[:, 0], 3, key=key), x[:, 0])


def test_zeros_are_zeros_for_symmetric_levels_too():
    assert not fake_quantize(np.zeros((3, 4)), 3, symmetric=True).any()


@pytest.mark.parametrize("size", [1e-6, 1e-12, 1e-30, 1e-35, 1e30])
def test_small_values_keep_all_levels(size):
    """The published scale is at least 1e-8: at a range of 1e-6 it leaves 101 of 256 levels."""
    x = np.float32(size) * np.linspace(-1, 1, 4096, dtype=np.float32)
    for options in ({}, {"key": KEY}):
        assert len(np.unique(fake_quantize(x, 8, **options))) == 256
    assert len(np.unique(fake_quantize(x, 8, symmetric=True))) >= 255  # -max|x| is halfway


def test_a_scale_that_float32_cannot_hold_leaves_the_values_where_they_are():
    x = np.float32(1e-37) * np.linspace(-1, 1, 101, dtype=np.float32)
    found = np.asarray(fake_quantize(x, 8))
    assert np.abs(found - x).max() < 1.2e-38 and len(np.unique(found)) > 10


@pytest.mark.parametrize("is_symmetric", [False, True], ids=["affine", "symmetric"])
def test_the_largest_range_is_that_of_the_docstring(is_symmetric):
    x = np.float32(1.25e38) * np.linspace(-0.99, 0.99, 101, dtype=np.float32)
    for bits in (2, 8):
        found = np.asarray(quantize(x, bits, symmetric=is_symmetric), np.float64)
        expected, clear = FORMULAS[is_symmetric](x.astype("f8"), bits, *range_of(x))
        np.testing.assert_allclose(found[clear], expected[clear], rtol=1e-5, atol=1e33)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("is_symmetric", [False, True], ids=["affine", "symmetric"])
def test_what_is_not_finite_stays_visible_where_its_range_reaches(wrong, is_symmetric):
    x = X.copy()
    x[3, 2, 5] = wrong
    quantize = functools.partial(fake_quantize, bits=4, symmetric=is_symmetric)
    assert not np.isfinite(quantize(x)[3, 2, 5])
    of_channels = np.asarray(quantize(x, axes=(0, 1)))
    assert not np.isfinite(of_channels[3, 2, 5])
    others = [0, 1, 2, 3, 4, 6, 7]
    np.testing.assert_array_equal(of_channels[..., others], quantize(X, axes=(0, 1))[..., others])
    found = np.asarray(quantize(x, limits=(-1, 2)))
    np.testing.assert_array_equal(found[3, 2, 5], wrong)
    assert np.isfinite(found).sum() == x.size - 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_computed_with_in_float32(dtype):
    x = jnp.asarray(X, dtype)
    for key in (None, KEY):
        found = fake_quantize(x, 7, key=key)
        assert found.dtype == dtype
        expected = fake_quantize(x.astype(jnp.float32), 7, key=key)
        np.testing.assert_array_equal(found, expected.astype(dtype))


# ---- given ranges


def test_values_beyond_the_limits_go_to_the_ends():
    x = np.array([-9, -1, -0.4, 0.1, 2, 7], np.float32)
    found = fake_quantize(x, 2, limits=(-1, 2))
    np.testing.assert_allclose(found, [-1, -1, 0, 0, 2, 2], atol=1e-6)
    lo, hi = np.float32([-1]), np.float32([[2]])
    two = jax.jit(lambda x, lo, hi: fake_quantize(x, 2, limits=(lo, hi)))
    np.testing.assert_array_equal(two(x[None], lo, hi)[0], found)
    found = fake_quantize(x, 2, limits=(-1, 2), symmetric=True)  # s = 2 / 1.5
    np.testing.assert_allclose(found, np.array([-2, -1, 0, 0, 1, 1]) * 4 / 3, atol=1e-6)
    np.testing.assert_array_equal(fake_quantize(x, 2, limits=(0.3, 0.3)), np.full(6, 0.3, "f4"))


def test_limits_for_each_channel():
    lo, hi = (end.astype("f4") for end in range_of(X, (0, 1)))
    found = fake_quantize(X, 5, limits=(lo[0, 0], hi))
    np.testing.assert_array_equal(found, fake_quantize(X, 5, axes=(0, 1)))


def test_a_range_is_that_of_a_whole_mapped_axis():
    over = functools.partial(fake_quantize, bits=4, axis_name="devices")
    found = jax.vmap(over, axis_name="devices")(X)
    np.testing.assert_array_equal(found, fake_quantize(X, 4))
    channels = jax.vmap(functools.partial(over, axes=0), axis_name="devices")(X)
    np.testing.assert_array_equal(channels, fake_quantize(X, 4, axes=(0, 1)))


# ---- stochastic rounding


def test_the_mean_over_keys_is_the_array_at_both_ends_too():
    x = jnp.array([-1.0, -0.99, -0.6, -0.02, 0.1, 0.55, 1.49, 1.5])
    keys = jax.random.split(KEY, 20_000)
    draws = np.asarray(jax.vmap(lambda key: fake_quantize(x, 3, key=key))(keys))
    np.testing.assert_allclose(draws.mean(0), x, atol=0.005)
    step = 2.5 / 7
    assert np.abs(draws - np.asarray(x)).max() < step * (1 + 1e-5)
    probability = np.asarray(x + 1) / step % 1
    spread = step * np.sqrt(probability * (1 - probability))
    np.testing.assert_allclose(draws.std(0), spread, atol=0.005)


def test_the_mean_of_symmetric_levels_is_the_array_below_the_largest_one():
    x = jnp.array([-1.0, -0.7, -0.02, 0.3, 5 / 7, 6 / 7, 0.9, 1.0])  # 3 bits: 3 s = 6/7
    keys = jax.random.split(KEY, 20_000)
    draws = jax.vmap(lambda key: fake_quantize(x, 3, key=key, symmetric=True))(keys)
    np.testing.assert_allclose(draws.mean(0), jnp.minimum(x, 6 / 7), atol=0.005)


def test_a_key_gives_the_same_draws_and_another_key_others():
    quantize = jax.jit(lambda key: fake_quantize(X, 4, key=key))
    np.testing.assert_array_equal(quantize(KEY), quantize(KEY))
    differing = np.mean(np.asarray(quantize(KEY)) != np.asarray(quantize(jax.random.key(4))))
    assert differing > 0.2
    old = jax.random.PRNGKey(3)
    np.testing.assert_array_equal(quantize(old), quantize(jax.random.wrap_key_data(old)))


def test_draws_are_independent_of_each_other():
    """Of their neighbours, of the next rows, and of the next key; all are equally probable."""
    shape, number = (128, 512), 64
    noise = jax.jit(jax.vmap(lambda key: _levels.draws(key, jnp.zeros(shape))))
    draws = np.asarray(noise(jax.random.split(KEY, number))).reshape(number, -1)
    assert np.abs(draws).max() < 0.5
    size = draws.shape[1]
    for row in draws[:8]:
        of_key, _ = np.histogram(row, 64, (-0.5, 0.5))
        assert ((of_key - size / 64) ** 2 / (size / 64)).sum() < 63 + 6 * np.sqrt(2 * 63)
    pairs = {"the next key": (draws, np.roll(draws, 1, 0))}
    pairs |= {lag: (draws[:, lag:], draws[:, :-lag]) for lag in (1, 2, 3, 4, 5, 7, 8, 64, 512)}
    for which, (one, other) in pairs.items():
        scores = (one * other).sum(1) * 12 / np.sqrt(size)  # normal, of mean 0 and variance 1
        assert abs(scores.mean()) < 4.5 / np.sqrt(number), which
        assert 0.7 < scores.std() < 1.3, which


# ---- cost


@pytest.mark.parametrize("bits, gradient_bits", [(3, 8), (5, 6), (8, 8), (None, None), (4, None)])
def test_the_cost_is_that_of_the_formula(bits, gradient_bits):
    b, g = (32 if given is None else given for given in (bits, gradient_bits))
    for reference in (8, 32, 5):
        found = relative_cost(bits, gradient_bits, reference=reference)
        assert float(found) == pytest.approx((b**2 + 2 * b * g) / (3 * reference**2))
    found = jax.jit(relative_cost, static_argnums=())(jnp.float32(b), jnp.float32(g))
    assert float(found) == pytest.approx((b**2 + 2 * b * g) / 192)
    assert found.dtype == jnp.float32


def test_the_cost_where_weights_and_activations_differ():
    found = relative_cost(3, 6, activation_bits=5)
    assert float(found) == pytest.approx((3 * 5 + 3 * 6 + 5 * 6) / 192)
    assert float(relative_cost(3, 6, activation_bits=None)) == pytest.approx(
        (3 * 32 + 3 * 6 + 32 * 6) / 192
    )


# ---- errors


@pytest.mark.parametrize(
    "call, line",
    [
        (lambda: fake_quantize(X, 1), "`bits` must be at least 2 and at most 16, got 1."),
        (lambda: fake_quantize(X, 17), "`bits` must be at least 2 and at most 16, got 17."),
        (lambda: fake_quantize(X, "8"), "`bits` must be a number, got '8'."),
        (
            lambda: fake_quantize(X.astype(int), 8),
            "`x` must be of floats, got int32 of shape (12, 5, 8).",
        ),
        (lambda: fake_quantize(X, 8, limits=(2, 1)), "`limits` must rise, got 2 and 1."),
        (
            lambda: fake_quantize(X, 8, limits=(np.zeros((12, 5)), 1)),
            "`limits` must broadcast to the shape (12, 5, 8) of `x`, got (12, 5).",
        ),
        (
            lambda: fake_quantize(X[0], 8, limits=(0, np.ones((2, 5, 8)))),
            "`limits` must broadcast to the shape (5, 8) of `x`, got (2, 5, 8).",
        ),
        (lambda: quantize_gradient(X, 0, KEY), "`bits` must be at least 2 and at most 16, got 0."),
        (
            lambda: quantized_dot_general(4, 1, KEY),
            "`gradient_bits` must be at least 2 and at most 16, got 1.",
        ),
        (
            lambda: quantized_conv(4, 8),
            "`key` must be given with `gradient_bits`, which are rounded at random; or give None "
            "for `gradient_bits`, to leave gradients in full precision.",
        ),
        (
            lambda: quantized_conv(4, 8, KEY, activation_bits="as weigths"),
            "`activation_bits` must be one of 'as weights', got 'as weigths'. Did you mean "
            "'as weights'?",
        ),
        (lambda: relative_cost(1, 8), "`bits` must be at least 2 and at most 32, got 1."),
        (
            lambda: relative_cost(8, 8, reference=0),
            "`reference` must be at least 2 and at most 32, got 0.",
        ),
    ],
)
def test_what_cannot_be_is_one_line(call, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        call()
