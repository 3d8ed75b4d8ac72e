"""A config made into typed, checked, frozen objects, before any data is loaded.

The recipe separates *structure* (static: what is compiled) from *numbers* (a pytree: every easy,
hard and factor), so that one compiled program serves all runs that differ in numbers alone. Below
this file nobody sees a config.

A value that may cycle, a *knob*, is a number or `cyclical(easy, hard)`; None is off. The keys are
in `fields.py`.
"""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import optax
from ml_collections import ConfigDict

from cyclical_jax import data
from cyclical_jax.data import (
    RESIDENT_DATASETS,
    check_image_size,
    check_unlabelled,
    num_classes,
    num_train,
    num_unlabelled,
)
from cyclical_jax.losses import warn_above_ceiling
from cyclical_jax.schedules import Scale, Shape, cyclical_schedule
from cyclical_jax.training.accumulation import (
    Windows,
    powers_of_two,
    uniform_windows,
    windows_of_micro_steps,
    windows_of_updates,
)
from cyclical_jax.training.durations import Duration, Timetable, Units
from cyclical_jax.training.fields import (
    BALANCED,
    FIELDS,
    MODEL_KNOBS,
    MULTILABEL,
    OPTIONS,
    SECTIONS,
    SWITCHES,
    Cycle,
)

_MOST_WINDOWS = 10**7


class RecipeError(ValueError):
    """A config that cannot be run. The message has one line for each of its problems."""


class Knob(NamedTuple):
    """The numbers of a cycle; a constant has `easy` equal to `hard`."""

    easy: float
    hard: float
    factor: float


class Curve(NamedTuple):
    """The structure of a cycle."""

    shape: Shape
    scale: Scale


class Accumulation(NamedTuple):
    """Micro steps a step; a constant has `easy` equal to `hard`."""

    knob: Knob
    curve: Curve

    @property
    def is_constant(self) -> bool:
        return self.knob.easy == self.knob.hard

    @property
    def least(self) -> int:
        return int(min(self.knob.easy, self.knob.hard))

    def schedule_of(self, num_cycles: int) -> Callable[[int], optax.Schedule]:
        """Its schedule, for a number of updates."""
        easy, hard, factor = self.knob
        options = {"factor": factor, "num_cycles": num_cycles, **self.curve._asdict()}
        return lambda total_steps: cyclical_schedule(easy, hard, total_steps, **options)


Numbers = dict[str, Knob]  # knob -> its numbers; a technique that is off is absent


@dataclass(frozen=True)
class Structure:
    """What decides the compiled program, beside lengths and the shapes of the data; hashable."""

    model: str
    model_options: tuple[tuple[str, Any], ...]
    optimizer: str
    nesterov: bool
    learning_rate_schedule: str | None
    num_restarts: int
    loss: str
    augmentation: tuple[str, ...]
    weak: tuple[str, ...]  # operations on the unlabelled images; () where there are none
    strong: tuple[str, ...]
    unlabelled_batch_size: int  # a micro step, over all devices; 0 where there are none
    new_head: bool
    gradient_norm: str | None  # the loss whose gradient's norm the gradient gets
    curves: tuple[tuple[str, Curve], ...]
    num_cycles: int
    batch_size: int  # examples a micro step, over all devices
    accumulate: Accumulation
    as_one_batch: bool
    remainder: str
    on_nonfinite: str


@dataclass(frozen=True)
class Recipe:
    """A whole run, checked."""

    dataset: str
    data_dir: str | None
    train_on: str
    subset: str | None
    image_size: int | None
    class_weights: str | tuple[float, ...] | None
    teacher: str | None  # workdirs of earlier runs
    scorer: str | None
    start: str | None
    seed: int
    duration: Duration
    log_every: Duration
    validate_every: Duration
    warmup: Duration | None
    loop: str | None
    structure: Structure
    numbers: Numbers

    @property
    def earlier_runs(self) -> dict[str, str]:
        """{key: workdir} of the runs that it takes something of."""
        named = {
            "distillation.teacher": self.teacher,
            "curriculum.scorer": self.scorer,
            "finetuning.start": self.start,
        }
        return {key: workdir for key, workdir in named.items() if workdir is not None}

    def timetable(self, num_train: int) -> Timetable:
        """Its durations in micro steps, for `num_train` training examples.

        Raises:
          RecipeError: A batch is larger than the data, or a cycle has too few updates to turn.
        """
        structure = self.structure
        epoch = _micro_steps_per_epoch(structure, num_train)
        units = Units(structure.batch_size, epoch)
        windows = _windows(structure, self.duration, units, num_train)
        timetable = Timetable(windows, epoch, 1, 1, as_one_batch=structure.as_one_batch)
        _check_updates(structure.num_cycles, timetable.total_steps, num_train)
        mean = timetable.micro_steps / timetable.total_steps
        log, validate = (
            min(interval.in_micro_steps(units, mean), timetable.micro_steps)
            for interval in (self.log_every, self.validate_every)
        )
        warmup = round(self.warmup.in_micro_steps(units, mean) / mean) if self.warmup else 0
        _check_warmup(warmup, timetable.total_steps)
        return timetable._replace(log_every=log, validate_every=validate, warmup_steps=warmup)


