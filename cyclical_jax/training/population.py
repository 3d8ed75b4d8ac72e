"""Many runs that differ in numbers and seeds alone, through one compiled program.

Every device trains members of its own: one at a time, or a chunk of them at once by `vmap`, which
pays if a small model leaves most of an accelerator idle. A call may train several chunks, one after
the other. A member equals the run that `loop.train` makes on one device: bit for bit without
`vmap`, convolutions and accumulation, otherwise up to rounding.
"""

import concurrent.futures
import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cyclical_jax.data import num_examples
from cyclical_jax.data.batches import Selection, rows
from cyclical_jax.data.dataset import Dataset
from cyclical_jax.training import run
from cyclical_jax.training.devices import Throttle, place, scatter
from cyclical_jax.training.earlier import Earlier, check_prepared
from cyclical_jax.training.evaluation import Scores, evaluation_batches, scores_of
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.members import compiled
from cyclical_jax.training.resident import Resident, rest
from cyclical_jax.training.run import NonFiniteError, Row
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.structure import AnyModel, Numbers, Recipe
from cyclical_jax.training.technique import spec_of
from cyclical_jax.training.ways import (
    Inputs,
    capacity_of,
    fill,
    in_batches,
    way_of,
)

_CHUNKS = (1, 4, 16, 64, 256)  # what `best_chunk` tries
_MEASURED_SECONDS = 0.3


class Members(NamedTuple):
    """Members after their last update, and the rows that they reported."""

    states: TrainState  # leaves [devices, members of a device, ...]
    rows: list[list[Row]]  # [members]; as `loop.train` reports them, without the times
    errors: list[str | None]  # [members]; of one that stopped being finite, and is worth nothing


class Outcome(NamedTuple):
    """The result of a member.

    Attributes:
      rows: The rows of its log.
      scores: {split: scores after the last update}; empty beside an error.
      error: Why it stopped being finite; None where it did not.
    """

    rows: list[Row]
    scores: dict[str, Scores]
    error: str | None


