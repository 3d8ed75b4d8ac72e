"""Arrays that techniques prepare on the host before a run, some of them from earlier runs."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cyclical_jax import data
from cyclical_jax.data import Dataset, Stream
from cyclical_jax.data.dataset import ARRAYS, SPLITS
from cyclical_jax.models import Model
from cyclical_jax.training import files, own_files
from cyclical_jax.training.assembly import Given, assemble_model, example_of
from cyclical_jax.training.checkpoints import CheckpointError
from cyclical_jax.training.facts import facts_of, read_facts
from cyclical_jax.training.fields import RecipeError, any_of
from cyclical_jax.training.files import CHECKPOINTS, CONFIG, INPUTS
from cyclical_jax.training.reading import kept_cycle_ends, read_variables
from cyclical_jax.training.recipe import default_config, load_source, parse, put, source
from cyclical_jax.training.state import Variables
from cyclical_jax.training.structure import (
    PLUGIN,
    AnyModel,
    Catalogue,
    Recipe,
    Structure,
    plugin_identity,
    plugin_key,
)
from cyclical_jax.training.technique import Prepared, Spec, spec_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A network and its variables; as a pytree it is the variables."""

    structure: Structure = dataclasses.field(metadata={"static": True})
    spec: Spec = dataclasses.field(metadata={"static": True})
    variables: Variables
    step: int = dataclasses.field(default=0, metadata={"static": True})  # updates before

    def outputs(self, inputs: Any) -> Any:
        """Returns the outputs for inputs in the form in which a train step sees them."""
        model = assemble_model(self.structure, self.spec)
        return model.apply(*self.variables, inputs, train=False)[0]

    def outputs_of(self, images: Any) -> Any:
        """Returns the outputs for images in the form that the dataset has."""
        task = self.structure.task[0]
        return self.outputs(task.view(task.as_batch({"image": images})))


class Earlier(NamedTuple):
    """The arrays of a run that were not added to its examples."""

    given: Given = {}  # an entry for each technique that was prepared; None where it has no arrays
    start: Variables | None = None  # first variables; those that are missing are drawn


