"""Batches of photographs have the same bytes with any workers, and no process is left behind."""

import functools
import gc
import io
import multiprocessing
import multiprocessing.queues
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_sample_images

from cyclical_jax.data import crops
from cyclical_jax.data.batches import in_order, select_part, shuffled
from cyclical_jax.data.streams import DamagedExampleError, Stream

SIZE, NUM_EXAMPLES, BATCH = 32, 12, 4
PHOTOS = [PIL.Image.fromarray(image) for image in load_sample_images().images]


def example(number):
    """Returns an example whose image is a part of a photograph, different for each number."""
    left = 40 * number
    image = PHOTOS[number % 2].crop((left, 0, left + 180, 150))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return {
        "image": buffer.getvalue(),
        "label": number % 5,
        "file_name": f"{number}.JPEG".encode(),
    }


EXAMPLES = [example(number) for number in range(NUM_EXAMPLES)]
SELECT = functools.partial(shuffled, NUM_EXAMPLES, BATCH, seed=3, remainder="drop")


def stream(examples=None, *, positions=range(NUM_EXAMPLES), augmented=True):
    # `list` of a list can be sent to a worker without imports.
    open_examples = functools.partial(list, examples or EXAMPLES)
    return Stream("train of here", open_examples, positions, SIZE, augmented)


def batches(source=None, select=SELECT, *, start=0, stop=9, seed=1, num_workers=0):
    source = source or stream()
    return list(source.batches(select, start=start, stop=stop, seed=seed, num_workers=num_workers))


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name, array in a.items():
            assert array.dtype == b[name].dtype
            np.testing.assert_array_equal(array, b[name])


def test_a_split_knows_its_length_and_shape():
    assert len(stream(positions=np.array([3, 4]))) == 2
    assert stream().image_shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("num_workers", [1, 2, 20])
def test_any_number_of_workers_gives_the_same_bytes(num_workers):
    assert_same(batches(start=2, stop=7, num_workers=num_workers), batches(start=2, stop=7))


def test_any_start_gives_the_same_bytes():
    whole = batches()
    assert len(whole) == 9
    for start, stop in [(0, 1), (1, 9), (5, 7), (8, 9), (4, 4), (6, 5)]:
        assert_same(batches(start=start, stop=stop), whole[start:stop])


def test_a_batch_is_its_examples_in_the_order_of_the_selection():
    positions = np.array([11, 0, 7, 5, 9])
    source = stream(positions=positions, augmented=False)
    select = functools.partial(in_order, len(positions), 3)
    for number, batch in enumerate(batches(source, select, stop=2)):
        selection = {name: array[number] for name, array in select().items()}
        chosen = [EXAMPLES[position] for position in positions[selection["index"]]]
        assert batch["label"].tolist() == [example["label"] for example in chosen]
        assert batch["label"].dtype == np.int32 and batch["image"].dtype == np.uint8
        for name, array in selection.items():
            np.testing.assert_array_equal(batch[name], array)
        for image, example in zip(batch["image"], chosen, strict=True):
            np.testing.assert_array_equal(image, crops.centre_crop(example["image"], SIZE))


def by_index(found):
    """{example: its image in each epoch}"""
    images = {}
    for batch in found:
        for index, image in zip(batch["index"], batch["image"], strict=True):
            images.setdefault(int(index), []).append(image)
    return images


def test_crops_differ_between_epochs_and_seeds():
    one, other = by_index(batches()), by_index(batches(seed=2))
    assert one.keys() == other.keys() == set(range(NUM_EXAMPLES))
    for index, images in one.items():
        assert len({image.tobytes() for image in [*images, *other[index]]}) == 6


def test_examples_of_a_batch_differ_in_their_crops():
    same = stream([EXAMPLES[3]] * NUM_EXAMPLES)
    images = [image.tobytes() for batch in batches(same, stop=3) for image in batch["image"]]
    assert len(set(images)) == NUM_EXAMPLES


def test_what_is_evaluated_is_always_the_same():
    for images in by_index(batches(stream(augmented=False))).values():
        assert len({image.tobytes() for image in images}) == 1


def test_processes_that_share_a_batch_make_what_one_would_make():
    halves = [
        batches(select=functools.partial(select_part, SELECT, number, 2)) for number in range(2)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*halves, strict=True)
    ]
    assert_same(joined, batches())


# ---- what goes wrong


