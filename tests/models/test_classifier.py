"""What all models have in common: precision, dropout, BatchNorm, options, and use as a `Model`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cyclical_jax import models
from cyclical_jax.models import (
    MODEL_OPTIONS,
    MODELS,
    NETWORKS,
    Model,
    Network,
    from_linen,
    make_model,
    network_of,
)

CLASSES = 5
SMALL = {
    "mlp": dict(hidden_sizes=(7, 6)),
    "patch_dense": dict(hidden_sizes=(7,), patch_size=4, stride=2, channels=3),
    "cnn": dict(hidden_sizes=(6,), widths=(3, 4)),
}
# Options with which dropout acts only on the input of the last layer.
DROPPED_ONCE = {
    "mlp": dict(hidden_sizes=(9,)),
    "patch_dense": dict(hidden_sizes=()),
    "cnn": dict(hidden_sizes=()),
}


def make(name, axis_name=None, **options):
    options = SMALL[name] | options
    return make_model(name, num_classes=CLASSES, axis_name=axis_name, **options)


def images(batch=6, seed=0):
    """Returns [batch, 8, 6, 2], where the second half of the batch is brighter."""
    x = np.random.default_rng(seed).normal(size=(batch, 8, 6, 2)).astype(np.float32)
    x[batch // 2 :] = 3 * x[batch // 2 :] + 2
    return jnp.asarray(x)


def init(model):
    return model.init(jax.random.key(0), images())


def test_every_model_has_a_case_here_or_is_a_published_network():
    """The cases of published networks are in test_resnet.py."""
    published = {name for name in MODELS if "stochastic_depth" in MODEL_OPTIONS[name]}
    assert {*SMALL} == {*MODELS} - published


# ---- precision


@pytest.mark.parametrize("dtype, batch_norm", [("bfloat16", True), (jnp.bfloat16, False)])
@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_is_close_and_keeps_parameters_statistics_and_logits_float32(
    name, dtype, batch_norm
):
    model, reference = (make(name, batch_norm=batch_norm, dtype=d) for d in (dtype, jnp.float32))
    params, state = init(model)
    jax.tree.map(np.testing.assert_array_equal, (params, state), init(reference))
    for train in (False, True):
        logits, new_state = model.apply(params, state, images(), train=train)
        expected, _ = reference.apply(params, state, images(), train=train)
        for leaf in jax.tree.leaves((params, state, new_state, logits)):
            assert leaf.dtype == jnp.float32
        scale = jnp.abs(expected).max()
        np.testing.assert_allclose(logits, expected, atol=0.03 * scale)
        assert not jnp.allclose(logits, expected, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("name", SMALL)
def test_every_layer_but_the_last_computes_in_bfloat16(name):
    model = make(name, batch_norm=True, dropout=0.1, dtype="bfloat16")
    params, state = init(model)

    def apply(params):
        return model.apply(params, state, images(), train=True, key=jax.random.key(0))

    products = ("dot_general", "conv_general_dilated")
    equations = jax.make_jaxpr(apply)(params).jaxpr.eqns
    *hidden, last = (e for e in equations if e.primitive.name in products)
    assert len(hidden) == {"mlp": 2, "patch_dense": 2, "cnn": 3}[name]
    assert {product.outvars[0].aval.dtype for product in hidden} == {jnp.dtype("bfloat16")}
    assert last.outvars[0].aval.dtype == jnp.float32


@pytest.mark.parametrize("name", SMALL)
def test_bytes_are_images_too(name):
    model = make(name)
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 9, (2, 8, 6, 2)), jnp.uint8)
    params, state = init(model)
    logits, _ = model.apply(params, state, pixels, train=False)
    expected, _ = model.apply(params, state, pixels.astype(jnp.float32), train=False)
    np.testing.assert_array_equal(logits, expected)


# ---- dropout


@pytest.mark.parametrize("name", SMALL)
def test_dropout_acts_in_training_only_and_repeats_with_its_key(name):
    model = make(name, dropout=0.4)
    params, state = init(model)
    first, again, other = (
        model.apply(params, state, images(), train=True, key=jax.random.key(seed))[0]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (jnp.abs(first - other).max(axis=1) > 1e-3).all()

    evaluated, _ = model.apply(params, state, images(), train=False)
    undropped, _ = make(name).apply(params, state, images(), train=True)
    np.testing.assert_array_equal(evaluated, undropped)
    assert not np.allclose(evaluated, first, atol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_dropout_differs_between_the_images_of_a_batch(name):
    model = make(name, dropout=0.4)
    params, state = init(model)
    twins = jnp.repeat(images()[:1], 4, axis=0)
    logits, _ = model.apply(params, state, twins, train=True, key=jax.random.key(1))
    assert len(np.unique(logits, axis=0)) > 1


@pytest.mark.parametrize("rate", [0.25, 0.6])
def test_dropout_keeps_the_mean(rate):
    """And so does the mean of the logits, which are linear in what is dropped. All models drop by
    the same function, and by nothing else: see the next test.
    """
    model = make("mlp", dropout=rate, **DROPPED_ONCE["mlp"])
    params, state = init(model)

    def logits_of(key):
        return model.apply(params, state, images(), train=True, key=key)[0]

    samples = jax.vmap(logits_of)(jax.random.split(jax.random.key(0), 4000))
    expected, _ = model.apply(params, state, images(), train=False)
    error = samples.std(0) / np.sqrt(len(samples))
    np.testing.assert_array_less(jnp.abs(samples.mean(0) - expected), 5 * error + 1e-6)
    assert (error > 0).all()


@pytest.mark.parametrize("name", SMALL)
def test_dropout_of_everything_leaves_the_last_bias(name):
    """It shows that every feature reaches the logits through dropout."""
    model = make(name, dropout=1.0, **DROPPED_ONCE[name])
    params, state = init(model)
    logits, _ = model.apply(params, state, images(), train=True, key=jax.random.key(0))
    np.testing.assert_array_equal(logits, jnp.zeros_like(logits))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_dropout_is_a_probability(name, rate):
    with pytest.raises(ValueError, match=f"`dropout` must be at least 0 and at most 1, got {rate}"):
        init(make(name, dropout=rate))


@pytest.mark.parametrize("name", SMALL)
def test_a_knob_of_a_call_is_the_attribute_at_that_value(name, count_compilations):
    model, key = make(name), jax.random.key(3)
    params, state = init(model)

    @jax.jit
    def logits_at(rate):
        return model.apply(params, state, images(), train=True, key=key, dropout=rate)[0]

    logits_at(jnp.float32(0.1))
    with count_compilations() as compilations:
        found = {rate: logits_at(jnp.float32(rate)) for rate in (0.0, 0.4, 1.0)}
    assert not compilations
    for rate, logits in found.items():
        of_attribute = make(name, dropout=rate)
        expected, _ = of_attribute.apply(params, state, images(), train=True, key=key)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_the_gradient_is_finite_at_every_rate(rate):
    model = make("mlp")
    params, state = init(model)

    def loss(params, rate):
        key = jax.random.key(0)
        logits, _ = model.apply(params, state, images(), train=True, key=key, dropout=rate)
        return (logits**2).sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params, jnp.float32(rate))):
        assert np.isfinite(leaf).all()


# ---- BatchNorm


@pytest.mark.parametrize("name", SMALL)
def test_batch_norm_normalises_by_the_batch_in_training(name):
    """It undoes an affine change of the first layer's outputs; in evaluation it does not."""
    model = make(name, batch_norm=True)
    params, state = init(model)
    first = {"mlp": "Dense_0", "patch_dense": "DenseGeneral_0", "cnn": "Conv_0"}[name]
    changed = params | {first: jax.tree.map(lambda leaf: 3 * leaf, params[first])}
    changed[first]["bias"] = changed[first]["bias"] + 2

    def change_in_logits(train):
        before, after = (model.apply(p, state, images(), train=train)[0] for p in (params, changed))
        return float(jnp.abs(after - before).max())

    assert change_in_logits(train=True) < 1e-3
    assert change_in_logits(train=False) > 0.1


