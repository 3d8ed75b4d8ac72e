"""The state before the first update, and what of it is evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cyclical_jax.models import make_model
from cyclical_jax.training.state import JUDGED, Variables, init_state
from cyclical_jax.training.technique import Memory

IMAGE = np.zeros((2, 3, 3, 1), np.float32)
COPY = Memory(lambda variables: jax.tree.map(jnp.copy, variables), lambda memory, seen: memory)


def initial(seed=3, **memories):
    model = make_model("mlp", num_classes=4, axis_name=None, hidden_sizes=(5,), batch_norm=True)
    return init_state(model, optax.sgd(0.1, momentum=0.9), IMAGE, seed, memories=memories)


def test_a_state_starts_at_zero_counts_and_without_a_memory():
    state = initial()
    counts = (state.step, state.micro_step, state.skipped)
    assert [(int(count), count.dtype, count.shape) for count in counts] == [(0, "int32", ())] * 3
    assert state.memory == {}
    assert state.evaluated == state.variables == Variables(state.params, state.model_state)
    jax.tree.map(lambda trace: np.testing.assert_array_equal(trace, 0), state.opt_state[0].trace)


def test_seeds_differ_in_parameters_and_key_and_repeat():
    one, same, other = initial(3), initial(jnp.int32(3)), initial(4)
    jax.tree.map(np.testing.assert_array_equal, one._replace(key=0), same._replace(key=0))
    assert one.key == same.key != other.key
    assert (one.params["Dense_0"]["kernel"] != other.params["Dense_0"]["kernel"]).all()


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_no_two_leaves_are_one_array(transform):
    """A donated state gives each array up once."""
    state = transform(lambda: initial(copy=COPY))()
    leaves = jax.tree.leaves(state)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    jax.tree.map(np.testing.assert_array_equal, state.memory, {"copy": state.variables})


def test_a_memory_is_kept_by_its_name_and_the_judged_one_is_evaluated():
    state = initial(mine=COPY)
    assert state.memory.keys() == {"mine"} and state.evaluated == state.variables
    state = initial(mine=COPY, **{JUDGED: COPY})
    assert state.memory.keys() == {"mine", JUDGED}
    assert state.evaluated is state.memory[JUDGED] is not state.variables
