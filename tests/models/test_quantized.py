"""Models that compute with few bits: forward and backward by hand, ranges, layers, keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cyclical_jax.models import Model, from_linen, make_model
from cyclical_jax.models.quantized import (
    ACTIVATIONS,
    BITS,
    GRADIENTS,
    RANGES,
    WEIGHTS,
    Precision,
    layers_of,
    quantized,
    running_range,
    with_bits,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")

BIT_NUMBERS = {WEIGHTS: 3, ACTIVATIONS: 4, GRADIENTS: 5}
ALL = tuple(BIT_NUMBERS)
RNG = np.random.default_rng(0)


def turned(x, axis=None):
    """Returns `x` with signs such that the largest number is above 0.

    Of symmetric levels, one below 0 would be halfway between two.
    """
    x = np.asarray(x)
    extreme = np.where(x.max(axis) > -x.min(axis), 1, -1)
    return np.float32(x * extreme)


IMAGES = turned(RNG.normal(size=(7, 2, 3, 1)))
WEIGHTS_OF_LOGITS = RNG.normal(size=(7, 3)).astype(np.float32)  # the loss is their sum with logits


def mlp(**options):
    options = {"hidden_sizes": (5,)} | options
    return make_model("mlp", num_classes=3, axis_name=None, **options)


def variables_of(model, images=IMAGES):
    """Parameters whose biases are not 0, and the model's state."""
    params, state = model.init(jax.random.key(0), images)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: turned(x + 0.1 * rng.normal(size=x.shape), 0), params), state


# ---- forward and backward, by hand


