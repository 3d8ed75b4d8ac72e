"""Distillation against its formula in float64, and what it must leave unchanged."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax.distillation import distillation_loss, teacher_logits

RNG = np.random.default_rng(0)
STUDENT, TEACHER = 3 * RNG.normal(size=(2, 20, 7))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_hand(student, teacher, temperature):
    t = np.asarray(temperature, np.float64)[..., None]
    p, q = softmax(teacher / t), softmax(student / t)
    return t[..., 0] ** 2 * (p * (np.log(p) - np.log(q))).sum(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, np.linspace(0.5, 8, 20)], ids=str)
def test_it_is_the_scaled_divergence(temperature):
    found = distillation_loss(jnp.asarray(STUDENT), jnp.asarray(TEACHER), temperature=temperature)
    np.testing.assert_allclose(found, by_hand(STUDENT, TEACHER, temperature), rtol=2e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_formula_and_none_reaches_the_teacher():
    def total(student, teacher):
        return distillation_loss(student, teacher, temperature=3.0).sum()

    of_student, of_teacher = jax.grad(total, (0, 1))(jnp.asarray(STUDENT), jnp.asarray(TEACHER))
    expected = 3 * (softmax(STUDENT / 3) - softmax(TEACHER / 3))
    np.testing.assert_allclose(of_student, expected, atol=1e-5)
    assert not of_teacher.any()


def test_the_slope_in_the_temperature_is_that_of_the_formula():
    rng = np.random.default_rng(3)
    student, teacher = rng.normal(size=(2, 5, 7))
    slope = jax.grad(lambda t: distillation_loss(student, teacher, temperature=t).sum())(2.0)
    numeric = (by_hand(student, teacher, 2 + 1e-4) - by_hand(student, teacher, 2 - 1e-4)) / 2e-4
    assert float(slope) == pytest.approx(numeric.sum(), rel=1e-3)


def test_a_high_temperature_matches_logits():
    """Hinton et al., section 2.1: for logits of mean 0 the gradient is (z - v) / classes."""
    student, teacher = (z - z.mean(-1, keepdims=True) for z in (STUDENT, TEACHER))

    def total(student):
        return distillation_loss(student, jnp.asarray(teacher), temperature=3000.0).sum()

    gradient = jax.grad(total)(jnp.asarray(student))
    np.testing.assert_allclose(gradient, (student - teacher) / 7, atol=2e-3)


def test_equal_logits_lose_nothing():
    for scale in (1.0, 1e30):
        z = jnp.asarray(STUDENT, jnp.float32) * scale
        np.testing.assert_allclose(distillation_loss(z, z, temperature=2.0), 0, atol=1e-5)


@pytest.mark.parametrize("temperature", [1e-20, 1e20, 1e38])
def test_a_temperature_whose_square_float32_cannot_hold(temperature):
    """A high one leaves nothing to learn; a low one leaves T times the difference of the tops."""
    losses = distillation_loss(STUDENT, TEACHER, temperature=temperature)
    assert np.isfinite(losses).all()
    if temperature > 1:
        np.testing.assert_array_equal(losses, 0)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_value_and_gradient_are_finite(scale):
    args = jnp.asarray(STUDENT, jnp.float32) * scale, jnp.asarray(TEACHER, jnp.float32) * scale
    loss, slope = jax.value_and_grad(lambda z: distillation_loss(z, args[1]).mean())(args[0])
    assert np.isfinite(loss) and np.isfinite(slope).all()


def test_a_class_that_both_lack_has_no_part():
    student, teacher = jnp.asarray(STUDENT), jnp.asarray(TEACHER)
    masked = (z.at[:, 2].set(-jnp.inf) for z in (student, teacher))
    kept = (jnp.delete(z, 2, axis=1) for z in (student, teacher))
    np.testing.assert_allclose(distillation_loss(*masked), distillation_loss(*kept), rtol=1e-5)


def test_bfloat16_logits_and_a_traced_temperature():
    @jax.jit
    def loss_at(temperature):
        args = jnp.asarray(STUDENT, jnp.bfloat16), jnp.asarray(TEACHER, jnp.bfloat16)
        return distillation_loss(*args, temperature=temperature)

    assert loss_at(2.0).dtype == jnp.float32
    expected = by_hand(STUDENT, TEACHER, 2.0)
    np.testing.assert_allclose(loss_at(2.0), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "args, options, line",
    [
        ((STUDENT, TEACHER[:, :5]), {}, "the shape of `logits`, (20, 7), got (20, 5)."),
        ((STUDENT, TEACHER), {"temperature": 0}, "`temperature` must be above 0, got 0."),
    ],
)
def test_what_cannot_be_is_one_line(args, options, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        distillation_loss(*map(jnp.asarray, args), **options)


@pytest.mark.parametrize("number", [0, 1, 7, 8])
def test_a_teacher_is_asked_about_all_images_of_any_kind(number):
    x, weight = np.arange(8.0, dtype=np.float32).reshape(8, 1), np.array([[1.0, -2.0]], np.float32)
    expected = x[:number] @ weight
    for images in (x[:number], jnp.asarray(x[:number]), np.asarray(x[:number], np.float16)):
        found = teacher_logits(lambda w, x: x @ w, weight, images, batch_size=3)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected)


def test_a_teachers_batch_size_is_checked():
    with pytest.raises(ValueError, match="`batch_size` must be a whole number from 1 to "):
        teacher_logits(lambda w, x: x, None, np.ones((2, 2)), batch_size=0)
