"""The state before the first update, and what of it is evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cyclical_jax.models import make_model
from cyclical_jax.training.state import Variables, init_state

IMAGE = np.zeros((2, 3, 3, 1), np.float32)


def initial(seed=3, **options):
    model = make_model("mlp", num_classes=4, axis_name=None, hidden_sizes=(5,), batch_norm=True)
    return init_state(model, optax.sgd(0.1, momentum=0.9), IMAGE, seed, **options)


def test_a_state_starts_at_zero_counts_and_without_an_average():
    state = initial()
    counts = (state.step, state.micro_step, state.skipped)
    assert [(int(count), count.dtype, count.shape) for count in counts] == [(0, "int32", ())] * 3
    assert state.ema is None
    assert state.evaluated == Variables(state.params, state.model_state)
    jax.tree.map(lambda trace: np.testing.assert_array_equal(trace, 0), state.opt_state[0].trace)


def test_seeds_differ_in_parameters_and_key_and_repeat():
    one, same, other = initial(3), initial(jnp.int32(3)), initial(4)
    jax.tree.map(np.testing.assert_array_equal, one._replace(key=0), same._replace(key=0))
    assert one.key == same.key != other.key
    assert (one.params["Dense_0"]["kernel"] != other.params["Dense_0"]["kernel"]).all()


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_no_two_leaves_are_one_array(transform):
    """A donated state gives each array up once."""
    state = transform(lambda: initial(ema=True))()
    leaves = jax.tree.leaves(state)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    jax.tree.map(
        np.testing.assert_array_equal, state.ema, Variables(state.params, state.model_state)
    )


def test_where_there_is_an_average_it_is_evaluated():
    state = initial(ema=True)
    average = jax.tree.map(lambda leaf: leaf + 1, state.ema)
    assert state._replace(ema=average).evaluated is average
