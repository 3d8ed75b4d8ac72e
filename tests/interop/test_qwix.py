"""Parameters as whole numbers by Qwix; what compares with the library itself is slow."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import cyclical_jax
from cyclical_jax import data
from cyclical_jax.interop import qwix
from cyclical_jax.models import from_linen, quantized
from cyclical_jax.models.cnn import CNN
from cyclical_jax.models.mlp import MLP
from cyclical_jax.models.patch_dense import PatchDense
from cyclical_jax.precision import fake_quantize, quantized_conv, quantized_dot_general
from tests.docs import shell
from tests.docs.pages import ROOT, blocks_of

# Qwix 0.1.8 asks for a name that Flax 0.12.8 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'VariableState' was removed:DeprecationWarning")

PARAMS = {"Dense_0": {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}}


@pytest.fixture
def library():
    return pytest.importorskip("qwix", reason="Qwix is not installed")


def test_without_qwix_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    for call in (
        lambda: qwix.export(PARAMS, 4),
        lambda: qwix.dequantize({}),
        lambda: qwix.rules(4),
    ):
        with pytest.raises(ModuleNotFoundError) as error:
            call()
        assert str(error.value).endswith(
            'Install it: in the clone of cyclical_jax, pip install ".[qwix]".'
        )
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"bits": 1}, "`bits` must be an integer from 2 to 8, got 1."),
        ({"bits": 9}, "`bits` must be an integer from 2 to 8, got 9."),
        ({"bits": 4.5}, "`bits` must be an integer from 2 to 8, got 4.5."),
        ({"bits": 4, "keep": ["Dense_1"]}, "keep has 'Dense_1', but the layers are Dense_0."),
        ({"bits": 4, "keep": ["Dense"]}, "keep has 'Dense', but the layers are Dense_0."),
        ({"bits": 4, "keep": ["Dense_0"]}, "no kernel is left to quantize."),
        ({"bits": 4, "params": {"w": np.ones((2, 3))}}, "no kernel is left to quantize."),
    ],
)
def test_a_mistake_is_a_line(arguments, line):
    with pytest.raises(ValueError) as error:
        qwix.export(**{"params": PARAMS} | arguments)
    assert str(error.value) == line


DENSE = {"Dense_0": (0,)}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"layers": {"Dense_1": (0,)}}, "layers has 'Dense_1', but the layers are Dense_0."),
        ({"layers": {}}, "no kernel is left to quantize."),
        ({"layers": DENSE, "keep": ["Dense_0"]}, "no kernel is left to quantize."),
        (
            {"layers": {"Dense_0": (0, 2)}},
            "layers has the axes (0, 2) for Dense_0, whose kernel is [2, 3].",
        ),
    ],
)
def test_a_mistake_in_layers_is_a_line(arguments, line):
    with pytest.raises(ValueError) as error:
        qwix.export(PARAMS, 4, **arguments)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("kernel", "bias"),
    [
        ((2, 3, 4), None),  # a convolution over one axis, or heads of attention
        ((3, 2, 4), (3, 4)),  # nn.DenseGeneral with an axis of batches
        ((4, 2), (4,)),  # nn.Einsum("...i,oi->...o")
        ((3, 3, 4, 2), (4,)),  # nn.ConvTranspose(transpose_kernel=True)
        ((5, 5, 9, 4), (5, 5, 4)),  # nn.ConvLocal
    ],
)
def test_a_kernel_whose_outputs_cannot_be_known_is_refused(kernel, bias):
    layer = {"kernel": np.ones(kernel)} | ({"bias": np.ones(bias)} if bias else {})
    with pytest.raises(ValueError) as error:
        qwix.export({"a": {"b": layer}} | PARAMS, 4)
    assert str(error.value) == (
        "the outputs of the kernel of a/b cannot be known from its shape: give `layers`, such as "
        "run.few_bit_layers(), or add it to keep."
    )


def test_a_wrong_width_of_activations_is_a_line():
    with pytest.raises(ValueError, match="^`activation_bits` must be .* from 2 to 8, got 16.$"):
        qwix.rules(4, activation_bits=16)


# ---- with the library


class Attention(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        words = images.reshape(len(images), 8, 8)
        return nn.Dense(3)(nn.MultiHeadDotProductAttention(num_heads=2)(words))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(x)


class Nested(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        x = Block(name="Block")(images.reshape(len(images), -1))
        return nn.Dense(3, name="Dense_0")(x)


MODULES = {
    "mlp": MLP(10, hidden_sizes=(16,)),
    "cnn": CNN(10, widths=(3, 5)),
    "patch_dense": PatchDense(10, patch_size=4, stride=2, channels=3, hidden_sizes=(7,)),
    "attention": Attention(),
    "nested": Nested(),
}
IMAGES = jax.random.normal(jax.random.key(0), (5, 8, 8, 1))
OF_HEADS = {"query", "key", "value"}  # layers with two axes of channels
CASES = [*(("mlp", bits) for bits in range(2, 9))]
CASES += [(name, bits) for name in ("cnn", "patch_dense", "attention") for bits in (3, 8)]


def params_of(name):
    params = MODULES[name].init(jax.random.key(1), IMAGES, train=False)["params"]
    return jax.tree.map(lopsided, params)


def lopsided(leaf):
    """The channels have other ranges; one is all zeros, one is tiny, and one has no negatives."""
    changed = np.array(leaf) + np.linspace(0, 1, leaf.shape[-1], dtype=np.float32)
    changed[..., 0] = abs(changed[..., 0])
    changed[..., 1] *= 1e-12
    changed[..., 2] = 0
    return jnp.asarray(changed)


def scale_by_hand(kernel, number, bits):
    """Scales of the formula, where the last `number` axes are channels."""
    ranges = np.abs(kernel).max(tuple(range(kernel.ndim - number)), keepdims=True)
    return np.where(ranges == 0, 1, np.float64(ranges) / (2 ** (bits - 1) - 0.5))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bits"), CASES)
def test_whole_numbers_and_scales_are_those_of_the_formula(library, name, bits):
    params = params_of(name)
    exported = flat(qwix.export(params, bits))
    restored = flat(qwix.dequantize(qwix.export(params, bits)))
    for path, leaf in flat(params).items():
        found = exported[path]
        if path[-1] != "kernel":
            assert found is leaf and restored[path] is leaf
            continue
        assert isinstance(found, library.QArray) and found.qvalue.dtype in (jnp.int4, jnp.int8)
        kernel, scale = np.asarray(leaf), np.asarray(found.scale)
        number = 2 if OF_HEADS & {*path} else 1
        np.testing.assert_allclose(scale, scale_by_hand(kernel, number, bits), rtol=3e-7)
        half = 2 ** (bits - 1)
        numbers = np.rint(kernel / scale).clip(-half, half - 1)
        np.testing.assert_array_equal(found.qvalue.astype(np.float32), numbers)
        np.testing.assert_array_equal(restored[path], numbers * scale)


def flat(params):
    """{path: array or QArray}."""
    pairs = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: not isinstance(x, dict))
    return {tuple(key.key for key in path): leaf for path, leaf in pairs}


class Odd(nn.Module):
    """Layers whose kernels have their outputs on other axes than the last, or on several."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.ConvTranspose(3, (3, 3), transpose_kernel=True)(images)
        x = nn.ConvLocal(3, (3, 3))(x)
        x = nn.Conv(6, (3, 3), feature_group_count=3, use_bias=False)(x)
        rows = x.reshape(len(x), 8, 48).swapaxes(0, 1)
        x = nn.DenseGeneral(8, axis=-1, batch_dims=(0,))(rows).swapaxes(0, 1)
        x = nn.Conv(8, (3,), use_bias=False)(x)
        x = nn.MultiHeadDotProductAttention(num_heads=2, use_bias=False)(x)
        x = nn.Einsum((7, 8), "...i,oi->...o")(x)
        return nn.Dense(4, use_bias=False)(x.mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_with_the_layers_of_training_the_floats_are_its_own_bit_for_bit(library, bits):
    """And without them, what differs is refused."""
    model = from_linen(Odd())
    how = quantized.Precision((quantized.WEIGHTS,), symmetric=True, keep=("last",))
    params = model.init(jax.random.key(1), IMAGES)[0]
    few = quantized.quantized_layers(model, IMAGES, how)
    given = {"/".join(path): axes for path, axes in few.items()}
    assert len(given) == 10
    restored = flat(qwix.dequantize(qwix.export(params, bits, layers=given)))
    for path, leaf in flat(params).items():
        axes = given.get("/".join(path[:-1])) if path[-1] == "kernel" else None
        few = leaf if axes is None else fake_quantize(leaf, bits, axes=axes, symmetric=True)
        np.testing.assert_array_equal(restored[path], few)
    with pytest.raises(ValueError, match="^the outputs of the kernel of .*query.* cannot be known"):
        qwix.export(params, bits)


@pytest.mark.slow
def test_the_rules_can_be_of_the_same_layers(library):
    """ "Dense_0" is not kept with its namesake, as a name in `keep` would be."""
    params, layers = params_of("nested"), {"Block/Dense_0": (0,)}
    model = served(library, "nested", qwix.rules(6, activation_bits=6, layers=layers))
    like = jax.eval_shape(lambda: model.init(jax.random.key(1), IMAGES, train=False))["params"]
    theirs = library.quantize_params(params, like)
    found = jax.tree.leaves(theirs)
    expected = jax.tree.leaves(qwix.export(params, 6, layers=layers))
    assert len(found) == len(expected) == len(jax.tree.leaves(params)) + 1
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_the_rules_make_qwixs_own_model_of_the_same_kernels(library, name):
    params, keep = params_of(name), ["Block" if name == "nested" else "Dense_0"]
    model = served(library, name, qwix.rules(6, activation_bits=6, keep=keep))
    like = jax.eval_shape(lambda: model.init(jax.random.key(1), IMAGES, train=False))["params"]
    theirs = library.quantize_params(params, like)
    found, expected = jax.tree.leaves(theirs), jax.tree.leaves(qwix.export(params, 6, keep=keep))
    assert len(found) == len(expected) > len(jax.tree.leaves(params))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def served(library, name, rules):
    return library.quantize_model(MODULES[name], library.PtqProvider(rules))


@pytest.mark.slow
def test_qwixs_model_of_whole_weights_computes_the_logits_of_the_floats(library):
    params = params_of("mlp")
    model = served(library, "mlp", qwix.rules(4, keep=["Dense_1"]))
    like = jax.eval_shape(lambda: model.init(jax.random.key(1), IMAGES, train=False))["params"]
    theirs = model.apply({"params": library.quantize_params(params, like)}, IMAGES, train=False)
    floats = qwix.dequantize(qwix.export(params, 4, keep=["Dense_1"]))
    ours = MODULES["mlp"].apply({"params": floats}, IMAGES, train=False)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
    assert abs(ours - MODULES["mlp"].apply({"params": params}, IMAGES, train=False)).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bits"), CASES)
def test_the_floats_are_those_that_training_uses(library, name, bits):
    params = params_of(name)
    restored = flat(qwix.dequantize(qwix.export(params, bits)))
    for path, kernel in flat(params).items():
        if path[-1] == "kernel":
            axes = range(kernel.ndim - (2 if OF_HEADS & {*path} else 1))
            trained = fake_quantize(kernel, bits, axes=tuple(axes), symmetric=True)
            np.testing.assert_array_equal(restored[path], trained)


class Net(nn.Module):
    """A convolution and a dense layer, whose weights have few bits if `bits` are given."""

    bits: int | None = None

    @nn.compact
    def __call__(self, images):
        few = {"activation_bits": None, "symmetric": True}
        conv = quantized_conv(self.bits, None, **few)
        maps = nn.relu(nn.Conv(6, (3, 3), conv_general_dilated=conv)(images))
        product = quantized_dot_general(self.bits, None, **few)
        return nn.Dense(10, dot_general=product)(maps.reshape(len(maps), -1))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_the_exported_network_has_the_logits_of_the_trained_one(library, bits):
    """Within one ulp of a weight's scale, by which a compiled program may differ."""
    params = Net().init(jax.random.key(3), IMAGES)["params"]
    trained = jax.jit(lambda params: Net(bits).apply({"params": params}, IMAGES))(params)
    exported = qwix.dequantize(qwix.export(params, bits))
    np.testing.assert_allclose(Net().apply({"params": exported}, IMAGES), trained, atol=1e-5)
    assert abs(Net().apply({"params": params}, IMAGES) - trained).max() > 1e-3


@pytest.mark.slow
def test_the_page_exports_the_weights_of_its_run(library, tmp_path, monkeypatch, capsys):
    """docs/precision.md: the run of the block that trains with 4 bits, and the block of Qwix."""
    blocks = blocks_of(ROOT / "docs" / "precision.md")
    (train,) = (block for block in blocks if "--workdir=runs/four \\" in block.text)
    place = [i for i, block in enumerate(blocks) if "import qwix" in block.text]
    block, told = blocks[place[0]], blocks[place[0] + 1]
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shell.run(train.text, tmp_path)
    monkeypatch.chdir(tmp_path)
    examples = data.load("digits").validation
    exec(block.text, {"cj": cyclical_jax, "examples": examples})
    assert capsys.readouterr().out == told.text