def load_dataset(recipe: Recipe) -> data.Dataset:
    """The dataset of a recipe.

    Raises:
      RecipeError: The subset's file does not fit the dataset; a line.
      DatasetNotFoundError, ImportError: As in `data.load`.
    """
    try:
        return data.load(recipe.dataset, **source(recipe))
    except ValueError as error:
        raise RecipeError(str(error).replace("`", "")) from error


def source(recipe: Recipe) -> dict[str, Any]:
    """The options of `data.load` for its dataset."""
    names = "data_dir", "train_on", "subset", "image_size"
    own = {name: getattr(recipe, name) for name in names}
    return own | {"unlabelled": recipe.structure.unlabelled_batch_size > 0}


def cyclical(
    easy: float,
    hard: float,
    *,
    factor: float | None = None,
    shape: str | None = None,
    scale: str = "linear",
) -> ConfigDict:
    """A config value that goes easy -> hard -> easy.

    Args:
      easy: Value at the first and the last update.
      hard: Value at the peak.
      factor, shape: As in `cyclical_jax.hardness_schedule`; None is `config.cycle`'s.
      scale: As in `cyclical_jax.between`.
    """
    own = {"factor": factor, "shape": shape}
    given = {name: value for name, value in own.items() if value is not None}
    return ConfigDict({"easy": easy, "hard": hard, "scale": scale, **given})


def default_config() -> ConfigDict:
    """All keys of `fields.py`, at their defaults; `parse` checks what is put in their place."""
    config = ConfigDict(type_safe=False)
    for key, field in FIELDS.items():
        put(config, key, field.default)
    return config


def put(config: ConfigDict, key: str, value: Any) -> None:
    """Sets `key`, "section.name" say, making the sections that are not there."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(config.get(section), ConfigDict):
            config[section] = ConfigDict(type_safe=False)
        config = config[section]
    config[name] = value


def parse(config: ConfigDict, *, num_devices: int = 1) -> Recipe:
    """Checks `config` and makes the recipe of it.

    Args:
      config: With all keys of `fields.py`, as `default_config` has them.
      num_devices: Devices that share a batch.

    Raises:
      RecipeError: The config cannot be run; a line for each problem, all at once.
    """
    try:
        values = _flat(config.to_dict())
    except TypeError as error:  # ml_collections sorts the keys
        raise RecipeError(f"The keys of a config must be words: {error}.") from error
    checked, problems = _checked(values)
    problems = [*_misnamed(values), *problems, *_contradictions(checked, num_devices)]
    if problems:
        raise RecipeError("\n".join(problems))
    recipe = _assemble(checked)
    for gamma in recipe.numbers.get("gamma_hc", ())[:2]:  # in the program it is traced
        warn_above_ceiling(gamma)
    return recipe


def describe(config: ConfigDict) -> str:
    """Every key of a config that `parse` takes, with its value, default, type and meaning."""
    values = _flat(config.to_dict())
    lines = []
    for key, field in FIELDS.items():
        is_default = field.check(key, values[key]) == field.check(key, field.default)
        default = "" if is_default else f"; default {_shown(field.default)}"
        lines.append(f"{key} = {_shown(values[key])}  [{field.type}{default}]\n    {field.meaning}")
    return "\n".join(lines)


def _shown(value) -> str:
    if not isinstance(value, Mapping):
        return repr(value)
    entries = [f"{name}={entry!r}" for name, entry in value.items() if (name, entry) != _LINEAR]
    return f"cyclical({', '.join(entries)})"


_LINEAR = ("scale", "linear")


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """{"section.key": value} of the two levels a config has."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name in SECTIONS and isinstance(value, Mapping):
            flat |= {f"{name}.{key}": entry for key, entry in value.items()}
        else:
            flat[name] = value
    return flat


# ---- problems, a line each


def _checked(values) -> tuple[dict[str, Any], list[str]]:
    """The values that are right by themselves, and what is wrong with the others."""
    checked, problems = {}, []
    for key in (key for key in FIELDS if key in values):
        try:
            checked[key] = FIELDS[key].check(key, values[key])
        except ValueError as error:
            problems += str(error).replace("`", "").splitlines()
    return checked, problems