@pytest.mark.parametrize("name", SMALL)
def test_batch_norm_evaluates_with_running_statistics_that_only_training_moves(name):
    model = make(name, batch_norm=True)
    params, state = init(model)
    first = {"mean": 0.0, "var": 1.0}
    for statistics in state["batch_stats"].values():
        for kind, value in first.items():
            assert (statistics[kind] == value).all()
    whole, kept = model.apply(params, state, images(), train=False)
    jax.tree.map(np.testing.assert_array_equal, kept, state)
    alone, _ = model.apply(params, state, images()[:1], train=False)
    np.testing.assert_allclose(alone, whole[:1], rtol=1e-5, atol=1e-6)

    train = jax.jit(lambda state: model.apply(params, state, images(), train=True)[1])
    for _ in range(1000):
        state = train(state)
    trained, _ = model.apply(params, state, images(), train=True)
    evaluated, _ = model.apply(params, state, images(), train=False)
    np.testing.assert_allclose(evaluated, trained, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_batch_norm_averages_over_the_mapped_axis(name):
    """Two halves of different brightness are normalised like the whole batch."""
    params, state = init(make(name, batch_norm=True))

    def halves(axis_name):
        model = make(name, axis_name, batch_norm=True)

        def apply(half):
            return model.apply(params, state, half, train=True)

        logits, states = jax.vmap(apply, axis_name="devices")(images().reshape(2, 3, 8, 6, 2))
        return logits.reshape(6, CLASSES), states

    expected, expected_state = make(name, batch_norm=True).apply(
        params, state, images(), train=True
    )
    logits, states = halves("devices")
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    for half in range(2):
        jax.tree.map(
            lambda leaf, whole, half=half: np.testing.assert_allclose(
                leaf[half], whole, rtol=1e-4, atol=1e-5
            ),
            states,
            expected_state,
        )
    alone, _ = halves(None)
    assert not np.allclose(alone, expected, atol=0.1)


# ---- what a recipe may name


def test_the_options_of_each_model():
    shared = ("hidden_sizes", "batch_norm", "batch_norm_group", "dropout", "dtype")
    assert {name: MODEL_OPTIONS[name] for name in SMALL} == {
        "mlp": shared,
        "patch_dense": (*shared, "patch_size", "stride", "channels"),
        "cnn": (*shared, "widths"),
    }


@pytest.mark.parametrize("name", SMALL)
def test_convolutional_models_are_those_with_a_convolution(name):
    model = make(name, batch_norm=True, dropout=0.1)
    params, state = init(model)

    def loss(params):
        key = jax.random.key(0)
        return model.apply(params, state, images(), train=True, key=key)[0].sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(params))
    assert ("conv_general_dilated" in text) == (name in models.CONVOLUTIONAL)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_defaults_fit_digits_fashion_mnist_and_cifar(name, shape):
    model = make_model(name, num_classes=10, axis_name=None)

    def init_and_apply(key, x):
        params, state = model.init(key, x)
        return model.apply(params, state, x, train=False)[0]

    logits = jax.eval_shape(init_and_apply, jax.random.key(0), jnp.zeros((2, *shape)))
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)


