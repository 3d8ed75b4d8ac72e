"""Trains each run of an experiment once, in populations, and keeps the outcomes in a file."""

import ast
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rich.console import Console
from rich.progress import (
    MofNCompleteColumn,
    Progress,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import cyclical_jax
from cyclical_jax import _files, data
from cyclical_jax._files import NUMBER, DamagedError, Pattern
from cyclical_jax.training import files
from cyclical_jax.training.earlier import Earlier, prepare
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.inputs import identities, unchanged
from cyclical_jax.training.population import Outcome, Population, best_chunk
from cyclical_jax.training.recipe import load_source, source
from cyclical_jax.training.structure import Recipe
from cyclical_jax.training.turns import chunks_in_turn
from experiments.environment import library_versions
from experiments.score import Score
from experiments.waiting import Waiting

RUNS = "runs.jsonl"
_LINE: Pattern = {
    **dict.fromkeys(("key", "version", "dataset"), str),
    "seed": int,
    "rows": [{"step": int, "epoch": float, ...: NUMBER}],
    "scores": {...: {"loss": NUMBER, ...: NUMBER}},
    "error": (str, None),
}
_LONGEST = 2**26  # bytes of a line; a run of 10,000 rows has a tenth
_REMEDY = "Delete the line, and its run is trained again."

_NO_PART_OF_A_RUN = ("data_dir", "loop")  # the place of the data, and the way of the calls


class _Place(NamedTuple):
    number: int  # of a line, from 1
    start: int  # its first byte


class Store:
    """The outcomes in a workdir, one line each in `runs.jsonl`; a stopped table goes on from them.

    It is a context that closes the file; until then no other process can open it. An outcome is
    read when it is asked for, because the rows of hundreds of runs would fill the memory.

    Raises:
      WorkdirError: It cannot be read or written, or holds runs of another version (unless `mix`).
    """

    def __init__(self, workdir: Path, *, mix: bool = False):
        self._path, self._version = workdir / RUNS, version()
        self._places: dict[str, _Place] = {}
        self._file = _locked(self._path)
        try:
            self._end = self._find_places(mix)
        except WorkdirError:
            self._file.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error) -> None:
        with contextlib.suppress(OSError):  # the error of a line was raised already
            self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Outcome:
        with files.reading(self._path, _REMEDY):
            line = self._line_at(self._places[key])
            if line is None or line["key"] != key:
                raise DamagedError(f"{self._path} was changed while it was in use.")
        return Outcome(**{name: line[name] for name in Outcome._fields})

    def add(self, key: str, recipe: Recipe, outcome: Outcome) -> None:
        """Writes an outcome; when this returns, it is on the disk and survives a power failure.

        A score that is not finite becomes None, because JSON has no NaN.

        Raises:
          WorkdirError: It cannot be written, or the workdir was moved together with the outcome.
        """
        about = {"key": key, "version": self._version, "dataset": recipe.dataset}
        outcome = Outcome(*map(files.finite, outcome))
        line = _files.as_line(about | {"seed": recipe.seed, **outcome._asdict()})
        with files.writing(self._path):
            self._file.seek(self._end.start)
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        self._places[key] = self._end
        self._end = _Place(self._end.number + 1, self._file.tell())
        self.check_place()

    def check_place(self) -> None:
        """Raises WorkdirError if the workdir that was opened is no longer at its path."""
        if not _files.is_at(self._file, self._path):
            raise WorkdirError(
                f"{self._path} was moved or removed while it was in use. The runs that have ended "
                "moved with it; give the same command with its new place as --workdir to go on."
            )

    def _find_places(self, mix: bool) -> _Place:
        """Finds all runs, removes a last line that was cut off, and returns the end."""
        place, versions = _Place(1, 0), set()
        with files.reading(self._path, _REMEDY):
            while line := self._line_at(place):
                self._places[line["key"]] = place
                versions.add(line["version"])
                place = _Place(place.number + 1, self._file.tell())
        if (others := versions - {self._version}) and not mix:
            raise WorkdirError(
                f"{self._path} holds runs of another version, {' and '.join(sorted(others))}; this "
                f"is {self._version}. Choose another --workdir, or mix them with --mix_versions."
            )
        with files.writing(self._path):
            self._file.truncate(place.start)
        return place

    def _line_at(self, place: _Place) -> dict[str, Any] | None:
        """Returns the line that begins there; None if it was cut off or there is none."""
        self._file.seek(place.start)
        text = self._file.readline(_LONGEST + 1)
        told = f"{self._path}, line {place.number},"
        if len(text) > _LONGEST:
            raise DamagedError(f"{told} is damaged: it has more than {_LONGEST / 1e6:.0f} MB.")
        return _files.of_line(text, _LINE, told) if text.endswith(b"\n") else None


