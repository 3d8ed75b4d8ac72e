import functools
import inspect
import re
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cyclical_jax as cj
from cyclical_jax import finetuning
from cyclical_jax.transforms import logged, scheduled

SHAPES = {"bias": (5,), "conv": (3, 1, 2, 4), "kernel": (4, 5), "scale": ()}
NUM_STEPS = 6
TABLE = np.array([0.02, 0.4, 1.7, 0.0, 5.0, 0.09], np.float32)  # the values of a schedule
NAMES = {
    "add_decayed_weights": "weight_decay",
    "clip": "max_delta",
    "clip_by_global_norm": "max_norm",
    "adaptive_grad_clip": "clipping",
}


def schedule(count):
    return jnp.asarray(TABLE)[count]


def random_tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(scale * rng.normal(size=shape), np.float32)
        for name, shape in SHAPES.items()
    }


PARAMS = random_tree(0)
GRADIENTS = [random_tree(1 + step, scale=0.2 * 2**step) for step in range(NUM_STEPS)]
STACKED = jax.tree.map(lambda *leaves: np.stack(leaves), *GRADIENTS)


# ---- by hand, in float64


def as_float64(tree):
    return {name: np.asarray(leaf, np.float64) for name, leaf in tree.items()}


def norm_by_hand(tree):
    return np.sqrt(sum((leaf**2).sum() for leaf in tree.values()))


def unit_norms(leaf):
    axes = {0: None, 1: None, 2: 0, 4: (0, 1, 2)}[leaf.ndim]
    return np.sqrt((leaf**2).sum(axes, keepdims=True))


def agc_by_hand(u, p, clipping):
    largest = clipping * np.maximum(unit_norms(p), 1e-3)
    return u * np.minimum(1, largest / np.maximum(unit_norms(u), 1e-6))


def by_hand(name, updates, params, value):
    if name == "clip_by_global_norm":
        norm = norm_by_hand(updates)
        scale = min(1, value / norm) if norm else 1
        return {key: u * scale for key, u in updates.items()}
    rule = {
        "add_decayed_weights": lambda u, p: u + value * p,
        "clip": lambda u, p: np.minimum(np.maximum(u, -value), value),
        "adaptive_grad_clip": lambda u, p: agc_by_hand(u, p, value),
    }[name]
    return {key: rule(u, params[key]) for key, u in updates.items()}


def descent_by_hand(names, *, keys=tuple(SHAPES), learning_rate=0.1):
    """Does gradient descent through transforms that all follow TABLE, on the leaves `keys`."""
    params = as_float64(PARAMS)
    for gradients, value in zip(GRADIENTS, TABLE.tolist(), strict=True):
        updates = as_float64(gradients)
        for name in names:
            chosen = {key: updates[key] for key in keys}
            updates |= by_hand(name, chosen, params, value)
        params = {key: p - learning_rate * updates[key] for key, p in params.items()}
    return params


# ---- by JAX


def assert_trees_close(actual, expected, rtol=1e-5, atol=1e-6):
    assert actual.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_allclose(actual[name], leaf, rtol=rtol, atol=atol, err_msg=name)


def made_step(optimizer):
    def step(carry, gradients):
        params, state = carry
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    return step


def descend(optimizer, params=PARAMS):
    """Returns parameters and state after NUM_STEPS, in one scan."""

    @jax.jit
    def run(params, gradients):
        carry = params, optimizer.init(params)
        return jax.lax.scan(made_step(optimizer), carry, gradients)[0]

    return run(jax.tree.map(jnp.asarray, params), STACKED)


def updated(transform, updates, params=None):
    """Returns the first update."""
    return jax.jit(lambda u, p: transform.update(u, transform.init(p), p)[0])(updates, params)


def made(name, value):
    return getattr(cj, name)(value)


has_explicit_sharding = pytest.mark.skipif(
    not hasattr(jax.sharding, "AxisType"), reason="this JAX has no explicit sharding"
)
every_transform = pytest.mark.parametrize("name", NAMES)

# ---- Optax's own, where Optax has them


@pytest.mark.parametrize(
    "name, value",
    [
        ("add_decayed_weights", 0.03),
        ("add_decayed_weights", 0.0),
        ("clip", 0.3),
        ("clip_by_global_norm", 4.0),
        ("clip_by_global_norm", np.float32(0.01)),
        ("clip_by_global_norm", 1e6),
        ("adaptive_grad_clip", 0.7),
    ],
)
def test_a_constant_is_optax(name, value):
    def update(gradients, transform):
        return transform.update(gradients, transform.init(PARAMS), PARAMS)[0]

    @jax.jit
    @jax.vmap
    def both(gradients):
        return update(gradients, made(name, value)), update(gradients, getattr(optax, name)(value))

    assert_trees_close(*both(STACKED), rtol=1e-6)


