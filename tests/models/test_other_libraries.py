"""The train step takes a model of another library, as two functions: here one of Flax NNX."""

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import cyclical_jax as cj
from cyclical_jax.training.state import init_state
from cyclical_jax.training.step import Program, make_train_step
from cyclical_jax.training.technique import LossTerm
from tests.own_models import make_nnx_model


def test_an_nnx_network_with_batch_norm_and_dropout_learns_digits():
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    model, optimizer = make_nnx_model(), optax.adamw(0.01)
    term = LossTerm(lambda logits, batch, values: cj.softmax_cross_entropy(logits, batch["label"]))
    step = jax.jit(make_train_step(Program(model, optimizer, [term])))
    state = init_state(model, optimizer, images[:2], seed=0)

    losses = []
    for start in range(0, 20 * 64, 64):
        take = slice(start, start + 64)
        state, metrics = step(state, {"image": images[take], "label": labels[take]})
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])

    logits, kept = model.apply(state.params, state.model_state, images[1280:], train=False)
    assert (logits.argmax(-1) == labels[1280:]).mean() > 0.8
    jax.tree.map(np.testing.assert_array_equal, kept, state.model_state)
    variables = state.params, state.model_state, images[:64]
    draws = [model.apply(*variables, train=True, key=jax.random.key(seed))[0] for seed in (0, 1)]
    assert not np.allclose(*draws)
