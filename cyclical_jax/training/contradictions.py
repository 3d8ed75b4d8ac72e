"""Contradictions between values of a config that are right by themselves, one line each."""

from collections.abc import Iterator, Mapping
from typing import Any

from cyclical_jax import data
from cyclical_jax.training.fields import Cycle, any_of, shown
from cyclical_jax.training.keys import CYCLE, RESTART, SPAN, TASK
from cyclical_jax.training.structure import Catalogue
from cyclical_jax.training.technique import IN_MEMORY, SPATIAL, Task, Technique

Checked = Mapping[str, Any]


def contradictions(
    catalogue: Catalogue, checked: Checked, num_devices: int, *, needs_data: bool = True
) -> Iterator[str]:
    """Yields a line for each contradiction.

    Args:
      catalogue: The tasks and techniques that there are.
      checked: The values that are right by themselves.
      num_devices: Devices that share a batch.
      needs_data: Whether it is a problem that data of the user's own is not there.
    """
    if needs_data:  # else it is the config of an earlier run, when a data_dir of no use was allowed
        yield from _data_dir_problems(checked)
    if problems := _data_problems(checked):
        yield from problems if needs_data else ()
        checked = {key: value for key, value in checked.items() if key != "dataset"}
    yield from uneven_batch(checked.get("batch_size", 0), num_devices)
    yield from _accumulation_problems(checked)
    if {"dataset", "data_dir"} <= checked.keys():
        yield from _subset_problems(checked)
        yield from _stream_problems(checked)
    yield from _restart_problems(catalogue, checked)
    for entry in catalogue.entries:
        if is_on(catalogue, checked, entry):
            yield from _batch_problems(entry, checked, num_devices)
            yield from _group_problems(entry, checked, num_devices)
            yield from _own_problems(entry, checked)
            yield from _unmet_needs(catalogue, checked, entry)
    yield from _unread(catalogue, checked)


def uneven_batch(batch_size: int, num_devices: int, *, key: str = "batch_size") -> Iterator[str]:
    """Yields a line if the devices cannot share a batch evenly."""
    if batch_size % num_devices:
        yield f"{key} must be a multiple of the number of devices, {num_devices}, got {batch_size}."


def uneven_groups(groups: Mapping[str, int], num_devices: int) -> Iterator[str]:
    """Yields a line for each {key: devices of a group} that does not divide the devices evenly."""
    for key, size in groups.items():
        if num_devices % size:
            yield f"{key} must divide the number of devices, {num_devices}, got {size}."


def is_on(catalogue: Catalogue, checked: Checked, entry: Technique) -> bool:
    """Returns whether a task is chosen or a technique is in use, as far as the values tell."""
    if isinstance(entry, Task):
        return checked.get(TASK) == entry.name
    if not entry.switches:
        return not _unoffered(catalogue, checked, entry)
    return bool(_set_switches(checked, entry))


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


def _restart_problems(catalogue: Catalogue, checked: Checked) -> Iterator[str]:
    """Yields a line for each value that does not suit a run that restarts, or one that does not."""
    able = [e.restarts for e in catalogue.entries if e.restarts and is_on(catalogue, checked, e)]
    if any(restarts.choice not in checked for restarts in able):
        return
    on = [restarts for restarts in able if checked[restarts.choice] == restarts.value]
    accumulate = checked.get("accumulate", Cycle(1, 1))
    if on and accumulate.easy != accumulate.hard:
        yield (
            f"accumulate must be a number where {on[0]}, got {accumulate.easy:g} and "
            f"{accumulate.hard:g}: its cycle would change the lengths of the others."
        )
    if not on:
        needed = " or ".join(map(str, able)) or "a run restarts"
        for key, value in ((SPAN, RESTART), ("validate_every", CYCLE)):
            if checked.get(key) == value:
                yield f"{key} may be {value!r} only where {needed}."


def _data_problems(checked: Checked) -> list[str]:
    """Returns a line for each reason why the dataset cannot be found."""
    if not {"dataset", "data_dir"} <= checked.keys():
        return []
    try:
        data.find(checked["dataset"], checked["data_dir"])
    except (data.DatasetNotFoundError, ImportError, ValueError) as error:
        return str(error).replace("`", "").splitlines()
    return []


def _data_dir_problems(checked: Checked) -> Iterator[str]:
    try:
        if "dataset" in checked:
            data.check_data_dir(checked["dataset"], checked.get("data_dir"))
    except ValueError as error:
        yield str(error).replace("`", "")


