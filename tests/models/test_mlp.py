"""The MLP against its transcription in NumPy."""

import jax
import numpy as np

from cyclical_jax.models import make_model


def test_the_mlp_equals_its_transcription():
    model = make_model("mlp", num_classes=3, axis_name=None, hidden_sizes=(6, 4))
    images = np.random.default_rng(0).normal(size=(5, 3, 4, 2)).astype(np.float32)
    params, state = model.init(jax.random.key(0), images)
    assert state == {} and list(params) == ["Dense_0", "Dense_1", "Dense_2"]
    shapes = [params[name]["kernel"].shape for name in params]
    assert shapes == [(24, 6), (6, 4), (4, 3)]

    x = np.stack([image.flatten() for image in images])
    for name in ("Dense_0", "Dense_1", "Dense_2"):
        x = x @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])
        x = x if name == "Dense_2" else np.maximum(x, 0)
    logits, _ = model.apply(params, state, images, train=False)
    np.testing.assert_allclose(logits, x, rtol=1e-5, atol=1e-5)


def test_batch_norm_comes_before_the_relu():
    """A normalisation with a bias far below 0 silences the ReLU."""
    model = make_model("mlp", num_classes=3, axis_name=None, batch_norm=True)
    images = np.random.default_rng(0).normal(size=(5, 3, 4, 2)).astype(np.float32)
    params, state = model.init(jax.random.key(0), images)
    params["BatchNorm_0"]["bias"] -= 1000.0
    params["Dense_1"]["bias"] += 1.5
    logits, _ = model.apply(params, state, images, train=True)
    np.testing.assert_array_equal(logits, np.full((5, 3), 1.5))
