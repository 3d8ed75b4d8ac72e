"""A run that is loaded computes with few bits, as the formulas of cyclical_jax.precision say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax import load_run
from tests.helpers import bright_classes
from tests.test_trained import train

pytestmark = pytest.mark.usefixtures("fast_compilation")
FEW = {"precision.weights": {"easy": 6.0, "hard": 3.0}, "precision.activations": 5}


@pytest.fixture(scope="module")
def images():
    return bright_classes(200, 60, 40).test["image"]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    return made(tmp_path_factory, {})


@pytest.fixture(scope="module")
def affine_run(tmp_path_factory):
    return made(tmp_path_factory, FEW | {"precision.keep": ("first",), "ema_decay": 0.9})


@pytest.fixture(scope="module")
def symmetric_run(tmp_path_factory):
    """The activations are whole in training, and so without ranges."""
    few = {"precision.weights": 4, "precision.quantizer": "symmetric", "precision.keep": ()}
    return made(tmp_path_factory, few)


def made(tmp_path_factory, changes):
    changes = {"model.hidden_sizes": (5,), "optimizer.momentum": 0.0} | changes
    dataset = bright_classes(200, 60, 40)
    return load_run(train(tmp_path_factory.mktemp("runs") / "it", dataset, changes), "newest")


def affine(x, bits, lo, hi):
    scale = (hi - lo) / (2**bits - 1)
    return np.rint((np.clip(x, lo, hi) - lo) / scale) * scale + lo


def affine_columns(kernel, bits):
    return affine(kernel, bits, kernel.min(0), kernel.max(0))


def symmetric_columns(kernel, bits):
    """With XLA's quotients in float32: the largest weight is a tie, which their ulps decide."""
    half, kernel = 2 ** (bits - 1), jnp.float32(kernel)
    scale = abs(kernel).max(0, keepdims=True) / (half - 0.5)
    return np.asarray(jnp.round(kernel / scale).clip(-half, half - 1) * scale)


def same(x, bits=None):
    return x


def logits_by_hand(run, images, kernels, inputs=(same, same)):
    """In float64: two layers, with a change of each one's kernel and of its input."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), run.params)
    x = images.reshape(len(images), -1) / 127.5 - 1
    for number, (of_kernel, of_input) in enumerate(zip(kernels, inputs, strict=True)):
        layer = params[f"Dense_{number}"]
        x = of_input(x) @ of_kernel(layer["kernel"]) + layer["bias"]
        x = np.maximum(x, 0) if number == 0 else x
    return x


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_a_run_that_was_trained_whole_has_symmetric_weights_and_a_whole_last_layer(
    whole_run, images, bits
):
    found = whole_run.with_bits(bits)
    few = lambda kernel: symmetric_columns(kernel, bits)  # noqa: E731
    assert_same(found.logits(images), logits_by_hand(whole_run, images, (few, same)))
    assert abs(found.logits(images) - whole_run.logits(images)).max() > 1e-5
    assert whole_run.few_bit_layers() == {"Dense_0": (0,)}
    assert whole_run.kept_layers() == ["Dense_1"]


def test_a_run_that_was_trained_with_few_bits_keeps_quantizer_layers_and_ranges(affine_run, images):
    run, bits = affine_run, 3
    decayed = np.asarray(run.model_state["quant_stats"]["Dense_1"]["sums"], np.float64)
    lo, hi = decayed[:2] / decayed[2]
    assert hi > lo >= 0  # of the outputs of a ReLU
    kernels = same, lambda kernel: affine_columns(kernel, bits)
    inputs = same, lambda x: affine(x, bits, lo, hi)
    found = run.with_bits(bits).logits(images)
    assert_same(found, logits_by_hand(run, images, kernels, inputs))
    assert (run.few_bit_layers(), run.kept_layers()) == ({"Dense_1": (0,)}, ["Dense_0"])


def test_a_run_without_ranges_has_whole_activations(symmetric_run, images):
    kernels = [lambda kernel: symmetric_columns(kernel, 3)] * 2
    found = symmetric_run.with_bits(3).logits(images)
    assert_same(found, logits_by_hand(symmetric_run, images, kernels))
    assert symmetric_run.few_bit_layers() == {"Dense_0": (0,), "Dense_1": (0,)}
    assert symmetric_run.kept_layers() == []


def test_the_bits_of_the_training_give_the_run_as_it_is(symmetric_run, affine_run, images):
    np.testing.assert_array_equal(
        symmetric_run.with_bits(4).logits(images), symmetric_run.logits(images)
    )
    bits = {name: int(number) for name, number in affine_run.model_state["precision"].items()}
    assert bits == {"weights": 6, "activations": 5}


def test_no_bits_leave_all_whole(whole_run, affine_run, images):
    assert_same(whole_run.with_bits(0).logits(images), whole_run.logits(images))
    plain = logits_by_hand(affine_run, images, (same, same))
    assert_same(affine_run.with_bits(0).logits(images), plain)
    assert abs(plain - affine_run.logits(images)).max() > 0.01


@pytest.mark.parametrize("name", ["whole_run", "affine_run"])
def test_one_program_serves_all_numbers_of_bits(name, request, images, count_compilations):
    run = request.getfixturevalue(name)
    first = run.with_bits(8).predict(images)
    with count_compilations() as compilations:
        others = [run.with_bits(bits).predict(images) for bits in (2, 3, 16)]
        others.append(run.with_bits(4).with_bits(5).predict(images))
    assert compilations == []
    assert all(abs(first - other).max() > 1e-6 for other in others)


@pytest.mark.parametrize("bits", [1, 17, -1, 2.5, 4.0, True, False, "four", jnp.int32(1), [4]])
def test_what_is_no_number_of_bits_is_one_line(whole_run, bits):
    with pytest.raises(ValueError, match="^`bits` must be .* got") as error:
        whole_run.with_bits(bits)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bits", [np.int64(4), np.uint8(4), jnp.int32(4), np.array(4)])
def test_bits_have_any_integer_type(whole_run, images, bits):
    found = whole_run.with_bits(bits).logits(images)
    np.testing.assert_array_equal(found, whole_run.with_bits(4).logits(images))