@pytest.mark.parametrize(
    "last", [optax.sgd(0.1, momentum=0.9), optax.adamw(0.1)], ids=["sgd", "adamw"]
)
def test_a_chain_of_constants_is_optax(last):
    def chain(module):
        return optax.chain(
            module.adaptive_grad_clip(0.9, 0.01),
            module.clip_by_global_norm(2.5),
            module.add_decayed_weights(0.05, mask={**dict.fromkeys(SHAPES, True), "bias": False}),
            last,
        )

    assert_trees_close(descend(chain(cj))[0], descend(chain(optax))[0], rtol=1e-6)


def test_the_mask_may_be_a_function():
    def mask(params):
        return {key: leaf.ndim > 1 for key, leaf in params.items()}

    ours, _ = descend(cj.add_decayed_weights(0.05, mask))
    theirs, _ = descend(optax.add_decayed_weights(0.05, mask))
    assert_trees_close(ours, theirs, rtol=1e-6)


@pytest.mark.skipif(optax.__version__ < "0.2.8", reason="this Optax's adamw takes no schedule")
def test_decay_in_adamw_is_the_chain_of_its_pieces():
    decay = cj.cyclical_schedule(0.1, 0.5, NUM_STEPS)
    pieces = optax.scale_by_adam(), cj.add_decayed_weights(decay), optax.scale_by_learning_rate(0.1)
    ours, state = descend(optax.chain(*pieces))
    theirs, _ = descend(optax.adamw(0.1, weight_decay=decay))
    assert_trees_close(ours, theirs, rtol=1e-6)
    assert cj.current_values(state)["weight_decay"] == np.float32(0.1)


@pytest.mark.parametrize(
    "shape, axis, axes",
    [
        ((2, 3), 0, 0),
        ((2, 3), 1, 1),
        ((2, 3, 4), -1, 2),
        ((2, 3, 4), (2, 0), (0, 2)),
        ((2, 3, 4, 5), (0, 1), (0, 1)),
        ((), None, ()),
        ((7,), None, 0),
        ((1, 7), None, (0, 1)),  # a vector
        ((4, 7), None, 0),
        ((2, 3, 4), None, 0),
        ((2, 3, 4, 5), None, (0, 1, 2)),
        ((2, 1, 3, 2, 2), None, (0, 1, 2, 3)),
    ],
)
def test_the_axes_of_units(shape, axis, axes):
    """The defaults are those of Optax 0.2.8."""
    rng = np.random.default_rng(3)
    updates, params = (np.asarray(rng.normal(size=shape), np.float32) for _ in range(2))
    clipped = updated(cj.adaptive_grad_clip(0.4, axis=axis), updates, params)

    def norm(leaf):
        return np.sqrt((leaf.astype(np.float64) ** 2).sum(axes, keepdims=True))

    scale = np.minimum(1, 0.4 * np.maximum(norm(params), 1e-3) / norm(updates))
    np.testing.assert_allclose(clipped, updates * scale, rtol=1e-5)
    assert scale.min() < 1


def test_a_unit_of_an_out_in_layout_is_a_row():
    """Row 0 is within its bound and is left alone; row 1 is cut to 0.01 of its norm."""
    weight, update = np.ones((2, 2), np.float32), np.array([[1e-3, 1e-3], [10, 10]], np.float32)
    clipped = updated(cj.adaptive_grad_clip(0.01, axis=1), update, weight)
    np.testing.assert_allclose(clipped, [[1e-3, 1e-3], [0.01, 0.01]], rtol=1e-6)


@pytest.mark.parametrize(
    "shape, axis, line",
    [
        ((3,), 1, "`axis` must be one of the axes of each parameter, got 1 for shape (3,)."),
        (
            (3, 2),
            (0, -3),
            "`axis` must be one of the axes of each parameter, got (0, -3) for shape (3, 2).",
        ),
        (
            (2,) * 6,
            None,
            "`axis` must say what the units of a parameter of shape (2, 2, 2, 2, 2, 2) are.",
        ),
    ],
)
def test_axes_that_are_not_there_are_one_line(shape, axis, line):
    transform = cj.adaptive_grad_clip(0.1, axis=axis)
    with pytest.raises(ValueError, match=re.escape(line)):
        transform.update(jnp.ones(shape), transform.init(None), jnp.ones(shape))


def test_complex_updates_are_clipped_by_their_size():
    updates = {"a": jnp.array([3 + 4j, 0]), "b": jnp.array([12.0])}
    clipped = updated(cj.clip_by_global_norm(1.0), updates)
    np.testing.assert_allclose(clipped["a"], np.array([3 + 4j, 0]) / 13, rtol=1e-6)


# ---- a schedule, against a loop in NumPy


@every_transform
def test_a_schedule_follows_the_loop(name):
    params, state = descend(optax.chain(made(name, schedule), optax.scale(-0.1)))
    assert_trees_close(params, descent_by_hand([name]))
    assert state[0].count == NUM_STEPS


