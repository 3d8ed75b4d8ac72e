"""The time of augmentation, as a fraction of the time of a train step.

    python -m benchmarks.augment

It uses all cores. The batch is 128 x 32 x 32 x 3 floats on the device; the step is the forward and
backward pass of ResNet-20. "All seven" are crop, flip, affine, brightness, contrast, saturation and
erasing, one after the other. The claim: they take at most 0.20 of the time of the step.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import interleaved
from cyclical_jax.augment import NAMES, augment
from cyclical_jax.losses import softmax_cross_entropy
from cyclical_jax.models import make_model

BATCH, CLASSES = 128, 10
SEVEN = ("crop", "flip", "affine", "brightness", "contrast", "saturation", "erase")


def main():
    batch = _batch()
    functions = {name: _augmentation([name], batch) for name in NAMES}
    functions |= {"all seven": _augmentation(SEVEN, batch), "ResNet-20": _step(batch)}
    seconds = interleaved.time_interleaved(functions, rounds=7, round_seconds=0.2)
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, {device}, a batch of {BATCH} x 32 x 32 x 3")
    for name in functions:
        share = interleaved.ratio(seconds, name, "ResNet-20")
        milliseconds = interleaved.median_microseconds(seconds, name) / 1000
        print(f"{name:>12} {milliseconds:>9.1f} ms {share:>7.3f} of the step")


def _batch():
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (BATCH, 32, 32, 3)).astype(np.float32)
    return jax.device_put({"image": image, "label": rng.integers(0, CLASSES, BATCH)})


def _augmentation(names, batch):
    transform = jax.jit(augment(names, num_classes=CLASSES))
    key = jax.random.key(0)
    return lambda: jax.block_until_ready(transform(batch, key, jnp.float32(0.7)))


def _step(batch):
    model = make_model("resnet20_cifar", num_classes=CLASSES, axis_name=None)
    params, state = model.init(jax.random.key(0), batch["image"])

    @jax.jit
    def gradient(params, batch):
        def loss(params):
            logits, _ = model.apply(params, state, batch["image"], train=True)
            return softmax_cross_entropy(logits, batch["label"]).mean()

        return jax.grad(loss)(params)

    return lambda: jax.block_until_ready(gradient(params, batch))


if __name__ == "__main__":
    main()