def _misnamed(values) -> Iterator[str]:
    for key in sorted(values.keys() - FIELDS.keys()):
        if key in SECTIONS:
            within = ", ".join(valid for valid in FIELDS if valid.startswith(f"{key}."))
            yield f"{key} must be a section of {within}, got {values[key]!r}."
        else:
            yield f"{key} is not a key of a config; nearest: {', '.join(_nearest(key))}."
    for key in FIELDS:
        if key not in values and key.split(".")[0] not in values:
            yield f"{key} is missing."


def _nearest(key: str) -> list[str]:
    """The valid keys and sections that look like it, or else all of its section."""
    section, _, word = key.rpartition(".")
    everywhere = {valid.rpartition(".")[2]: valid for valid in reversed(FIELDS)}
    own = {
        valid.rpartition(".")[2]: valid for valid in FIELDS if valid.rpartition(".")[0] == section
    }
    own |= {name: name for name in SECTIONS} if not section else {}
    if word in everywhere:
        return [everywhere[word]]
    for words in (own, everywhere):
        if matches := difflib.get_close_matches(word, words, cutoff=0.75):
            return [words[match] for match in matches]
    return list(own.values() or FIELDS)


def _contradictions(checked, num_devices: int) -> Iterator[str]:
    """What is wrong between values that are right by themselves."""
    yield from uneven_batch(checked.get("batch_size", 0), num_devices)
    yield from _misaccumulated(checked)
    if {"dataset", "train_on", "subset"} <= checked.keys():
        yield from _unfilled_subset(checked["dataset"], checked["train_on"], checked["subset"])
    if {"dataset", "image_size", "loop"} <= checked.keys():
        yield from _unstreamed(checked["dataset"], checked["image_size"], checked["loop"])
    yield from _half_augmented(checked)
    yield from _misrestarted(checked)
    if checked.get("semisupervised.unlabelled_weight") is not None:
        yield from _without_unlabelled(checked, num_devices)
    yield from _unscored(checked)
    yield from _without_softmax(checked)
    yield from _without_hidden_layers(checked)
    if checked.get("loss.class_weights") is not None and "dataset" in checked:
        yield from _misweighted(checked["loss.class_weights"], checked["dataset"])
    yield from _unread(checked)


def _misaccumulated(checked) -> Iterator[str]:
    accumulate = checked.get("accumulate", Cycle(1, 1))
    if checked.get("remainder") == "pad" and max(accumulate.easy, accumulate.hard) > 1:
        yield "remainder must be 'drop' where accumulate is above 1: a part would weigh as a whole."
    if checked.get("accumulate_as") == "one_batch":
        if max(accumulate.easy, accumulate.hard) == 1:
            yield "accumulate_as is 'one_batch', but accumulate is 1: there is nothing to join."
        if checked.get("loop") == "streamed":
            yield "accumulate_as must be 'micro_steps' where loop is 'streamed'."


def _half_augmented(checked) -> Iterator[str]:
    augmenting = "augment.operations", "augment.strength"
    if checked.keys() >= {*augmenting}:
        operations, strength = (checked[key] for key in augmenting)
        if operations and strength is None:
            yield f"augment.operations is {operations}, but augment.strength is None: set both."
        if strength is not None and not operations:
            yield "augment.strength is set, but augment.operations is (): set both."


def _misrestarted(checked) -> Iterator[str]:
    restarting = "optimizer.learning_rate_schedule", "optimizer.num_restarts"
    if checked.keys() >= {*restarting}:
        schedule, number = (checked[key] for key in restarting)
        if (schedule == "warm_restarts") != (number is not None):
            yield (
                "optimizer.num_restarts must be set where optimizer.learning_rate_schedule is "
                f"'warm_restarts', and there alone, got {number} and {schedule!r}."
            )


def uneven_batch(batch_size: int, num_devices: int, *, key: str = "batch_size") -> Iterator[str]:
    """The problem of a batch that the devices cannot share, if it is one."""
    if batch_size % num_devices:
        yield f"{key} must be a multiple of the {num_devices} devices, got {batch_size}."


