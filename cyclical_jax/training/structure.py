"""The types of a recipe: its structure, its numbers, the catalogue, and the recipe itself.

*Structure* is static: it decides what is compiled. *Numbers* are a pytree of every easy, hard and
factor. One compiled program serves all runs that differ in numbers alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import optax

from cyclical_jax.models import Model
from cyclical_jax.schedules import Scale, Shape, cyclical_schedule
from cyclical_jax.training import keys as engine
from cyclical_jax.training import lengths
from cyclical_jax.training.durations import Duration, Timetable
from cyclical_jax.training.fields import Field, RecipeError, one_of
from cyclical_jax.training.state import JUDGED
from cyclical_jax.training.technique import Task, Technique, columns, shown

# Names of the log that no knob may have.
_TAKEN = (
    *("step", "epoch", "loss", "grad_norm", "num_examples", "examples_of_update"),
    *("skipped", "images_per_second", "seconds"),
)


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
    """Micro steps per update; a constant has `easy` equal to `hard`."""

    knob: Knob
    curve: Curve

    @property
    def is_constant(self) -> bool:
        return self.knob.easy == self.knob.hard

    @property
    def least(self) -> int:
        return int(min(self.knob.easy, self.knob.hard))

    def schedule_of(self, num_cycles: int) -> Callable[[int], optax.Schedule]:
        """Returns the function from the number of updates to the schedule."""
        easy, hard, factor = self.knob
        options = {"factor": factor, "num_cycles": num_cycles, **self.curve._asdict()}
        return lambda total_steps: cyclical_schedule(easy, hard, total_steps, **options)


# A model that a run is given; a function gets the mapped axis over which BatchNorm averages, None
# outside of one.
AnyModel = Model | Callable[[str | None], Model]
Numbers = dict[str, Knob]  # {key of a knob: its numbers}; a technique that is off has none
OwnValues = tuple[tuple[str, Any], ...]  # (key, value) of the keys that decide the program


PLUGIN = "plugin "  # begins the names of plugins in `inputs.json`


def plugin_key(name: str) -> str:
    """Returns the name of a plugin in `inputs.json`."""
    return f"{PLUGIN}{name}"


def plugin_identity(digest: str) -> str:
    """Returns the words for a plugin's content in `inputs.json`."""
    return f"content {digest[:16]}"


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The tasks and the techniques, in the order in which they act.

    Attributes:
      tasks: The first is the default.
      techniques: All techniques.
      moved: {key of an earlier version: the keys that took its place, in words}.
      customary: {word that others use for a key: what it is here, in words}.
      plugins: (path, digest of its content) of each file that added to it.

    Raises:
      RecipeError: Two entries have one name or one key, or a switch is not a key of its technique.
    """

    tasks: tuple[Task, ...]
    techniques: tuple[Technique, ...]
    moved: tuple[tuple[str, str], ...] = ()
    customary: tuple[tuple[str, str], ...] = ()
    plugins: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"catalogue of {', '.join(entry.name for entry in self.entries)}"

    def __post_init__(self):
        names: set[str] = set()
        owners = dict.fromkeys((*engine.KEYS, engine.TASK), "the engine")
        for entry in self.entries:
            if entry.name in names:
                raise RecipeError(f"Two tasks or techniques have the name {entry.name!r}.")
            for key in entry.keys:
                if key in owners:
                    raise RecipeError(f"{owners[key]} and {entry.name} both have the key {key}.")
            for problem in _problems_of_entry(entry):
                raise RecipeError(f"{entry.name} {problem}.")
            names.add(entry.name)
            owners |= dict.fromkeys(entry.keys, entry.name)

    @property
    def entries(self) -> tuple[Technique, ...]:
        return (*self.tasks, *self.techniques)

    @cached_property
    def keys(self) -> dict[str, Field]:
        """Every key of a config."""
        tasks = tuple(task.name for task in self.tasks)
        task = one_of(tasks[0], tasks, "kind of problem to learn; see cyclical_jax/tasks")
        keys = {**engine.KEYS, engine.TASK: task}
        return keys | {key: field for entry in self.entries for key, field in entry.keys.items()}

    @cached_property
    def owners(self) -> dict[str, Technique]:
        """{key: the task or the technique that it belongs to}; the engine's own are not there."""
        return {key: entry for entry in self.entries for key in entry.keys}

    @cached_property
    def sections(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key.split(".")[0] for key in self.keys if "." in key))

    def task(self, name: str) -> Task:
        """Returns the task of that name."""
        return next(task for task in self.tasks if task.name == name)

    def flat(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns {"section.key": value} of the two levels that a config has."""
        found: dict[str, Any] = {}
        for name, value in config.items():
            if name in self.sections and isinstance(value, Mapping):
                found |= {f"{name}.{key}": entry for key, entry in value.items()}
            else:
                found[name] = value
        return found

    def of(self, config: Mapping[str, Any]) -> "Catalogue":
        """Returns the catalogue with the keys of the files that a config names, if it names any.

        The same content of the files gives the same object.

        Raises:
          RecipeError: A file cannot be used; a line.
        """
        values = self.flat(config)
        techniques = tuple(e.of_config(values) if e.of_config else e for e in self.techniques)
        return self if techniques == self.techniques else _of_techniques(self, techniques)


@lru_cache(maxsize=32)
def _of_techniques(catalogue: Catalogue, techniques: tuple[Technique, ...]) -> Catalogue:
    before, files = (
        tuple(file for entry in entries for file in entry.files)
        for entries in (catalogue.techniques, techniques)
    )
    plugins = tuple(plugin for plugin in catalogue.plugins if plugin not in before)
    return replace(catalogue, techniques=techniques, plugins=(*plugins, *files))


def _problems_of_entry(entry: Technique) -> Iterator[str]:
    """Yields a line for each problem of an entry by itself."""
    if entry.name == JUDGED:
        yield "is a name that the engine has for the variables that are evaluated"
    for key in entry.switches:
        if key not in entry.keys:
            yield f"has no key {key}, which is its switch"
    others = (*entry.model_knobs, *(entry.options or {}), *(entry.beside or {}).values())
    for key in (*others, *entry.device_groups):
        if key not in entry.keys:
            yield (
                f"has no key {key}, which its model_knobs, options, beside or device_groups name"
            )
    for key, field in entry.keys.items():
        if key.count(".") > 1 or key.split(".")[0] in engine.KEYS:
            yield f"has the key {key}, which must be a word, or a section of its own and a word"
        try:
            hash(field.check(key, field.default))
        except (TypeError, ValueError) as error:
            yield f"has the default {field.default!r} for {key}: {str(error).rstrip('.')}"
    for name in entry.measures:
        if name in _TAKEN:
            yield f"measures {name!r}, which is a name of the log"


@dataclass(frozen=True)
class Structure:
    """The hashable part of a recipe: it decides the program, beside lengths and shapes."""

    task: tuple[Task, OwnValues]
    techniques: tuple[tuple[Technique, OwnValues], ...]  # those in use, in the catalogue's order
    curves: tuple[tuple[str, Curve], ...]
    num_cycles: int
    span: str  # in which hardness turns `num_cycles` times: the "run", or each "restart"
    batch_size: int  # examples a micro step, over all devices
    beside: tuple[tuple[str, int], ...]  # (entry, batch size) of examples with their own order
    accumulate: Accumulation
    as_one_batch: bool
    remainder: str
    on_nonfinite: str
    model: AnyModel | None = None  # takes the place of the one that the entries make

    def with_model(self, model: AnyModel | None) -> "Structure":
        """Returns the structure with a model of your own; None leaves it as it is.

        Raises:
          RecipeError: It is not a model, it does not take a knob that is on, or the recipe asks for
            groups of devices, which such a model makes by itself; a line for each problem.
        """
        if model is None:
            return self
        on, taken = dict(self.curves), _checked_model(model).knobs
        knobs = self.maker.model_knobs if self.maker else ()
        lines = [
            f"{key} must be None where model= is given and its knobs do not name "
            f"{key.rpartition('.')[2]!r}, got {taken}."
            for key in knobs
            if key in on and key.rpartition(".")[2] not in taken
        ]
        lines += [
            f"{key} must be None where model= is given, got {size}."
            for key, size in self.device_groups.items()
            if self.maker and key in self.maker.keys
        ]
        if lines:
            raise RecipeError("\n".join(lines))
        return replace(self, model=model)

    @property
    def device_groups(self) -> dict[str, int]:
        """{key: number of devices} of the keys that divide the devices into groups."""
        return {
            key: size
            for entry, own in self.entries
            for key, size in own
            if key in entry.device_groups and size is not None
        }

    @property
    def maker(self) -> Technique | None:
        """The entry that makes the model; those after it wrap it."""
        return next((entry for entry, _ in self.entries if entry.model is not None), None)

    @property
    def entries(self) -> Iterator[tuple[Technique, OwnValues]]:
        """All entries in the order in which they act: changes of the inputs, the task, the rest."""
        yield from (pair for pair in self.techniques if pair[0].changes_inputs)
        yield self.task
        yield from (pair for pair in self.techniques if not pair[0].changes_inputs)

    @property
    def restarting(self) -> Technique | None:
        """The entry that makes the run restart."""
        for entry, own in self.entries:
            if entry.restarts and dict(own).get(entry.restarts.choice) == entry.restarts.value:
                return entry
        return None

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures of the loss terms."""
        return tuple(name for entry, _ in self.entries for name in entry.measures)

    def shown(self, name: str, value: float) -> str:
        """Returns a measure or a score as text."""
        return shown(value, name in self.percent)

    @property
    def percent(self) -> tuple[str, ...]:
        """Names of all measures and scores that are shown in percent."""
        return tuple(name for entry, _ in self.entries for name in entry.percent)

    @property
    def columns(self) -> dict[str, str]:
        """{key of a knob, or of a further schedule of a technique: its name in the log}."""
        score, _ = self.task[0].judged_by
        on = dict(self.curves)
        named = {
            key: name
            for entry, _ in self.entries
            for key, name in (entry.columns or {}).items()
            if key in on or key not in entry.keys
        }
        taken = (*_TAKEN, *self.measures, "val_loss", f"val_{score}", *named.values())
        return {**columns([key for key in on if key not in named], taken), **named}

    @property
    def whole(self) -> frozenset[str]:
        """Names in the log of the knobs whose values are whole numbers."""
        fields = {key: field for entry, _ in self.entries for key, field in entry.keys.items()}
        return frozenset(
            name for key, name in self.columns.items() if key in fields and fields[key].is_whole
        )


@dataclass(frozen=True)
class Recipe:
    """A whole run, checked."""

    dataset: str
    data_dir: str | None
    train_on: str
    subset: str | None
    image_size: int | None
    seed: int
    duration: Duration
    log_every: Duration
    validate_every: Duration | str  # or the word for "at the end of each cycle"
    loop: str | None
    durations: tuple[tuple[str, Duration], ...]  # (key, value) of the techniques' own
    earlier_runs: tuple[tuple[str, str], ...]  # (key, workdir) of the runs that it takes from
    structure: Structure
    numbers: Numbers
    catalogue: Catalogue

    @property
    def task(self) -> Task:
        return self.structure.task[0]

    def with_model(self, model: AnyModel | None) -> "Recipe":
        """Returns the recipe with a model of your own, as `Structure.with_model` does."""
        return replace(self, structure=self.structure.with_model(model))

    def timetable(self, num_train: int) -> Timetable:
        """Returns its durations in micro steps, for `num_train` training examples.

        Raises:
          RecipeError: A batch is larger than the data, a cycle has too few updates to turn, or a
            run that restarts does not end at the end of a cycle; a line.
        """
        return lengths.timetable_of(self, num_train)


def _checked_model(model: Any) -> Model:
    """Returns a model outside of a mapped axis; raises RecipeError if it is not a model."""
    what = "model= must be a Model, or a function that takes an axis name and returns one"
    try:
        hash(model)
        made = model if isinstance(model, Model) or not callable(model) else model(None)
    except Exception as error:  # whatever the function, or a part of the model, may raise
        first = str(error).strip().partition("\n")[0]
        raise RecipeError(f"{what}; it raises {type(error).__name__}: {first}") from error
    if not isinstance(made, Model):
        raise RecipeError(
            f"{what}, got {type(made).__name__}; from_linen makes one of a linen module."
        )
    return made
