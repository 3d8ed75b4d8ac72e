"""Layers that thaw, against Optax's own partition where it has one."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cyclical_jax as cj
from cyclical_jax.finetuning import layers_by_name, scale_by_layer

PARAMS = {
    "stem": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    "block": {"kernel": jnp.ones((3, 3), jnp.bfloat16)},
    "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
}
LAYERS = layers_by_name(PARAMS, ["head", "block", "stem"])
UPDATES = jax.tree.map(lambda leaf: 2 * leaf, PARAMS)


def factors(share):
    scaled, _ = scale_by_layer(share, LAYERS).update(
        UPDATES, scale_by_layer(share, LAYERS).init(PARAMS)
    )
    return [float(scaled[name]["kernel"].ravel()[0]) / 2 for name in ("head", "block", "stem")]


@pytest.mark.parametrize(
    "share, expected",
    [
        (0.0, [1, 0, 0]),
        (0.25, [1, 0.5, 0]),
        (0.5, [1, 1, 0]),
        (0.75, [1, 1, 0.5]),
        (1.0, [1, 1, 1]),
    ],
)
def test_layers_thaw_from_the_head_down(share, expected):
    assert factors(share) == expected


def test_layers_are_numbered_by_name():
    expected = {"stem": {"kernel": 2, "bias": 2}, "block": {"kernel": 1}}
    assert LAYERS == expected | {"head": {"kernel": 0, "bias": 0}}


@pytest.mark.parametrize("share, frozen", [(0.0, {"stem", "block"}), (0.5, {"stem"}), (1.0, set())])
def test_whole_layers_are_as_if_optax_had_partitioned_them(share, frozen):
    """Neither momentum nor decay moves a frozen layer."""
    inner = optax.chain(cj.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    ours = optax.chain(inner, scale_by_layer(share, LAYERS))
    labels = {
        name: jax.tree.map(lambda _, name=name: name in frozen, part)
        for name, part in PARAMS.items()
    }
    theirs = optax.partition({False: inner, True: optax.set_to_zero()}, labels)
    grads = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), PARAMS)
    results = []
    for optimizer in (ours, theirs):
        params, state = PARAMS, optimizer.init(PARAMS)
        for _ in range(4):
            updates, state = jax.jit(optimizer.update)(grads, state, params)
            params = optax.apply_updates(params, updates)
        results.append(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2), *results)
    for name in frozen:
        jax.tree.map(np.testing.assert_array_equal, results[0][name], PARAMS[name])


def test_a_cycle_moves_the_input_at_its_peak_alone():
    optimizer = scale_by_layer(cj.cyclical_schedule(0.0, 1.0, 9), LAYERS)
    state, moved, shares = optimizer.init(PARAMS), [], []
    for _ in range(9):
        updates, state = optimizer.update(UPDATES, state, PARAMS)
        moved.append(bool(updates["stem"]["kernel"].any()))
        shares.append(float(cj.current_values(state)["share"]))
    assert shares == [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]
    assert moved == [share > 0.5 for share in shares]


def test_layers_may_be_a_function_and_leaves_keep_their_dtype():
    optimizer = scale_by_layer(
        0.75, lambda params: layers_by_name(params, ["head", "block", "stem"])
    )
    updates, _ = optimizer.update(UPDATES, optimizer.init(PARAMS), PARAMS)
    expected, _ = scale_by_layer(0.75, LAYERS).update(UPDATES, optimizer.init(PARAMS))
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
    assert jax.tree.map(jnp.result_type, updates) == jax.tree.map(jnp.result_type, UPDATES)


def test_what_is_frozen_stays_whatever_its_update():
    broken = UPDATES | {"stem": {"kernel": jnp.full((2, 3), jnp.nan), "bias": jnp.full(3, jnp.inf)}}
    optimizer = scale_by_layer(0.5, LAYERS)
    updates, _ = optimizer.update(broken, optimizer.init(PARAMS))
    assert not updates["stem"]["kernel"].any() and not updates["stem"]["bias"].any()


@pytest.mark.parametrize(
    "call, line",
    [
        (lambda: scale_by_layer(1.5, LAYERS), "`share` must be at least 0 and at most 1, got 1.5."),
        (lambda: scale_by_layer(-1, LAYERS), "`share` must be at least 0 and at most 1, got -1."),
        (
            lambda: layers_by_name(PARAMS, ["head", "stem"]),
            "`names` must be ['block', 'head', 'stem'] in some order, got ['head', 'stem'].",
        ),
        (lambda: layers_by_name(PARAMS, ["head", "stem", "block", "stem"]), "in some order"),
    ],
)
def test_what_cannot_be_is_one_line(call, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        call()


# ---- trees of all kinds


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Callable:
    """A tree that is a function too, as a module of Equinox is."""

    body: Any
    head: Any

    def __call__(self, x, y):
        raise AssertionError("it is a tree here")


PARTS = {"body": {"w": jnp.ones(2), "none": None}, "head": {"w": jnp.ones(2)}}
TREES = {
    "dict": (PARTS, ["head", "body"]),
    "callable": (Callable(**PARTS), ["head", "body"]),
    "list": ([PARTS["body"], PARTS["head"]], [1, 0]),
    "tuple": ((PARTS["body"], PARTS["head"]), [1, 0]),
    "numbered": ({0: PARTS["body"], 7: PARTS["head"]}, [7, [0]]),
}


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("is_function", [False, True], ids=["tree", "function"])
def test_layers_of_any_tree(kind, is_function):
    params, names = TREES[kind]
    layers = layers_by_name(params, names)
    assert jax.tree.structure(layers) == jax.tree.structure(params)
    by_name = functools.partial(layers_by_name, names=names)
    optimizer = scale_by_layer(0.25, by_name if is_function else layers)
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    expected = jax.tree.map(lambda layer, leaf: leaf * [1, 0.25][layer], layers, params)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
    assert sorted(set(jax.tree.leaves(layers))) == [0, 1]


def test_a_partial_that_is_a_tree_of_names_is_a_function():
    layers = jax.tree_util.Partial(layers_by_name, names=["head", "body"])
    optimizer = scale_by_layer(0.0, layers)
    updates, _ = optimizer.update(PARTS, optimizer.init(PARTS), PARTS)
    assert not updates["body"]["w"].any() and updates["head"]["w"].all()


@pytest.mark.parametrize("kind", TREES)
def test_the_names_of_any_tree_are_said(kind):
    params, names = TREES[kind]
    with pytest.raises(ValueError, match=r"`names` must be \[.*\] in some order, got \['tail'\]."):
        layers_by_name(params, ["tail"])
