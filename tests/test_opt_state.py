"""The states and the trees of every framework: values in force, counts of updates, layers."""

import functools
import re
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze
from flax.training.train_state import TrainState

import cyclical_jax as cj
from cyclical_jax import finetuning

NUM_UPDATES = 5
NORMS = [0.5, 1.25, 2.0, 1.25, 0.5]
PARAMS = {"body": {"kernel": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones((2, 1))}}


def optimizer():
    return optax.chain(
        cj.clip_by_global_norm(cj.cyclical_schedule(0.5, 2.0, NUM_UPDATES)),
        optax.inject_hyperparams(optax.adam)(0.1),
    )


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.body, self.head = nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.body(x))


def nnx_step(model, optimizer):
    grads = nnx.grad(lambda model: model(jnp.ones((1, 2))).sum())(model)
    optimizer.update(model, grads)
    return cj.current_values(optimizer.opt_state), cj.num_updates(optimizer)


def run_of_nnx(transform, chain):
    """Returns the NNX optimizer after all updates, and the rows of a log that was kept."""
    model = Net()
    trained = nnx.Optimizer(model, chain, wrt=nnx.Param)
    step, rows = transform(nnx_step), []
    for _ in range(NUM_UPDATES):
        rows.append(step(model, trained))
    return trained, rows


@functools.cache
def trained_by_nnx():
    return run_of_nnx(nnx.jit, optimizer())[0]


@functools.cache
def trained_by_optax():
    chain = optimizer()
    state = TrainState.create(apply_fn=None, params=PARAMS, tx=chain)
    step = jax.jit(lambda state: state.apply_gradients(grads=state.params))
    for _ in range(NUM_UPDATES):
        state = step(state)
    return state


@pytest.mark.parametrize("transform", [nnx.jit, lambda step: step], ids=["jit", "eager"])
def test_rows_of_a_log_that_are_kept_do_not_change(transform):
    """An NNX optimizer writes its variables in place."""
    _, rows = run_of_nnx(transform, optimizer())
    values, counts = zip(*rows, strict=True)
    assert [float(row["max_norm"]) for row in values] == NORMS
    assert [int(count) for count in counts] == [1, 2, 3, 4, 5]
    leaves = jax.tree.leaves(rows, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)


def test_rows_outlive_a_state_that_is_donated():
    chain, rows = optimizer(), []
    state = chain.init(PARAMS)
    step = jax.jit(lambda state: chain.update(PARAMS, state, PARAMS)[1], donate_argnums=0)
    for _ in range(NUM_UPDATES):
        state = step(state)
        rows.append((cj.current_values(state)["max_norm"], cj.num_updates(state)))
    assert rows == list(zip(NORMS, [1, 2, 3, 4, 5], strict=True))


STATES = {
    "Optax": lambda: trained_by_optax().opt_state,
    "TrainState": trained_by_optax,
    "state dict": lambda: flax.serialization.to_state_dict(trained_by_optax()),
    "state dict of NumPy": lambda: jax.tree.map(
        np.asarray, flax.serialization.to_state_dict(trained_by_optax().opt_state)
    ),
    "FrozenDict": lambda: freeze(flax.serialization.to_state_dict(trained_by_optax())),
    "nnx.Optimizer": trained_by_nnx,
    "nnx.Optimizer.opt_state": lambda: trained_by_nnx().opt_state,
    "nnx.state": lambda: nnx.state(trained_by_nnx()),
    "pure dict of NNX": lambda: nnx.to_pure_dict(nnx.state(trained_by_nnx())),
    "in a dict": lambda: {"model": PARAMS, "optimizer": trained_by_optax().opt_state},
}


@pytest.mark.parametrize("kind", STATES)
def test_any_state_says_its_values_and_its_count(kind):
    state = STATES[kind]()
    values = cj.current_values(state)
    assert {"max_norm": 0.5, "learning_rate": np.float32(0.1)}.items() <= values.items()
    assert cj.num_updates(state) == NUM_UPDATES
    for found in (*values.values(), cj.num_updates(state)):
        assert isinstance(found, jax.Array) and not isinstance(found, nnx.Variable)


