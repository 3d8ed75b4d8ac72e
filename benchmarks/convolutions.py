"""A convolutional network on a CPU: the time of torch's step over ours. It makes no claim.

    pip install torch                     # a benchmark-only extra
    python -m benchmarks.convolutions
    XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \\
        python -m benchmarks.convolutions

It uses all cores, as a user would. XLA's convolutions are slower than torch's here; the settings
of the second command make them faster.
"""

import os

import jax
import torch

from benchmarks import interleaved, published, runs
from configs import fashion_mnist

STEPS = 4


def main():
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    settings = os.environ.get("XLA_FLAGS", "default settings")
    print(f"jax {jax.__version__}, torch {torch.__version__}, {cores} cores, {settings}")
    config = fashion_mnist.get_config("all")
    config.batch_size = 128
    config.model.name = "cnn"
    config.model.hidden_sizes, config.model.widths = (64,), (32, 64)
    network = published.cnn((32, 64), 64)
    dataset = runs.random_dataset(128 * STEPS, side=28)
    images, labels = dataset.train["image"], dataset.train["label"]
    epochs = {
        "ours": runs.epoch(config, dataset, "stepwise"),
        "in a loop": runs.epoch(config, dataset, "resident"),
        "torch": published.epoch(network, images, labels, 128),
    }
    seconds = interleaved.time_interleaved(epochs, rounds=9, round_seconds=0.5)
    print(
        f"CNN 32-64, batch 128 of 28 x 28: "
        f"{interleaved.median_microseconds(seconds, 'ours') / STEPS / 1000:.1f} ms a step, "
        f"torch / ours {interleaved.ratio(seconds, 'torch', 'ours'):.2f}x, "
        f"in a compiled loop / ours {interleaved.ratio(seconds, 'in a loop', 'ours'):.1f}x"
    )


if __name__ == "__main__":
    main()
