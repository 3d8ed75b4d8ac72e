"""The time of a step with traced bits, over that of the plain one; and how often each compiles.

    python -m benchmarks.precision

It uses one core, batches of 128 images of 28 x 28, and the seconds that the core worked. A step is
the forward and backward pass of an MLP or of a small CNN, whose last layer has full precision. The
quantized step has weights, activations and gradients of 5 bits, where 5 is an argument of the
program. To say where the time goes, other rows quantize one of the three, spare the search for the
range, or round gradients to the nearest level, without random draws; and one row draws by
`jax.random.uniform`, as is usual.

Then each step runs with 2 to 8 bits. With static bits, which are a part of the program, as Qwix and
AQT need them, each number compiles anew. The claim: traced bits compile once.
"""

from benchmarks import interleaved

interleaved.pin_to_one_core()

import functools  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any, NamedTuple, TypeAlias  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import linen as nn  # noqa: E402

import cyclical_jax as cj  # noqa: E402
from cyclical_jax._compilations import compilations  # noqa: E402
from cyclical_jax.models.cnn import max_pool  # noqa: E402
from cyclical_jax.precision import (  # noqa: E402
    fake_quantize,
    quantize_gradient,
    quantized_conv,
    quantized_dot_general,
)

BATCH, CLASSES, BITS = 128, 10, 5
WIDTHS = range(2, 9)


Change: TypeAlias = Callable[[jax.Array], jax.Array]


class Operations(NamedTuple):
    """The operations by which the layers of a network multiply."""

    dot_general: Callable[..., jax.Array] = jax.lax.dot_general
    conv: Callable[..., jax.Array] = jax.lax.conv_general_dilated


class MLP(nn.Module):
    operations: Operations

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for features in (256, 128):
            x = nn.relu(nn.Dense(features, dot_general=self.operations.dot_general)(x))
        return nn.Dense(CLASSES)(x)


class CNN(nn.Module):
    operations: Operations

    @nn.compact
    def __call__(self, x):
        for features in (32, 64):
            conv = nn.Conv(features, (3, 3), conv_general_dilated=self.operations.conv)
            x = max_pool(nn.relu(conv(x)))
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


def of_bits(weights, gradients, key, activations) -> Operations:
    options: dict[str, Any] = {"key": key, "activation_bits": activations}
    return Operations(
        quantized_dot_general(weights, gradients, **options),
        quantized_conv(weights, gradients, **options),
    )


def changed(
    *, inputs: Change = lambda x: x, kernels: Change = lambda x: x, outputs: Change = lambda x: x
) -> Operations:
    """Returns plain operations whose operands or outputs are changed."""

    def of(operation):
        return lambda x, kernel, *args, **options: outputs(
            operation(inputs(x), kernels(kernel), *args, **options)
        )

    return Operations(*map(of, Operations()))


def in_known_range(bits) -> Change:
    return lambda x: fake_quantize(x, bits, limits=(-1, 1))


def usual(outputs, bits, key):
    """Returns the outputs; their gradient is rounded with draws of JAX's own generator."""

    @jax.custom_vjp
    def identity(x):
        return x

    def backwards(_, gradient):
        lo, hi = gradient.min(), gradient.max()
        scale = (hi - lo) / (jnp.exp2(bits) - 1)
        draws = jax.random.uniform(key, gradient.shape, minval=-0.5, maxval=0.5)
        u = jnp.round((gradient - lo) / scale + draws)
        return (jnp.clip(u, 0, jnp.exp2(bits) - 1) * scale + lo,)

    identity.defvjp(lambda x: (x, None), backwards)
    return identity(outputs)


STEPS: dict[str, Callable[[Any, Any], Operations]] = {
    "plain": lambda bits, key: Operations(),
    "all three": lambda bits, key: of_bits(bits, bits, key, bits),
    "weights": lambda bits, key: of_bits(bits, None, key, None),
    "weights, known range": lambda bits, key: changed(kernels=in_known_range(bits)),
    "activations": lambda bits, key: of_bits(None, None, key, bits),
    "activations, known range": lambda bits, key: changed(inputs=in_known_range(bits)),
    "gradients": lambda bits, key: of_bits(None, bits, key, None),
    "gradients, to nearest": lambda bits, key: changed(
        outputs=lambda x: quantize_gradient(x, bits, None)
    ),
    "gradients, usual draws": lambda bits, key: changed(outputs=lambda x: usual(x, bits, key)),
}


def main():
    print(f"jax {jax.__version__}, one core, batch {BATCH} of 28 x 28")
    for network in (MLP, CNN):
        name = network.__name__
        seconds = interleaved.time_interleaved(
            _calls(network), rounds=9, round_seconds=0.1, clock=time.process_time
        )
        plain = interleaved.median_microseconds(seconds, "plain")
        print(f"\n{name}: the plain step takes {plain:.0f} us")
        for row in STEPS:
            print(f"{row:>24} {interleaved.ratio(seconds, row, 'plain'):>6.2f}x", flush=True)
        for row, (number, took) in _compiled(network).items():
            print(f"{row:>24} {number:>3} compilations, {took:.1f} s for {len(WIDTHS)} widths")


def _calls(network):
    inputs = _inputs(network)
    return {
        name: functools.partial(_run, jax.jit(_gradient(network, operations)), inputs, BITS)
        for name, operations in STEPS.items()
    }


def _compiled(network):
    """Returns the number of compilations and the seconds for all widths, traced and static."""
    inputs, gradient = _inputs(network), _gradient(network, STEPS["all three"])
    found = {}
    for name, step in {
        "traced bits": jax.jit(gradient),
        "static bits": jax.jit(gradient, static_argnums=3),
    }.items():
        start = time.process_time()
        with compilations() as compiled:
            for bits in WIDTHS:
                _run(step, inputs, bits)
        found[name] = len(compiled), time.process_time() - start
    return found


def _gradient(network, operations):
    def gradient(params, batch, key, bits):
        def loss(params):
            logits = network(operations(bits, key)).apply(params, batch["image"])
            return cj.softmax_cross_entropy(logits, batch["label"]).mean()

        return jax.grad(loss)(params)

    return gradient


def _run(step, inputs, bits):
    return jax.block_until_ready(step(*inputs, bits))


def _inputs(network):
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (BATCH, 28, 28, 1)).astype(np.float32)
    batch = jax.device_put({"image": image, "label": rng.integers(0, CLASSES, BATCH)})
    return network(Operations()).init(jax.random.key(0), image), batch, jax.random.key(1)


if __name__ == "__main__":
    main()
