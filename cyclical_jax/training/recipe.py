"""Turns a config into a recipe, or raises an error with one line for each of its problems.

No other file of the engine sees a config. A value that may cycle, a *knob*, is a number or
`cyclical(easy, hard)`; None means off. The keys are those of the engine (`keys.py`) and of the
entries of a catalogue.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cyclical_jax import data
from cyclical_jax.training.contradictions import contradictions, is_on, is_read
from cyclical_jax.training.durations import Duration
from cyclical_jax.training.fields import Cycle, Field, RecipeError
from cyclical_jax.training.keys import SPAN, TASK
from cyclical_jax.training.structure import (
    Accumulation,
    Catalogue,
    Curve,
    Knob,
    OwnValues,
    Recipe,
    Structure,
)
from cyclical_jax.training.technique import Technique

_ACCUMULATE = "accumulate"


def cyclical(
    easy: float,
    hard: float,
    *,
    factor: float | None = None,
    shape: str | Sequence[str] | None = None,
    scale: str = "linear",
) -> ConfigDict:
    """Returns a config value that goes easy -> hard -> easy.

    Args:
      easy: Value at the first and the last update.
      hard: Value at the peak.
      factor, shape: As in `cyclical_jax.hardness_schedule`; None is the value of `config.cycle`.
      scale: As in `cyclical_jax.between`.
    """
    own = {"factor": factor, "shape": shape}
    given = {name: value for name, value in own.items() if value is not None}
    return ConfigDict({"easy": easy, "hard": hard, "scale": scale, **given})


def default_config(catalogue: Catalogue) -> ConfigDict:
    """Returns a config with all keys at their defaults; `parse` checks changed values."""
    return completed(ConfigDict(type_safe=False), catalogue.keys)


def completed(config: ConfigDict, keys: Mapping[str, Field]) -> ConfigDict:
    """Adds the missing keys to `config`, at their defaults, and returns it."""
    for key, field in keys.items():
        section, _, name = key.rpartition(".")
        within = config.get(section, {}) if section else config
        # A section that is no section is wrong, and `parse` says so.
        if isinstance(within, ConfigDict | dict) and name not in within:
            put(config, key, field.default)
    return config


def put(config: ConfigDict, key: str, value: Any) -> None:
    """Sets `key`, such as "section.name", and makes the section if it is missing."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(config.get(section), ConfigDict):
            config[section] = ConfigDict(type_safe=False)
        config = config[section]
    config[name] = value


