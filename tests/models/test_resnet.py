"""The papers' networks: their sizes are as published, their values equal timm's."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from benchmarks.peers import import_timm
from cyclical_jax.losses import softmax_cross_entropy
from cyclical_jax.models import CONVOLUTIONAL, MODEL_OPTIONS, make_model
from cyclical_jax.models.classifier import dropped
from cyclical_jax.models.resnet import RESNETS, ConvNorm, ResNet, skip_rates
from cyclical_jax.models.tresnet import blur_pool, space_to_depth


def variables_of(name, size, num_classes=10):
    model = make_model(name, num_classes=num_classes, axis_name=None)
    images = jnp.zeros((1, size, size, 3))
    return model, jax.eval_shape(lambda: model.init(jax.random.key(0), images))


@pytest.mark.parametrize(
    "name, size, num_classes, expected",
    [
        ("resnet10", 224, 1000, 5_418_792),
        ("resnet18", 224, 1000, 11_689_512),
        ("resnet50", 224, 1000, 25_557_032),
        ("resnet152", 224, 1000, 60_192_808),
        ("resnet18_cifar", 32, 10, 11_173_962),
        ("resnet20_cifar", 32, 10, 269_722),
        ("tresnet_m", 224, 1000, 31_389_032),
    ],
)
def test_there_are_as_many_parameters_as_published(name, size, num_classes, expected):
    _, (params, state) = variables_of(name, size, num_classes)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} == {jnp.dtype("float32")}


def random_like(tree, seed):
    """Draws values like those of a trained network: scales and variances are around 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        values = rng.normal(size=leaf.shape).astype("f4")
        if name == "kernel":
            return values * np.float32(1 / np.sqrt(np.prod(leaf.shape[:-1])))
        return 1 + 0.2 * np.tanh(values) if name in ("scale", "var") else 0.1 * values

    return jax.tree_util.tree_map_with_path(draw, tree)


@pytest.mark.parametrize(
    "name, size",
    [("resnet20_cifar", 16), pytest.param("tresnet_m", 32, marks=pytest.mark.slow)],
)
def test_a_bfloat16_network_is_near_the_float32_one_and_its_logits_are_float32(name, size):
    model, (params, state) = variables_of(name, size)
    params, state = random_like(params, 0), random_like(state, 1)
    images = np.random.default_rng(2).normal(size=(2, size, size, 3)).astype("f4")
    exact = jax.jit(lambda x: model.apply(params, state, x, train=False)[0])(images)
    rounding = make_model(name, num_classes=10, axis_name=None, dtype="bfloat16")
    rounded = jax.jit(lambda x: rounding.apply(params, state, x, train=False)[0])(images)
    assert rounded.dtype == exact.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=0.1 * np.abs(exact).max())
    assert np.abs(rounded - exact).max() > 0


