"""Saves again and again, where each time another call of the system fails; `faults.c` is preloaded.

It prints a line of JSON for each: the call, its number, what is told, the newest that is restored,
and the threads that are left.
"""

import gc
import json
import logging
import sys
import threading
import time
from pathlib import Path

from cyclical_jax.training.checkpoints import CheckpointError, Checkpoints
from tests import faults
from tests.training.test_checkpoints import restored, snapshot

# In three saves there are some 20 to 60 calls of a kind; these of them fail, one at a time.
EVERY = {"mkdir": 3, "rename": 4, "fsync": 9, "write": 7, "unlinkat": 10}


def saved_with(call, number, directory):
    """Saves four times; returns what is told, or None, and whether the call was reached."""
    told = None
    try:
        with Checkpoints(directory, keep=1) as checkpoints:
            checkpoints.save(snapshot(1))
            checkpoints.wait()
            faults.arm(call, number, directory)
            for micro_step in (2, 3, 4):
                checkpoints.save(snapshot(micro_step))
    except CheckpointError as error:
        told = str(error)
    reached = faults.num_calls() >= number
    faults.arm("", 0, directory)
    return told, reached


def threads_left():
    """Returns those that are there still, some seconds later, and that Python would wait for."""
    deadline = time.monotonic() + 10
    while (left := threading.enumerate()[1:]) and time.monotonic() < deadline:
        gc.collect()  # which ends the idle threads of executors
        left[0].join(0.05)
    return left


def main(folder: Path):
    logging.getLogger("absl").setLevel("ERROR")  # as the commands do
    for call, every in EVERY.items():
        number, reached = 1, True
        while reached:
            directory = folder / f"{call}{number}"
            told, reached = saved_with(call, number, directory)
            left = [thread.name for thread in threads_left()]
            newest = int(restored(directory).state.micro_step)
            print(json.dumps([call, number, told, newest, left]), flush=True)
            number += every


if __name__ == "__main__":  # pytest imports every file, to look for examples in docstrings
    main(Path(sys.argv[1]))
