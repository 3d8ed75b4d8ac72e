"""A config made into typed, checked, frozen objects, before any data is loaded.

The recipe separates *structure* (static: what is compiled) from *numbers* (a pytree: every easy,
hard and factor), so that one compiled program serves all runs that differ in numbers alone. Below
this file nobody sees a config.

A value that may cycle, a *knob*, is a number or `cyclical(easy, hard)`; None is off.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cyclical_jax import _checks
from cyclical_jax.data import RESIDENT_DATASETS
from cyclical_jax.losses import warn_above_ceiling
from cyclical_jax.models import MODELS
from cyclical_jax.schedules import SCALES, SHAPES, Scale, Shape


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


Numbers = dict[str, Knob]  # knob -> its numbers; a technique that is off is absent


@dataclass(frozen=True)
class Structure:
    """What decides the compiled program, beside the shapes of the data; hashable."""

    model: str
    model_options: tuple[tuple[str, Any], ...]
    optimizer: str
    momentum: float
    learning_rate_decay: str | None
    loss: str
    curves: tuple[tuple[str, Curve], ...]
    num_cycles: int
    batch_size: int  # over all devices
    num_epochs: int


@dataclass(frozen=True)
class Recipe:
    """A whole run, checked."""

    dataset: str
    data_dir: str | None
    seed: int
    structure: Structure
    numbers: Numbers


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


# The knobs of each loss, beside the temperature and the label smoothing that all of them have.
LOSS_KNOBS = {
    "cross_entropy": (),
    "focal": ("gamma",),
    "asymmetric_focal": ("gamma_pos", "gamma_neg"),
    "cyclical_focal": ("hardness", "gamma_hc", "gamma_pos", "gamma_neg"),
}
OPTIMIZERS = ("sgd", "adamw")


def parse(config: ConfigDict) -> Recipe:
    """Checks `config` and makes the recipe of it.

    Raises:
      RecipeError: Unknown or missing keys, and values of a wrong type or out of their range, a line
        each; where there are none, knobs of a loss that is not the one named.
    """
    values = _flat(config.to_dict())
    problems = _misnamed(values)
    parsed = {}
    for key in (key for key in _FIELDS if key in values):
        try:
            parsed[key] = _FIELDS[key](key, values[key])
        except ValueError as error:
            problems.append(str(error).replace("`", ""))
    problems = problems or _unused_knobs(parsed)
    if problems:
        raise RecipeError("\n".join(problems))
    recipe = _assemble(parsed)
    for gamma in recipe.numbers.get("gamma_hc", ())[:2]:  # in the program it is traced
        warn_above_ceiling(gamma)
    return recipe


# ---- checks of one value: (key, value) -> value, ValueError with one line


def _one_of(*allowed):
    def check(key, value):
        _checks.one_of(key, value, allowed)
        return value

    return check


def _whole(minimum: int):
    def check(key, value):
        _checks.whole_number(key, value, minimum=minimum, maximum=2**31 - 1)
        return int(value)

    return check


def _number(**limits):
    def check(key, value):
        _checks.number(key, value, **limits)
        return float(value)

    return check


def _flag(key, value):
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be True or False, got {value!r}.")
    return value


def _text(key, value):
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string, got {value!r}.")
    return value


def _sizes(key, value):
    if not isinstance(value, tuple | list):
        raise ValueError(f"{key} must be a tuple of whole numbers, got {value!r}.")
    return tuple(_whole(1)(key, size) for size in value)


def _knob(**limits):
    """A number, or the entries of `cyclical(...)`; returns these, None where the clock decides."""
    number = _number(**limits)

    def check(key, value):
        if not isinstance(value, Mapping):
            value = {"easy": value, "hard": value}
            keys = {"easy": key, "hard": key}
        else:
            keys = {end: f"{key}.{end}" for end in ("easy", "hard")}
        cycle = _cycle(key, value)
        ends = {end: number(keys[end], cycle[end]) for end in keys}
        if cycle["scale"] == "log":
            ends = {end: _number(above=0)(keys[end], cycle[end]) for end in keys}
        return cycle | ends

    return check


def _cycle(key, value):
    cycle = {"easy": None, "hard": None, "factor": None, "shape": None, "scale": "linear"}
    for unknown in sorted(value.keys() - cycle.keys()):
        raise ValueError(f"{key}.{unknown} is not a key of a cycle: {', '.join(cycle)}.")
    cycle |= value
    _optional(_number(minimum=1))(f"{key}.factor", cycle["factor"])
    _optional(_one_of(*SHAPES))(f"{key}.shape", cycle["shape"])
    _one_of(*SCALES)(f"{key}.scale", cycle["scale"])
    return cycle


def _optional(check):
    return lambda key, value: None if value is None else check(key, value)


_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "dataset": _one_of(*RESIDENT_DATASETS),
    "data_dir": _optional(_text),
    "seed": _whole(0),
    "batch_size": _whole(1),
    "num_epochs": _whole(1),
    "cycle.factor": _number(minimum=1),
    "cycle.shape": _one_of(*SHAPES),
    "cycle.num_cycles": _whole(1),
    "model.name": _one_of(*MODELS),
    "model.hidden_sizes": _sizes,
    "model.batch_norm": _flag,
    "optimizer.name": _one_of(*OPTIMIZERS),
    "optimizer.momentum": _number(minimum=0, maximum=1),
    "optimizer.learning_rate_decay": _optional(_one_of("cosine")),
    "optimizer.learning_rate": _knob(above=0),
    "optimizer.weight_decay": _optional(_knob(minimum=0)),
    "optimizer.max_norm": _optional(_knob(minimum=0)),
    "optimizer.max_delta": _optional(_knob(minimum=0)),
    "optimizer.clipping": _optional(_knob(minimum=0)),
    "loss.name": _one_of(*LOSS_KNOBS),
    "loss.temperature": _knob(above=0),
    "loss.label_smoothing": _knob(minimum=0, maximum=1),
    "loss.hardness": _optional(_knob(minimum=0, maximum=1)),
    "loss.gamma": _optional(_knob(minimum=0)),
    "loss.gamma_hc": _optional(_knob(minimum=0)),
    "loss.gamma_pos": _optional(_knob(minimum=0)),
    "loss.gamma_neg": _optional(_knob(minimum=0)),
}
_SECTIONS = {key.split(".")[0] for key in _FIELDS if "." in key}


# ---- problems with keys


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """{"section.key": value} of the two levels a config has."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name in _SECTIONS and isinstance(value, Mapping):
            flat |= {f"{name}.{key}": entry for key, entry in value.items()}
        else:
            flat[name] = value
    return flat


