"""The examples of a batch, taken from data on the devices or sent there ahead of their use."""

import contextlib
import functools
from collections.abc import Generator
from typing import Any

import jax

from cyclical_jax.data.batches import Select, rows, select_part
from cyclical_jax.data.dataset import Split, num_examples
from cyclical_jax.data.feed import prefetched
from cyclical_jax.data.streams import Stream
from cyclical_jax.training.devices import scatter


def sent_batches(
    split: Split, select: Select, *, start: int, stop: int, seed: int, num_workers: int
) -> Generator[dict[str, jax.Array]]:
    """Yields the examples of each batch, divided among the devices and sent there ahead of use.

    Nothing begins before the first batch is asked for. If you leave the iterator early, close it.

    Args:
      split: In memory, or a stream.
      select: Selects the batches of all processes, of which each sends its own part.
      start, stop: Numbers of batches.
      seed, num_workers: As in `Stream.batches`.
    """
    own = functools.partial(select_part, select, jax.process_index(), jax.process_count())
    if isinstance(split, Stream):
        # A CPU device may take a host's array for its own; elsewhere the transfer is a copy.
        options: dict[str, Any] = {"copy": jax.default_backend() == "cpu"}
        options |= {"seed": seed, "num_workers": num_workers}
        batches = split.batches(own, start=start, stop=stop, **options)
        with contextlib.closing(batches):
            yield from prefetched(scatter, batches)
    else:
        selections = (own(start=number, stop=number + 1) for number in range(start, stop))
        single = (row for selection in selections for row in rows(selection))
        yield from prefetched(functools.partial(_send_batch, split), single)


def _send_batch(split: dict[str, Any], selection: dict[str, Any]) -> dict[str, jax.Array]:
    return scatter(take_examples(split, selection))


def take_examples(split: dict[str, Any], selection: dict[str, Any]) -> dict[str, jax.Array]:
    """Returns the entries of `split` for the examples at `selection["index"]`, and the selection.

    An entry with its own order is taken at `selection["<entry>_index"]`. If the selection has no
    such index, an entry with another number of examples is left out.
    """
    number, taken = num_examples(split), {}
    for name, array in split.items():
        if f"{name}_index" in selection:
            taken[name] = array[selection[f"{name}_index"]]
        elif len(array) == number:
            taken[name] = array[selection["index"]]
    return taken | selection