def _subset_problems(checked: Checked) -> Iterator[str]:
    if {"train_on", "subset"} <= checked.keys():
        names = "train_on", "subset", "data_dir"
        try:
            data.num_train(checked["dataset"], **{name: checked[name] for name in names})
        except ValueError as error:
            yield str(error).replace("`", "")


def _stream_problems(checked: Checked) -> Iterator[str]:
    """Yields a line if the image size or the loop does not suit the dataset."""
    if not {"image_size", "loop"} <= checked.keys():
        return
    dataset, image_size, loop = (checked[key] for key in ("dataset", "image_size", "loop"))
    try:
        data.check_image_size(dataset, image_size, data_dir=checked["data_dir"])
    except ValueError as error:
        yield str(error).replace("`", "")
        return
    if not _is_resident(checked) and loop not in (None, "streamed"):
        yield f"loop must be None or 'streamed' for {dataset!r}, got {loop!r}."


def _is_resident(checked: Checked) -> bool:
    name, data_dir = checked.get("dataset"), checked.get("data_dir")
    return name is None or data.is_resident(name, checked.get("image_size"), data_dir=data_dir)


def _is_table(checked: Checked) -> bool:
    name = checked.get("dataset")
    return name is not None and data.is_table(name, data_dir=checked.get("data_dir"))


def _own_problems(entry: Technique, checked: Checked) -> list[str]:
    """Returns the contradictions of an entry, except where a value is wrong by itself."""
    try:
        return list(entry.problems(checked))
    except KeyError:
        if entry.keys.keys() <= checked.keys():
            raise
        return []


def _batch_problems(entry: Technique, checked: Checked, num_devices: int) -> Iterator[str]:
    for key in (entry.beside or {}).values():
        yield from uneven_batch(checked.get(key, 0), num_devices, key=key)


def _group_problems(entry: Technique, checked: Checked, num_devices: int) -> Iterator[str]:
    # 1 is also what a caller says who does not know, and an evaluation; `run.plan` asks again.
    if num_devices > 1:
        sizes = {key: checked.get(key) for key in entry.device_groups}
        known = {key: size for key, size in sizes.items() if size is not None}
        yield from uneven_groups(known, num_devices)


def _set_switches(checked: Checked, entry: Technique) -> list[str]:
    """Returns the keys that turn an entry on."""
    return [key for key in entry.switches if checked.get(key) is not None]


def _unoffered(catalogue: Catalogue, checked: Checked, entry: Technique) -> list[str]:
    """Returns what an entry needs, and the task does not offer, in alphabetical order."""
    if TASK not in checked:
        return []
    return sorted(entry.needs - catalogue.task(checked[TASK]).offers - {IN_MEMORY, SPATIAL})


def _unmet_needs(catalogue: Catalogue, checked: Checked, entry: Technique) -> Iterator[str]:
    switch = " and ".join(_set_switches(checked, entry))
    if missing := _unoffered(catalogue, checked, entry):
        yield (
            f"{switch} must be None where {TASK} is {checked[TASK]!r}: it needs "
            f"{' and '.join(missing)}."
        )
    dataset = checked.get("dataset")
    if SPATIAL in entry.needs and _is_table(checked):
        yield f"{switch} must be None for {dataset!r}: it needs images, not a table."
    if IN_MEMORY in entry.needs and not _is_resident(checked):
        yield (
            f"{switch} needs a dataset that fits in memory; leave it at None for {dataset!r}."
            if switch
            else f"dataset must fit in memory, which {entry.name} needs, got {dataset!r}."
        )


def _unread(catalogue: Catalogue, checked: Checked) -> Iterator[str]:
    """Yields a line for each value that would be ignored, as an option of another choice."""
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
    if not entry.switches and _unoffered(catalogue, checked, entry):
        return f"not read where {TASK} is {task!r}"
    choice, readers = _readers(entry, key)
    if readers and choice in checked and checked[choice] not in readers:
        named = " or ".join(map(repr, readers))
        return f"read where {choice} is {named}, not {checked[choice]!r}"
    needed = (entry.read_with or {}).get(key, entry.switches)
    others = needed if key not in entry.switches else ()
    is_off = others and all(checked.get(switch, True) is None for switch in others)
    return f"read where {any_of(*others)} is set, not None" if is_off else None


def _readers(entry: Technique, key: str) -> tuple[str, list[str]]:
    """Returns the choice that decides about a key, and its values that read it; [] is any."""
    section, _, word = key.rpartition(".")
    for choice, options in (entry.options or {}).items():
        readers = [value for value, words in options.items() if word in words]
        if readers and choice.rpartition(".")[0] == section:
            return choice, readers
    return "", []
