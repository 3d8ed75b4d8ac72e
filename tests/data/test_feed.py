"""Batches come in order, a few ahead, and leave no thread behind."""

import itertools
import threading
import time

import pytest

from cyclical_jax.data.feed import prefetched


def feed_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


@pytest.fixture(autouse=True)
def leaves_no_thread():
    yield
    assert not feed_threads()


def settled(made, expected):
    """Returns what was made, after the thread has had time to make too many."""
    deadline = time.monotonic() + 5
    while len(made) < expected and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    return list(made)


@pytest.mark.parametrize("depth", [1, 2, 5, 20])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_all_come_in_order(count, depth):
    def late(item):
        time.sleep(0.003 * (item % 2))
        return item * item

    squares = list(prefetched(late, range(count), depth=depth))
    assert squares == [item * item for item in range(count)]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_as_many_as_depth_are_made_ahead(depth):
    made = []
    batches = prefetched(lambda item: made.append(item) or item, itertools.count(), depth=depth)
    assert not made
    for number in range(4):
        assert next(batches) == number
        ahead = number + 1 + depth
        assert settled(made, ahead) == list(range(ahead))
    batches.close()
    assert settled(made, 0) == list(range(4 + depth))


def test_batches_are_made_in_a_thread_of_their_own():
    names = list(prefetched(lambda item: threading.current_thread().name, range(3)))
    assert len(set(names)) == 1 and names[0].startswith("feed")


@pytest.mark.parametrize("bad", [0, 1, 4])
def test_an_error_is_raised_where_its_batch_would_have_come(bad):
    def make_batch(item):
        if item == bad:
            raise OSError(f"item {item}")
        return item

    batches, seen = prefetched(make_batch, range(6), depth=3), []
    with pytest.raises(OSError, match=f"item {bad}"):
        for batch in batches:
            seen.append(batch)
    assert seen == list(range(bad))
    assert not feed_threads()


def test_what_is_ready_does_not_wait_for_an_item_that_is_late():
    go_on = threading.Event()

    def items():
        yield from (0, 1)
        assert go_on.wait(5)
        yield 2

    batches = prefetched(str, items(), depth=2)
    assert [next(batches), next(batches)] == ["0", "1"]
    go_on.set()
    assert list(batches) == ["2"]


def test_an_error_of_an_item_is_raised_where_its_batch_would_have_come():
    def items():
        yield from range(3)
        raise OSError("the fourth")

    batches, seen = prefetched(str, items(), depth=2), []
    with pytest.raises(OSError, match="the fourth"):
        seen.extend(itertools.islice(batches, 3))
        next(batches)
    assert seen == ["0", "1", "2"]


def test_closing_early_waits_for_the_batch_under_way_and_makes_no_other():
    started, made, go_on = threading.Event(), [], threading.Event()

    def make_batch(item):
        if item == 1:
            started.set()
            assert go_on.wait(5)
        made.append(item)

    batches = prefetched(make_batch, range(9), depth=4)
    next(batches)
    assert started.wait(5)
    threading.Timer(0.02, go_on.set).start()
    batches.close()
    assert made == [0, 1]
    assert not feed_threads()


def test_an_error_of_the_consumer_ends_the_thread():
    with pytest.raises(KeyError):
        for batch in (batches := prefetched(str, range(9))):
            if batch == "3":
                batches.close()
                raise KeyError(batch)
    assert not feed_threads()


def test_a_feed_that_is_never_ahead_is_refused():
    with pytest.raises(ValueError, match="depth` must be a whole number from 1"):
        next(prefetched(str, [1], depth=0))