def _misnamed(values) -> list[str]:
    problems = []
    for key in values:
        if key not in _FIELDS:
            nearest = ", ".join(difflib.get_close_matches(key, _FIELDS)) or ", ".join(_FIELDS)
            problems.append(f"{key} is not a key of a config; nearest: {nearest}.")
    return problems + [f"{key} is missing." for key in _FIELDS if key not in values]


def _unused_knobs(parsed) -> list[str]:
    """A knob of another loss would be ignored without a word; a missing one has no default."""
    loss, problems = parsed["loss.name"], []
    for knob in sorted({knob for knobs in LOSS_KNOBS.values() for knob in knobs}):
        is_set, is_used = parsed[f"loss.{knob}"] is not None, knob in LOSS_KNOBS[loss]
        if is_set != is_used:
            wanted = "needs a value" if is_used else "must be None"
            problems.append(f"loss.{knob} {wanted} for loss.name {loss!r}.")
    return problems


# ---- the recipe


def _assemble(parsed) -> Recipe:
    cycles = {
        key.split(".")[1]: value
        for key, value in parsed.items()
        if isinstance(value, dict)  # only a knob is one
    }
    numbers = {
        name: Knob(c["easy"], c["hard"], float(c["factor"] or parsed["cycle.factor"]))
        for name, c in cycles.items()
    }
    curves = {
        name: Curve(c["shape"] or parsed["cycle.shape"], c["scale"]) for name, c in cycles.items()
    }
    model = {key.split(".")[1]: value for key, value in parsed.items() if key.startswith("model.")}
    structure = Structure(
        model=model.pop("name"),
        model_options=tuple(model.items()),
        optimizer=parsed["optimizer.name"],
        momentum=parsed["optimizer.momentum"],
        learning_rate_decay=parsed["optimizer.learning_rate_decay"],
        loss=parsed["loss.name"],
        curves=tuple(curves.items()),
        num_cycles=parsed["cycle.num_cycles"],
        batch_size=parsed["batch_size"],
        num_epochs=parsed["num_epochs"],
    )
    return Recipe(
        dataset=parsed["dataset"],
        data_dir=parsed["data_dir"],
        seed=parsed["seed"],
        structure=structure,
        numbers=numbers,
    )
