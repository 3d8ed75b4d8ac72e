"""Batches on the way to the devices: in whose memory they lie, and until when."""

import functools
import gc
import io
import time
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest

from cyclical_jax.data import Stream, shared_memory, streams
from cyclical_jax.data.batches import in_order
from cyclical_jax.training.feeding import sent_batches

SIZE, NUM_EXAMPLES, BATCH = 16, 24, 4  # a device's part of a batch is a multiple of 64 bytes
FOLDER = Path("/dev/shm")


def example(number):
    pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return {"image": buffer.getvalue(), "label": number}


def sent(num_workers):
    examples = list(map(example, range(NUM_EXAMPLES)))
    stream = Stream("here", functools.partial(list, examples), range(NUM_EXAMPLES), SIZE, True)
    select = functools.partial(in_order, NUM_EXAMPLES, BATCH)
    return sent_batches(stream, select, start=0, stop=6, seed=1, num_workers=num_workers)


def files():
    return {path.name for path in FOLDER.glob(f"{shared_memory.owner()}-*")}


def is_shared(array):
    """Whether the memory of a device's array is that of a file in /dev/shm."""
    pointers = [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]
    places = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(FOLDER) in line:
            places.append(range(*(int(end, 16) for end in line.split()[0].split("-"))))
    return any(pointer in place for pointer in pointers for place in places)


@pytest.fixture
def workers(monkeypatch):
    """Arrays as Grain hands over a worker's, in its shared memory, without the processes."""
    multiprocessing = pytest.importorskip("grain").multiprocessing
    shared_memory.name_after(shared_memory.owner())

    def as_received(array):
        received = multiprocessing.SharedMemoryArray(array.shape, array.dtype)
        received[...] = array
        received.unlink_on_del()
        return received

    def by_workers(make_batch, start, stop, num_workers):
        for number in range(start, stop):
            yield {name: as_received(array) for name, array in make_batch(number).items()}

    monkeypatch.setattr(streams, "_by_workers", by_workers)


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("backend, keeps_files", [("cpu", False), ("tpu", True)])
def test_what_was_sent_stays_as_it_was_when_the_shared_memory_is_gone(
    monkeypatch, backend, keeps_files
):
    """A CPU's device may keep the host's memory; there, batches are copies.

    On other devices an array is a copy by itself, which a CPU told to be one shows by its files:
    they are there for as long as its array.
    """
    expected = [jax.device_get(batch) for batch in sent(num_workers=0)]
    before = files()
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    batches = list(sent(num_workers=1))
    gc.collect()
    assert [is_shared(batch["image"]) for batch in batches] == [keeps_files] * 6
    assert bool(files() - before) == keeps_files
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(batches), expected)
    assert len({batch["image"].tobytes() for batch in expected}) == 6
    del batches
    deadline = time.monotonic() + 20
    while files() != before and time.monotonic() < deadline:
        gc.collect()
        jax.device_put(0.0).block_until_ready()  # JAX lets go of a host's arrays in a later call
    assert files() == before