class Lab:
    """Trains the runs that are not in the store yet.

    Args:
      store: The outcomes so far, and the place for new ones.
      chunk: Number of runs that a device trains at once; None is the fastest.
    """

    def __init__(self, store: Store, chunk: int | None = None):
        self._store, self._chunk = store, chunk
        self._prepared: dict[tuple[str, str], tuple[data.Dataset, Earlier]] = {}
        self._populations: dict[tuple[str, str, int], Population] = {}

    def complete(self, recipes: Sequence[Recipe], splits: Sequence[str]) -> Iterator[Outcome]:
        """Trains the missing runs, and scores each on `splits` when it has ended.

        Returns:
          The outcomes of the recipes, in order; each is read when it is asked for.

        Raises:
          RecipeError: What runs are made from, such as an earlier run, has changed meanwhile.
        """
        keys = [run_key(recipe, splits) for recipe in recipes]
        missing, done = self._missing(keys, recipes), 0
        with _bar() as bar:
            task = bar.add_task("runs", total=len(missing))
            for family, members in families(missing).items():
                population = self._population(family, members)
                _check_unchanged(members, splits)
                with Waiting("compiling") as compiling:
                    move = _mover(bar, task, done, compiling)
                    of_family = population.outcomes(list(members.values()), splits, progress=move)
                    for (key, recipe), outcome in zip(members.items(), of_family, strict=True):
                        self._store.add(key, recipe, outcome)
                done += len(members)
        pairs = zip(keys, recipes, strict=True)
        return (self._outcome(key, recipe, splits) for key, recipe in pairs)

    def seconds_left(self, recipes: Sequence[Recipe], splits: Sequence[str]) -> float:
        """Returns the seconds that `complete` will take, by the first updates of populations."""
        keys = [run_key(recipe, splits) for recipe in recipes]
        with Waiting("compiling, to estimate the time"):
            return sum(
                len(members) * self._population(family, members).seconds_a_member()
                for family, members in families(self._missing(keys, recipes)).items()
            )

    def seconds_a_run(self, recipes: Sequence[Recipe]) -> list[float]:
        """Returns the seconds of each run by itself, by the first updates of its population."""
        keys, seconds = [run_key(recipe, ()) for recipe in recipes], {}
        for family, members in families(dict(zip(keys, recipes, strict=True))).items():
            measured = self._population(family, members).seconds_a_member()
            seconds |= dict.fromkeys(members, measured)
        return [seconds[key] for key in keys]

    def has(self, recipes: Sequence[Recipe], splits: Sequence[str]) -> bool:
        """Returns whether `complete` has nothing to train."""
        return all(run_key(recipe, splits) in self._store for recipe in recipes)

    def check_place(self) -> None:
        """Raises WorkdirError if the workdir of the store is no longer at its path."""
        self._store.check_place()

    def _outcome(self, key: str, recipe: Recipe, splits: Sequence[str]) -> Outcome:
        outcome, score = self._store[key], Score.of_recipe(recipe).name
        for split in () if outcome.error else splits:
            if score not in outcome.scores.get(split, ()):
                raise WorkdirError(f"the run {key} in {RUNS} has no {score} on {split}. {_REMEDY}")
        return outcome

    def _missing(self, keys: Sequence[str], recipes: Sequence[Recipe]) -> dict[str, Recipe]:
        pairs = zip(keys, recipes, strict=True)
        return {key: recipe for key, recipe in pairs if key not in self._store}

    def _population(self, family: str, members: Mapping[str, Recipe]) -> Population:
        first, number = next(iter(members.values())), len(members)
        with unchanged(first) as inputs:
            place = family, str(inputs)
            if place not in self._prepared:
                self._prepared[place] = prepare(first, load(first))
            # One for more members would train as many, however few there are.
            if (*place, number) not in self._populations:
                population = self._population_of(first, *self._prepared[place], number)
                self._populations[*place, number] = population
        return self._populations[*place, number]

    def _population_of(self, recipe, dataset, earlier, num_members: int) -> Population:
        options = {"num_members": num_members, "earlier": earlier}
        chunk = self._chunk or best_chunk(recipe, dataset, **options)
        turns = chunks_in_turn(recipe, dataset, num_members=num_members, chunk=chunk)
        return Population(recipe, dataset, earlier=earlier, chunk=chunk, in_turn=turns)