def test_unknown_names_are_errors_that_say_the_known_ones():
    with pytest.raises(ValueError, match="`model` must be one of 'mlp', .* Did you mean 'mlp'"):
        make_model("mpl", num_classes=3, axis_name=None)
    with pytest.raises(ValueError, match="`option of cnn` must be .* got 'stride'"):
        make_model("cnn", num_classes=3, axis_name=None, stride=2)
    with pytest.raises(ValueError, match="`option of mlp` must be .* got 'parent'"):
        make_model("mlp", num_classes=3, axis_name=None, parent=None)


# ---- modules of the user


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


class Stateful(nn.Module):
    """Has dropout, BatchNorm and a collection of its own."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1))
        calls = self.variable("counters", "calls", lambda: jnp.int32(0))
        if train:
            calls.value += 1
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=not train)(x))


def test_a_plain_module_of_the_user_needs_no_key_and_keeps_no_state():
    model = from_linen(Plain())
    assert isinstance(model, Model)
    params, state = init(model)
    assert state == {}
    logits, new_state = model.apply(params, state, images(), train=True)
    evaluated, _ = model.apply(params, state, images(), train=False)
    assert new_state == {}
    np.testing.assert_array_equal(logits, evaluated)


def test_a_stateful_module_of_the_user_draws_from_the_key_and_updates_its_collections():
    model = from_linen(Stateful())
    params, state = init(model)
    assert state.keys() == {"batch_stats", "counters"}
    logits = []
    for seed in (1, 2):
        row, state = model.apply(params, state, images(), train=True, key=jax.random.key(seed))
        logits.append(row)
    assert int(state["counters"]["calls"]) == 2
    assert not np.allclose(*logits)
    _, same = model.apply(params, state, images(), train=False)
    assert same is state


class Scaled(nn.Module):
    """Has one option, `scale`."""

    num_classes: int
    axis_name: str | None
    scale: float = 1.0

    @nn.compact
    def __call__(self, x, *, train):
        return self.scale * nn.Dense(self.num_classes)(x.reshape(len(x), -1))


def test_a_network_of_the_user_is_made_by_name_beside_ours():
    networks = {**NETWORKS, "scaled": network_of(Scaled)}
    assert networks["scaled"] == Network(Scaled, ("scale",))
    make_ours = functools.partial(make_model, num_classes=4, axis_name=None, networks=networks)
    one, two = make_ours("scaled"), make_ours("scaled", scale=2.0)
    params, state = init(one)
    logits = [model.apply(params, state, images(), train=False)[0] for model in (one, two)]
    np.testing.assert_allclose(2 * logits[0], logits[1], rtol=1e-6)
    ours = make_model("mlp", num_classes=4, axis_name=None)
    jax.tree.map(np.testing.assert_array_equal, init(make_ours("mlp")), init(ours))
    with pytest.raises(ValueError, match="`option of scaled` must be one of 'scale', got 'scal'"):
        make_ours("scaled", scal=2.0)
    with pytest.raises(ValueError, match="`model` must be one of .*'scaled', got 'scald'"):
        make_ours("scald")
    with pytest.raises(ValueError, match="`model` must be one of 'mlp'"):
        make_model("scaled", num_classes=4, axis_name=None)


def test_the_public_names_are_those_of_the_table():
    assert MODELS == tuple(NETWORKS)
    assert MODEL_OPTIONS == {name: network.options for name, network in NETWORKS.items()}
    assert {*NETWORKS} >= models.CONVOLUTIONAL
