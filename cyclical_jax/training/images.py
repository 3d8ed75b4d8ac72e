"""From images as bytes to the batch that a step sees."""

import contextlib
import functools
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp

from cyclical_jax.data.batches import Select, rows, select_part
from cyclical_jax.data.feed import prefetched
from cyclical_jax.data.sources import Split
from cyclical_jax.data.streams import Stream
from cyclical_jax.training.devices import share


def as_batch(examples: dict[str, Any]) -> dict[str, jax.Array]:
    """`examples` with their bytes as floats in [-1, 1]."""
    return examples | {"image": examples["image"].astype(jnp.float32) / 127.5 - 1}


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
    examples = {name: array[selection["index"]] for name, array in split.items()}
    return share(examples | selection)


def take_examples(split: dict[str, Any], selection: dict[str, Any]) -> dict[str, jax.Array]:
    """The examples at `selection["index"]`, as bytes; with `selection`'s mask, if any."""
    index = selection["index"]
    return {"image": split["image"][index], "label": split["label"][index], **selection}


def take_batch(split: dict[str, Any], selection: dict[str, Any]) -> dict[str, jax.Array]:
    """The batch of the examples at `selection["index"]`."""
    return as_batch(take_examples(split, selection))
