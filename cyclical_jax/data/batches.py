"""Which examples make which batch: functions of (seed, epoch), so there is nothing to save."""

import functools
from collections.abc import Callable, Mapping

import numpy as np

Selection = dict[str, np.ndarray]  # index [batches, batch_size], and mask where some is padding
_OTHER_SEEDS = 2**64  # above every seed of a run
Select = Callable[..., Selection]  # of keywords start and stop: the numbers of batches


def in_order(
    num_examples: int, batch_size: int, *, start: int = 0, stop: int | None = None
) -> Selection:
    """Every example exactly once, in order, for evaluation; batches `start` up to `stop` of it.

    Returns:
      "index", [batches, batch_size], int32, and "mask" of the same shape, float32, which is 0 where
      an index is padding.
    """
    selection = _padded(np.arange(num_examples), batch_size)
    return {name: array[start:stop] for name, array in selection.items()}


def shuffled(
    num_examples: int, batch_size: int, *, seed: int, start: int, stop: int, remainder: str
) -> Selection:
    """The batches from number `start` up to `stop` of endless epochs, each a new permutation.

    Args:
      num_examples: Length of an epoch.
      batch_size: Examples a batch.
      seed: Of all permutations.
      start, stop: Batches are numbered on over all epochs.
      remainder: "drop" leaves the examples that do not fill a batch out of their epoch, others in
        every epoch; "pad" fills their batch with others of the epoch, which its mask takes out.

    Returns:
      "index", [stop - start, batch_size], int32; for "pad" "mask", float32, too.
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
    """A selection of `labelled` and of other sets of examples, each in an order of its own.

    Args:
      labelled: Selects the examples with labels.
      others: For each further entry of the batch, its number of examples and its batch size. An
        epoch of each ends by itself, and drops what does not fill a batch.
      seed: Seed of the run. The permutations of `labelled` and of all others differ; those of an
        entry depend on its position in `others`.
      start, stop: Numbers of batches, of all sets alike.

    Returns:
      The selection of `labelled` and, for each entry, f"{entry}_index", [stop - start, its batch
      size], int32.
    """
    selection = labelled(start=start, stop=stop)
    for number, (entry, (num_examples, batch_size)) in enumerate(others.items(), 1):
        own_seed = seed + number * _OTHER_SEEDS
        of_entry = shuffled(
            num_examples, batch_size, seed=own_seed, start=start, stop=stop, remainder="drop"
        )
        selection = selection | {f"{entry}_index": of_entry["index"]}
    return selection


def with_unlabelled(
    labelled: Select, num_unlabelled: int, batch_size: int, *, seed: int, start: int, stop: int
) -> Selection:
    """A selection of `labelled` and, as "unlabelled_index", one of examples without labels.

    See `with_others`.
    """
    others = {"unlabelled": (num_unlabelled, batch_size)}
    return with_others(labelled, others, seed=seed, start=start, stop=stop)


def part_of(selection: Selection, number: int, count: int) -> Selection:
    """Part `number` of `count` equal ones of every batch."""
    return {name: np.split(array, count, axis=-1)[number] for name, array in selection.items()}


def select_part(select: Select, number: int, count: int, *, start: int, stop: int) -> Selection:
    """That part of what is selected; a worker process may be sent a `functools.partial` of it."""
    return part_of(select(start=start, stop=stop), number, count)


def rows(selection: Selection) -> list[Selection]:
    """Each batch by itself, with arrays of [batch_size]."""
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
    """Padding repeats the first of them: BatchNorm, which knows no mask, had better see images."""
    num_batches = -(-len(order) // batch_size)
    index = np.resize(order, (num_batches, batch_size)).astype(np.int32)
    mask = np.arange(index.size).reshape(index.shape) < len(order)
    return {"index": index, "mask": mask.astype(np.float32)}