@every_transform
def test_a_cyclical_schedule_is_what_is_used(name):
    cyclical = cj.cyclical_schedule(0.1, 2.0, NUM_STEPS, factor=2.5)
    transform = made(name, cyclical)
    state = transform.init(PARAMS)
    update = jax.jit(transform.update)
    for count, value in enumerate([0.1, 1.05, 2.0, 2 - 1.9 / 3, 2 - 3.8 / 3, 0.1, 0.1, 0.1]):
        updates, state = update(GRADIENTS[3], state, PARAMS)
        expected = by_hand(name, as_float64(GRADIENTS[3]), as_float64(PARAMS), value)
        assert_trees_close(updates, expected)
        assert state.count == count + 1
        np.testing.assert_allclose(state[1], value, rtol=1e-6)


CHAIN = optax.chain(*(made(name, schedule) for name in NAMES), optax.scale(-0.1))


def run_compiled():
    step = jax.jit(made_step(CHAIN))
    carry = PARAMS, CHAIN.init(PARAMS)
    for gradients in GRADIENTS:
        carry, _ = step(carry, gradients)
    return carry[0]


def run_vmapped():
    """Maps init and update over three members, of which the second is compared."""
    params = jax.tree.map(lambda p: np.stack([2 * p, p, p - 1]), PARAMS)
    carry = params, jax.vmap(CHAIN.init)(params)
    step = jax.jit(jax.vmap(made_step(CHAIN)))
    for gradients in GRADIENTS:
        carry, _ = step(carry, jax.tree.map(lambda g: np.stack([g, g, -g]), gradients))
    return jax.tree.map(lambda p: p[1], carry[0])


def run_on_two_devices():
    """Replicates parameters and state; the mean of the devices' gradients is GRADIENTS."""

    def step(carry, gradients):
        return made_step(CHAIN)(carry, jax.lax.pmean(gradients, "batch"))[0]

    replicated = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (PARAMS, CHAIN.init(PARAMS)))
    step = jax.pmap(step, "batch")
    for gradients in GRADIENTS:
        replicated = step(replicated, jax.tree.map(lambda g: np.stack([3 * g, -g]), gradients))
    params, _ = replicated
    jax.tree.map(lambda p: np.testing.assert_array_equal(p[0], p[1]), params)
    return jax.tree.map(lambda p: p[0], params)


def run_in_a_scan():
    return descend(CHAIN)[0]


@pytest.mark.parametrize("run", [run_compiled, run_in_a_scan, run_vmapped, run_on_two_devices])
def test_every_engine_gives_the_loop(run):
    assert_trees_close(run(), descent_by_hand(NAMES))


def test_nothing_is_compiled_anew_from_step_to_step():
    traces = Counter()

    @jax.jit
    def step(carry, gradients):
        traces["step"] += 1
        return made_step(CHAIN)(carry, gradients)

    carry = jax.tree.map(jnp.asarray, PARAMS), CHAIN.init(PARAMS)
    for gradients in GRADIENTS:
        carry, _ = step(carry, gradients)
    assert traces["step"] == 1


# ---- inside Optax's wrappers


@every_transform
def test_masked(name):
    keys = ("bias", "kernel")
    mask = {key: key in keys for key in SHAPES}
    params, _ = descend(optax.chain(optax.masked(made(name, schedule), mask), optax.scale(-0.1)))
    assert_trees_close(params, descent_by_hand([name], keys=keys))


@every_transform
def test_partition(name):
    keys = ("conv", "scale")
    labels = {key: "ours" if key in keys else "plain" for key in SHAPES}
    optimizer = optax.partition({"ours": made(name, schedule), "plain": optax.identity()}, labels)
    params, _ = descend(optax.chain(optimizer, optax.scale(-0.1)))
    assert_trees_close(params, descent_by_hand([name], keys=keys))


def test_multi_steps():
    """With three micro steps per update, their mean is clipped and updates are counted."""
    inner = optax.chain(cj.clip_by_global_norm(schedule), optax.scale(-1.0))
    params, state = descend(optax.MultiSteps(inner, every_k_schedule=3))
    expected = as_float64(PARAMS)
    for value, window in [(TABLE[0], GRADIENTS[:3]), (TABLE[1], GRADIENTS[3:])]:
        mean = {key: np.mean([g[key] for g in window], 0, np.float64) for key in SHAPES}
        clipped = by_hand("clip_by_global_norm", mean, None, float(value))
        expected = {key: p - clipped[key] for key, p in expected.items()}
    assert_trees_close(params, expected)
    assert cj.current_values(state)["max_norm"] == TABLE[1]


@every_transform
def test_a_schedule_through_inject_hyperparams(name):
    injected = optax.inject_hyperparams(getattr(cj, name))(**{NAMES[name]: schedule})
    params, state = descend(optax.chain(injected, optax.scale(-0.1)))
    assert_trees_close(params, descent_by_hand([name]))
    assert state[0].hyperparams[NAMES[name]] == cj.current_values(state)[NAMES[name]] == TABLE[-1]


def test_a_number_through_inject_hyperparams_can_be_set():
    injected = optax.inject_hyperparams(cj.clip_by_global_norm)(max_norm=0.5)
    state, update = injected.init(PARAMS), jax.jit(injected.update)
    for max_norm in (0.5, 0.25):
        state.hyperparams["max_norm"] = jnp.float32(max_norm)
        updates, state = update(GRADIENTS[5], state)
        assert norm_by_hand(as_float64(updates)) == pytest.approx(max_norm, rel=1e-6)
        assert cj.current_values(state) == {"max_norm": max_norm}


