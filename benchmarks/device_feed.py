"""Times what a host does for a batch of 1,024 images of 224 x 224 for 8 devices, by stages.

    python -m benchmarks.device_feed

The devices are eight of a CPU, and all is pinned to one core. Times are those that the core worked
for this process, so that a neighbour on a shared machine counts little. `device_put` copies within
the host's memory here, where a GPU or a TPU has a transfer. "Before" is how the feed was: each
batch was copied out of the workers' shared memory, and once more to split it over the devices. On a
GPU or a TPU neither is done now; on a CPU the first is.
"""

from benchmarks import interleaved

interleaved.pin_to_one_core()

import time  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
from grain.multiprocessing import SharedMemoryArray  # noqa: E402

from benchmarks.photographs import jpeg  # noqa: E402
from cyclical_jax.data import crops  # noqa: E402
from cyclical_jax.training.devices import scatter, split_over_devices  # noqa: E402
from experiments.environment import hardware, library_versions  # noqa: E402

DEVICES, BATCH, SIZE, ROUNDS = 8, 1024, 224, 9
DEMAND = 1730  # images/s of a ResNet-50 on a TPU v5e chip, as estimated by the compiler

jax.config.update("jax_num_cpu_devices", DEVICES)


def main():
    print(hardware(), library_versions())
    batch = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
    rates = images_per_second(worker_stages(batch))
    images_per_second(host_stages(batch))
    for demand in (DEMAND, DEMAND * DEVICES):
        print(f"{demand} images/s need {demand / rates['worker, all']:.1f} such cores to read them")


def images_per_second(stages: Mapping[str, Callable[[], int]]) -> dict[str, float]:
    """Prints and returns the median of each stage; a stage returns its number of images."""
    counts = {name: stage() for name, stage in stages.items()}
    options = {"rounds": ROUNDS, "round_seconds": 0.0}
    seconds = interleaved.time_interleaved(stages, clock=time.process_time, **options)
    rates = {name: counts[name] / seconds[name] for name in stages}
    for name, of_rounds in rates.items():
        print(
            f"{name}: {np.median(of_rounds):,.0f} images/s of a core "
            f"({of_rounds.min():,.0f} to {of_rounds.max():,.0f}), "
            f"{1e3 * np.median(seconds[name]) * BATCH / counts[name]:.2f} ms a batch"
        )
    return {name: float(np.median(of_rounds)) for name, of_rounds in rates.items()}


def worker_stages(batch: np.ndarray) -> dict[str, Callable[[], int]]:
    """Returns what each of `num_workers` processes does."""
    jpegs, some = [jpeg(number) for number in range(128)], batch[:128]

    def decode():
        for seed, encoded in enumerate(jpegs):
            crops.random_crop(encoded, SIZE, np.random.default_rng(seed))
        return len(jpegs)

    def hand_over():
        shared(some.copy())
        return len(some)

    def both():
        hand_over()
        return decode()

    return {
        "worker, decode and crop": decode,
        "worker, gather and hand over": hand_over,
        "worker, all": both,
    }


def host_stages(batch: np.ndarray) -> dict[str, Callable[[], int]]:
    """Returns what the process does that feeds the devices."""
    received = shared(batch)
    order = np.random.default_rng(1).permutation(BATCH)

    def stage(function: Callable[[], object]) -> Callable[[], int]:
        def run():
            jax.block_until_ready(function())
            return BATCH

        return run

    functions = {
        "data in memory, gather": lambda: batch[order],
        "copy out of shared memory": lambda: np.array(received),
        "split, before": lambda: stacked(batch),
        "split, now": lambda: split_over_devices(batch, 0),
        "device_put": lambda: scatter(batch),
        "all, before": lambda: scatter_slices(stacked(np.array(received))),
        "all, now, to a CPU's devices": lambda: scatter(np.array(received)),
        "all, now, elsewhere but for the transfer": lambda: split_over_devices(received, 0),
    }
    return {f"host, {name}": stage(function) for name, function in functions.items()}


def shared(array: np.ndarray) -> SharedMemoryArray:
    """Returns a copy in shared memory, as Grain makes it."""
    copy = SharedMemoryArray(array.shape, array.dtype)
    copy[...] = array
    copy.unlink_on_del()
    return copy


def stacked(array: np.ndarray) -> np.ndarray:
    return np.stack(np.split(array, DEVICES))


def scatter_slices(slices: np.ndarray) -> jax.Array:
    return scatter(slices.reshape(-1, *slices.shape[2:]))


if __name__ == "__main__":
    main()
