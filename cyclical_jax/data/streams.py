"""Splits that are too large for memory: batches of photographs, made by other processes."""

import contextlib
import dataclasses
import functools
import gc
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
from absl import flags

from cyclical_jax import _checks
from cyclical_jax.data import crops
from cyclical_jax.data.batches import Select

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Photographs that are read and cropped when a batch asks for them.

    Attributes:
      name: Of the split, for errors.
      open_examples: Opens the sequence of `{"image": bytes, "label": int, "file_name": bytes}` in
        whatever process; picklable.
      positions: [n], which of that sequence are in this split.
      image_size: Of a side.
      augmented: Whether a crop is random and may be mirrored, or is the centre.
    """

    name: str
    open_examples: Callable[[], Sequence[dict[str, Any]]]
    positions: range | np.ndarray
    image_size: int
    augmented: bool

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, 3

    def batches(
        self, select: Select, *, start: int, stop: int, seed: int, num_workers: int
    ) -> Generator[Batch]:
        """The batches from number `start` up to `stop`, the same ones with any number of workers.

        Close the iterator where you leave it early: that ends the workers.

        Args:
          select: `select(start=..., stop=...)` gives the rows of those batches, as
            `batches.shuffled` does; picklable. It is called in the workers.
          start, stop: Numbers of batches.
          seed: Of crops and mirrors, which depend on it, the batch's number and the example alone.
          num_workers: Processes; 0 makes the batches in this one.

        Yields:
          {"image": uint8 [batch, size, size, 3], "label": int32 [batch]} and a row of `select`.

        Raises:
          ValueError: A number is negative.
          DamagedExampleError: An image is damaged.
          RuntimeError: A worker died.
          ImportError: Grain is not installed, and there are to be workers.
        """
        for name, number in {"start": start, "seed": seed, "num_workers": num_workers}.items():
            _checks.whole_number(name, number, minimum=0, maximum=2**63 - 1)
        make_batch = _BatchMaker(self, select, seed)
        num_workers = min(num_workers, max(0, stop - start))
        if num_workers:
            return _by_workers(make_batch, start, stop, num_workers)
        return (make_batch(number) for number in range(start, stop))


class DamagedExampleError(RuntimeError):
    """An example of a stream cannot be read; a line that says which."""


class _BatchMaker:
    """From the number of a batch to the batch."""

    def __init__(self, stream: Stream, select: Select, seed: int):
        self._stream = stream
        self._select = select
        self._seed = seed

    def __call__(self, number: int) -> Batch:
        selection = self._select(start=number, stop=number + 1)
        row = {name: array[0] for name, array in selection.items()}
        image = np.empty((len(row["index"]), *self._stream.image_shape), np.uint8)
        label = np.empty(len(row["index"]), np.int32)
        examples = self._examples
        for place, index in enumerate(row["index"]):
            image[place], label[place] = self._read(examples, number, int(index))
        return {"image": image, "label": label, **row}

    @functools.cached_property
    def _examples(self):  # opened at first use, which is in the worker
        return self._stream.open_examples()

    def _read(self, examples, number: int, index: int) -> tuple[np.ndarray, int]:
        position = int(self._stream.positions[index])
        where = f"example {position} of {self._stream.name}"
        try:
            example = examples[position]
            where += f", {example['file_name'].decode()},"
            return self._crop(example["image"], number, index), example["label"]
        except Exception as error:  # Pillow's decoders raise whatever they meet in a damaged file
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DamagedExampleError(f"{where} cannot be read: {reason}") from error

    def _crop(self, encoded: bytes, number: int, index: int) -> np.ndarray:
        if not self._stream.augmented:
            return crops.centre_crop(encoded, self._stream.image_size)
        sequence = np.random.SeedSequence(self._seed, spawn_key=(number, index))
        rng = np.random.default_rng(sequence)
        return crops.random_crop(encoded, self._stream.image_size, rng)


def _by_workers(
    make_batch: _BatchMaker, start: int, stop: int, num_workers: int
) -> Generator[Batch]:
    """Worker k makes batches k, k + num_workers, ..., two ahead of what is asked for."""
    grain = _import_grain()
    batches = (
        grain.MapDataset.range(start, stop)
        .map(make_batch)
        # No threads in a worker, which would read hundreds of batches ahead.
        .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        .mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2),
            worker_init_fn=_end_with_parent,
        )
    )
    return _copied(iter(batches))


def _copied(batches: Any) -> Generator[Batch]:
    """Grain's arrays are shared memory, a file each, for as long as somebody holds on to them."""
    damaged = None
    try:
        with contextlib.closing(batches):
            for batch in batches:
                yield {name: np.array(array) for name, array in batch.items()}
    except RuntimeError as error:  # with what a worker raised as the text of a traceback
        name = f"{DamagedExampleError.__name__}: "
        lines = [line for line in str(error).splitlines() if name in line]
        if not lines:
            raise
        damaged = lines[-1].partition(name)[2]
    finally:
        # Its queues are in cycles. Collected at any other time, that may be in the middle of a
        # call of multiprocessing's resource tracker, which then loses count of them (Python 3.12).
        del batches
        gc.collect()
    if damaged:  # only here, where nothing holds the error, and by it the queues, any more
        raise DamagedExampleError(damaged)


def _end_with_parent(worker: int, num_workers: int) -> None:
    """Ends this process when its parent does, and only then.

    Nobody else would, and it waits for room for ever. A terminal and a cluster send their signals
    to workers too, where the parent has a run to save first.
    """
    del worker, num_workers
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent  # this is a worker

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _import_grain() -> Any:
    try:
        grain = importlib.import_module("grain")
    except ImportError as error:
        raise ImportError(f"{error}. Install it: pip install 'cyclical-jax[train]'") from error
    # Grain 0.2.18 reads this flag of absl's where nobody has parsed any (google/grain#1355).
    flag = "grain_enable_multiprocess_worker_profiling"
    if flag in flags.FLAGS:
        flags.FLAGS[flag].present = True
    return grain