# ---- dtypes and edges


@every_transform
@pytest.mark.parametrize("value", [0.4, lambda count: jnp.float32(0.4)], ids=["number", "schedule"])
def test_every_leaf_keeps_its_dtype(name, value):
    def mixed(tree):
        return {
            key: jnp.asarray(leaf, jnp.bfloat16 if key in ("conv", "bias") else jnp.float32)
            for key, leaf in tree.items()
        }

    gradients, params = mixed(GRADIENTS[3]), mixed(PARAMS)
    updates = updated(made(name, value), gradients, params)
    expected = by_hand(name, as_float64(gradients), as_float64(params), 0.4)
    for key, leaf in gradients.items():
        assert updates[key].dtype == leaf.dtype
        rtol = 1e-5 if leaf.dtype == jnp.float32 else 2**-8
        np.testing.assert_allclose(
            np.asarray(updates[key], np.float64), expected[key], rtol=rtol, atol=1e-6
        )


def test_weights_decay_in_float32_before_the_rounding_to_bfloat16():
    """0.75 * 1.0078125 = 0.75586 is not a bfloat16; rounded too early it would be 0.75781."""
    update, param = jnp.bfloat16(-0.75390625), jnp.bfloat16(1.0078125)
    result = updated(cj.add_decayed_weights(0.75), {"p": update}, {"p": param})["p"]
    assert result.dtype == jnp.bfloat16
    assert float(result) == 0.75 * 1.0078125 - 0.75390625


@pytest.mark.parametrize(
    "leaves",
    [[np.array([16.0]), np.array([1.0])], [np.ones(2**18)], [np.full(40_000, 0.01)]],
    ids=["two leaves", "many ones", "many small"],
)
def test_the_norm_is_accumulated_in_float32(leaves):
    """bfloat16 rounds 256 + 1 to 256; a float32 leaf beside them shows the factor unrounded."""
    gradients = {str(index): jnp.asarray(leaf, jnp.bfloat16) for index, leaf in enumerate(leaves)}
    gradients["probe"] = jnp.float32(1e-3)
    norm = norm_by_hand(as_float64(gradients))
    probe = updated(cj.clip_by_global_norm(0.5), gradients)["probe"]
    np.testing.assert_allclose(probe, 1e-3 * 0.5 / norm, rtol=1e-5)


def test_unit_norms_are_accumulated_in_float32():
    gradients = {"kernel": jnp.ones((2**16, 2), jnp.bfloat16)}
    params = {"kernel": jnp.full((2**16, 2), 2**-8, jnp.bfloat16)}  # norms 256 and 1
    clipped = updated(cj.adaptive_grad_clip(0.5), gradients, params)["kernel"]
    np.testing.assert_array_equal(np.asarray(clipped, np.float32), np.full((2**16, 2), 2**-9))


@pytest.mark.parametrize(
    "name, of_params",
    [
        *[(name, None) for name in NAMES],
        *[(name, np.ones(3)) for name in NAMES if name != "adaptive_grad_clip"],  # as in Optax
    ],
)
def test_none_leaves_pass_where_optax_takes_them(name, of_params):
    ones = np.ones(2, np.float32)
    updates, params = {"a": None, "b": ones}, {"a": of_params, "b": ones}
    expected = updated(getattr(optax, name)(0.4), updates, params)
    result = updated(made(name, 0.4), updates, params)
    assert result["a"] is None
    np.testing.assert_allclose(result["b"], expected["b"], rtol=1e-6)


@functools.partial(jax.jit, static_argnums=0)
def clipped(name, threshold, updates, params):
    """Compiles once per name; the threshold is traced."""
    return updated(made(name, threshold), updates, params)


def assert_trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("name", ["clip", "clip_by_global_norm", "adaptive_grad_clip"])
class TestTheEdgesOfClipping:
    @pytest.mark.parametrize("threshold", [0.0, 1.0, np.inf])
    def test_zero_gradients_stay_zero(self, name, threshold):
        zeros = jax.tree.map(np.zeros_like, PARAMS)
        assert_trees_equal(clipped(name, threshold, zeros, PARAMS), zeros)
        assert_trees_equal(clipped(name, threshold, zeros, zeros), zeros)

    def test_a_threshold_of_zero_leaves_nothing(self, name):
        zeros = jax.tree.map(np.zeros_like, PARAMS)
        assert_trees_equal(clipped(name, 0.0, GRADIENTS[0], PARAMS), zeros)

    @pytest.mark.parametrize("threshold", [1e4, np.inf])
    def test_what_is_below_the_threshold_is_untouched(self, name, threshold):
        assert_trees_equal(clipped(name, threshold, GRADIENTS[0], PARAMS), GRADIENTS[0])

    def test_plain_thresholds_that_are_extreme(self, name):
        assert_trees_equal(updated(made(name, np.inf), GRADIENTS[0], PARAMS), GRADIENTS[0])
        zeros = jax.tree.map(np.zeros_like, PARAMS)
        assert_trees_equal(updated(made(name, 0), zeros, PARAMS), zeros)

    def test_nan_stays_nan(self, name):
        gradients = {**GRADIENTS[0], "bias": np.array([1, np.nan, -1, 0, 9], np.float32)}
        result = clipped(name, 0.5, gradients, PARAMS)
        expected = updated(getattr(optax, name)(0.5), gradients, PARAMS)
        assert np.isnan(result["bias"][1])
        assert_trees_equal(jax.tree.map(np.isnan, result), jax.tree.map(np.isnan, expected))


