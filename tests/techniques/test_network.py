"""The network that a config names, within a step: its layers and its rates, by hand."""

import jax
import numpy as np
import pytest

from cyclical_jax.training.recipe import cyclical
from tests.techniques.helpers import cross_entropies, flat, step_and_state

pytestmark = pytest.mark.usefixtures("fast_compilation")


def hidden_and_loss(state, batch, scale=1.0):
    params = jax.device_get(state.params)
    first, second = params["Dense_0"], params["Dense_1"]
    hidden = np.maximum(flat(batch["image"]) @ first["kernel"] + first["bias"], 0)
    logits = scale * hidden @ second["kernel"] + second["bias"]
    return hidden, cross_entropies(logits, batch["label"]).mean()


def test_dropout_cycles_from_none_to_all(batch):
    step, state = step_and_state(
        model__hidden_sizes=(6,), model__dropout=cyclical(0, 1), loss__temperature=1.0
    )
    losses = {}
    for count in (0, 1, 2):
        _, metrics = step(state._replace(step=state.step * 0 + count), batch)
        losses[count] = float(metrics["loss"])
        assert metrics["dropout"] == count / 2
    _, whole = hidden_and_loss(state, batch)
    _, none = hidden_and_loss(state, batch, scale=0.0)
    assert losses[0] == pytest.approx(whole, rel=1e-5)
    assert losses[2] == pytest.approx(none, rel=1e-5)
    assert losses[1] != pytest.approx(whole, rel=1e-3)


def test_a_dtype_is_that_of_the_computation_alone(batch):
    step, state = step_and_state(model__hidden_sizes=(6,), model__dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
    _, metrics = step(state, batch)
    _, exact = hidden_and_loss(state, batch)
    assert metrics["loss"].dtype == np.float32
    assert float(metrics["loss"]) == pytest.approx(exact, rel=2e-2)
    assert float(metrics["loss"]) != pytest.approx(exact, rel=1e-6)
