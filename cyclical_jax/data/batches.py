"""The examples of each batch: functions of (seed, epoch), so that there is nothing to save."""

import functools
from collections.abc import Callable, Mapping

import numpy as np

Selection = dict[str, np.ndarray]  # index [batches, batch_size], and mask where some is padding
_OTHER_SEEDS = 2**64  # above every seed of a run
Select = Callable[..., Selection]  # takes the keywords start and stop, numbers of batches


def in_order(
    num_examples: int, batch_size: int, *, start: int = 0, stop: int | None = None
) -> Selection:
    """Selects every example once, in order, for evaluation: batches `start` to `stop` of these.

    Returns:
      "index", [batches, batch_size], int32; and "mask" of the same shape, float32, which is 0 where
      an index is padding. `stop` is not included.
    """
    selection = _padded(np.arange(num_examples), batch_size)
    return {name: array[start:stop] for name, array in selection.items()}


def shuffled(
    num_examples: int, batch_size: int, *, seed: int, start: int, stop: int, remainder: str
) -> Selection:
    """Selects batches `start` to `stop` (not included) of endless epochs, each a new permutation.

    Args:
      num_examples: Length of an epoch.
      batch_size: Examples per batch.
      seed: Seed of all permutations.
      start, stop: Numbers of batches; the count goes on over all epochs.
      remainder: "drop" leaves out the last examples of an epoch that do not fill a batch; they
        differ from epoch to epoch. "pad" fills their batch with other examples of the epoch, where
        the mask is 0.

    Returns:
      "index", [stop - start, batch_size], int32; for "pad" also "mask", float32.
    """
    batches = num_examples // batch_size if remainder == "drop" else -(-num_examples // batch_size)
    parts = []
    first, last = start // batches, max(start, stop - 1) // batches
    for epoch in range(first, last + 1):
        selection = _epoch(num_examples, batch_size, seed, epoch, remainder)
        within = slice(max(0, start - epoch * batches), stop - epoch * batches)
        parts.append({name: array[within] for name, array in selection.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def with_others(
    labelled: Select,
    others: Mapping[str, tuple[int, int]],
    *,
    seed: int,
    start: int,
    stop: int,
) -> Selection:
    """Selects batches of `labelled` and of other sets of examples, each set in its own order.

    Args:
      labelled: Selects the examples with labels.
      others: For each further entry of the batch, its number of examples and its batch size. Each
        set has its own epochs, which drop the examples that do not fill a batch.
      seed: Seed of the run. Each set has its own permutations; those of an entry depend on the seed
        and on the entry's place in `others`.
      start, stop: Numbers of batches, the same for all sets.

    Returns:
      The selection of `labelled` and, for each entry, f"{entry}_index": [stop - start, batch size
      of the entry], int32.
    """
    selection = labelled(start=start, stop=stop)
    for number, (entry, (num_examples, batch_size)) in enumerate(others.items(), 1):
        own_seed = seed + number * _OTHER_SEEDS
        of_entry = shuffled(
            num_examples, batch_size, seed=own_seed, start=start, stop=stop, remainder="drop"
        )
        selection = selection | {f"{entry}_index": of_entry["index"]}
    return selection


def part_of(selection: Selection, number: int, count: int) -> Selection:
    """Returns part `number` of `count` equal parts of every batch."""
    return {name: np.split(array, count, axis=-1)[number] for name, array in selection.items()}


def select_part(select: Select, number: int, count: int, *, start: int, stop: int) -> Selection:
    """Returns `part_of` the selection; a `functools.partial` of it can be sent to a process."""
    return part_of(select(start=start, stop=stop), number, count)


def rows(selection: Selection) -> list[Selection]:
    """Returns a list of batches, whose arrays are [batch_size]."""
    numbers = range(len(selection["index"]))
    return [{name: array[row] for name, array in selection.items()} for row in numbers]


@functools.lru_cache(maxsize=4)
def _epoch(num_examples, batch_size, seed, epoch, remainder) -> Selection:
    order = np.random.default_rng((seed, epoch)).permutation(num_examples)
    if remainder == "pad":
        return _padded(order, batch_size)
    full = num_examples // batch_size * batch_size
    return {"index": order[:full].reshape(-1, batch_size).astype(np.int32)}


def _padded(order: np.ndarray, batch_size: int) -> Selection:
    """Pads with the first examples, not with zeros: BatchNorm ignores the mask and sees them."""
    num_batches = -(-len(order) // batch_size)
    index = np.resize(order, (num_batches, batch_size)).astype(np.int32)
    mask = np.arange(index.size).reshape(index.shape) < len(order)
    return {"index": index, "mask": mask.astype(np.float32)}
