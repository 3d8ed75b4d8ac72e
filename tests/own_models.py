"""Models that a user of another library brings, each as two functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cyclical_jax.models import Model


class Network(nnx.Module):
    """[batch, height, width, 1] -> [batch, classes], with BatchNorm and dropout."""

    def __init__(self, pixels, classes, axis_name, rngs):
        self.hidden = nnx.Linear(pixels, 32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, momentum=0.8, axis_name=axis_name, rngs=rngs)
        self.dropout = nnx.Dropout(0.1)
        self.logits = nnx.Linear(32, classes, rngs=rngs)

    def __call__(self, images, *, rngs):
        x = nnx.relu(self.norm(self.hidden(images.reshape(len(images), -1))))
        return self.logits(self.dropout(x, rngs=rngs))


def make_nnx_model(axis_name=None, *, pixels=64, classes=10):
    """Flax NNX splits a network into a graph, which stays the same, and pytrees, which change."""

    def network(key):
        return Network(pixels, classes, axis_name, nnx.Rngs(key))

    graph = nnx.graphdef(nnx.eval_shape(lambda: network(0)))

    def init(key, images):
        return nnx.state(network(key), nnx.Param, nnx.BatchStat)

    def apply(params, model_state, images, *, train, key=None):
        network = nnx.merge(graph, params, model_state, copy=True)
        network.set_attributes(deterministic=not train, use_running_average=not train)
        logits = network(images, rngs=nnx.Rngs(key) if train else None)
        return logits, nnx.state(network, nnx.BatchStat)

    return Model(init, apply)


class Linear(NamedTuple):
    """A layer as Equinox has it: a pytree of its arrays, where one that is not used is None."""

    weight: Any
    bias: Any = None

    def __call__(self, x):
        return x @ self.weight if self.bias is None else x @ self.weight + self.bias[None]


def make_layers_model(*, classes=4, width=16):
    """Parameters are a tuple of layers, which are called; there is no model state."""

    def init(key, images):
        pixels, keys = images[0].size, jax.random.split(key)
        first = Linear(jax.random.normal(keys[0], (pixels, width)) / pixels**0.5)
        last = Linear(jax.random.normal(keys[1], (width, classes)) / width**0.5, jnp.zeros(classes))
        return (first, last), None

    def apply(params, model_state, images, *, train, key=None):
        x = images.reshape(len(images), -1)
        for layer in params[:-1]:
            x = jax.nn.relu(layer(x))
        return params[-1](x), model_state

    return Model(init, apply)


def make_transformed_model(axis_name=None, *, classes=4, width=8):
    """As Haiku has it: params and state are {module: {name: array}}, and it normalises a batch."""

    def init(key, images):
        pixels, keys = images[0].size, jax.random.split(key)
        params = {
            "net/~/linear": {"w": jax.random.normal(keys[0], (pixels, width)) / pixels**0.5},
            "net/~/logits": {"w": jax.random.normal(keys[1], (width, classes)) / width**0.5},
        }
        return params, {"net/~/norm": {"mean": jnp.zeros(width)}}

    def apply(params, state, images, *, train, key=None):
        x = images.reshape(len(images), -1) @ params["net/~/linear"]["w"]
        mean = state["net/~/norm"]["mean"]
        if train:
            now = x.mean(0)
            now = jax.lax.pmean(now, axis_name) if axis_name else now
            x, mean = x - now[None], 0.9 * mean + 0.1 * now
        else:
            x = x - mean[None]
        logits = jax.nn.relu(x) @ params["net/~/logits"]["w"]
        return logits, {"net/~/norm": {"mean": mean}}

    return Model(init, apply)


def make_convolution_model(*, classes=4):
    """A 3x3 convolution, and the means of its maps."""

    def init(key, images):
        return {"kernel": jax.random.normal(key, (3, 3, images.shape[-1], classes))}, {}

    def apply(params, state, images, *, train, key=None):
        strides = (1, 1)
        dimensions = ("NHWC", "HWIO", "NHWC")
        maps = jax.jit(
            jax.lax.conv_general_dilated, static_argnums=(2, 3), static_argnames="dimension_numbers"
        )(images, params["kernel"], strides, "SAME", dimension_numbers=dimensions)
        return maps.mean((1, 2)), state

    return Model(init, apply)