class Population:
    """Runs with the same structure and durations, on a dataset that stays on the devices.

    Args:
      recipe: The recipe of the runs; its own numbers and seed are not used.
      dataset: The data of all members.
      earlier: As in `loop.train`.
      chunk: Number of members that a device trains at once, by `vmap`; 1 is one after the other.
      in_turn: Number of chunks that a device trains one after the other within a call. It does not
        change rows and outcomes; more than 1 pays if a member trains for a few ms between two rows.
        The states of all chunks are in memory, and twice within a call.
      model: Your own model for all members, as in `loop.train`.

    Raises:
      RecipeError: As in `run.plan`, for one device; or the data would have to be streamed.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        *,
        earlier: Earlier | None = None,
        chunk: int = 1,
        in_turn: int = 1,
        model: AnyModel | None = None,
    ):
        recipe, self._model = recipe.with_model(model), model
        earlier = earlier or Earlier()
        check_prepared(recipe, earlier)
        self.timetable = run.plan(recipe, dataset, num_devices=1)
        # Members that `train` takes at most.
        self.size = in_turn * chunk * jax.local_device_count()
        self._recipe, self._structure, self._dataset = recipe, recipe.structure, dataset
        self._way, self._timer = _way(recipe, dataset), run.Timer()
        self._programs = compiled(
            self._way,
            self._structure,
            self.timetable.lengths,
            spec_of(dataset),
            chunk,
            in_turn,
        )
        self._splits: dict[str, dict[str, Resident]] = {}
        self._evaluations: dict[str, list[Selection]] = {}
        self._start, self._given = place(earlier.start), place(dict(earlier.given))

    def outcomes(
        self,
        recipes: Sequence[Recipe],
        splits: Sequence[str] = (),
        *,
        progress: Callable[[float], None] = lambda members: None,
    ) -> Iterator[Outcome]:
        """Trains the recipes, each with its own numbers and seed, and evaluates them on `splits`.

        After each call of the program, `progress` is called with the number of trained recipes,
        which may be a fraction.

        Yields:
          The outcomes of the recipes in order, as soon as they are known.

        Raises:
          RecipeError: A recipe is not of this population, or a split has no examples.
        """
        for recipe in recipes:
            if not is_alike(recipe.with_model(self._model), self._recipe):
                raise RecipeError(
                    "The recipes of a population must differ only in numbers and seed."
                )
        for split in splits:
            if not num_examples(getattr(self._dataset, split)):
                raise RecipeError(
                    f"there is no {split} split of {self._recipe.dataset} to judge by where "
                    f"train_on is {self._recipe.train_on!r}."
                )
        self._compile(splits)
        for start in range(0, len(recipes), self.size):
            group = recipes[start : start + self.size]
            numbers, seeds = [recipe.numbers for recipe in group], [r.seed for r in group]
            told = functools.partial(_told, progress, start, len(group))
            members = self.train(numbers, seeds, progress=told)
            yield from self._finish(members, splits)

    def train(
        self,
        numbers: Sequence[Numbers],
        seeds: Sequence[int],
        *,
        stop: int | None = None,
        watch: bool = True,
        progress: Callable[[float], None] = lambda share: None,
    ) -> Members:
        """Trains at most `size` members, up to the micro step `stop` or to the end.

        A member that is no longer finite gets an error, and the others go on.

        Args:
          numbers, seeds: The numbers and the seed of each member.
          stop: Micro step at which to stop; None is the end.
          watch: Whether to make rows, and to end when no member is finite.
          progress: Called after each call with the share of the micro steps that is done.
        """
        if len(numbers) != len(seeds):
            raise ValueError(
                f"`seeds` must be as many as `numbers`, {len(numbers)}, got {len(seeds)}."
            )
        stop = min(stop or self.timetable.micro_steps, self.timetable.micro_steps)
        shared, own_seeds = self._scattered(numbers, seeds)
        states, zeros = self._initialise(shared, own_seeds, self._given, self._start)
        trained = Members(states, [[] for _ in seeds], [None for _ in seeds])
        totals, done = zeros, 0
        while done < stop and None in trained.errors:
            start, done = done, min(self._next_stop(done), self.timetable.next_stop(stop))
            states, totals = self._advance(states, totals, shared, seeds, start, done)
            progress(done / stop)
            if watch and self.timetable.is_row(done):
                self._report(done, states, totals, trained, numbers)
                totals = zeros
        return trained._replace(states=states)

    def evaluate(self, states: TrainState, split: str) -> list[Scores]:
        """Returns the scores of each member on a split, as `evaluate` on one device does."""
        sums, throttle = [], Throttle()
        for selection in self._evaluation(split):
            inputs = self._split(split), selection
            sums.append(self._programs.batch_sums(states.evaluated, inputs))
            throttle(sums[-1])
        task, by_member = self._structure.task[0], zip(*map(self._members, sums), strict=True)
        return [scores_of(task, of_member) for of_member in by_member]

    def seconds_a_member(self) -> float:
        """Returns the seconds that a member takes, measured on its first updates."""
        # Unwatched: a member that diverges would end the measurement.
        members = [self._recipe.numbers] * self.size, list(range(self.size))
        states = self.train(*members, stop=1, watch=False).states
        if num_examples(self._dataset.validation):
            self.evaluate(states, "validation")  # compiled now, as it will be
        stop, seconds = 1, 0.0
        while seconds < _MEASURED_SECONDS and stop < self.timetable.micro_steps:
            stop = min(4 * stop, self.timetable.micro_steps)
            start = time.perf_counter()
            self.train(*members, stop=stop, watch=False)
            seconds = time.perf_counter() - start
        return seconds * self.timetable.micro_steps / stop / self.size

    # ---- compilation

    @functools.cached_property
    def _lowered_start(self) -> jax.stages.Lowered:
        some = self._scattered([self._recipe.numbers], [0])
        return _lowered(self._programs.initialise, *some, self._given, self._start)

    @functools.cached_property
    def _initialise(self):
        """The program of the first states, compiled for less than full speed."""
        return self._lowered_start.compile(compiler_options=run.compiled_for_one_call())

    def _compile(self, splits: Sequence[str]) -> None:
        """Compiles all programs for `splits` together, so that XLA has work for every core.

        Their first calls then find them compiled.
        """
        states, totals = self._lowered_start.out_info
        with concurrent.futures.ThreadPoolExecutor() as pool:
            started = pool.submit(lambda: self._initialise)
            lowered = self._lowered(states, totals, splits)
            for made in [started, *(pool.submit(each.compile) for each in lowered)]:
                made.result()

    def _lowered(self, states, totals, splits: Sequence[str]) -> Iterator[jax.stages.Lowered]:
        """Yields all programs for `splits`, except that of the first states, not yet compiled."""
        numbers, _ = self._scattered([self._recipe.numbers], [0])
        selections = [self._select(0, 0, self._next_stop(0))] * self.size
        (size, *_), batches = zip(
            *(next(in_batches(each, self.timetable, 0)) for each in selections), strict=True
        )
        if self._way == "resident":
            batches, count = self._of_one_call(batches)
        else:
            batches, count = scatter(_stacked([rows(each)[0] for each in batches])), None
        inputs = Inputs(totals, numbers, self._given, self._split("train"), batches, count)
        yield _lowered(self._programs.advance(size), states, inputs)
        judged = ["validation"] if num_examples(self._dataset.validation) else []
        for split in dict.fromkeys([*judged, *splits]):
            selection = self._evaluation(split)[0]
            yield _lowered(
                self._programs.batch_sums, states.evaluated, (self._split(split), selection)
            )
        yield _lowered(self._programs.norm, states.params)

    # ---- calls

    def _scattered(self, numbers: Sequence[Numbers], seeds: Sequence[int]):
        """Returns numbers and seeds of the members on their devices."""
        filled = self._filled(numbers)
        return scatter(
            (
                jax.tree.map(lambda *leaves: np.array(leaves, np.float32), *filled),
                np.array(self._filled(seeds), np.uint32),
            )
        )

    def _next_stop(self, done: int) -> int:
        most = done + self._timer.micro_steps_a_call
        return self.timetable.next_stop(min(self.timetable.next_row(done), most))

    def _advance(self, states, totals, numbers, seeds, start, stop):
        began = time.perf_counter()
        selections = [self._select(seed, start, stop) for seed in self._filled(seeds)]
        inputs = Inputs(totals, numbers, self._given, self._split("train"), None)
        advance = {"resident": self._at_once, "stepwise": self._one_by_one}[self._way]
        of_members = (in_batches(selection, self.timetable, start) for selection in selections)
        for parts in zip(*of_members, strict=True):
            (size, *_), batches = zip(*parts, strict=True)
            program = self._programs.advance(size)
            states, totals = advance(program, states, inputs._replace(totals=totals), batches)
        jax.block_until_ready(totals)
        self._timer.add(time.perf_counter() - began, selections[0])
        return states, totals

    def _select(self, seed: int, start: int, stop: int) -> Selection:
        return run.select_of(self._structure, self._dataset, seed)(start=start, stop=stop)

    def _at_once(self, program, states, inputs, selections):
        batches, count = self._of_one_call(selections)
        return program(states, inputs._replace(batches=batches, count=count))

    def _of_one_call(self, selections):
        """Returns the selections of all members on their devices, and the length of each."""
        capacity = capacity_of(self.timetable)
        filled = _stacked([fill(selection, capacity) for selection in selections])
        return scatter(filled), np.int32(len(selections[0]["index"]))

    def _one_by_one(self, program, states, inputs, selections):
        throttle, totals = Throttle(), inputs.totals
        for of_members in zip(*map(rows, selections), strict=True):
            batch = scatter(_stacked(of_members))
            states, totals = program(states, inputs._replace(totals=totals, batches=batch))
            throttle(totals)
        return states, totals

    def _report(self, done, states, totals, trained: Members, numbers) -> None:
        """Adds a row to each member that is finite, and the error to one that is not."""
        validates = self.timetable.validates_at(done) and num_examples(self._dataset.validation)
        values = self.evaluate(states, "validation") if validates else [None] * self.size
        counts = self._members((states.step, states.skipped))
        parts = zip(trained.rows, numbers, counts, self._members(totals), values, strict=False)
        for member, part in enumerate(parts):
            if trained.errors[member] is None:
                trained.errors[member] = self._error_of_row(done, *part)

    def _error_of_row(self, done, reported, numbers, counts, totals, scores) -> str | None:
        """Adds a row to a member's; returns the error that would have ended `loop.train`."""
        try:
            run.check_totals(self._structure, numbers, self.timetable, totals)
            row = run.make_row(self._structure, self.timetable, done, counts, totals, scores)
            reported.append(row)
            run.check_row(self.timetable, done, row, scores)
        except NonFiniteError as error:
            return str(error)
        return None

    def _finish(self, trained: Members, splits: Sequence[str]) -> Iterator[Outcome]:
        """Yields the members' outcomes, with their scores on `splits`."""
        of_splits = [self.evaluate(trained.states, split) for split in splits]
        norms = self._members(self._programs.norm(trained.states.params))
        for member, (reported, error) in enumerate(zip(trained.rows, trained.errors, strict=True)):
            its_scores = [of_split[member] for of_split in of_splits]
            error = error or _error_of_end(norms[member], its_scores, splits, reported)
            by_split = dict(zip(splits, its_scores, strict=True))
            yield Outcome(reported, {} if error else by_split, error)

    def _split(self, name: str) -> dict[str, Resident]:
        if name not in self._splits:
            self._splits[name] = rest(getattr(self._dataset, name))
        return self._splits[name]

    def _evaluation(self, split: str) -> list[Selection]:
        """Returns the batches of an evaluation, on the devices."""
        if split not in self._evaluations:
            select, count = evaluation_batches(num_examples(getattr(self._dataset, split)), 1)
            self._evaluations[split] = place(list(rows(select(start=0, stop=count))))
        return self._evaluations[split]

    def _members(self, tree: Any) -> list[Any]:
        """Returns each member's part of leaves [devices, chunk, ...], on the host."""
        flat = jax.tree.map(lambda x: x.reshape(self.size, *x.shape[2:]), jax.device_get(tree))
        return [jax.tree.map(operator.itemgetter(member), flat) for member in range(self.size)]

    def _filled(self, members: Sequence[Any]) -> list[Any]:
        """Returns as many members as all devices take; the last one is repeated."""
        return [*members, *[members[-1]] * (self.size - len(members))]