def damaged(position, image):
    examples = list(EXAMPLES)
    examples[position] = examples[position] | {"image": image}
    return stream(examples, positions=range(1, NUM_EXAMPLES))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    "image, reason",
    [
        (b"", "UnidentifiedImageError: "),
        (b"GIF89a", ""),
        (EXAMPLES[7]["image"][:700], ": image file is truncated"),
    ],
    ids=["empty", "no image", "cut short"],
)
def test_a_damaged_image_is_named_in_one_line(num_workers, image, reason):
    select = functools.partial(in_order, NUM_EXAMPLES - 1, BATCH)
    with pytest.raises(DamagedExampleError) as error:
        batches(damaged(7, image), select, stop=3, num_workers=num_workers)
    (line,) = str(error.value).splitlines()
    assert line.startswith("example 7 of train of here, 7.JPEG, cannot be read: ")
    assert reason in line


@pytest.mark.parametrize("name", ["start", "seed", "num_workers"])
def test_a_negative_number_is_refused_at_once(name):
    with pytest.raises(ValueError, match=f"`{name}` must be .*, got -1"):
        batches(**{name: -1})


def test_without_grain_there_are_no_workers(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    assert_same(batches(stop=1), batches(stop=1))
    with pytest.raises(ImportError, match=r'grain.*pip install "\.\[train\]"'):
        batches(num_workers=1)


# ---- processes


def ends(process, seconds=15):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not is_running(process):
            return True
        time.sleep(0.05)
    return False


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_nothing_is_started_for_no_batches():
    before = multiprocessing.active_children()
    iterator = stream().batches(SELECT, start=3, stop=3, seed=0, num_workers=2)
    assert list(iterator) == [] and multiprocessing.active_children() == before


@pytest.mark.parametrize("leave", ["close", "exhaust"])
def test_leaving_ends_the_workers(leave):
    before = set(multiprocessing.active_children())
    iterator = stream().batches(SELECT, start=0, stop=9, seed=0, num_workers=2)
    next(iterator)
    workers = [child.pid for child in set(multiprocessing.active_children()) - before]
    assert len(workers) == 2
    if leave == "close":
        iterator.close()
    else:
        list(iterator)
    assert all(map(ends, workers))


@pytest.mark.parametrize("stop", [1, 9])
def test_leaving_frees_the_queues_at_once(stop):
    """What the collector frees at some other time, multiprocessing's tracker may lose count of."""

    def queues():
        return [o for o in gc.get_objects() if type(o) is multiprocessing.queues.Queue]

    gc.collect()
    others = queues()  # which the tests of other files left
    iterator = stream().batches(SELECT, start=0, stop=9, seed=0, num_workers=2)
    gc.disable()
    try:
        for _ in range(stop):
            next(iterator)
        iterator.close()
        assert len(queues()) == len(others)
    finally:
        gc.enable()


def test_a_worker_that_dies_is_an_error_and_no_wait_for_ever():
    before = set(multiprocessing.active_children())
    iterator = stream().batches(SELECT, start=0, stop=99, seed=0, num_workers=2)
    next(iterator)
    first, second = set(multiprocessing.active_children()) - before
    os.kill(first.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError):
        list(iterator)
    assert ends(second.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_all_is_for_the_parent_alone(number):
    """A terminal and a cluster signal the whole group, but the run must be saved first."""
    before = set(multiprocessing.active_children())
    iterator = stream().batches(SELECT, start=0, stop=30, seed=1, num_workers=2)
    first = next(iterator), next(iterator)  # one from each worker, so both have started
    workers = [child.pid for child in set(multiprocessing.active_children()) - before]
    for pid in workers:
        os.kill(pid, number)
    assert_same([*first, *iterator], batches(stop=30))
    assert all(map(ends, workers))


PARENT = """
import functools, multiprocessing, time
from cyclical_jax.data.batches import in_order
from cyclical_jax.data.streams import Stream

if __name__ == "__main__":
    examples = [dict(image=open({photo!r}, "rb").read(), label=0, file_name=b"a")] * 100
    stream = Stream("here", functools.partial(list, examples), range(100), 32, True)
    select = functools.partial(in_order, 100, 2)
    iterator = stream.batches(select, start=0, stop=50, seed=0, num_workers=2)
    next(iterator)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(100)
"""


def test_the_death_of_the_parent_ends_the_workers(tmp_path):
    (tmp_path / "a.JPEG").write_bytes(EXAMPLES[0]["image"])
    program = tmp_path / "parent.py"
    program.write_text(PARENT.format(photo=str(tmp_path / "a.JPEG")))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2 and all(map(is_running, workers))
        parent.kill()
        assert all(map(ends, workers))
