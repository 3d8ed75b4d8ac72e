"""The time of a run that saves checkpoints, over that of a run that does not.

    python -m benchmarks.checkpoints [seconds of a run] [rounds]

An MLP on 28 x 28 images with SGD and a moving average, so that a checkpoint has 10 MB. Runs are
interleaved, in random order. The claim: at most 1.05 with the default, which saves at the first end
of an epoch after 30 s. Saving after every epoch, of a third of a second, is the worst case; it is
printed without a claim.
"""

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax

from benchmarks import runs
from configs import fashion_mnist
from cyclical_jax.catalogue import parse
from cyclical_jax.training import loop, run
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.keeper import Keeper


def main(seconds: float = 70.0, rounds: int = 5):
    recipe, dataset, num_epochs = _run_of(seconds)
    print(f"jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}")
    every = {"not at all": None, "by default": 30.0, "every epoch": 0.0}
    taken: dict[str, list[float]] = {name: [] for name in every}
    resumed, order = [], list(every)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            took, to_resume = _train(recipe, dataset, every[name])
            taken[name].append(took)
            resumed += [to_resume] if to_resume is not None else []
    for name in ("by default", "every epoch"):
        ratios = [one / none for one, none in zip(taken[name], taken["not at all"], strict=True)]
        print(
            f"{name:>12}: {statistics.median(ratios):.3f} of the time without saving "
            f"({min(ratios):.3f} to {max(ratios):.3f}), {num_epochs} epochs in "
            f"{statistics.median(taken[name]):.1f} s"
        )
    print(f"to read and place the newest: {statistics.median(resumed):.2f} s")


def _run_of(seconds: float):
    """Returns the recipe of a run of about `seconds`, its dataset and its number of epochs."""
    config = fashion_mnist.get_config("all")
    config.batch_size, config.ema_decay, config.model.hidden_sizes = 128, 0.999, (512, 512)
    dataset = runs.random_dataset(128 * 60, side=28)
    config.duration = "20 epochs"
    start = time.perf_counter()
    _train(parse(config, num_devices=jax.device_count()), dataset, None)
    num_epochs = max(20, round(20 * seconds / (time.perf_counter() - start)))
    config.duration = f"{num_epochs} epochs"
    return parse(config, num_devices=jax.device_count()), dataset, num_epochs


def _train(recipe, dataset, every: float | None):
    """Returns the seconds of a run, and the seconds of reading its last checkpoint."""
    with tempfile.TemporaryDirectory() as directory:
        if every is None:
            start = time.perf_counter()
            loop.train(recipe, dataset, report=lambda row: None)
            return time.perf_counter() - start, None
        with Checkpoints(Path(directory)) as checkpoints:
            start = time.perf_counter()
            keeper = Keeper(checkpoints, every=every)
            loop.train(recipe, dataset, report=lambda row: None, keeper=keeper)
            took, start = time.perf_counter() - start, time.perf_counter()
            assert checkpoints.restore(run.begin(recipe, dataset))
        return took, time.perf_counter() - start


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *map(int, sys.argv[2:3]))