def _lowered(program: Any, *args: Any) -> jax.stages.Lowered:
    return program.lower(*args)


def _told(progress: Callable[[float], None], before: int, size: int, share: float) -> None:
    progress(before + share * size)


def is_alike(recipe: Recipe, other: Recipe) -> bool:
    """Returns whether two recipes fit one population: they differ only in numbers and seed."""
    return dataclasses.replace(recipe, numbers=other.numbers, seed=other.seed) == other


def best_chunk(
    recipe: Recipe,
    dataset: Dataset,
    *,
    num_members: int,
    earlier: Earlier | None = None,
    model: AnyModel | None = None,
) -> int:
    """Returns the chunk with the least measured time per member, for `num_members`.

    On a CPU it is 1, without a measurement: there `vmap` makes tiny members at most 1.8 times as
    fast and others slower, and a member would no longer equal the single run bit for bit.
    """
    if jax.default_backend() == "cpu":
        return 1
    recipe = recipe.with_model(model)
    most, seconds = -(-num_members // jax.local_device_count()), {}
    for chunk in (chunk for chunk in _CHUNKS if chunk <= max(1, most)):
        try:
            tried = Population(recipe, dataset, earlier=earlier, chunk=chunk)
            seconds[chunk] = tried.seconds_a_member()
        except jax.errors.JaxRuntimeError:  # it does not fit in memory
            break
    return min(seconds, key=seconds.__getitem__, default=1)


def _way(recipe: Recipe, dataset: Dataset) -> str:
    if jax.process_count() > 1:
        raise RecipeError(f"only one process can train a population, got {jax.process_count()}.")
    way = way_of(recipe, dataset)
    if way == "streamed":
        raise RecipeError(
            f"loop is 'streamed' for {recipe.dataset}, by the config or because of its size, but "
            "the members of a population share data on the device: 'resident' or 'stepwise'."
        )
    return way


def _error_of_end(norm, of_splits: Sequence[Scores], splits, reported) -> str | None:
    """Returns the error with which `experiments.train` would end, if any."""
    judged = {"the norm of the parameters": float(norm)}
    judged |= {f"{split}_loss": s["loss"] for split, s in zip(splits, of_splits, strict=True)}
    try:
        for name, value in judged.items():
            run.check_finite(name, value, reported[-1]["step"])
    except NonFiniteError as error:
        return str(error)
    return None


def _stacked(selections: Sequence[Selection]) -> Selection:
    """Returns {name: [members, ...]}."""
    return {name: np.stack([each[name] for each in selections]) for name in selections[0]}