def test_batchnorm_sees_the_batch_of_all_devices():
    model = make_model("resnet20_cifar", num_classes=3, axis_name="batch")
    single = make_model("resnet20_cifar", num_classes=3, axis_name=None)
    _, (params, state) = variables_of("resnet20_cifar", 8, 3)
    params, state = random_like(params, 0), random_like(state, 1)
    images = np.random.default_rng(2).normal(size=(4, 8, 8, 3)).astype("f4")
    images[2:] += 3

    def on_part(part):
        return model.apply(params, state, part, train=True)

    on_parts = jax.jit(jax.vmap(on_part, axis_name="batch"))
    logits, new_state = on_parts(images.reshape(2, 2, 8, 8, 3))
    on_whole = jax.jit(lambda whole: single.apply(params, state, whole, train=True))
    expected, expected_state = on_whole(images)
    np.testing.assert_allclose(logits.reshape(4, 3), expected, rtol=2e-4, atol=2e-4)
    for leaf, of_all in zip(
        jax.tree.leaves(new_state), jax.tree.leaves(expected_state), strict=True
    ):
        np.testing.assert_allclose(leaf[1], of_all, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def fresh():
    """Returns resnet20_cifar for 3 classes, with its initial variables."""
    model = make_model("resnet20_cifar", num_classes=3, axis_name=None)
    return model, *jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_at_the_start_each_block_is_its_parameter_free_shortcut(fresh):
    """The features are every fourth pixel of the stem's 16 channels, beside zeros."""
    model, params, state = fresh
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("f4")
    of_stem = {"params": params["ConvNorm_0"], "batch_stats": state["batch_stats"]["ConvNorm_0"]}
    stem = jax.nn.relu(ConvNorm(16, 3).apply(of_stem, images, train=False))
    features = np.zeros((2, 64), "f4")
    features[:, 24:40] = stem[:, ::4, ::4].mean((1, 2))
    logits, _ = jax.jit(lambda x: model.apply(params, state, x, train=False))(images)
    expected = features @ params["Dense_0"]["kernel"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_sgd_learns_a_batch(fresh):
    model, params, state = fresh
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("f4")
    labels = np.arange(6) % 3

    @jax.jit
    def step(params, state):
        def loss(params):
            logits, new_state = model.apply(params, state, images, train=True)
            return softmax_cross_entropy(logits, labels).mean(), new_state

        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), state, value, gradient

    losses = []
    for _ in range(40):
        params, state, value, gradient = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.3 * losses[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.isfinite(leaf).all() and leaf.any(), path


# ---- parts


def test_convolutions_start_he_normal_by_what_leaves_them_and_the_averages_move_by_a_tenth():
    x = np.random.default_rng(0).normal(size=(4, 6, 5, 8)).astype("f4") + 1
    layer = ConvNorm(64, 3)
    variables = layer.init(jax.random.key(0), x, train=False)
    kernel = variables["params"]["Conv_0"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (3 * 3 * 64)), rtol=0.05)
    assert jnp.abs(kernel).max() > 3 * kernel.std()  # not truncated at 2
    _, moved = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    convolved = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    mean, var = convolved.mean((0, 1, 2)), convolved.var((0, 1, 2))
    statistics = moved["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * var, rtol=1e-4)


# ---- stochastic depth


def logits_of(network, params, state, images, seed, **knobs):
    options = dict(train=True, rngs={"dropout": jax.random.key(seed)}, mutable=["batch_stats"])
    return network.clone(**knobs).apply({"params": params, **state}, images, **options)[0]


def without_branches(params):
    """Sets the scale and bias of each block's last normalisation to 0, as they start."""

    def zeroed(path, leaf):
        is_last = path[0].key == "ConvNorm_2" and path[1].key == "BatchNorm_0"
        return jnp.zeros_like(leaf) if is_last else leaf

    return jax.tree_util.tree_map_with_path(zeroed, params)


@pytest.fixture(scope="module")
def one_block():
    network = ResNet(10, stage_sizes=(1,), stage_width=4, is_for_small_images=True)
    images = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("f4")
    variables = dict(network.init(jax.random.key(0), images, train=False))
    params = random_like(variables.pop("params"), 3)
    return network, params, variables, images


def test_an_image_that_skips_a_block_has_its_shortcut_alone(one_block):
    network, params, state, images = one_block
    whole = logits_of(network, params, state, images, 0)
    skipped = logits_of(network, without_branches(params), state, images, 0)
    assert np.abs(whole - skipped).max(-1).min() > 1e-3
    at_one = logits_of(network, params, state, images, 0, stochastic_depth=jnp.float32(1.0))
    np.testing.assert_allclose(at_one, skipped, rtol=1e-5, atol=1e-6)
    at_zero = logits_of(network, params, state, images, 0, stochastic_depth=jnp.float32(0.0))
    np.testing.assert_allclose(at_zero, whole, rtol=1e-5, atol=1e-6)
    at_quarter = logits_of(network, params, state, images, 0, stochastic_depth=jnp.float32(0.25))
    is_skipped = np.abs(at_quarter - skipped).max(-1) < 1e-4
    assert 6 < is_skipped.sum() < 28  # 16 ± 3.5 of 64
    # The branch of the others is scaled, so they equal neither the whole nor the shortcut.
    assert (np.abs(at_quarter - whole).max(-1)[~is_skipped] > 1e-4).all()


def test_what_does_not_skip_is_scaled_to_keep_the_mean():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, rate):
            return dropped(self, x, rate, (len(x), 1, 1, 1))

    x = jnp.ones((4000, 2, 2, 3))
    found = Dropped().apply({}, x, jnp.float32(0.3), rngs={"dropout": jax.random.key(0)})
    of_image = np.asarray(found[:, 0, 0, 0])
    np.testing.assert_array_equal(found, np.broadcast_to(of_image[:, None, None, None], x.shape))
    assert set(np.round(of_image, 5)) == {0, np.round(np.float32(1 / 0.7), 5)}
    assert of_image.mean() == pytest.approx(1, abs=0.05)


def test_the_rates_grow_in_a_line():
    assert list(skip_rates(0.5, 4)) == [0.125, 0.25, 0.375, 0.5]


@pytest.mark.parametrize(
    "name", ["resnet20_cifar", pytest.param("tresnet_m", marks=pytest.mark.slow)]
)
def test_a_published_network_takes_a_traced_rate(name):
    model, (params, state) = variables_of(name, 32)
    params, state = random_like(params, 0), random_like(state, 1)
    images = np.random.default_rng(2).normal(size=(4, 32, 32, 3)).astype("f4")

    @jax.jit
    def logits_at(rate, seed):
        key = jax.random.key(seed)
        knobs = {"stochastic_depth": rate}
        return model.apply(params, state, images, train=True, key=key, **knobs)[0]

    some, again, others = (logits_at(jnp.float32(0.5), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(some, again)
    assert np.abs(some - others).max() > 1e-3
    whole, _ = jax.jit(lambda x: model.apply(params, state, x, train=True))(images)
    # BatchNorm over four images with maps of one pixel magnifies rounding errors.
    error = np.abs(logits_at(jnp.float32(0), 0) - whole).max()
    assert error < 0.02 * np.abs(some - whole).max()


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_stochastic_depth_is_a_probability(rate):
    network = ResNet(10, stage_sizes=(1,), stage_width=4, stochastic_depth=rate)
    with pytest.raises(ValueError, match=f"`stochastic_depth` must be at least 0.*got {rate}"):
        network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)


def test_space_to_depth_keeps_every_pixel_of_a_square():
    images = np.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    squares = space_to_depth(jnp.asarray(images), 4)
    assert squares.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(squares[1, 1, 2].reshape(4, 4, 3), images[1, 4:8, 8:12])


@pytest.mark.parametrize("height, width", [(4, 6), (5, 3)])
def test_blur_pool_is_a_weighted_mean_around_every_other_pixel(height, width):
    x = np.random.default_rng(0).normal(size=(1, height, width, 2)).astype("f4")
    mirrored = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = [
        [
            np.einsum("hw,hwc->c", weights, mirrored[0, row : row + 3, column : column + 3])
            for column in range(0, width, 2)
        ]
        for row in range(0, height, 2)
    ]
    np.testing.assert_allclose(blur_pool(jnp.asarray(x))[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("height, width", [(30, 32), (32, 34), (16, 16)])
def test_images_that_tresnet_cannot_take_are_refused(height, width):
    model = make_model("tresnet_m", num_classes=2, axis_name=None)
    line = f"multiples of 4, at least 20, not {height} x {width}."
    with pytest.raises(ValueError, match=re.escape(line)):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, height, width, 3))))


