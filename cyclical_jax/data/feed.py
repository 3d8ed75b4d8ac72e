"""Prefetching: batches are made ahead of their use, so that the device need not wait."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from cyclical_jax import _checks

Item = TypeVar("Item")
Batch = TypeVar("Batch")


def prefetched(
    make_batch: Callable[[Item], Batch], items: Iterable[Item], *, depth: int = 2
) -> Iterator[Batch]:
    """Yields `make_batch(item)` for each item, in order; a thread makes up to `depth` ahead.

    The thread takes the items too: what is ready need not wait for an item that is late. An error
    in `make_batch` or of an item is raised where its batch would have come. Closing the iterator
    waits for the batch that is being made.
    """
    _checks.whole_number("depth", depth, minimum=1, maximum=2**31 - 1)
    items = iter(items)

    def make_next() -> list[Batch]:
        return [make_batch(item) for item in islice(items, 1)]  # [] at the end

    with ThreadPoolExecutor(1, thread_name_prefix="feed") as executor:
        ahead = deque(executor.submit(make_next) for _ in range(depth))
        try:
            while made := ahead.popleft().result():
                ahead.append(executor.submit(make_next))
                yield from made
        finally:
            for future in ahead:
                future.cancel()