def test_a_clipped_norm_is_the_threshold():
    clipped = updated(cj.clip_by_global_norm(0.25), GRADIENTS[5])
    assert norm_by_hand(as_float64(clipped)) == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("kwargs, eps", [({}, 1e-3), ({"eps": 0.2}, 0.2)])
def test_parameters_of_zero_move_by_eps(kwargs, eps):
    zeros = {"kernel": np.zeros((4, 5), np.float32)}
    updates = {"kernel": GRADIENTS[5]["kernel"]}
    clipped = updated(cj.adaptive_grad_clip(0.5, **kwargs), updates, zeros)["kernel"]
    np.testing.assert_allclose(
        unit_norms(np.asarray(clipped)), np.full((1, 5), 0.5 * eps), rtol=1e-5
    )


# ---- the state


@every_transform
def test_a_number_and_a_schedule_have_the_same_state(name):
    expected = [((), jnp.int32, False), ((), jnp.float32, False)]
    for value in [0.4, 2, np.float64(0.4), jnp.float32(0.4), schedule, lambda count: 0.4]:
        transform = made(name, value)
        state = jax.eval_shape(transform.init, PARAMS)
        later = jax.eval_shape(transform.update, PARAMS, state, PARAMS)[1]
        assert jax.tree.structure(state) == jax.tree.structure(later)
        for leaves in (state, later):
            assert isinstance(leaves, type(made(name, 1).init(None)))
            assert [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves] == expected


@every_transform
def test_a_checkpoint_of_one_restores_into_the_other(name):
    constant, scheduled = made(name, 0.4), made(name, schedule)
    _, state = constant.update(GRADIENTS[0], constant.init(PARAMS), PARAMS)
    saved = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    restored = jax.tree.unflatten(jax.tree.structure(scheduled.init(PARAMS)), saved)
    updates, state = jax.jit(scheduled.update)(GRADIENTS[1], restored, PARAMS)
    expected = by_hand(name, as_float64(GRADIENTS[1]), as_float64(PARAMS), float(TABLE[1]))
    assert_trees_close(updates, expected)
    assert (state.count, state[1]) == (2, TABLE[1])


@every_transform
def test_the_count_does_not_overflow(name):
    transform = made(name, 0.4)
    state = transform.init(PARAMS)._replace(count=jnp.int32(2**31 - 1))
    assert transform.update(PARAMS, state, PARAMS)[1].count == 2**31 - 1


@every_transform
def test_current_values_are_those_used_last(name):
    transform = made(name, lambda count: 10.0 * count + 1)
    state = transform.init(PARAMS)
    assert cj.current_values(state) == {NAMES[name]: 1}
    for value in (1, 11, 21):
        _, state = transform.update(PARAMS, state, PARAMS)
        assert cj.current_values(state) == {NAMES[name]: value}


def test_current_values_of_a_chain():
    state = optax.chain(*(made(name, 0.5) for name in NAMES), optax.adam(0.1)).init(PARAMS)
    assert cj.current_values(state) == dict.fromkeys(NAMES.values(), 0.5)


LABELS = {key: "a" if key == "bias" else "b" for key in SHAPES}


@pytest.mark.parametrize(
    "optimizer, expected",
    [
        (
            optax.chain(cj.clip_by_global_norm(1), cj.clip(2), cj.clip_by_global_norm(3)),
            {"0/max_norm": 1, "max_delta": 2, "2/max_norm": 3},
        ),
        (
            optax.named_chain(("first", cj.clip(1)), ("second", cj.clip(2))),
            {"first/max_delta": 1, "second/max_delta": 2},
        ),
        (optax.named_chain(("only", cj.adaptive_grad_clip(0.1))), {"clipping": np.float32(0.1)}),
        (optax.masked(cj.clip(1), {**LABELS, "bias": True}), {"max_delta": 1}),
        (cj.add_decayed_weights(1, {key: key == "bias" for key in SHAPES}), {"weight_decay": 1}),
        (
            optax.partition({"a": cj.clip(1), "b": cj.clip(2)}, LABELS),
            {
                "inner_states/a/inner_state/max_delta": 1,
                "inner_states/b/inner_state/max_delta": 2,
            },
        ),
        (optax.MultiSteps(cj.clip(1), 2), {"max_delta": 1}),
        (
            cj.accumulate_gradients(optax.chain(cj.clip(1), cj.clip(2)), 4),
            {
                "every": 4,
                "multi_steps/inner_opt_state/0/max_delta": 1,
                "multi_steps/inner_opt_state/1/max_delta": 2,
            },
        ),
        (optax.inject_hyperparams(cj.clip_by_global_norm)(max_norm=schedule), {"max_norm": 0.02}),
        (
            optax.inject_hyperparams(optax.clip_by_global_norm)(max_norm=schedule),
            {"max_norm": 0.02},
        ),
        (
            optax.inject_hyperparams(optax.sgd)(schedule, momentum=0.9),
            {"learning_rate": 0.02, "momentum": 0.9},
        ),
        (
            optax.chain(
                optax.inject_hyperparams(cj.clip)(2.0), optax.inject_hyperparams(optax.clip)(3.0)
            ),
            {"0/inner_state/max_delta": 2, "1/hyperparams/max_delta": 3},
        ),
    ],
)
def test_current_values_wherever_they_nest(optimizer, expected):
    values = cj.current_values(optimizer.init(PARAMS))
    assert values == {name: np.float32(value) for name, value in expected.items()}