class Host:
    """Everything that a technique may use to prepare a run.

    Attributes:
      recipe: The recipe of the run. The members of a population are prepared once, so the recipe
        has no numbers, and its seed is 0.
      dataset: The data of the run.
      own: The values in use that decide the program, and the workdirs of earlier runs; no knobs.
      inputs_change: Whether the inputs of an example differ from one epoch to the next.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset):
        self.recipe = dataclasses.replace(recipe, numbers={}, seed=0)
        self.dataset = dataset
        entries = list(recipe.structure.entries)
        self.own = dict(recipe.earlier_runs)
        self.own |= {key: value for _, own in entries for key, value in own}
        self.inputs_change = isinstance(dataset.train, Stream) or any(
            entry.changes_inputs for entry, _ in entries
        )

    @property
    def model(self) -> Model:
        """The model of the run."""
        return assemble_model(self.recipe.structure, spec_of(self.dataset))

    @property
    def example(self) -> Any:
        """The inputs of one example, which initialise the model."""
        return example_of(self.recipe.structure, spec_of(self.dataset))

    def load(self, **options: Any) -> Dataset:
        """Returns the dataset loaded anew with further options of `data.load`."""
        return load_source(self.recipe.dataset, **source(self.recipe), **options)

    def read_run(self, key: str) -> TrainedModel:
        """Returns the trained model of the run that `key` names."""
        return read_trained(key, self.own[key], self.dataset, self.recipe.catalogue)

    def read_start(self, key: str, *, without: tuple[str, ...] = ()) -> Variables:
        """Returns the variables of the run that `key` names, for the model of this run.

        Args:
          key: The key of an earlier run.
          without: Names of parameters that are not read.
        """
        like = _like(self.model, self.example, key=key)
        entries = self.recipe.catalogue.entries
        state = tuple(name for entry in entries for name in entry.model_state)
        return _read(key, Path(self.own[key]), like, without=without, without_state=state)[0]

    def apply(self, trained: TrainedModel, images: Any) -> Any:
        """Returns the outputs of an earlier run for images of this dataset."""
        task = self.recipe.task
        return trained.outputs(task.view(task.as_batch({"image": images})))


def check_dataset(recipe: Recipe, dataset: Dataset) -> None:
    """Raises RecipeError unless a dataset is as `Dataset` says and the task can learn from it.

    The error has a line for each problem.
    """
    problems = list(data.problems(dataset))
    for name in () if problems else SPLITS:
        problems += recipe.task.misfits(name, getattr(dataset, name), dataset.num_classes)
    if problems:
        raise RecipeError("\n".join(problems))


def prepare(
    recipe: Recipe, dataset: Dataset, *, model: AnyModel | None = None
) -> tuple[Dataset, Earlier]:
    """Returns the dataset and further arrays, as the techniques in use prepare them for a run.

    `model` is the model of the run, as in `loop.train`.

    Raises:
      RecipeError: An earlier run is missing or does not fit; a line that names the key. Or the task
        cannot learn from the dataset; a line for each problem.
    """
    check_dataset(recipe, dataset)
    recipe = recipe.with_model(model)
    host, earlier = Host(recipe, dataset), Earlier()
    examples: dict[str, Any] = {}
    for entry, _ in recipe.structure.entries:
        if entry.prepare is not None:
            prepared = entry.prepare(host)
            _check_what_it_prepared(entry, prepared, dataset, examples, earlier.start)
            examples |= prepared.examples
            given = {**earlier.given, entry.name: prepared.given}
            earlier = Earlier(given, prepared.start or earlier.start)
    return dataset._replace(train={**dataset.train, **examples}) if examples else dataset, earlier


def _check_what_it_prepared(entry, prepared: Any, dataset: Dataset, others, start) -> None:
    """Raises RecipeError if a technique prepared something of no use, or the same as another."""
    name = entry.name
    if not isinstance(prepared, Prepared):
        raise RecipeError(f"{name}: prepare must return a Prepared, got {prepared!r}.")
    number = data.num_examples(dataset.train)
    for key, array in prepared.examples.items():
        if key in others or key in ARRAYS:
            raise RecipeError(f"{name}: the examples have an entry {key!r} already.")
        if len(array) != number and key not in (entry.beside or {}):
            raise RecipeError(f"{name}: {key!r} must have {number} entries, got {len(array)}.")
    if prepared.start is not None and start is not None:
        raise RecipeError(f"{name}: another technique also gives the first variables.")


def check_prepared(recipe: Recipe, earlier: Earlier) -> None:
    """Raises RecipeError if `prepare` was not called for the recipe."""
    wanting = [entry for entry, _ in recipe.structure.entries if entry.prepare is not None]
    missing = [
        any_of(*(entry.switches or (entry.name,)))
        for entry in wanting
        if entry.name not in earlier.given
    ]
    if missing:
        raise RecipeError(
            f"{' and '.join(missing)} must be prepared: call dataset, earlier = "
            "earlier.prepare(recipe, dataset) before training, and pass earlier=earlier."
        )


def read_trained(key: str, workdir: str, dataset: Dataset, catalogue: Catalogue) -> TrainedModel:
    """Returns the trained model of the run in `workdir`, for use on `dataset`.

    Args:
      key: The name that the user knows it by, for errors.
      workdir: A workdir of `experiments.train`.
      dataset: A dataset whose inputs have the same shape, with the same number of classes.
      catalogue: The tasks and techniques that there are.

    Raises:
      RecipeError: There is no such run, or it does not fit; a line.
    """
    with one_run(key, Path(workdir)):
        return _read_trained(key, Path(workdir), dataset, catalogue)


def _read_trained(key: str, path: Path, dataset: Dataset, catalogue: Catalogue) -> TrainedModel:
    recipe = read_recipe(key, path, catalogue)
    there, here = read_facts(key, path, recipe), facts_of(recipe.dataset, dataset)
    if there.num_classes != here.num_classes:
        raise RecipeError(
            f"{key} must be a run with {here.num_classes} classes, as the dataset has; {path} has "
            f"{there.num_classes}."
        )
    if not there.is_seen_like(here):
        raise RecipeError(f"{key}: {path} was trained on images with another normalisation.")
    return read_checkpoint(key, path, recipe.structure, spec_of(dataset))


def read_checkpoint(
    key: str,
    workdir: Path,
    structure: Structure,
    spec: Spec,
    *,
    best: bool = False,
    cycle_end: int | None = None,
) -> TrainedModel:
    """Returns the trained model of the run in `workdir`.

    Args:
      key: The name that the user knows it by, for errors.
      workdir: A workdir of `experiments.train`.
      structure: The structure of the run.
      spec: The spec of a dataset whose inputs have the same shape, with the same number of classes.
      best: Whether to read the checkpoint with the best validation score, not the newest.
      cycle_end: The number of updates of the end of a cycle to read instead.

    Raises:
      RecipeError: There is no such checkpoint, or it does not fit; a line.
    """
    like = _like(assemble_model(structure, spec), example_of(structure, spec), key=key)
    found = _read(key, workdir, like, best=best, cycle_end=cycle_end)
    return TrainedModel(structure, spec, *found)


def read_cycle_ends(key: str, workdir: Path) -> dict[int, int]:
    """Returns {updates: micro step} of the ends of cycles that the run in `workdir` has kept.

    Raises:
      RecipeError: There are no checkpoints, or one of them is damaged; a line.
    """
    with _told_of_run(key):
        return kept_cycle_ends(workdir / CHECKPOINTS)


def read_recipe(key: str, workdir: Path, catalogue: Catalogue) -> Recipe:
    """Returns the recipe of the run in `workdir`; `key` and errors as in `read_trained`.

    A file that its config names runs only if it is the same file that the run was made with.
    """
    if not files.is_there(workdir / CONFIG):
        missing = f"{CONFIG} in it" if os.path.isdir(workdir) else "such directory"
        raise RecipeError(f"{key}: {workdir} has no run that can be used: there is no {missing}.")
    inputs = _inputs(key, workdir)

    def check(name: str, digest: str) -> None:
        if inputs.get(plugin_key(name)) != plugin_identity(digest):
            is_known = plugin_key(name) in inputs
            what = "has changed since." if is_known else f"{INPUTS} does not name."
            raise _ChangedError(key, workdir, plugin_key(name), what)

    with _unusable(key, workdir), own_files.checked(check):
        stored = files.read(workdir / CONFIG)
        catalogue = catalogue.of(stored)
        _check_plugins(key, workdir, inputs, catalogue)
        config = default_config(catalogue)  # which has what a config of an earlier version lacks
        for name, value in stored.items():
            is_section = isinstance(config.get(name), type(config)) and isinstance(value, dict)
            entries = value.items() if is_section else [(None, value)]
            for entry, one in entries:
                put(config, name if entry is None else f"{name}.{entry}", one)
        return parse(catalogue, config, needs_data=False)  # which may be gone since


class _ChangedError(RecipeError):
    """A run was made with a file that is missing or has changed."""

    def __init__(self, key: str, workdir: Path, name: str, what: str):
        super().__init__(f"{key}: {workdir} was made with {name}, which {what}")


@contextlib.contextmanager
def one_run(key: str, workdir: Path) -> Iterator[None]:
    """Raises RecipeError, a line, if another run began in `workdir` while its body read it."""
    before = _begun(workdir)
    yield
    if _begun(workdir) != before:
        raise RecipeError(
            f"{key}: another run began in {workdir} just now; give the command again."
        )


def _begun(workdir: Path) -> tuple[int, ...] | None:
    """Returns what identifies the config of a run; None if there is none."""
    try:
        about = (workdir / CONFIG).stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino, about.st_mtime_ns


@contextlib.contextmanager
def _unusable(key: str, workdir: Path) -> Iterator[None]:
    try:
        yield
    except _ChangedError:
        raise
    except (OSError, ValueError, AttributeError) as error:
        first = str(error).partition("\n")[0]
        raise RecipeError(f"{key}: {workdir} has no run that can be used: {first}") from error


def _inputs(key: str, workdir: Path) -> dict[str, str]:
    with _unusable(key, workdir):  # a run without inputs has no file of them
        return files.read(workdir / INPUTS) if files.is_there(workdir / INPUTS) else {}


def _check_plugins(key: str, workdir: Path, inputs: dict[str, str], catalogue: Catalogue) -> None:
    """Raises RecipeError if the run was made with a plugin that is missing or has changed."""
    here = {plugin_key(name): plugin_identity(digest) for name, digest in catalogue.plugins}
    for name, there in inputs.items():
        if name.startswith(PLUGIN) and here.get(name) != there:
            is_there = name in here
            missing = "must be given, with --plugin or plugins=."
            what = "has changed since." if is_there else missing
            raise _ChangedError(key, workdir, name, what)


def _like(model: Model, example: Any, *, key: str) -> Variables:
    """Returns the shapes of a network's variables."""
    try:
        return Variables(*jax.eval_shape(lambda: model.init(jax.random.key(0), example)))
    except ValueError as error:
        raise RecipeError(f"{key}: {str(error).replace('`', '')}") from error


def _read(
    key: str,
    workdir: Path,
    like: Variables,
    *,
    without: tuple[str, ...] = (),
    without_state: tuple[str, ...] = (),
    **which: Any,
) -> tuple[Variables, int]:
    names = Variables(without, without_state)
    like = Variables(*map(_left, like, names))
    with _told_of_run(key):
        return read_variables(workdir / CHECKPOINTS, like, without=names, **which)


@contextlib.contextmanager
def _told_of_run(key: str) -> Iterator[None]:
    """Turns a CheckpointError into a RecipeError that names the run as the user knows it."""
    try:
        yield
    except CheckpointError as error:
        raise RecipeError(f"{key}: {error}") from error


def _left(tree: Any, without: tuple[str, ...]) -> Any:
    """Returns a tree without its outermost parts of those names."""
    if not any(name in without for name in (tree if isinstance(tree, Mapping) else ())):
        return tree
    return {name: part for name, part in tree.items() if name not in without}
