"""Splits that are too large for memory: other processes make the batches of photographs."""

import contextlib
import dataclasses
import functools
import gc
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from absl import flags

from cyclical_jax import _checks
from cyclical_jax._extras import to_install
from cyclical_jax.data import crops, shared_memory
from cyclical_jax.data.batches import Select

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A split whose photographs are read and cropped when a batch needs them.

    Attributes:
      name: Name of the split, for errors.
      open_examples: Opens the sequence of `{"image": bytes, "label": int}` in any process, with
        `"file_name": bytes` where images have names; picklable.
      positions: [n], the positions in that sequence that make this split.
      image_size: Side of the images, in pixels.
      augmented: True: a crop is random and may be mirrored. False: it is the centre.
    """

    name: str
    open_examples: Callable[[], Any]
    positions: range | np.ndarray
    image_size: int
    augmented: bool

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, positions: range | np.ndarray) -> "Stream":
        """Returns a stream of other examples of the same sequence."""
        return dataclasses.replace(self, positions=positions)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, 3

    def batches(
        self,
        select: Select,
        *,
        start: int,
        stop: int,
        seed: int,
        num_workers: int,
        copy: bool = True,
    ) -> Generator[Batch]:
        """Yields batches `start` to `stop` (not included), the same with any number of workers.

        If you leave the iterator early, close it: that ends the workers.

        Args:
          select: `select(start=..., stop=...)` returns the rows of those batches, as
            `batches.shuffled` does; picklable. The workers call it.
          start, stop: Numbers of batches.
          seed: Seed of crops and mirrors, which depend only on it, on the batch's number and on the
            example.
          num_workers: Number of processes; with 0 this process makes the batches.
          copy: Whether to copy what workers made. If not, each array is a file of shared memory for
            as long as it, or a view of it, is in use.

        Yields:
          {"image": uint8 [batch, size, size, 3], "label": int32 [batch]} and a row of `select`.

        Raises:
          ValueError: A number is negative.
          DamagedExampleError: An image is damaged.
          RuntimeError: A worker died.
          ImportError: Grain is not installed, and `num_workers` is not 0.
        """
        for name, number in {"start": start, "seed": seed, "num_workers": num_workers}.items():
            _checks.whole_number(name, number, minimum=0, maximum=2**63 - 1)
        make_batch = _BatchMaker(self, select, seed)
        num_workers = min(num_workers, max(0, stop - start))
        if num_workers:
            received = _by_workers(make_batch, start, stop, num_workers)
            return _received(received, np.array if copy else np.asarray)
        return (make_batch(number) for number in range(start, stop))


class DamagedExampleError(RuntimeError):
    """An example of a stream cannot be read. The message is one line that names it."""


class _BatchMaker:
    """A picklable function from the number of a batch to the batch."""

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
            where += f", {example['file_name'].decode()}," if "file_name" in example else ""
            return self._crop(example["image"], number, index), example["label"]
        except Exception as error:  # for a damaged file Pillow's decoders raise errors of any type
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DamagedExampleError(f"{where} cannot be read: {reason}") from error

    def _crop(self, encoded: bytes, number: int, index: int) -> np.ndarray:
        if not self._stream.augmented:
            return crops.centre_crop(encoded, self._stream.image_size)
        sequence = np.random.SeedSequence(self._seed, spawn_key=(number, index))
        rng = np.random.default_rng(sequence)
        return crops.random_crop(encoded, self._stream.image_size, rng)


def _by_workers(make_batch: _BatchMaker, start: int, stop: int, num_workers: int) -> Any:
    """Returns Grain's iterator; worker k makes numbers k, k + num_workers, ..., each two ahead."""
    grain = _import_grain()
    shared_memory.remove_left()
    owner = shared_memory.owner()
    shared_memory.name_after(owner)
    return iter(
        grain.MapDataset.range(start, stop)
        .map(make_batch)
        # Without threads in a worker: they would read hundreds of batches ahead.
        .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        .mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2),
            worker_init_fn=functools.partial(_begin_worker, owner),
        )
    )


def _received(batches: Any, take: Callable[[Any], np.ndarray]) -> Generator[Batch]:
    """Yields what `take` makes of Grain's arrays, which lie in shared memory."""
    damaged = None
    try:
        with contextlib.closing(batches):
            for batch in batches:
                yield {name: take(array) for name, array in batch.items()}
    except RuntimeError as error:  # its text has the traceback of the worker's error
        name = f"{DamagedExampleError.__name__}: "
        lines = [line for line in str(error).splitlines() if name in line]
        if not lines:
            raise
        damaged = lines[-1].partition(name)[2]
    finally:
        # Its queues are in reference cycles. Collected later, they may be freed in the middle of a
        # call of multiprocessing's resource tracker, which then loses count of them (Python 3.12).
        del batches
        gc.collect()
    if damaged:  # raised here, after the first error, which holds on to the queues, is gone
        raise DamagedExampleError(damaged)


def _begin_worker(owner: str | None, worker: int, num_workers: int) -> None:
    """Names this process's shared memory after its parent, and makes it end with that."""
    del worker, num_workers
    shared_memory.name_after(owner)
    _end_with_parent()


def _end_with_parent() -> None:
    """Makes this process end when its parent ends, and only then.

    Otherwise it would wait forever for room in its queue. A terminal and a cluster send their
    signals to workers too, but the parent needs them until it has saved the run.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
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
        raise ImportError(f"{error}. Install it: {to_install('train')}.") from error
    # Grain 0.2.18 reads this absl flag even if no flags were parsed (google/grain#1355).
    flag = "grain_enable_multiprocess_worker_profiling"
    if flag in flags.FLAGS:
        flags.FLAGS[flag].present = True
    return grain