def rounded(x, bits, *, axis=None, limits=None, symmetric=False):
    """Returns `x` at the nearest of 2^bits levels, in NumPy."""
    lo, hi = (
        map(np.float32, limits)
        if limits
        else (x.min(axis, keepdims=True), x.max(axis, keepdims=True))
    )
    if symmetric:
        scale = np.maximum(-lo, hi) / (2 ** (bits - 1) - 0.5)
        return scale * np.clip(np.round(x / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    scale = (hi - lo) / (2**bits - 1)
    return lo + scale * np.clip(np.round((x - lo) / scale), 0, 2**bits - 1)


def by_hand(params, *, keep=(), symmetric=False, bits=BIT_NUMBERS, limits=None):
    """Returns logits and the gradients of the kernels of a network with one hidden layer."""
    params = jax.tree.map(np.float64, jax.device_get(params))
    of_layers, x = list(params.values()), IMAGES.reshape(7, -1).astype(np.float64)
    seen, kernels, outputs = [], [], []
    for number, layer in enumerate(of_layers):
        is_whole = number in keep
        own = limits[number] if limits else None
        x = x if is_whole else rounded(x, bits[ACTIVATIONS], limits=own, symmetric=symmetric)
        kernel = layer["kernel"]
        if not is_whole:
            kernel = rounded(kernel, bits[WEIGHTS], axis=0, symmetric=symmetric)
        seen, kernels = [*seen, x], [*kernels, kernel]
        outputs.append(x @ kernel + layer["bias"])
        x = np.maximum(outputs[-1], 0)
    slope, gradients = WEIGHTS_OF_LOGITS.astype(np.float64), []
    for number in (1, 0):
        slope = slope if number in keep else rounded(slope, bits[GRADIENTS])
        gradients.append(seen[number].T @ slope)
        slope = (slope @ kernels[number].T) * (outputs[0] > 0) if number else None
    return outputs[-1], gradients[::-1]


def loss_and_gradients(model, params, state, **knobs):
    def loss(params):
        outputs, new = model.apply(params, state, IMAGES, train=True, **knobs)
        return (outputs * WEIGHTS_OF_LOGITS).sum(), (outputs, new)

    (_, (logits, new)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return logits, new, [layer["kernel"] for layer in grads.values()]


@pytest.mark.parametrize(
    "keep, whole", [((), ()), (("last",), (1,)), (("first",), (0,)), (("Dense_1",), (1,))]
)
@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
def test_a_step_is_the_quantized_step_by_hand(keep, whole, symmetric):
    """Without a key gradients are rounded to the nearest level, so that all is known."""
    model = quantized(mlp(), Precision(ALL, symmetric, keep))
    params, state = variables_of(model)
    logits, new, gradients = loss_and_gradients(model, params, state, key=None, **BIT_NUMBERS)
    wanted, wanted_gradients = by_hand(params, keep=whole, symmetric=symmetric)
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    for gradient, of_layer in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(gradient, of_layer, atol=1e-4)
    assert new[BITS] == {WEIGHTS: 3, ACTIVATIONS: 4}
    assert all(number.dtype == jnp.int32 for number in new[BITS].values())


@pytest.mark.parametrize("word", ALL)
def test_each_part_is_quantized_alone(word):
    model = quantized(mlp(), Precision((word,), keep=()))
    params, state = variables_of(model)
    logits, new, gradients = loss_and_gradients(model, params, state, key=None, **{word: 3})
    of_nearly_all = {name: 3 if name == word else 30 for name in ALL}
    wanted, wanted_gradients = by_hand(params, bits=of_nearly_all)
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    np.testing.assert_allclose(gradients[0], wanted_gradients[0], atol=1e-4)
    assert (RANGES in new) == (word == ACTIVATIONS)


# ---- ranges, and an evaluation


def test_an_evaluation_has_the_running_ranges_and_the_bits_of_the_moment():
    model = quantized(mlp(), Precision((WEIGHTS, ACTIVATIONS), keep=("last",)))
    params, state = variables_of(model)
    means, weight = np.zeros(2), 0.0
    for scale in (3.0, 1.0, 2.0):
        _, state = model.apply(
            params, state, scale * IMAGES, train=True, key=None, weights=8, activations=3
        )
        means = 0.9 * means + 0.1 * scale * np.array([IMAGES.min(), IMAGES.max()])
        weight = 0.9 * weight + 0.1
        lo, hi = running_range(state[RANGES]["Dense_0"]["sums"], otherwise=(0.0, 0.0))
        np.testing.assert_allclose([lo, hi], means / weight, rtol=1e-5)  # the first is itself
    logits, _ = model.apply(params, state, IMAGES, train=False)
    options = {"keep": (1,), "limits": [tuple(means / weight), None]}
    at_the_moment = by_hand(params, bits={**BIT_NUMBERS, WEIGHTS: 8, ACTIVATIONS: 3}, **options)[0]
    np.testing.assert_allclose(logits, at_the_moment, atol=1e-5)
    few, _ = model.apply(params, with_bits(state, 2), IMAGES, train=False)
    at_two = by_hand(params, bits={**BIT_NUMBERS, WEIGHTS: 2, ACTIVATIONS: 2}, **options)[0]
    np.testing.assert_allclose(few, at_two, atol=1e-5)


def test_before_any_step_a_model_is_whole_and_its_ranges_are_the_batchs_own():
    plain, model = mlp(), quantized(mlp(), Precision(keep=()))
    params, state = variables_of(model)
    logits, after = model.apply(params, state, IMAGES, train=False)
    np.testing.assert_array_equal(logits, plain.apply(params, {}, IMAGES, train=False)[0])
    assert jax.tree.all(jax.tree.map(np.array_equal, state, after))
    few, _ = model.apply(params, with_bits(state, 4), IMAGES, train=False)
    wanted, _ = by_hand(params, bits=dict.fromkeys(ALL, 4))
    np.testing.assert_allclose(few, wanted, atol=1e-5)


# ---- random keys


def test_few_bits_do_not_change_what_dropout_draws():
    """Quantized gradients leave the forward pass as it is."""
    plain, options = mlp(dropout=0.5), {"train": True, "key": jax.random.key(3)}
    model = quantized(plain, Precision((GRADIENTS,)))
    params, state = variables_of(model)
    logits, _ = model.apply(params, state, IMAGES, gradients=4, **options)
    np.testing.assert_array_equal(logits, plain.apply(params, {}, IMAGES, **options)[0])


class Twice(nn.Module):
    """Two layers with the same kernel and the same inputs, and one that is called twice."""

    @nn.compact
    def __call__(self, x):
        alike = {"features": 32, "use_bias": False, "kernel_init": nn.initializers.ones}
        shared = nn.Dense(**alike)
        return jnp.stack([shared(x), shared(x), nn.Dense(**alike)(x)])


def test_each_call_of_a_layer_and_each_step_rounds_its_gradient_by_another_draw():
    model = quantized(from_linen(Twice()), Precision((GRADIENTS,), keep=()))
    inputs = jnp.ones((1, 3))
    params, state = model.init(jax.random.key(0), inputs)
    slope = np.linspace(-1, 2, 32, dtype=np.float32)[None]

    def gradients(key):
        def loss(params, which):
            outputs, _ = model.apply(params, state, inputs, train=True, key=key, gradients=2)
            return (outputs[which] * slope).sum()

        return [sum(jax.tree.leaves(jax.grad(loss)(params, which)))[0] for which in range(3)]

    first, again, other = (np.array(gradients(jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert len({row.tobytes() for row in (*first, *other)}) == 6


# ---- layers


class One(nn.Module):
    layer: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.layer(x)


PLAIN = {"use_bias": False}
LAYERS = [
    (nn.Dense(3, **PLAIN), (5, 4), (1,)),
    (nn.DenseGeneral((2, 3), axis=(1, -1), **PLAIN), (5, 4, 6), (2, 3)),
    (nn.DenseGeneral(3, batch_dims=0, **PLAIN), (5, 4), (0, 2)),
    (nn.Einsum((4, 2, 3), "ab,bcd->acd", **PLAIN), (5, 4), (1, 2)),
    (nn.Conv(3, (2, 2), **PLAIN), (2, 5, 5, 4), (3,)),
    (nn.Conv(6, (2, 2), feature_group_count=2, **PLAIN), (2, 5, 5, 4), (3,)),
    (nn.ConvTranspose(3, (2, 2), **PLAIN), (2, 5, 5, 4), (3,)),
    (nn.ConvTranspose(3, (2, 2), transpose_kernel=True, **PLAIN), (2, 5, 5, 4), (2,)),
    (nn.ConvLocal(3, (2, 2), **PLAIN), (2, 5, 5, 4), (3,)),
]


@pytest.mark.parametrize("layer, shape, channels", LAYERS)
def test_every_output_channel_of_a_kernel_has_a_range_of_its_own(layer, shape, channels):
    """So a channel of a larger size takes no levels from the others: the size passes through."""
    model = quantized(from_linen(One(layer)), Precision((WEIGHTS,), keep=()))
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=shape).astype(np.float32)
    params, state = model.init(jax.random.key(0), inputs)
    kernel = np.asarray(params["layer"]["kernel"])
    sizes = np.float32(2) ** rng.integers(-3, 4, [kernel.shape[axis] for axis in channels])
    others = tuple(axis for axis in range(kernel.ndim) if axis not in channels)
    scaled = {"layer": {"kernel": kernel * np.expand_dims(sizes, others)}}
    static = {"train": True, "key": None, "weights": 3}
    one, other = (
        np.asarray(model.apply(own, state, inputs, **static)[0]) for own in (params, scaled)
    )
    np.testing.assert_array_equal(other, one * sizes)
    whole, _ = from_linen(One(layer)).apply(params, {}, inputs, train=False)
    assert not np.allclose(one, whole)


@pytest.mark.parametrize(
    "name, first, last, number",
    [
        ("mlp", "Dense_0", "Dense_1", 2),
        ("patch_dense", "DenseGeneral_0", "Dense_1", 3),
        ("cnn", "Conv_0", "Dense_0", 3),
        ("resnet20_cifar", "ConvNorm_0/Conv_0", "Dense_0", 20),
    ],
)
def test_the_layers_of_our_networks_are_found_in_order(name, first, last, number):
    model = make_model(name, num_classes=3, axis_name=None)
    found = ["/".join(path) for path in layers_of(model, jnp.zeros((1, 16, 16, 1)))]
    assert len(found) == number and (found[0], found[-1]) == (first, last)


class Network(nn.Module):
    lift: str = ""

    @nn.compact
    def __call__(self, x):
        dense = nn.remat(nn.Dense) if self.lift == "remat" else nn.Dense
        x = nn.relu(dense(6, name="hidden")(x.reshape(len(x), -1)))
        if self.lift == "scan":
            scan = nn.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2
            )
            x, _ = scan(name="blocks")(x, None)
        return nn.Dense(3)(x)


class Block(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        return nn.Dense(6)(carry), None


def test_a_layer_that_is_computed_again_in_the_backward_pass_is_quantized_alike():
    found = []
    for lift in ("", "remat"):
        model = quantized(from_linen(Network(lift)), Precision(ALL))
        params, state = variables_of(model)
        found.append(loss_and_gradients(model, params, state, key=jax.random.key(1), **BIT_NUMBERS))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), *found)


def test_kernels_that_are_one_array_are_refused_or_kept():
    model = quantized(from_linen(Network("scan")), Precision(keep_is="precision.keep"))
    with pytest.raises(ValueError) as error:
        model.init(jax.random.key(0), IMAGES)
    assert str(error.value) == (
        "blocks/Dense_0 cannot be quantized inside nn.scan or nn.vmap, where kernels of several "
        "layers are one array: add it to precision.keep."
    )
    kept = quantized(from_linen(Network("scan")), Precision(keep=("last", "blocks")))
    params, state = kept.init(jax.random.key(0), IMAGES)
    assert set(state[RANGES]) == {"hidden"}
    kept.apply(params, state, IMAGES, train=True, key=None, weights=3, activations=3)


# ---- layers that one call does not stand for, and layers without a place for ranges


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(nn.SimpleCell(4))(x.reshape(len(x), 2, 3))[:, -1])


class Mapped(nn.Module):
    """One layer for both halves of the inputs."""

    @nn.compact
    def __call__(self, x):
        shared = nn.vmap(nn.Dense, variable_axes={"params": None}, split_rngs={"params": False})
        return nn.Dense(3)(shared(4)(x.reshape(len(x), 2, 3)).reshape(len(x), -1))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.WeightNorm(nn.Dense(4))(x.reshape(len(x), -1)))


def step(module, words, keep=()):
    """Returns the outputs of a training step, and the state after it."""
    model = quantized(from_linen(module), Precision(words, keep=keep, keep_is="precision.keep"))
    params, state = model.init(jax.random.key(0), IMAGES)
    key, bits = jax.random.key(1), {word: BIT_NUMBERS[word] for word in words}
    return model.apply(params, state, IMAGES, train=True, key=key, **bits)


@pytest.mark.parametrize(
    "module, words, line",
    [
        (
            Recurrent(),
            (ACTIVATIONS,),
            "SimpleCell_0/i, SimpleCell_0/h cannot have bits for activations inside nn.scan, "
            "nn.RNN or nn.vmap, where one call stands for many: add it to precision.keep.",
        ),
        (
            Recurrent(),
            (WEIGHTS, GRADIENTS),
            "SimpleCell_0/i, SimpleCell_0/h cannot have bits for gradients inside nn.scan, nn.RNN "
            "or nn.vmap, where one call stands for many: add it to precision.keep.",
        ),
        (
            Mapped(),
            ALL,
            "VmapDense_0 cannot have bits for activations and gradients inside nn.scan, nn.RNN or "
            "nn.vmap, where one call stands for many: add it to precision.keep.",
        ),
        (
            Normed(),
            ALL,
            "Dense_1 cannot have bits for activations inside nn.WeightNorm or nn.map_variables, "
            "where a range has no place: add it to precision.keep.",
        ),
    ],
)
def test_a_layer_that_cannot_have_such_bits_is_one_line(module, words, line):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(lambda: step(module, words))
    assert str(error.value) == line


@pytest.mark.parametrize(
    "module, layer",
    [(Recurrent(), "SimpleCell_0"), (Mapped(), "VmapDense_0"), (Normed(), "Dense_1")],
)
def test_such_a_layer_may_have_few_bits_for_weights_or_be_kept(module, layer):
    whole, few = step(module, ()), step(module, (WEIGHTS,))
    assert not np.allclose(whole[0], few[0])
    _, state = step(module, ALL, keep=(layer,))
    assert set(state[RANGES]) == {"Dense_0"}


def test_a_weight_normed_layer_may_have_few_bits_for_gradients():
    outputs, _ = step(Normed(), (WEIGHTS, GRADIENTS))
    np.testing.assert_array_equal(outputs, step(Normed(), (WEIGHTS,))[0])


class Tokens(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Dense(4)((x > 0).astype(jnp.int32).reshape(len(x), -1)))


def test_inputs_that_are_no_floats_are_one_line():
    with pytest.raises(ValueError) as error:
        step(Tokens(), ALL)
    assert str(error.value) == (
        "Dense_1 cannot have bits for activations, since its inputs are int32, no floats: add it "
        "to precision.keep."
    )
    step(Tokens(), (WEIGHTS, GRADIENTS))
    step(Tokens(), ALL, keep=("Dense_1",))


@pytest.mark.parametrize(
    "model, keep, line",
    [
        (
            from_linen(One(nn.Einsum((3, 1, 4), "abc...,c...d->abd...", use_bias=False))),
            (),
            "a kernel with an ellipsis cannot be quantized, got 'abc...,c...d->abd...'.",
        ),
        (
            mlp(),
            ("Dense_7",),
            "keep must name 'first', 'last' or layers of Dense_0, Dense_1, got 'Dense_7'.",
        ),
        (mlp(hidden_sizes=()), ("last",), "keep leaves no layer to quantize of Dense_0."),
        (
            Model(lambda key, x: ({}, {}), lambda params, state, x, **options: (x, state)),
            (),
            "no layer can be quantized: there is none of flax.linen's Dense, DenseGeneral, Einsum, "
            "Conv, ConvLocal, ConvTranspose.",
        ),
    ],
)
def test_what_cannot_be_quantized_is_one_line(model, keep, line):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(
            lambda: quantized(model, Precision(keep=keep)).init(jax.random.key(0), IMAGES)
        )
    assert str(error.value) == line