def _without_unlabelled(checked, num_devices: int) -> Iterator[str]:
    key = "semisupervised.batch_size"
    batch_size = checked.get(key, 1)
    yield from uneven_batch(batch_size, num_devices, key=key)
    if not checked.keys() >= {"dataset", "train_on", "subset"}:
        return
    name, train_on, subset = (checked[key] for key in ("dataset", "train_on", "subset"))
    try:
        check_unlabelled(name, train_on, subset)
        number = num_unlabelled(name, train_on=train_on, subset=subset)
        if batch_size > number:
            yield f"{key} {batch_size} is more than the {number} unlabelled examples."
    except ValueError as error:
        reason = str(error).replace("`", "")
        yield f"semisupervised.unlabelled_weight needs a subset, say 'balanced 250': {reason}"


def _without_softmax(checked) -> Iterator[str]:
    """What takes the logits for those of one distribution, beside a loss that does not."""
    if checked.get("loss.name") in MULTILABEL:
        for key in ("distillation.teacher", "curriculum.name", "semisupervised.unlabelled_weight"):
            if checked.get(key) is not None:
                yield f"{key} must be None where loss.name is {checked['loss.name']!r}."


def _without_hidden_layers(checked) -> Iterator[str]:
    """What acts in them alone."""
    if checked.get("model.name") == "mlp" and checked.get("model.hidden_sizes") == ():
        for key in ("model.batch_norm", "model.dropout"):
            if checked.get(key):
                yield f"{key} is read where model.hidden_sizes has a layer, not ()."


def _unscored(checked) -> Iterator[str]:
    name, scorer = checked.get("curriculum.name"), checked.get("curriculum.scorer")
    if name == "earlier_run" and scorer is None:
        yield "curriculum.scorer must be a run's workdir where curriculum.name is 'earlier_run'."
    if scorer is not None and "dataset" in checked:
        yield from _not_in_memory("curriculum.scorer", checked["dataset"])


def _not_in_memory(key: str, dataset: str) -> Iterator[str]:
    if dataset not in RESIDENT_DATASETS:
        yield f"{key} is for datasets that fit in memory; leave it None for {dataset!r}."


def _misweighted(weights: str | tuple[float, ...], dataset: str) -> Iterator[str]:
    yield from _not_in_memory("loss.class_weights", dataset)
    number = num_classes(dataset)
    if weights != BALANCED and len(weights) != number:
        yield f"loss.class_weights must have {number} numbers for {dataset!r}, got {len(weights)}."


def _unfilled_subset(dataset: str, train_on: str, subset: str | None) -> Iterator[str]:
    try:
        num_train(dataset, train_on=train_on, subset=subset)
    except ValueError as error:
        yield str(error).replace("`", "")


def _unstreamed(dataset: str, image_size: int | None, loop: str | None) -> Iterator[str]:
    """What a dataset that does not fit in memory needs, and others do not take."""
    try:
        check_image_size(dataset, image_size)
    except ValueError as error:
        yield str(error).replace("`", "")
    if dataset not in RESIDENT_DATASETS and loop not in (None, "streamed"):
        yield f"loop must be None or 'streamed' for {dataset!r}, got {loop!r}."


def _unread(checked) -> Iterator[str]:
    """An option of what was not chosen would be ignored without a word."""
    for key, value in checked.items():
        if value == FIELDS[key].check(key, FIELDS[key].default):
            continue
        default = f"leave it at {_shown(FIELDS[key].default)}"
        switch, (choice, readers) = _switch(key), _readers(key)
        if readers and choice in checked and checked[choice] not in readers:
            yield (
                f"{key} is read where {choice} is {' or '.join(map(repr, readers))}, not "
                f"{checked[choice]!r}; {default}."
            )
        elif switch and checked.get(switch, True) is None:
            yield f"{key} is read where {switch} is set, not None; {default}."


def _switch(key: str) -> str | None:
    """The key that has to be set for `key` to be read."""
    section = key.split(".")[0]
    return f"{section}.{SWITCHES[section]}" if section in SWITCHES else None


def _readers(key: str) -> tuple[str, list[str]]:
    """The choice of its section, and what has to be chosen for `key` to be read; [] is anything."""
    section, _, name = key.rpartition(".")
    choice = f"{section}.name"
    options = OPTIONS.get(choice, {})
    return choice, [chosen for chosen, names in options.items() if name in names]


def _micro_steps_per_epoch(structure: Structure, num_train: int) -> int:
    size, rest = divmod(num_train, structure.batch_size)
    size += structure.remainder == "pad" and rest > 0
    if not size:
        raise RecipeError(
            f"batch_size {structure.batch_size} is more than the {num_train} training examples."
        )
    return size