def test_current_values_of_a_population():
    transform = cj.clip(lambda count: 0.5 + count)
    params = jax.tree.map(lambda p: np.stack([p, p, p]), PARAMS)
    state = jax.vmap(transform.init)(params)
    _, state = jax.vmap(transform.update)(params, state)
    np.testing.assert_array_equal(cj.current_values(state)["max_delta"], [0.5] * 3)


@logged("scale")
class OurState(NamedTuple):
    count: Any
    scale: Any


class TheirState(NamedTuple):
    count: Any
    max_delta: Any  # a name of ours, but not our state


def scale_by(scale, **limits):
    def multiply(updates, params, value):
        del params
        return jax.tree.map(lambda u: value * u, updates)

    return scheduled(OurState, scale, multiply, **limits)


def test_a_state_marked_elsewhere_is_found_and_no_other():
    state = scale_by(schedule).init(PARAMS), TheirState(0, 1.0)
    assert cj.current_values(state) == {"scale": TABLE[0]}
    assert jax.jit(cj.current_values)(state) == {"scale": TABLE[0]}


@pytest.mark.parametrize(
    "value, limits, words",
    [
        (-1, {}, "at least 0, got -1"),
        (2.5, dict(minimum=-1, maximum=2), "at least -1 and at most 2, got 2.5"),
        (np.inf, dict(finite=True), "at least 0 and finite, got inf"),
    ],
)
def test_the_limits_of_a_plain_number(value, limits, words):
    with pytest.raises(ValueError, match=f"`scale` must be {words}"):
        scale_by(value, **limits)
    scale_by(lambda count: value, **limits)


# ---- accumulate_gradients


def micro_gradients(number):
    return np.random.default_rng(7).normal(size=(number, 3)).astype(np.float32)


def accumulated_by_hand(gradients, every, weight_decay, learning_rate):
    """Returns the parameters after every micro step."""
    params, history, window, update = np.ones(3), [], [], 0
    for gradient in np.asarray(gradients, np.float64):
        window.append(gradient)
        if len(window) == every(update):
            decayed = np.mean(window, 0) + weight_decay(update) * params
            params = params - learning_rate * decayed
            window, update = [], update + 1
        history.append(params)
    return np.array(history)


def run_micro_steps(optimizer, gradients):
    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, cj.current_values(state))

    @jax.jit
    def run(gradients):
        params = jnp.ones(3)
        return jax.lax.scan(step, (params, optimizer.init(params)), gradients)

    return run(gradients)


def test_accumulated_gradients_follow_the_loop():
    """Updates have 1, 2, 3, 2, 1, ... micro steps; the weight decay inside counts updates."""
    decay = cj.cyclical_schedule(0.0, 0.8, 6, factor=2.5)
    every = cj.cyclical_schedule(1.0, 3.0, 5)
    inner = optax.chain(cj.add_decayed_weights(decay), optax.sgd(0.1))
    gradients = micro_gradients(13)
    (_, state), (history, values) = run_micro_steps(
        cj.accumulate_gradients(inner, every), gradients
    )
    decays = [0, 0.4, 0.8, 0.8 * 2 / 3, 0.8 / 3, *[0.0] * 5]
    sizes = [1, 2, 3, 2, 1, 1, 1, 1, 1, 1]
    expected = accumulated_by_hand(gradients, sizes.__getitem__, decays.__getitem__, 0.1)
    np.testing.assert_allclose(history, expected, rtol=1e-5)
    np.testing.assert_array_equal(values["every"], [1, 2, 2, 3, 3, 3, 2, 2, 1, 1, 1, 1, 1])
    assert state.every.dtype == jnp.int32 and not state.every.weak_type
    assert state.multi_steps.gradient_step == 9


def test_before_the_first_update_the_value_is_that_of_count_0():
    optimizer = cj.accumulate_gradients(optax.sgd(0.1), lambda count: 5 - count)
    assert cj.current_values(optimizer.init(jnp.ones(3))) == {"every": 5}


