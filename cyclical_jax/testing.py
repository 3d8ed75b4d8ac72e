"""Trials for techniques and tasks, ours and yours, on a small real run.

    catalogue = with_plugins(["mine.py"])
    check(Case("mine", {"mine.strength": cyclical(0, 1)}, catalogue))

A run has ten updates of a small network on 60 digits. The name of each trial is a sentence, such as
`on_it_changes_the_run`. A trial raises AssertionError, and says what went wrong, if its sentence
does not hold.
"""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax._compilations import compilations
from cyclical_jax.catalogue import CATALOGUE, default_config, parse
from cyclical_jax.training import run
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.contradictions import is_read
from cyclical_jax.training.earlier import prepare
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.keeper import Keeper, StoppedError
from cyclical_jax.training.keys import TASK
from cyclical_jax.training.loop import train
from cyclical_jax.training.population import Population
from cyclical_jax.training.recipe import load_dataset, put
from cyclical_jax.training.structure import Catalogue, Recipe
from cyclical_jax.training.technique import IN_MEMORY, SPATIAL, Task, spec_of
from cyclical_jax.training.ways import Inputs, make_program

SMALL = {
    "dataset": "digits",
    "subset": "balanced 60",
    "batch_size": 12,
    "duration": "2 epochs",
    "log_every": "2 epochs",
    "validate_every": "2 epochs",
    "model.hidden_sizes": (6,),
}
_STEPS = 10
_OTHER_SEED = 7


class Case(NamedTuple):
    """An entry of a catalogue, and how it is turned on.

    Attributes:
      name: Name of the technique or task.
      changes: {key: value} of the config that turn it on.
      catalogue: The catalogue that has it.
      is_random: Whether it draws numbers, which differ from device to device.
      common: Further changes, which hold where it is off, too.
    """

    name: str
    changes: Mapping[str, Any]
    catalogue: Catalogue = CATALOGUE
    is_random: bool = False
    common: Mapping[str, Any] = {}

    @property
    def entry(self):
        """The technique or task."""
        by_name = {entry.name: entry for entry in self.catalogue.entries}
        if self.name not in by_name:
            raise AssertionError(
                f"{self.name!r} is not an entry; there are {', '.join(by_name)}. A loss is tried "
                "as Case('classification', {'loss.name': ...}), a model as Case('network', "
                "{'model.name': ...})."
            )
        return by_name[self.name]


def check(case: Case) -> None:
    """Runs all trials on an entry of a catalogue.

    Raises:
      AssertionError: A trial failed; it names the trial.
    """
    for trial in TRIALS:
        try:
            trial(case)
        except AssertionError as error:
            raise AssertionError(f"{case.name}: {trial.__name__}: {error}") from error


# ---- the trials


def its_defaults_make_a_recipe(case: Case) -> None:
    config = default_config(case.catalogue)
    parse(config, catalogue=case.catalogue)
    for key, field in case.entry.keys.items():
        assert field.meaning and field.type, f"{key} needs a type and a meaning."


def off_it_leaves_the_program_alone(case: Case) -> None:
    if isinstance(case.entry, Task) or not case.entry.switches:
        return
    others = tuple(entry for entry in case.catalogue.techniques if entry is not case.entry)
    without = dataclasses.replace(case.catalogue, techniques=others)
    texts = [_lowered(_recipe(case, {}, catalogue)) for catalogue in (case.catalogue, without)]
    assert texts[0] == texts[1], "the program differs from one without the entry."


def on_it_changes_the_run(case: Case) -> None:
    trained = _trained(case)
    rows = without_times(trained.rows)
    for row in rows:
        bad = [name for name, value in row.items() if not np.isfinite(value)]
        assert not bad, f"{bad} are not finite in {row}."
    if isinstance(case.entry, Task) or case.entry.switches:
        others = without_times(_trained(case._replace(changes={})).rows)
        names = [name for name in rows[-1] if name in others[-1]]
        same = all(rows[-1][name] == others[-1][name] for name in names)
        assert not same, "the run is the same with and without it."


def other_numbers_compile_nothing(case: Case) -> None:
    recipe = _trained(case).recipe
    numbers = {
        key: knob._replace(easy=knob.hard, hard=knob.easy, factor=3.0)
        for key, knob in recipe.numbers.items()
    }
    other = dataclasses.replace(recipe, numbers=numbers, seed=_OTHER_SEED)
    prepared = prepare(other, load_dataset(other))
    with compilations() as compiled:
        _train(other, prepared)
    assert not compiled, f"{len(compiled)} programs were compiled for other numbers."


def it_goes_on_as_if_not_stopped(case: Case) -> None:
    trained = _trained(case)
    calls: list[None] = []
    dataset, earlier = prepare(trained.recipe, load_dataset(trained.recipe))

    def is_stopping():
        calls.append(None)
        return len(calls) == 2  # before the last call

    options: dict[str, Any] = {"report": lambda row: None, "earlier": earlier}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
        with contextlib.suppress(StoppedError):
            keeper = Keeper(checkpoints, is_stopping=is_stopping)
            train(trained.recipe, dataset, keeper=keeper, **options)
        start = checkpoints.restore(run.begin(trained.recipe, dataset, earlier=earlier))
        assert start is not None and 0 < int(start.state.micro_step) < _STEPS
        state = train(trained.recipe, dataset, start=start, **options)
    _assert_close(_on_host(state), trained.state, exact=jax.default_backend() == "cpu")