def change(catalogue: Catalogue, config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Makes the changes {key: value} in `config` and returns it; references to a key follow it.

    If a change names a file, the keys of the file are added, as in `with_own_defaults`.
    """
    before = catalogue.of(config.to_dict())
    with config.ignore_type():
        for key, value in changes.items():
            put(config, key, value)
    return with_own_defaults(before, config, unless=changes)


def with_own_defaults(
    before: Catalogue, config: ConfigDict, *, unless: Collection[str] = ()
) -> ConfigDict:
    """Returns `config` with the keys of the files that it names, at their defaults.

    Args:
      before: The catalogue whose keys `config` has. If a file has its own default for such a key,
        it replaces the default of `before`, which counts as not set.
      config: The config; it is changed.
      unless: Keys that were set.
    """
    after, values = before.of(config.to_dict()), before.flat(config.to_dict())
    if after is before:
        return config
    with config.ignore_type():
        for key, field in after.keys.items():
            was = before.keys.get(key)
            is_unset = key not in values or (was and values[key] == was.default)
            if field is not was and is_unset and key not in unless:
                put(config, key, field.default)
        for key in before.keys.keys() - after.keys.keys():
            if values.get(key) == before.keys[key].default:
                section, _, name = key.rpartition(".")
                del (config[section] if section else config)[name]
    return config


def parse(
    catalogue: Catalogue, config: ConfigDict, *, num_devices: int = 1, needs_data: bool = True
) -> Recipe:
    """Checks `config` and returns its recipe.

    Args:
      catalogue: All tasks and techniques.
      config: All keys of the catalogue, as in `default_config`. The keys of a file that it names
        may be missing: they have their defaults.
      num_devices: Number of devices that share a batch.
      needs_data: Whether missing data of the user's own is a problem.

    Raises:
      RecipeError: The config cannot be run; one line for each problem, all at once.
    """
    try:
        values = config.to_dict()
    except TypeError as error:  # ml_collections sorts the keys
        raise RecipeError(f"The keys of a config must be words: {error}.") from error
    own = catalogue.of(values)
    further = {key: own.keys[key].default for key in own.keys.keys() - catalogue.keys.keys()}
    catalogue, values = own, further | own.flat(values)
    checked, problems = _checked(catalogue, values)
    found = contradictions(catalogue, checked, num_devices, needs_data=needs_data)
    problems = [*_misnamed(catalogue, values), *problems, *found]
    if problems:
        raise RecipeError("\n".join(problems))
    return _assemble(catalogue, checked)


def load_dataset(recipe: Recipe) -> data.Dataset:
    """Returns the dataset of a recipe.

    Raises:
      RecipeError: The file of the subset does not fit the dataset, or the user's own data cannot be
        learned from; a line for each problem.
      DatasetNotFoundError: As `data.load` raises it.
      ImportError: As `data.load` raises it.
    """
    return load_source(recipe.dataset, **source(recipe))


def load_source(name: str, **options: Any) -> data.Dataset:
    """Returns what `data.load` returns; raises RecipeError where it raises ValueError."""
    try:
        return data.load(name, **options)
    except ValueError as error:
        raise RecipeError(str(error).replace("`", "")) from error


def source(recipe: Recipe) -> dict[str, Any]:
    """Returns the options of `data.load` for the dataset of a recipe."""
    names = "data_dir", "train_on", "subset", "image_size"
    found = {name: getattr(recipe, name) for name in names}
    if not data.uses_data_dir(recipe.dataset):  # it may be set in the config of an earlier version
        found["data_dir"] = None
    return found


def _checked(catalogue: Catalogue, values) -> tuple[dict[str, Any], list[str]]:
    """Returns the values that are right by themselves, and a line for each other problem."""
    checked, problems = {}, []
    for key in (key for key in catalogue.keys if key in values):
        try:
            checked[key] = catalogue.keys[key].check(key, values[key])
        except ValueError as error:
            problems += str(error).replace("`", "").splitlines()
    return checked, problems


def _misnamed(catalogue: Catalogue, values) -> Iterator[str]:
    """Yields a line for each key that the catalogue does not have, and for each missing key."""
    keys, moved = catalogue.keys, dict(catalogue.moved)
    for key in sorted(values.keys() - keys.keys()):
        if key in moved:
            yield f"{key} is now {moved[key]}."
        elif key in catalogue.sections:
            within = ", ".join(valid for valid in keys if valid.startswith(f"{key}."))
            meant = dict(catalogue.customary).get(key)
            hint = f"; {meant}" if meant and isinstance(values[key], str) else ""
            yield f"{key} must be a section of {within}, got {values[key]!r}{hint}."
        else:
            yield f"{key} is not a key of a config; {instead_of(catalogue, key)}."
    for key in keys:
        if key not in values and key.split(".")[0] not in values:
            yield f"{key} is missing."


def instead_of(catalogue: Catalogue, key: str) -> str:
    """Returns what an unknown key may mean, in words."""
    word = key.rpartition(".")[2]
    if all(valid.rpartition(".")[2] != word for valid in catalogue.keys):
        customary = dict(catalogue.customary)
        for name in (key.lower(), word.lower()):
            if name in customary:
                return customary[name]
    return f"nearest: {', '.join(_nearest(catalogue, key))}"


def _nearest(catalogue: Catalogue, key: str) -> list[str]:
    """Returns the valid keys and sections that look like `key`, or else all of its section."""
    section, _, word = key.rpartition(".")
    same_word = [valid for valid in catalogue.keys if valid.rpartition(".")[2] == word]
    if same_word:
        return same_word
    everywhere = {valid.rpartition(".")[2]: valid for valid in reversed(catalogue.keys)}
    own = {
        valid.rpartition(".")[2]: valid
        for valid in catalogue.keys
        if valid.rpartition(".")[0] == section
    }
    own |= {name: name for name in catalogue.sections} if not section else {}
    for words in (own, everywhere):
        if matches := difflib.get_close_matches(word, words, cutoff=0.75):
            return [words[match] for match in matches]
    return list(own.values() or catalogue.keys)


# ---- the recipe


def _assemble(catalogue: Catalogue, checked: Mapping[str, Any]) -> Recipe:
    """Returns the recipe of values without a problem."""
    read = {key: value for key, value in checked.items() if is_read(catalogue, checked, key)}
    cycles = {key: value for key, value in read.items() if isinstance(value, Cycle)}
    factor, shape = checked["cycle.factor"], checked["cycle.shape"]
    numbers = {key: Knob(c.easy, c.hard, c.factor or factor) for key, c in cycles.items()}
    curves = {key: Curve(c.shape or shape, c.scale) for key, c in cycles.items()}
    accumulate = _accumulation(numbers.pop(_ACCUMULATE), curves.pop(_ACCUMULATE))
    task = catalogue.task(checked[TASK])
    on = [entry for entry in catalogue.techniques if is_on(catalogue, checked, entry)]
    structure = Structure(
        task=(task, _own(task, catalogue, read)),
        techniques=tuple((entry, _own(entry, catalogue, read)) for entry in on),
        curves=tuple(curves.items()),
        num_cycles=checked["cycle.num_cycles"],
        span=checked[SPAN],
        batch_size=checked["batch_size"],
        beside=tuple(
            (name, read[key]) for entry in on for name, key in (entry.beside or {}).items()
        ),
        accumulate=accumulate,
        as_one_batch=checked["accumulate_as"] == "one_batch",
        remainder=checked["remainder"],
        on_nonfinite=checked["on_nonfinite"],
    )
    owned = {key: value for key, value in read.items() if key in catalogue.owners}
    is_run = {key for key in owned if catalogue.keys[key].is_run and owned[key] is not None}
    return Recipe(
        **{name: checked[name] for name in _PLAIN},
        durations=tuple((key, v) for key, v in owned.items() if isinstance(v, Duration)),
        earlier_runs=tuple((key, value) for key, value in owned.items() if key in is_run),
        structure=structure,
        numbers=numbers,
        catalogue=catalogue,
    )


_PLAIN = (
    "dataset",
    "data_dir",
    "train_on",
    "subset",
    "image_size",
    "seed",
    "duration",
    "log_every",
    "validate_every",
    "loop",
)


def _own(entry: Technique, catalogue: Catalogue, read: Mapping[str, Any]) -> OwnValues:
    """Returns the values of an entry that decide the program."""
    return tuple(
        (key, read[key])
        for key, field in entry.keys.items()
        if key in read and not field.is_run and not isinstance(read[key], Cycle | Duration)
    )


def _accumulation(knob: Knob, curve: Curve) -> Accumulation:
    """Returns the accumulation; a constant one has no clock, so that runs with it are alike."""
    if knob.easy == knob.hard:
        knob, curve = knob._replace(factor=1.0), Curve("linear", "linear")
    return Accumulation(knob, curve)
