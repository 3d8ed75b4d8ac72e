"""The programs of a run as an accelerator would get them; no accelerator is needed.

`tests/test_catalogue.py` looks at those of each technique and task.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cyclical_jax import data
from cyclical_jax.training import ahead, loop
from tests import lowered
from tests.helpers import recipe_of

CLASSES = 10


def images(number, size=8):
    """As many as that, of which none is the other."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (number, size, size, 1)).astype(np.uint8)
    return {"image": image, "label": np.arange(number, dtype=np.int32) % CLASSES}


# ---- the checks see what they look for


def test_a_program_without_faults_has_none():
    program = jax.jit(lambda x: x @ x.T).lower(np.ones((2, 3)))
    assert lowered.faults(program.as_text()) == []


def with_a_callback(x):
    return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def with_a_large_constant(x):
    return x + np.random.default_rng(0).random(len(x), np.float32)


@pytest.mark.parametrize(
    "function, number, fault",
    [
        (lambda x: jnp.float64(x), 2, "f64 values"),
        (lambda x: x + jnp.arange(2), 2, "i64 values"),
        (with_a_callback, 2, "callback"),
        (with_a_large_constant, 250_001, "a constant of 1000004 bytes"),
    ],
)
def test_a_fault_is_found(function, number, fault):
    x = jax.ShapeDtypeStruct((number,), np.float32)
    with jax.enable_x64(fault.endswith("64 values")):
        program = jax.jit(function).lower(x)
    assert any(fault in found for found in lowered.faults(program.as_text()))


# ---- precision


@pytest.mark.parametrize("name", ["cnn", "resnet20_cifar"])
def test_a_bfloat16_recipe_multiplies_float32_in_its_head_alone(name):
    recipe = recipe_of(None, model__name=name, model__dtype="bfloat16", batch_size=12)
    dataset = data.Dataset(images(60), images(12), images(12), CLASSES)
    run = (recipe, dataset, "stepwise", tuple(jax.devices()))
    text = lowered.for_accelerators(ahead.lowered, *run).as_text()
    convolutions = lowered.operands(text, "convolution")
    assert convolutions and {kind[-4:] for pair in convolutions for kind in pair} == {"bf16"}
    wide = [pair for pair in lowered.operands(text, "dot_general") if "f32" in "".join(pair)]
    assert wide and all(f"x{CLASSES}xf32" in "".join(pair) for pair in wide)


# ---- data


@pytest.mark.parametrize("way", ["resident", "stepwise"])
def test_no_program_of_a_run_holds_its_data(way, tmp_path, fast_compilation):
    split = images(16_000)
    assert split["image"].nbytes > lowered.LARGEST_CONSTANT
    dataset = data.Dataset(split, split, images(12), CLASSES)
    options = dict(batch_size=8000, model__hidden_sizes=(2,), duration="1 epoch", loop=way)
    jax.config.update("jax_dump_ir_to", str(tmp_path))
    try:
        loop.train(recipe_of(None, **options), dataset, report=lambda row: None)
    finally:
        jax.config.update("jax_dump_ir_to", "")
    texts = {path.name: path.read_text() for path in tmp_path.glob("*.mlir")}
    assert any("all_reduce" in text for text in texts.values()), list(texts)
    assert {name: lowered.faults(text) for name, text in texts.items()} == dict.fromkeys(texts, [])


# ---- norms


def test_the_log_and_the_clip_share_one_norm_of_the_gradient():
    """The compiler sees that they are the same; the gradient is read once for both."""
    recipe = recipe_of(None, optimizer__max_norm=0.5, model__hidden_sizes=(6,), batch_size=12)
    dataset = data.Dataset(images(60), images(12), images(12), CLASSES)
    program = ahead.lowered(recipe, dataset, "streamed", tuple(jax.devices())).compile()
    products = re.findall(r"f32\[64,6\]\S* multiply\(([^,]*), ([^,)]*)\)", program.as_text())
    assert [one == other for one, other in products].count(True) == 1


# ---- means over devices


def test_statistics_are_divided_before_they_are_summed():
    """No kernel of the step reads their sums, so that each division of one would be a kernel."""
    changes = dict(model__hidden_sizes=(6,), model__batch_norm=True, batch_size=12)
    dataset = data.Dataset(images(60), images(12), images(12), CLASSES)
    run = (recipe_of(None, **changes), dataset, "streamed", tuple(jax.devices()))
    text = ahead.lowered(*run).as_text()
    names = re.findall(r'(%\d+) = "stablehlo.all_reduce"(?:.*\n){4} *}\) : \(tensor<6xf32>', text)
    divided = [name for name in names if f"stablehlo.divide {name}, " in text]
    assert (len(names), len(divided)) == (5, 3)  # two statistics; the gradients of three vectors
