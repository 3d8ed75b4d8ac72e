"""Finds contradictions between values of a config that are right by themselves, a line each."""

from collections.abc import Iterator, Mapping
from typing import Any

from cyclical_jax.data import RESIDENT_DATASETS, check_image_size, num_train
from cyclical_jax.training.fields import Cycle, shown
from cyclical_jax.training.keys import TASK
from cyclical_jax.training.structure import Catalogue
from cyclical_jax.training.technique import IN_MEMORY, Task, Technique

Checked = Mapping[str, Any]


def contradictions(catalogue: Catalogue, checked: Checked, num_devices: int) -> Iterator[str]:
    """Yields a line for each contradiction.

    Args:
      catalogue: The tasks and techniques that there are.
      checked: The values that are right by themselves.
      num_devices: Devices that share a batch.
    """
    yield from uneven_batch(checked.get("batch_size", 0), num_devices)
    yield from _accumulation_problems(checked)
    if {"dataset", "train_on", "subset"} <= checked.keys():
        yield from _subset_problems(checked["dataset"], checked["train_on"], checked["subset"])
    if {"dataset", "image_size", "loop"} <= checked.keys():
        yield from _stream_problems(checked["dataset"], checked["image_size"], checked["loop"])
    for entry in catalogue.entries:
        if is_on(catalogue, checked, entry):
            yield from _batch_problems(entry, checked, num_devices)
            yield from _own_problems(entry, checked)
            yield from _unmet_needs(catalogue, checked, entry)
    yield from _unread(catalogue, checked)


def uneven_batch(batch_size: int, num_devices: int, *, key: str = "batch_size") -> Iterator[str]:
    """Yields a line if the devices cannot share a batch evenly."""
    if batch_size % num_devices:
        yield f"{key} must be a multiple of the {num_devices} devices, got {batch_size}."


def is_on(catalogue: Catalogue, checked: Checked, entry: Technique) -> bool:
    """Returns whether a task is chosen or a technique is in use, as far as the values tell."""
    if isinstance(entry, Task):
        return checked.get(TASK) == entry.name
    if entry.switch is None:
        return not _unoffered(catalogue, checked, entry)
    return checked.get(entry.switch) is not None


def is_read(catalogue: Catalogue, checked: Checked, key: str) -> bool:
    """Returns whether a run with these values reads a key."""
    return _why_unread(catalogue, checked, key) is None


def _accumulation_problems(checked: Checked) -> Iterator[str]:
    accumulate = checked.get("accumulate", Cycle(1, 1))
    if checked.get("remainder") == "pad" and max(accumulate.easy, accumulate.hard) > 1:
        yield (
            "remainder must be 'drop' where accumulate is above 1: a padded batch would weigh as "
            "much as a full one."
        )
    if checked.get("accumulate_as") == "one_batch":
        if max(accumulate.easy, accumulate.hard) == 1:
            yield "accumulate_as is 'one_batch', but accumulate is 1: there is nothing to join."
        if checked.get("loop") == "streamed":
            yield "accumulate_as must be 'micro_steps' where loop is 'streamed'."


def _subset_problems(dataset: str, train_on: str, subset: str | None) -> Iterator[str]:
    try:
        num_train(dataset, train_on=train_on, subset=subset)
    except ValueError as error:
        yield str(error).replace("`", "")


def _stream_problems(dataset: str, image_size: int | None, loop: str | None) -> Iterator[str]:
    """Yields a line if the image size or the loop does not suit the dataset."""
    try:
        check_image_size(dataset, image_size)
    except ValueError as error:
        yield str(error).replace("`", "")
    if dataset not in RESIDENT_DATASETS and loop not in (None, "streamed"):
        yield f"loop must be None or 'streamed' for {dataset!r}, got {loop!r}."


def _own_problems(entry: Technique, checked: Checked) -> list[str]:
    """Returns its contradictions; none that needs a key whose value is wrong by itself."""
    try:
        return list(entry.problems(checked))
    except KeyError:
        if entry.keys.keys() <= checked.keys():
            raise
        return []


def _batch_problems(entry: Technique, checked: Checked, num_devices: int) -> Iterator[str]:
    for key in (entry.beside or {}).values():
        yield from uneven_batch(checked.get(key, 0), num_devices, key=key)


def _unoffered(catalogue: Catalogue, checked: Checked, entry: Technique) -> list[str]:
    """Returns what an entry needs, and the task does not offer, in alphabetical order."""
    if TASK not in checked:
        return []
    return sorted(entry.needs - catalogue.task(checked[TASK]).offers - {IN_MEMORY})


def _unmet_needs(catalogue: Catalogue, checked: Checked, entry: Technique) -> Iterator[str]:
    if missing := _unoffered(catalogue, checked, entry):
        yield (
            f"{entry.switch} must be None where {TASK} is {checked[TASK]!r}: it needs "
            f"{' and '.join(missing)}."
        )
    dataset = checked.get("dataset")
    if IN_MEMORY in entry.needs and dataset and dataset not in RESIDENT_DATASETS:
        yield (
            f"{entry.switch} is for datasets that fit in memory; leave it None for {dataset!r}."
            if entry.switch
            else f"dataset must fit in memory, which {entry.name} needs, got {dataset!r}."
        )


def _unread(catalogue: Catalogue, checked: Checked) -> Iterator[str]:
    """Yields a line for each value that would be ignored: an option of what was not chosen."""
    for key, value in checked.items():
        field = catalogue.keys[key]
        why = _why_unread(catalogue, checked, key)
        if why and value != field.check(key, field.default):
            yield f"{key} is {why}; leave it at {shown(field.default)}."


def _why_unread(catalogue: Catalogue, checked: Checked, key: str) -> str | None:
    """Returns why a key is not read; None where it is, or where that cannot be known."""
    entry = catalogue.owners.get(key)
    if entry is None or TASK not in checked:
        return None
    task = checked[TASK]
    if isinstance(entry, Task) and entry.name != task:
        return f"read where {TASK} is {entry.name!r}, not {task!r}"
    if entry.switch is None and _unoffered(catalogue, checked, entry):
        return f"not read where {TASK} is {task!r}"
    choice, readers = _readers(entry, key)
    if readers and choice in checked and checked[choice] not in readers:
        named = " or ".join(map(repr, readers))
        return f"read where {choice} is {named}, not {checked[choice]!r}"
    is_off = entry.switch not in (None, key) and checked.get(entry.switch, True) is None
    return f"read where {entry.switch} is set, not None" if is_off else None


def _readers(entry: Technique, key: str) -> tuple[str, list[str]]:
    """Returns the choice that decides about a key, and its values that read it; [] is any."""
    section, _, word = key.rpartition(".")
    for choice, options in (entry.options or {}).items():
        readers = [value for value, words in options.items() if word in words]
        if readers and choice.rpartition(".")[0] == section:
            return choice, readers
    return "", []
