"""Times several functions side by side: every round runs each once, in random order.

On a shared machine times drift by 2x between runs, but ratios within a round do not. So claims of
speed are medians of per-round ratios.
"""

import os
import random
import time
from collections.abc import Callable, Mapping

import numpy as np

Seconds = dict[str, np.ndarray]  # name -> [rounds]


def pin_to_one_core() -> None:
    """Pins this process to one core. Call it before jax or torch is imported and makes threads."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def time_interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 11,
    round_seconds: float = 0.02,
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Returns seconds per call of each function, [rounds]; each must wait for its own result.

    Another `clock` is `time.process_time`: the seconds that a core works for this process.
    """
    repeats = {
        name: _repeats(function, round_seconds, clock) for name, function in functions.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    order, shuffle = list(functions), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            seconds[name].append(_mean_seconds(functions[name], repeats[name], clock))
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(seconds: Seconds, numerator: str, denominator: str) -> float:
    """Returns the median over the rounds of the time of `numerator` over that of `denominator`."""
    return float(np.median(seconds[numerator] / seconds[denominator]))


def median_microseconds(seconds: Seconds, name: str) -> float:
    return 1e6 * float(np.median(seconds[name]))


def _repeats(function, round_seconds, clock):
    function()  # compiles
    return max(1, int(round_seconds / max(_mean_seconds(function, 3, clock), 1e-9)))


def _mean_seconds(function, repeats, clock):
    start = clock()
    for _ in range(repeats):
        function()
    return (clock() - start) / repeats