def test_what_stands_outside_counts_micro_steps():
    optimizer = optax.chain(
        cj.accumulate_gradients(cj.clip(lambda count: 100 + count), 3),
        cj.clip_by_global_norm(lambda count: 100 + count),
    )
    _, (_, values) = run_micro_steps(optimizer, micro_gradients(7))
    np.testing.assert_array_equal(values["max_norm"], 100 + np.arange(7))
    np.testing.assert_array_equal(values["max_delta"][2::2], [100, 100, 101])


def test_equal_micro_batches_are_the_full_batch():
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(2, 12, 3)), rng.normal(size=(2, 12))

    @jax.jit
    @jax.grad
    def gradient(params, inputs, targets):
        return ((inputs @ params - targets) ** 2).mean()

    def run(optimizer, micro_batches):
        params = jnp.ones(3)
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        for batch in range(2):
            parts = np.split(inputs[batch], micro_batches), np.split(targets[batch], micro_batches)
            for part in zip(*parts, strict=True):
                updates, state = update(gradient(params, *part), state, params)
                params = optax.apply_updates(params, updates)
        return params

    optimizer = optax.chain(cj.clip_by_global_norm(1.0), optax.adam(0.1))
    full = run(optimizer, 1)
    np.testing.assert_allclose(run(cj.accumulate_gradients(optimizer, 4), 4), full, rtol=1e-5)


def test_a_number_and_a_schedule_of_micro_steps_have_the_same_state():
    states, params = [], jnp.ones(3)
    for every in (2, np.int64(2), 2.0, lambda count: 2, cj.cyclical_schedule(2, 4, 9)):
        optimizer = cj.accumulate_gradients(optax.sgd(0.1, momentum=0.9), every)
        state = jax.eval_shape(optimizer.init, params)
        states += [state, jax.eval_shape(optimizer.update, params, state, params)[1]]
    described = [[(x.shape, x.dtype) for x in jax.tree.leaves(state)] for state in states]
    assert all(one == described[0] for one in described)
    assert len({jax.tree.structure(state) for state in states}) == 1


def test_extra_arguments_reach_the_optimizer():
    def update(updates, state, params=None, *, factor):
        return jax.tree.map(lambda u: factor * u, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    optimizer = cj.accumulate_gradients(inner, 1)
    params = jnp.ones(3)
    updates, _ = optimizer.update(params, optimizer.init(params), params, factor=5.0)
    np.testing.assert_array_equal(updates, [5, 5, 5])


@pytest.mark.parametrize("options", [{}, {"use_grad_mean": False}])
def test_accumulation_has_what_multi_steps_has(options):
    """Fields, `has_updated` and all arguments, so that one may stand for the other."""

    def chain(count):
        return 2 + count % 2

    options |= {"should_skip_update_fn": optax.skip_not_finite}
    if "accumulator_dtype" in inspect.signature(optax.MultiSteps).parameters:  # since Optax 0.2.7
        options |= {"accumulator_dtype": jnp.bfloat16}
    ours = cj.accumulate_gradients(optax.sgd(0.1), chain, **options)
    theirs = optax.MultiSteps(optax.sgd(0.1), chain, **options)
    params = jnp.ones(3)
    state, expected = ours.init(params), theirs.init(params)
    updates = [*micro_gradients(6)]
    updates[3] = updates[3] * np.nan
    for gradient in updates:
        update, state = ours.update(gradient, state, params)
        expected_update, expected = theirs.update(gradient, expected, params)
        np.testing.assert_array_equal(update, expected_update)
        assert state.has_updated == theirs.has_updated(state) == theirs.has_updated(expected)
        for field in expected._fields:
            assert_trees_equal(getattr(state, field), getattr(expected, field))
    assert state.gradient_step == 2
    assert not hasattr(state, "mini_steps")


# ---- on more devices, in other dtypes

ALL = NAMES | {"accumulate_gradients": "every", "scale_by_layer": "share"}
LAYERS = {"bias": 0, "conv": 1, "kernel": 2, "scale": 1}


def any_made(name, value):
    if name == "accumulate_gradients":
        return cj.accumulate_gradients(optax.adam(0.1), cj.cyclical_schedule(2.0, 1.0, NUM_STEPS))
    return (
        finetuning.scale_by_layer(value, LAYERS) if name == "scale_by_layer" else made(name, value)
    )


def narrowed(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_strict_promotion_of_dtypes_changes_nothing(name, dtype):
    def two_updates():
        transform = any_made(name, cj.cyclical_schedule(jnp.bfloat16(0.25), 1.0, NUM_STEPS))
        update, state = jax.jit(transform.update), transform.init(params)
        _, state = update(gradients, state, params)
        return update(gradients, state, params)

    with jax.enable_x64(dtype == jnp.float64):
        gradients, params = narrowed(GRADIENTS[2], dtype), narrowed(PARAMS, dtype)
        with jax.numpy_dtype_promotion("strict"):
            found = two_updates()
            cj.current_values(found[1]), cj.num_updates(found[1])
        assert_trees_equal(found, two_updates())
    assert {leaf.dtype for leaf in jax.tree.leaves(found[0])} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_traced_number_of_low_precision_is_computed_with_in_float32(name, dtype):
    """With low-precision leaves too: only the result is rounded to the dtype of the leaf."""
    value = jnp.asarray(0.3, dtype)
    updates, params = narrowed(GRADIENTS[2], dtype), narrowed(PARAMS, dtype)
    found = jax.jit(lambda value: updated(made(name, value), updates, params))(value)
    expected = by_hand(name, as_float64(updates), as_float64(params), float(value))
    for key, leaf in found.items():
        rounding = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(as_float64(found)[key], expected[key], rtol=rounding / 1.9)
        assert leaf.dtype == dtype


@has_explicit_sharding
@pytest.mark.parametrize(
    "name, transform", [*[(name, jax.jit) for name in ALL], ("clip_by_global_norm", lambda f: f)]
)
def test_leaves_that_are_sharded_explicitly_stay_so(name, transform):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))

    def placed(tree):
        """Splits the first axis that two devices divide evenly."""

        def place(leaf):
            split = [size % 2 == 0 for size in leaf.shape]
            axes = [None] * split.index(True) + ["data"] if any(split) else []
            sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
            return jax.device_put(leaf, sharding)

        return jax.tree.map(place, tree)

    optimizer = any_made(name, cj.cyclical_schedule(0.5, 1.0, NUM_STEPS))
    updates, params = placed(GRADIENTS[2]), placed(PARAMS)
    state = optimizer.init(params)
    found, state = transform(optimizer.update)(updates, state, params)
    expected, _ = optimizer.update(GRADIENTS[2], optimizer.init(PARAMS), PARAMS)
    assert_trees_close(found, expected)
    for key, leaf in found.items():
        assert leaf.sharding.is_equivalent_to(params[key].sharding, leaf.ndim)
    assert cj.current_values(state)[ALL[name]] == {"every": 2}.get(ALL[name], 0.5)