def test_a_traced_state_says_them_too():
    state = trained_by_optax().opt_state
    values, count = jax.jit(lambda s: (cj.current_values(s), cj.num_updates(s)))(state)
    assert values == cj.current_values(state) and count == NUM_UPDATES
    shapes = jax.eval_shape(optimizer().init, PARAMS)
    assert cj.current_values(shapes)["max_norm"].shape == cj.num_updates(shapes).shape == ()


# ---- current_values


def test_a_state_of_a_module_that_is_imported_later_is_found_in_dicts_too():
    state = finetuning.scale_by_layer(0.25, {"a": 0}).init({"a": 1.0})
    assert cj.current_values(state._asdict()) == {"share": 0.25}


class TheirState(NamedTuple):
    count: Any
    max_norm: Any  # a name of ours, but not our state


@pytest.mark.parametrize(
    "state",
    [
        optax.EmptyState(),
        optax.adamw(0.1).init(PARAMS),
        TheirState(jnp.int32(0), jnp.float32(1)),
        {"max_norm": 1.0, "count": 3, "more": 1},
        jax.tree.leaves(optimizer().init(PARAMS)),  # without the names
        PARAMS,
        (),
    ],
    ids=lambda state: type(state).__name__,
)
def test_a_state_without_values_is_said_to_have_none(state):
    with pytest.raises(ValueError, match="`current_values` found none: .* of type "):
        cj.current_values(state)


def test_injected_numbers_are_those_of_the_last_update():
    chain = optax.inject_hyperparams(optax.adamw)(
        lambda count: 0.5 / (1 + count), weight_decay=cj.cyclical_schedule(1.0, 3.0, 3)
    )
    state = chain.init(PARAMS)
    for rate, decay in [(0.5, 1), (0.25, 3), (0.5 / 3, 1)]:
        _, state = chain.update(PARAMS, state, PARAMS)
        values = cj.current_values(state)
        assert (values["learning_rate"], values["weight_decay"]) == (np.float32(rate), decay)


# ---- num_updates

INNER = optax.chain(optax.clip(1.0), optax.adam(0.1))


def state_after(chain, number, grads=PARAMS):
    update, state = jax.jit(chain.update), chain.init(PARAMS)
    for _ in range(number):
        _, state = update(grads, state, PARAMS)
    return state


@pytest.mark.parametrize(
    "chain, micro_steps, expected",
    [
        (INNER, 4, 4),
        (cj.clip(1.0), 4, 4),
        (optax.sgd(lambda count: 0.1), 4, 4),
        (cj.accumulate_gradients(INNER, 3), 7, 2),
        (cj.accumulate_gradients(optax.sgd(0.1), 3), 7, 2),
        (optax.MultiSteps(INNER, 3), 7, 2),
        (optax.chain(cj.clip(1.0), cj.accumulate_gradients(INNER, 3)), 7, 2),  # clips 7 times
        (optax.masked(INNER, {"body": True, "head": False}), 4, 4),
        (optax.partition({"a": INNER, "b": optax.set_to_zero()}, {"body": "a", "head": "b"}), 4, 4),
        (optax.chain(optax.apply_every(3), optax.scale_by_adam()), 7, 7),
        (optax.inject_hyperparams(optax.sgd)(0.1), 4, 4),
        (optax.apply_if_finite(INNER, 5), 4, 4),
    ],
)
def test_the_number_of_updates(chain, micro_steps, expected):
    state = state_after(chain, micro_steps)
    assert cj.num_updates(state) == expected
    assert cj.num_updates(flax.serialization.to_state_dict(state)) == expected