def _windows(structure: Structure, duration: Duration, units: Units, num_train: int) -> Windows:
    """The micro steps of each update of a run."""
    every, num_cycles = structure.accumulate, structure.num_cycles
    schedule_of, least = every.schedule_of(num_cycles), every.least
    if structure.as_one_batch and not every.is_constant:
        schedule_of, least = powers_of_two(schedule_of), 2 ** int(math.log2(least))
    micro_steps = duration.in_micro_steps(units, every.least)
    _check_micro_steps(micro_steps, every.is_constant, num_train)
    if every.is_constant:
        return uniform_windows(micro_steps, every.least)
    if duration.unit == "steps":
        _check_updates(num_cycles, int(duration.amount), num_train)
        return windows_of_updates(schedule_of, int(duration.amount))
    ends = {"least": num_cycles + 1, "minimum": least}
    return windows_of_micro_steps(schedule_of, micro_steps, **ends)


def _check_micro_steps(micro_steps: int, is_constant: bool, num_train: int) -> None:
    """Counts are int32; the windows of a cycle are listed."""
    most, what = (2**31 - 1, "counted") if is_constant else (_MOST_WINDOWS, "cycled over")
    if micro_steps > most:
        raise RecipeError(
            f"duration makes {micro_steps} batches of {num_train} training examples; at most "
            f"{most} can be {what}."
        )


def _check_updates(num_cycles: int, total_steps: int, num_train: int) -> None:
    """A cycle needs two updates to turn between."""
    if total_steps <= num_cycles:
        raise RecipeError(
            f"duration must make more updates than cycle.num_cycles {num_cycles}, got "
            f"{total_steps} of {num_train} training examples."
        )


def _check_warmup(warmup_steps: int, total_steps: int) -> None:
    if warmup_steps >= total_steps:
        raise RecipeError(
            f"optimizer.warmup must be shorter than the run, got {warmup_steps} of {total_steps} "
            "updates."
        )


# ---- the recipe


def _assemble(checked) -> Recipe:
    knobs = {key.split(".")[-1]: value for key, value in _read(checked) if isinstance(value, Cycle)}
    factor, shape = checked["cycle.factor"], checked["cycle.shape"]
    numbers = {name: Knob(c.easy, c.hard, c.factor or factor) for name, c in knobs.items()}
    curves = {name: Curve(c.shape or shape, c.scale) for name, c in knobs.items()}
    accumulate = _accumulation(numbers.pop("accumulate"), curves.pop("accumulate"))
    model = checked["model.name"]
    is_semisupervised = checked["semisupervised.unlabelled_weight"] is not None
    structure = Structure(
        model=model,
        model_options=tuple(
            (name, checked[f"model.{name}"])
            for name in OPTIONS["model.name"][model]
            if name not in MODEL_KNOBS
        ),
        optimizer=checked["optimizer.name"],
        nesterov=checked["optimizer.nesterov"],
        learning_rate_schedule=checked["optimizer.learning_rate_schedule"],
        num_restarts=checked["optimizer.num_restarts"] or 0,
        loss=checked["loss.name"],
        augmentation=checked["augment.operations"],
        weak=checked["semisupervised.weak"] if is_semisupervised else (),
        strong=checked["semisupervised.strong"] if is_semisupervised else (),
        unlabelled_batch_size=checked["semisupervised.batch_size"] if is_semisupervised else 0,
        new_head=checked["finetuning.new_head"],
        gradient_norm=checked["loss.gradient_norm"],
        curves=tuple(curves.items()),
        num_cycles=checked["cycle.num_cycles"],
        batch_size=checked["batch_size"],
        accumulate=accumulate,
        as_one_batch=checked["accumulate_as"] == "one_batch",
        remainder=checked["remainder"],
        on_nonfinite=checked["on_nonfinite"],
    )
    names = {field.name for field in fields(Recipe)} & checked.keys()
    own = {key: checked[key] for key in names}
    own |= {key.split(".")[-1]: checked[key] for key in _OF_THE_RECIPE}
    return Recipe(**own, structure=structure, numbers=numbers)


_OF_THE_RECIPE = (
    "optimizer.warmup",
    "loss.class_weights",
    "distillation.teacher",
    "curriculum.scorer",
    "finetuning.start",
)


def _accumulation(knob: Knob, curve: Curve) -> Accumulation:
    """Without the clock that a constant does not read: runs that differ in it are alike."""
    if knob.easy == knob.hard:
        knob, curve = knob._replace(factor=1.0), Curve("linear", "linear")
    return Accumulation(knob, curve)


def _read(checked) -> Iterator[tuple[str, Any]]:
    """The values that the choices made do read."""
    for key, value in checked.items():
        switch, (choice, readers) = _switch(key), _readers(key)
        is_on = switch is None or checked[switch] is not None
        if is_on and (not readers or checked[choice] in readers):
            yield key, value