# ---- what is refused


@every_transform
@pytest.mark.parametrize("state", [None, optax.EmptyState(), 0])
def test_a_state_that_is_none_of_ours_is_refused(name, state):
    with pytest.raises(ValueError, match=re.escape(f"its state is `init(params)`, got {state}.")):
        made(name, 0.1).update(PARAMS, state, PARAMS)


@every_transform
@pytest.mark.parametrize("value", [-1, -1e-9, float("nan"), "1", None, True])
def test_a_number_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"`{NAMES[name]}` .*{value}"):
        made(name, value)


@every_transform
def test_a_number_that_float32_cannot_hold_is_refused(name):
    for value in (1e300, 1e-300):
        with pytest.raises(ValueError, match=rf"`{NAMES[name]}` must be 0 or from 1.2e-38 to 3.4e"):
            made(name, value)


@every_transform
def test_a_value_of_several_numbers_is_refused(name):
    """A schedule may return it too; it would be broadcast against the updates."""
    line = rf"`{NAMES[name]}` must be a scalar, got shape \(3, 1\)"
    with pytest.raises(ValueError, match=line):
        made(name, np.ones((3, 1)))
    with pytest.raises(ValueError, match=line):
        made(name, lambda count: jnp.ones((3, 1))).init(PARAMS)


@pytest.mark.parametrize("value", [-1e-3, float("nan"), float("inf"), "1"])
def test_adaptive_grad_clip_refuses_eps(value):
    with pytest.raises(ValueError, match=rf"`eps` .*{value}"):
        cj.adaptive_grad_clip(0.1, eps=value)


@pytest.mark.parametrize("value", [0, -1, 2.5, float("nan"), float("inf"), "2", None, True])
def test_accumulate_gradients_refuses(value):
    with pytest.raises(ValueError, match=rf"`every` .*{value}"):
        cj.accumulate_gradients(optax.sgd(0.1), value)


@pytest.mark.parametrize("name", ["add_decayed_weights", "adaptive_grad_clip"])
def test_missing_parameters_are_refused(name):
    transform = made(name, 0.1)
    with pytest.raises(ValueError, match="`params`"):
        transform.update(GRADIENTS[0], transform.init(PARAMS))


@pytest.mark.parametrize("name", ["clip", "clip_by_global_norm"])
def test_the_others_need_no_parameters(name):
    transform = made(name, 0.1)
    transform.update(GRADIENTS[0], transform.init(None))


def test_updates_whose_square_underflows_are_left_alone():
    tiny = jnp.array([1e-20, 1e-23])
    transform = cj.clip_by_global_norm(0.1)
    np.testing.assert_array_equal(transform.update(tiny, transform.init(None))[0], tiny)


def test_an_array_of_the_caller_outlives_a_donated_state():
    max_norm = jnp.float32(0.5)
    optimizer = optax.chain(cj.clip_by_global_norm(max_norm), cj.clip(max_norm))
    update = jax.jit(optimizer.update, donate_argnums=1)
    update(jnp.ones(3), optimizer.init(jnp.ones(3)))
    assert not max_norm.is_deleted()


def test_weight_decay_must_be_finite():
    with pytest.raises(ValueError, match="`weight_decay` must be at least 0 and finite, got inf"):
        cj.add_decayed_weights(np.inf)