def a_member_of_a_population_is_the_run_on_one_device(case: Case) -> None:
    recipe = _trained(case).recipe
    some = [dataclasses.replace(recipe, seed=seed) for seed in (recipe.seed, _OTHER_SEED)]
    dataset, earlier = prepare(recipe, load_dataset(recipe))
    if recipe.loop == "streamed":
        return
    population = Population(recipe, dataset, earlier=earlier)
    members = [outcome.rows[-1] for outcome in population.outcomes(some, ["validation"])]
    for own, row in zip(some, members, strict=True):
        _, totals = _on_one_device(own)
        for name, mean in totals.means.items():
            np.testing.assert_allclose(row[name], mean, rtol=1e-4, atol=1e-5, err_msg=name)


def two_devices_are_as_good_as_one(case: Case) -> None:
    if case.is_random or jax.device_count() == 1:
        return
    trained = _trained(case)
    state, _ = _on_one_device(trained.recipe)
    _assert_close(trained.state, _on_host(state), exact=False)


def a_task_that_does_not_offer_its_needs_refuses_it(case: Case) -> None:
    needs = case.entry.needs - {IN_MEMORY, SPATIAL}
    if isinstance(case.entry, Task) or not case.entry.switches or not needs:
        return
    for need in needs:
        poor = dataclasses.replace(case.catalogue.tasks[0], offers=_all_offers(case) - {need})
        tasks = (poor, *case.catalogue.tasks[1:])
        catalogue = dataclasses.replace(case.catalogue, tasks=tasks)
        try:
            _recipe(case, case.changes, catalogue)
        except RecipeError as error:
            lines = [line for line in str(error).splitlines() if f"it needs {need}" in line]
            assert lines, f"no line says that it needs {need}: {error}"
        else:
            raise AssertionError(f"a task without {need} takes it.")


TRIALS: tuple[Callable[[Case], None], ...] = (
    its_defaults_make_a_recipe,
    off_it_leaves_the_program_alone,
    on_it_changes_the_run,
    other_numbers_compile_nothing,
    it_goes_on_as_if_not_stopped,
    a_member_of_a_population_is_the_run_on_one_device,
    two_devices_are_as_good_as_one,
    a_task_that_does_not_offer_its_needs_refuses_it,
)


# ---- runs


class _Trained(NamedTuple):
    recipe: Recipe
    state: Any  # on the host
    rows: list[run.Row]


_kept: dict[str, _Trained] = {}


def _trained(case: Case) -> _Trained:
    """Returns the run of a case, which is trained once."""
    recipe = _recipe(case, case.changes, case.catalogue)
    key = f"{id(case.catalogue)} {recipe!r}"
    if key not in _kept:
        _kept[key] = _Trained(recipe, *_train(recipe))
    return _kept[key]


def _recipe(case: Case, changes: Mapping[str, Any], catalogue: Catalogue) -> Recipe:
    config = default_config(catalogue)
    for key, value in {**_small(catalogue, changes), **case.common, **changes}.items():
        put(config, key, value)
    return parse(config, num_devices=jax.device_count(), catalogue=catalogue)


def _small(catalogue: Catalogue, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the changes for a small run that the task reads; it may have its own model."""
    task = catalogue.task(changes.get(TASK, catalogue.tasks[0].name))
    chosen = {TASK: task.name}
    return {key: value for key, value in SMALL.items() if is_read(catalogue, chosen, key)}


def _train(recipe: Recipe, prepared=None):
    dataset, earlier = prepared or prepare(recipe, load_dataset(recipe))
    rows: list[run.Row] = []
    state = train(recipe, dataset, report=rows.append, earlier=earlier)
    return _on_host(state), rows


@functools.lru_cache(maxsize=64)
def _one_device_program(structure, timetable, spec):
    return jax.jit(make_program("resident", structure, timetable, spec, None))


def _on_one_device(recipe: Recipe):
    """Returns state and totals of a whole run on one device, without rows in between."""
    program, arguments = _on_all_its_batches(recipe)
    return program(*arguments)


def _lowered(recipe: Recipe) -> str:
    program, arguments = _on_all_its_batches(recipe)
    return program.lower(*arguments).as_text()


def _on_all_its_batches(recipe: Recipe):
    """Returns the program of one device, and its arguments for all batches of a run."""
    dataset, earlier = prepare(recipe, load_dataset(recipe))
    lengths = run.plan(recipe, dataset, num_devices=1).lengths
    start = run.begin(recipe, dataset, earlier=earlier)
    numbers = jax.tree.map(jnp.float32, recipe.numbers)
    selection = run.select_of(recipe.structure, dataset, recipe.seed)(start=0, stop=_STEPS)
    given = dict(earlier.given)
    inputs = Inputs(start.totals, numbers, given, dataset.train, selection, np.int32(_STEPS))
    return _one_device_program(recipe.structure, lengths, spec_of(dataset)), (start.state, inputs)


def _all_offers(case: Case) -> frozenset[str]:
    return frozenset().union(*(task.offers for task in case.catalogue.tasks), case.entry.needs)


# ---- comparisons


def _on_host(state):
    def without_key(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.device_get(jax.tree.map(without_key, state))


def without_times(rows: list[run.Row]) -> list[run.Row]:
    """Returns the rows of a log without the columns that differ between two equal runs."""
    times = ("images_per_second", "seconds")
    return [{name: value for name, value in row.items() if name not in times} for row in rows]


def _assert_close(one, other, *, exact: bool) -> None:
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 2e-3, "atol": 2e-5}
    for path, leaf in jax.tree_util.tree_leaves_with_path(one):
        name = jax.tree_util.keystr(path)
        found = dict(jax.tree_util.tree_leaves_with_path(other))[path]
        np.testing.assert_allclose(leaf, found, **tolerance, err_msg=name)
