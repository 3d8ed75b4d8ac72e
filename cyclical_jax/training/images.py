"""From images as bytes to the batch that a step sees."""

import contextlib
import functools
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp

from cyclical_jax.data.batches import Select, rows, select_part
from cyclical_jax.data.feed import prefetched
from cyclical_jax.data.sources import UNLABELLED, Split
from cyclical_jax.data.streams import Stream
from cyclical_jax.training.devices import share


def as_batch(examples: dict[str, Any]) -> dict[str, jax.Array]:
    """`examples` with their bytes as floats in [-1, 1]."""
    images = {name: examples[name] for name in ("image", UNLABELLED) if name in examples}
    return examples | {name: of.astype(jnp.float32) / 127.5 - 1 for name, of in images.items()}


def sent_batches(
    split: Split, select: Select, *, start: int, stop: int, seed: int, num_workers: int
) -> Generator[dict[str, jax.Array]]:
    """Examples as bytes, shared by the devices, and sent there ahead of their use.

    Nothing begins before the first is asked for. Close the iterator where you leave it early.

    Args:
      split: In memory, or a stream.
      select: What is in which batch; of all processes, of which each sends its own part.
      start, stop: Numbers of batches.
      seed, num_workers: As in `Stream.batches`.
    """
    own = functools.partial(select_part, select, jax.process_index(), jax.process_count())
    if isinstance(split, Stream):
        batches = split.batches(own, start=start, stop=stop, seed=seed, num_workers=num_workers)
        with contextlib.closing(batches):
            yield from prefetched(share, batches)
    else:
        selections = (own(start=number, stop=number + 1) for number in range(start, stop))
        single = (row for selection in selections for row in rows(selection))
        yield from prefetched(functools.partial(_send_batch, split), single)


def _send_batch(split: dict[str, Any], selection: dict[str, Any]) -> dict[str, jax.Array]:
    return share(take_examples(split, selection))


def take_examples(split: dict[str, Any], selection: dict[str, Any]) -> dict[str, jax.Array]:
    """All that `split` has of the examples at `selection["index"]`, as bytes.

    With the images without labels at `selection["unlabelled_index"]`, and all of the selection.
    """
    index_of = {UNLABELLED: f"{UNLABELLED}_index"}
    indices = {name: selection.get(index_of.get(name, "index")) for name in split}
    taken = {name: split[name][index] for name, index in indices.items() if index is not None}
    return taken | selection


def take_batch(split: dict[str, Any], selection: dict[str, Any]) -> dict[str, jax.Array]:
    """The batch of the examples at `selection["index"]`."""
    return as_batch(take_examples(split, selection))
