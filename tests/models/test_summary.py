"""Tables of models: every parameter is in them, and the total is right."""

import jax
import jax.numpy as jnp
import pytest

from cyclical_jax.models import CNN, from_linen, summary
from tests import commands
from tests.own_models import make_layers_model, make_nnx_model, make_transformed_model


def test_a_linen_model_has_a_line_for_each_layer():
    text = summary(from_linen(CNN(num_classes=10)), jnp.zeros([1, 8, 8, 1]))
    assert "Conv_1" in text and "float32[1,4,4,64]" in text  # its outputs
    assert "18,496" in text and "Total Parameters: 21,386" in text
    assert max(map(len, text.splitlines())) <= 120 and "\x1b" not in text


@pytest.mark.parametrize(
    "model, names",
    [
        (make_layers_model(), ["0/weight", "1/weight", "1/bias"]),
        (make_transformed_model(), ["net/~/linear/w", "net/~/logits/w"]),
        (make_nnx_model(pixels=9, classes=4), ["hidden/bias", "hidden/kernel", "norm/scale"]),
    ],
    ids=["layers", "transformed", "nnx"],
)
def test_any_other_model_has_a_line_for_each_array(model, names):
    text = summary(model, jnp.zeros([1, 3, 3, 1]))
    params, state = model.init(jax.random.key(0), jnp.zeros([1, 3, 3, 1]))
    lines = {line.split()[0]: line.split()[-1] for line in text.splitlines() if line}
    assert all(name in text for name in names)
    assert lines["total"] == f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
    assert ("model state" in text) == bool(jax.tree.leaves(state))
    assert f"float32{list(jax.tree.leaves(params)[0].shape)}" in text


def test_the_command_prints_it_and_ends(tmp_path):
    config = "--config=configs/digits.py"
    code, out, err = commands.in_this_process("train", config, "--summary")
    assert (code, err) == (0, "") and "Total Parameters: 4,810" in out
    changed = "--config.model.hidden_sizes=(3,)"
    assert "float32[64,3]" in commands.in_this_process("train", config, changed, "--summary").stdout