def test_a_step_counts_where_nothing_else_does():
    """SGD keeps no count; under an accumulation the step would count batches."""
    state = TrainState.create(apply_fn=None, params=PARAMS, tx=optax.sgd(0.1))
    for _ in range(3):
        state = state.apply_gradients(grads=PARAMS)
    assert cj.num_updates(state) == 3
    trained, _ = run_of_nnx(nnx.jit, cj.accumulate_gradients(cj.clip(1.0), 2))
    assert trained.step.get_value() == NUM_UPDATES
    assert cj.num_updates(trained) == cj.num_updates(nnx.state(trained)) == NUM_UPDATES // 2


def test_a_parameter_may_be_called_count():
    params = {"count": jnp.ones(2), "head": {"count": jnp.ones(())}}
    chain = optax.adam(0.1)
    _, state = chain.update(params, chain.init(params), params)
    assert cj.num_updates(state) == 1


def test_a_population_has_a_count_a_member():
    state = jax.vmap(optax.adam(0.1).init)(jnp.ones((3, 2)))
    np.testing.assert_array_equal(cj.num_updates(state), [0, 0, 0])


def test_after_a_skipped_update_the_counts_inside_and_outside_differ():
    chain = optax.chain(cj.clip(1.0), optax.apply_if_finite(INNER, 5))
    state = state_after(chain, 2, jax.tree.map(lambda p: p * jnp.nan, PARAMS))
    line = "counts that may differ: 0/count, 1/inner_state/1/0/count; pass one's state."
    with pytest.raises(ValueError, match=re.escape(line)):
        cj.num_updates(state)
    assert (cj.num_updates(state[0]), cj.num_updates(state[1])) == (2, 0)


@pytest.mark.parametrize(
    "state, line",
    [
        (
            optax.sgd(0.1).init(PARAMS),
            "found no count of updates in this state of type tuple; pass",
        ),
        (PARAMS, "found no count of updates in this state of type dict"),
        (jnp.int32(3), "found no count of updates"),
        (
            optax.apply_every(3).init(PARAMS),
            "found no count of updates in this state of type Apply",
        ),
        (
            {
                "a": optax.MultiSteps(INNER, 2).init(PARAMS),
                "b": optax.MultiSteps(INNER, 3).init({}),
            },
            "counts that may differ: a/gradient_step, b/gradient_step",
        ),
    ],
)
def test_a_state_without_one_count_is_said_to_have_none(state, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        cj.num_updates(state)


# ---- layers of Flax's trees, beside those of tests/test_finetuning.py


@pytest.mark.parametrize("kind", ["FrozenDict", "nnx.State"])
def test_layers_of_flax(kind):
    params = freeze(PARAMS) if kind == "FrozenDict" else nnx.state(Net(), nnx.Param)
    layers = finetuning.layers_by_name(params, ["head", "body"])
    assert jax.tree.structure(layers) == jax.tree.structure(params)
    for given in (layers, lambda params: finetuning.layers_by_name(params, ["head", "body"])):
        thaw = finetuning.scale_by_layer(0.25, given)
        updates, _ = jax.jit(thaw.update)(params, thaw.init(params), params)
        expected = jax.tree.map(lambda layer, leaf: leaf * [1, 0.25][layer], layers, params)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
    with pytest.raises(ValueError, match=r"`names` must be \['body', 'head'\] in some order"):
        finetuning.layers_by_name(params, ["head"])


def test_an_nnx_optimizer_thaws():
    model = Net()
    layers = functools.partial(finetuning.layers_by_name, names=["head", "body"])
    chain = optax.chain(optax.sgd(0.1), finetuning.scale_by_layer(0.0, layers))
    trained = nnx.Optimizer(model, chain, wrt=nnx.Param)
    before = jax.tree.map(jnp.copy, nnx.state(model))
    trained.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    after = nnx.state(model)
    jax.tree.map(np.testing.assert_array_equal, after["body"], before["body"])
    np.testing.assert_allclose(after["head"]["kernel"][...], before["head"]["kernel"][...] - 0.1)
