"""One optimizer update with decay and clipping: Optax with constants, ours with and without cycle.

    python -m benchmarks.optimizer

The parameters are 11.2 million float32 numbers in the 62 tensors of a ResNet-18. Buffers are
donated, and all cores are used. The claims: a schedule takes at most 1.05 times as long as a
constant, and no longer than Optax's own chain with constants.
"""

import os

import jax
import jax.numpy as jnp
import optax

import cyclical_jax as cj
from benchmarks import interleaved

MAX_NORM, WEIGHT_DECAY, LEARNING_RATE = 1.0, 5e-4, 0.01
CYCLE = dict(total_steps=10_000, factor=4)


def main():
    shapes = _resnet18_shapes()
    size = sum(shape.size for shape in shapes)
    print(
        f"jax {jax.__version__}, optax {optax.__version__}, {len(os.sched_getaffinity(0))} cores; "
        f"{size / 1e6:.2f} M parameters in {len(shapes)} tensors"
    )
    print(
        f"{'':>5} {'optax':>10} {'constant':>10} {'scheduled':>10}"
        f" {'scheduled / constant':>21} {'scheduled / optax':>18}"
    )
    for name, chain in {"sgd": _sgd, "adamw": _adamw}.items():
        updates = {
            kind: _update(chain(*parts), shapes) for kind, parts in _clip_and_decay().items()
        }
        seconds = interleaved.time_interleaved(updates, rounds=31, round_seconds=0.1)
        medians = [interleaved.median_microseconds(seconds, kind) / 1000 for kind in updates]
        print(
            f"{name:>5}",
            *(f"{median:>7.2f} ms" for median in medians),
            f"{interleaved.ratio(seconds, 'scheduled', 'constant'):>20.2f}x",
            f"{interleaved.ratio(seconds, 'scheduled', 'optax'):>17.2f}x",
            flush=True,
        )


def _clip_and_decay():
    max_norm = cj.cyclical_schedule(0.5 * MAX_NORM, 2 * MAX_NORM, **CYCLE)
    weight_decay = cj.cyclical_schedule(0.1 * WEIGHT_DECAY, WEIGHT_DECAY, **CYCLE)
    return {
        "optax": (optax.clip_by_global_norm(MAX_NORM), optax.add_decayed_weights(WEIGHT_DECAY)),
        "constant": (cj.clip_by_global_norm(MAX_NORM), cj.add_decayed_weights(WEIGHT_DECAY)),
        "scheduled": (cj.clip_by_global_norm(max_norm), cj.add_decayed_weights(weight_decay)),
    }


def _sgd(clip, decay):
    return optax.chain(clip, decay, optax.sgd(LEARNING_RATE, momentum=0.9))


def _adamw(clip, decay):
    return optax.chain(
        clip, optax.scale_by_adam(), decay, optax.scale_by_learning_rate(LEARNING_RATE)
    )


def _resnet18_shapes():
    """Returns the shapes of a ResNet-18 for 32 x 32 images and 10 classes."""
    shapes = [(3, 3, 3, 64), (64,), (64,)]
    before = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            shapes += [(3, 3, before, width), (width,), (width,)]
            shapes += [(3, 3, width, width), (width,), (width,)]
            if block == 0 and before != width:
                shapes += [(1, 1, before, width), (width,), (width,)]
            before = width
    shapes += [(512, 10), (10,)]
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def _random(shapes, seed, scale):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    drawn = zip(keys, shapes, strict=True)
    return [scale * jax.random.normal(key, shape.shape) for key, shape in drawn]


def _update(optimizer, shapes):
    """Each call donates its parameters and its state to the next."""
    params, gradients = _random(shapes, 0, 0.02), _random(shapes, 1, 0.001)
    carry = params, optimizer.init(params)

    def update(carry, gradients):
        params, state = carry
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    update = jax.jit(update, donate_argnums=0)

    def call():
        nonlocal carry
        carry = jax.block_until_ready(update(carry, gradients))

    return call


if __name__ == "__main__":
    main()
