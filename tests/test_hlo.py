"""What is read from the text of compiled programs.

The texts in reference/ are lines that XLA wrote for a v5e and an H100, put together and shortened:
each has what one of the tests looks for, and what it must pass over.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import hlo

REFERENCE = Path(__file__).parent / "reference"
TPU = (REFERENCE / "v5e_hlo.txt").read_text()
GPU = (REFERENCE / "h100_hlo.txt").read_text()
WEIGHTS = 784 * 256 * 4
SPLIT = 45_000 * 32 * 32 * 3


@pytest.fixture
def tpu():
    return hlo.computations(TPU)


def test_collectives_have_the_bytes_that_a_device_gives(tpu):
    assert hlo.collectives(tpu) == {"all-reduce": [2048, WEIGHTS + 2048]}


def test_an_asynchronous_pair_is_one_collective():
    sizes = 1280 * 256 * 4
    found = hlo.collectives(hlo.computations(GPU))
    assert found == {"all-reduce": [sizes], "all-gather": [sizes]}


def test_copies_are_those_of_the_program_and_what_is_fetched_ahead_is_none(tpu):
    assert [size for _, size in hlo.copies(tpu)] == [2 * WEIGHTS, SPLIT]
    assert hlo.copies(tpu, least=1) == hlo.copies(tpu)
    assert [size for _, size in hlo.copies(tpu, least=2 * WEIGHTS + 1)] == [SPLIT]


def test_convolutions_and_those_of_bf16_alone(tpu):
    assert hlo.convolutions(tpu) == (2, 1)
    assert hlo.convolutions(hlo.computations(GPU)) == (2, 1)


def test_cycles_are_those_of_kernels_each_once(tpu):
    assert hlo.estimated_cycles(tpu) == 1000 + 30 + 7
    assert {"fusion.1", "psum.317", "while.120"} <= {kernel.name for kernel in hlo.kernels(tpu)}
    assert not {"convolution.9", "add.1", "t", "b"} & {kernel.name for kernel in hlo.kernels(tpu)}


def test_a_second_is_given_back_for_each_concat_bitcast(tpu):
    assert hlo.optimal_seconds(tpu, -1.75) == 0.25


def test_donated_arguments():
    assert hlo.donated(TPU) == {0, 3}
    assert hlo.donated(GPU) == set()


@pytest.mark.parametrize(
    "shape, size",
    [
        ("f32[784,256]{1,0:T(8,128)}", WEIGHTS),
        ("(bf16[3]{0}, pred[5]{0}, u32[], token[])", 6 + 5 + 4),
        ("f8e4m3fn[10]{0}", 10),
        ("s4[10]{0}", 5),
    ],
)
def test_bytes_of_a_shape(shape, size):
    assert hlo.num_bytes(shape) == size


def test_a_program_of_a_cpu(compiled_anew):
    """Real text: of the product, the mean over two devices, the donated state, the turned copy."""

    def step(state, images):
        product = jax.lax.pmean((images @ state).sum(), "batch")
        return state + product, images.T

    program = jax.pmap(
        step, "batch", in_axes=(None, 0), out_axes=(None, 0), donate_argnums=0
    ).lower(jnp.zeros((512, 8)), np.ones((2, 1024, 512), np.float32))
    text = program.compile().as_text()
    own = hlo.computations(text)
    assert hlo.collectives(own) == {"all-reduce": [4]}
    assert hlo.donated(text) == {0}
    assert hlo.convolutions(own) == (1, 0)
    assert [size for _, size in hlo.copies(own)] == [1024 * 512 * 4]
