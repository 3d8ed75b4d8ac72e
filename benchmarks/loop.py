"""The training loop: an epoch in one call, beside one call per step, jit alone, and torch.

    pip install torch                     # a benchmark-only extra
    python -m benchmarks.loop

It uses one core; network, batches, loss and techniques are the same on all sides. The claims: one
call is at least 2 times as fast as one call per step on digits, and 1.25 times on 28 x 28 images;
pmap takes at most 1.35 times as long as jit; torch, eager like the published code, takes at least
10 times as long on digits and 1.5 times on 28 x 28 images.
"""

from benchmarks import interleaved

interleaved.pin_to_one_core()

import jax  # noqa: E402
import torch  # noqa: E402

from benchmarks import published, runs  # noqa: E402
from configs import digits, fashion_mnist  # noqa: E402
from cyclical_jax import data  # noqa: E402


def main():
    print(f"jax {jax.__version__}, torch {torch.__version__}, one core")
    print(
        f"{'':>30} {'one call, a step':>17} {'a call a step / one call':>25}"
        f" {'pmap / jit':>11} {'torch / ours':>13}"
    )
    for name, (config, dataset, sizes) in _cases().items():
        images, labels = dataset.train["image"], dataset.train["label"]
        epochs = {
            "one call": runs.epoch(config, dataset, "resident"),
            "a call a step": runs.epoch(config, dataset, "stepwise"),
            "jit": runs.jitted_epoch(config, dataset),
            "torch": published.epoch(published.mlp(sizes), images, labels, config.batch_size),
        }
        seconds = interleaved.time_interleaved(epochs, rounds=15, round_seconds=0.1)
        steps = len(labels) // config.batch_size
        print(
            f"{name:>30} {interleaved.median_microseconds(seconds, 'one call') / steps:>14.0f} us"
            f" {interleaved.ratio(seconds, 'a call a step', 'one call'):>24.2f}x"
            f" {interleaved.ratio(seconds, 'one call', 'jit'):>10.2f}x"
            f" {interleaved.ratio(seconds, 'torch', 'one call'):>12.1f}x",
            flush=True,
        )


def _cases():
    small, large = digits.get_config("all"), fashion_mnist.get_config("all")
    for config in (small, large):
        config.model.batch_norm = True
    small.model.hidden_sizes, large.model.hidden_sizes = (64,), (256, 128)
    large.batch_size = 128
    return {
        "digits, MLP 64-64-10, 64": (small, data.load("digits"), (64, 64, 10)),
        "28 x 28, MLP 784-256-128, 128": (
            large,
            runs.random_dataset(128 * 50, side=28),
            (784, 256, 128, 10),
        ),
    }


if __name__ == "__main__":
    main()