@pytest.mark.parametrize("height, width, channels", [(8, 8, 1), (28, 28, 1), (1, 1, 3)])
@pytest.mark.parametrize("name", RESNETS)
def test_a_resnet_takes_images_of_any_size(name, height, width, channels):
    model = make_model(name, num_classes=5, axis_name=None)
    images = jnp.zeros((2, height, width, channels))

    def init_and_apply(key):
        return model.apply(*model.init(key, images), images, train=False)[0]

    assert jax.eval_shape(init_and_apply, jax.random.key(0)).shape == (2, 5)


@pytest.mark.parametrize("name", [*RESNETS, "tresnet_m"])
def test_a_published_network_is_convolutional_and_has_three_options(name):
    options = ("dtype", "stochastic_depth", "batch_norm_group")
    assert name in CONVOLUTIONAL and MODEL_OPTIONS[name] == options
    listed = ", ".join(map(repr, options))
    with pytest.raises(ValueError, match=f"option of {name}` must be one of {listed}, got"):
        make_model(name, num_classes=2, axis_name=None, hidden_sizes=(3,))


# ---- timm


def by_position(names):
    """Sorts by the numbers in the names: ConvNorm_12 comes after ConvNorm_2."""
    return sorted(names, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])


def in_order_of_use(torch, module):
    """Returns convolutions, normalisations and dense layers in the order of the forward pass."""
    used, hooks = [], []
    kinds = torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear
    for child in module.modules():
        if isinstance(child, kinds):
            hooks.append(child.register_forward_hook(lambda child, *_: used.append(child)))
    with torch.no_grad():
        module(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    return used


def copied(torch, module, params, state):
    """Copies our random weights into timm's network, in the order in which timm uses them."""
    used = in_order_of_use(torch, module)
    convolutions = [child for child in used if isinstance(child, torch.nn.Conv2d)]
    norms = [child for child in used if isinstance(child, torch.nn.BatchNorm2d)]
    excites = [child for child in convolutions if child.bias is not None]
    convolutions = [child for child in convolutions if child.bias is None]
    (head,) = (child for child in used if isinstance(child, torch.nn.Linear))
    ours = by_position(name for name in params if name.startswith("ConvNorm"))
    dense = by_position(name for name in params if name.startswith("Dense"))
    assert len(convolutions) == len(norms) == len(ours) and len(excites) == len(dense) - 1

    def tensor(array, *axes):
        return torch.tensor(np.array(array).transpose(*axes) if axes else np.array(array))

    # In timm's forward pass the shortcut of a block comes first, in ours last.
    order = shortcut_last(module, convolutions)
    for (convolution, norm), name in zip(
        [(convolutions[i], norms[i]) for i in order], ours, strict=True
    ):
        of_norm, statistics = params[name]["BatchNorm_0"], state["batch_stats"][name]["BatchNorm_0"]
        convolution.weight.data = tensor(params[name]["Conv_0"]["kernel"], 3, 2, 0, 1)
        norm.weight.data, norm.bias.data = tensor(of_norm["scale"]), tensor(of_norm["bias"])
        norm.running_mean, norm.running_var = tensor(statistics["mean"]), tensor(statistics["var"])
    for excite, name in zip(excites, dense, strict=False):
        excite.weight.data = tensor(params[name]["kernel"], 1, 0)[:, :, None, None]
        excite.bias.data = tensor(params[name]["bias"])
    head.weight.data = tensor(params[dense[-1]]["kernel"], 1, 0)
    head.bias.data = tensor(params[dense[-1]]["bias"])
    return module


def shortcut_last(module, convolutions):
    """Returns positions in `convolutions` by block, with its `downsample` after the others."""
    names = {child: name for name, child in module.named_modules()}

    def key(position):
        name = names[convolutions[position]]
        block = re.search(r"layer(\d+)\.(\d+)", name)
        place = tuple(map(int, block.groups())) if block else (0, 0)
        return place, "downsample" in name, position

    return sorted(range(len(convolutions)), key=key)


@pytest.mark.slow
@pytest.mark.parametrize("name, size", [("resnet18", 47), ("resnet50", 64), ("tresnet_m", 36)])
def test_the_forward_pass_is_timms(name, size):
    torch = pytest.importorskip("torch", reason="torch, needed for timm, is not installed")
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    timm = import_timm()
    model, (params, state) = variables_of(name, size)
    params, state = random_like(params, 0), random_like(state, 1)
    theirs = copied(torch, timm.create_model(name, num_classes=10).eval(), params, state)
    images = np.random.default_rng(2).normal(size=(2, size, size, 3)).astype("f4")
    ours, _ = jax.jit(lambda x: model.apply(params, state, x, train=False))(images)
    with torch.no_grad():
        expected = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max(), rtol=1e-4)