def families(recipes: Mapping[str, Recipe]) -> dict[str, dict[str, Recipe]]:
    """Returns {population: {key: recipe}}: recipes that one population can train go together."""
    of_family: dict[str, dict[str, Recipe]] = {}
    for key, recipe in recipes.items():
        alike = dataclasses.replace(recipe, numbers={}, seed=0)
        of_family.setdefault(repr(alike), {})[key] = recipe
    return of_family


def load(recipe: Recipe) -> data.Dataset:
    """Returns the dataset of a recipe; the last few are remembered."""
    return _load(recipe.dataset, tuple(source(recipe).items()))


@functools.lru_cache(maxsize=2)
def _load(name, options):
    with Waiting(f"loading {name}"):
        dataset = load_source(name, **dict(options))
    for note in dataset.notes:
        print(note, flush=True)
    return dataset


def run_key(recipe: Recipe, splits: Sequence[str]) -> str:
    """Returns a digest of all that the outcome of a run depends on, except the version."""
    own = dataclasses.replace(recipe, **dict.fromkeys(_NO_PART_OF_A_RUN))
    text = json.dumps([repr(own), sorted(splits), identities(recipe)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_unchanged(members: Mapping[str, Recipe], splits: Sequence[str]) -> None:
    """Raises RecipeError if the inputs of a population have changed since its keys were made."""
    key, first = next(iter(members.items()))
    if run_key(first, splits) != key:
        raise RecipeError(
            "a file or an earlier run that these runs depend on has changed meanwhile; give the "
            "command again."
        )


@functools.cache
def version() -> str:
    """Returns the version of this package's code without comments, and of its libraries."""
    root = Path(cyclical_jax.__file__).parent
    code = "".join(_code(path, root) for path in sorted(root.rglob("*.py")))
    libraries = ", ".join(f"{name} {of_name}" for name, of_name in library_versions().items())
    return f"cyclical_jax {hashlib.sha256(code.encode()).hexdigest()[:12]}, {libraries}"


def _code(path: Path, root: Path) -> str:
    """Returns a module without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body if not _is_string(part)]
    return f"{path.relative_to(root)} {ast.dump(tree)}"


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def duration(seconds: float) -> str:
    """Returns a duration in words, such as "5.3 ms", "40 s" or "1 h 5 min"."""
    if 0 < seconds < 0.95:
        return f"{float(f'{1000 * seconds:.2g}'):g} ms"
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _locked(path: Path) -> BinaryIO:
    """Opens the file, or makes it, and locks it."""
    while True:
        try:
            _files.make_folder(path.parent)
            file = path.open("a+b")
            _files.sync(path.parent)  # the file's name; `add` syncs its lines
        except OSError as error:
            told = f"--workdir {path.parent} cannot be written: {error.strerror or error}."
            raise WorkdirError(told) from error
        try:
            files.lock(file, path, f"another process writes to {path}; wait for it.")
        except WorkdirError:
            file.close()
            raise
        if _files.is_at(file, path):
            return file
        file.close()  # it was moved before it was locked, and another may be there


def _mover(bar: Progress, task: TaskID, before: int, compiling: Waiting) -> Callable[[float], None]:
    """Returns a function that shows how many runs of a population are trained, with fractions."""

    def move(members: float) -> None:
        compiling.end()
        bar.update(task, completed=before + members)

    return move


def _bar() -> Progress:
    """Returns a progress bar of runs, which is off where there is no terminal."""
    console = Console()
    columns = MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    return Progress(
        *Progress.get_default_columns()[:2],
        *columns,
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
