"""The gradients of quantizers, and what JAX's transformations make of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax._compilations import compilations
from cyclical_jax.precision import fake_quantize, quantize_gradient, quantized_dot_general
from tests.test_precision import KEY, RNG, X, affine, range_of, step_of

UPSTREAM = RNG.normal(size=X.shape).astype("f4")  # gradients that come back


# ---- derivatives


def slopes_of(function, *at):
    return jax.jit(jax.grad(lambda *at: (function(*at) * UPSTREAM).sum(), (0, 1)))(*at)


@pytest.mark.parametrize(
    "options",
    [{}, {"symmetric": True}, {"limits": (-0.1, 0.2)}, {"axes": 0}, {"key": KEY}],
    ids=["affine", "symmetric", "limits", "axes", "key"],
)
def test_the_gradient_passes_straight_through_and_is_0_for_bits(options):
    def quantized(x, bits):
        return fake_quantize(x, bits, **options)

    of_x, of_bits = slopes_of(quantized, jnp.asarray(X), 3.0)
    np.testing.assert_array_equal(of_x, UPSTREAM)
    np.testing.assert_array_equal(of_bits, np.float32(0))
    _, tangent = jax.jvp(quantized, (jnp.asarray(X), jnp.float32(3)), (UPSTREAM, jnp.ones([])))
    np.testing.assert_array_equal(tangent, UPSTREAM)
    for constant in (0.0, 0.3):  # a range of 0, whose quotients would be NaN
        of_x, of_bits = slopes_of(quantized, jnp.full_like(X, constant), 3.0)
        np.testing.assert_array_equal(of_x, UPSTREAM)
        np.testing.assert_array_equal(of_bits, np.float32(0))


def test_the_gradient_passes_straight_through_a_range_over_devices():
    def slopes(x, upstream):
        total = lambda x: (fake_quantize(x, 3, axis_name="devices") * upstream).sum()  # noqa: E731
        return jax.grad(total)(x)

    found = jax.vmap(slopes, axis_name="devices")(jnp.asarray(X), UPSTREAM)
    np.testing.assert_array_equal(found, UPSTREAM)


def test_whole_bits_have_the_gradient_that_jax_gives_whole_numbers():
    def total(x, bits):
        return (quantize_gradient(fake_quantize(x, bits), bits, KEY) ** 2).sum()

    _, of_bits = jax.grad(total, (0, 1), allow_int=True)(jnp.asarray(X), jnp.int32(4))
    assert of_bits.dtype == jax.dtypes.float0


def test_the_gradient_of_limits_is_0():
    slopes = jax.grad(lambda limits: fake_quantize(X, 3, limits=limits).sum())((-0.1, 0.2))
    assert slopes == (0, 0)


def test_second_derivatives_are_those_of_what_surrounds_the_quantizer():
    def cubes(x):
        return (quantize_gradient(fake_quantize(x, 4), None, None) ** 3).sum()

    x = jnp.asarray(X[0, 0])
    found = jax.hessian(cubes)(x)
    np.testing.assert_allclose(found, np.diag(6 * fake_quantize(x, 4)), rtol=1e-6)


def test_quantize_gradient_is_the_identity_forwards_and_quantizes_what_comes_back():
    upstream = jnp.asarray(RNG.uniform(-1, 2, size=(64, 32)), jnp.float32)  # at all levels
    x = jnp.asarray(RNG.normal(size=(64, 32)), jnp.float32)

    def pulled(key, bits=4, **options):
        found, pull = jax.vjp(lambda x: quantize_gradient(x, bits, key, **options), x)
        np.testing.assert_array_equal(found, x)
        return np.asarray(pull(upstream)[0])

    found, step = pulled(KEY), step_of(upstream, 4)
    assert len(np.unique(found)) == 16
    assert step / 2 < np.abs(found - upstream).max() < step * (1 + 1e-5)
    nearest, clear = affine(np.asarray(upstream, "f8"), 4, *range_of(upstream))
    np.testing.assert_allclose(pulled(None)[clear], nearest[clear], atol=1e-6)
    np.testing.assert_array_equal(pulled(KEY, bits=None), upstream)


def test_rounded_gradients_are_right_on_average():
    """Each is far smaller than a step: to the nearest, all would be lost."""
    upstream = jnp.array([-1.0, 1.0] + 40 * [0.01])
    pull = jax.vmap(
        lambda key: jax.vjp(lambda x: quantize_gradient(x, 2, key), upstream)[1](upstream)[0]
    )
    mean = pull(jax.random.split(KEY, 4000)).mean(0)
    np.testing.assert_allclose(mean[2:].mean(), 0.01, atol=0.004)
    np.testing.assert_allclose(mean[:2], upstream[:2], atol=1e-6)


def test_a_gradients_range_is_that_of_a_whole_mapped_axis():
    def slope(x, axis_name):
        total = lambda x: (quantize_gradient(x, 4, None, axis_name=axis_name) * x).sum()  # noqa: E731
        return jax.grad(total)(x) - x

    mapped = jax.vmap(lambda x: slope(x, "devices"), axis_name="devices")(jnp.asarray(X))
    np.testing.assert_allclose(mapped, slope(jnp.asarray(X), None), atol=1e-6)


# ---- transformations


def loss_of(params, bits, key):
    """Returns the loss of two layers, whose weights, activations and gradients are quantized."""
    dot_general = quantized_dot_general(bits, bits, key)
    inner = (((1,), (0,)), ((), ()))
    hidden = jnp.tanh(dot_general(jnp.asarray(X.reshape(60, 8)), params["first"], inner))
    return (dot_general(hidden, params["second"], inner) ** 2).mean()


PARAMS = {
    "first": jnp.asarray(RNG.normal(size=(8, 6)), jnp.float32),
    "second": jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32),
}


def assert_trees_close(found, expected, **tolerance):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


def test_one_compilation_serves_all_bits():
    gradient = jax.jit(jax.grad(loss_of))
    with compilations() as compiled:
        for bits in range(2, 9):
            gradient(PARAMS, jnp.int32(bits), KEY)
        number = len(compiled)
        assert number == 1
        population = jax.jit(lambda bits: jax.lax.map(lambda b: gradient(PARAMS, b, KEY), bits))
        many = population(np.arange(2, 9, dtype="i4"))
        population(np.arange(9, 2, -1, dtype="i4"))
        assert len(compiled) == number + 1
    for member, bits in enumerate(range(2, 9)):
        expected = gradient(PARAMS, jnp.int32(bits), KEY)
        assert_trees_close(jax.tree.map(lambda p, m=member: p[m], many), expected, rtol=1e-5)


def test_members_of_a_population_have_bits_of_their_own():
    gradient = jax.grad(loss_of)
    found = jax.jit(jax.vmap(gradient, (None, 0, None)))(PARAMS, jnp.array([2.0, 5.0, 8.0]), KEY)
    for member, bits in enumerate((2, 5, 8)):
        expected = jax.jit(gradient)(PARAMS, bits, KEY)
        assert_trees_close(
            jax.tree.map(lambda p, m=member: p[m], found), expected, rtol=1e-4, atol=1e-6
        )


def test_within_scan_and_recomputed():
    def scanned(params, bits):
        step = jax.checkpoint(lambda total, b: (total + loss_of(params, b, KEY), None))
        return jax.lax.scan(step, jnp.float32(0), bits)[0]

    found = jax.jit(jax.grad(scanned))(PARAMS, jnp.array([3, 6]))
    expected = [jax.jit(jax.grad(loss_of))(PARAMS, jnp.int32(bits), KEY) for bits in (3, 6)]
    assert_trees_close(found, jax.tree.map(jnp.add, *expected), rtol=1e-4, atol=1e-6)


def test_many_bits_give_the_gradient_of_full_precision():
    """Traced bits are not checked, and 20 are what float32 resolves."""
    whole = jax.grad(loss_of)(PARAMS, None, None)
    errors = []
    for bits in (8, 12, 16, 20):
        found = jax.jit(jax.grad(loss_of))(PARAMS, jnp.int32(bits), KEY)
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True)
        errors.append(
            max(float(jnp.abs(one - other).max() / jnp.abs(other).max()) for one, other in pairs)
        )
    assert errors[0] > 4 * errors[1] > 4 * 4 * errors[2]  # 16 times, but for the draws
    assert errors[2] < 3e-4 and errors[3] < 3e-5
