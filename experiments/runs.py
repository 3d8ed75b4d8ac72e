"""Trains each run of an experiment once, in populations, and keeps it in a file."""

import ast
import dataclasses
import fcntl
import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    MofNCompleteColumn,
    Progress,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import cyclical_jax
from cyclical_jax import data
from cyclical_jax.training.earlier import prepare
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.inputs import identities
from cyclical_jax.training.population import Outcome, Population, best_chunk
from cyclical_jax.training.recipe import load_source, source
from cyclical_jax.training.structure import Recipe
from experiments.environment import library_versions
from experiments.waiting import Waiting

RUNS = "runs.jsonl"
_NO_PART_OF_A_RUN = ("data_dir", "loop")  # the place of the data, and the way of the calls


class Store:
    """The outcomes in a workdir, a line each in `runs.jsonl`, from which a stopped table goes on.

    It is a context, which closes the file.

    Raises:
      WorkdirError: It cannot be read or written, or holds runs of another version (unless `mix`).
    """

    def __init__(self, workdir: Path, *, mix: bool = False):
        self._path, self._version = workdir / RUNS, version()
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+")
        except OSError as error:
            raise WorkdirError(
                f"--workdir {workdir} cannot be written: {error.strerror}."
            ) from error
        try:
            lines = self._checked(_whole_lines(self._file, self._path), mix)
        except WorkdirError:
            self._file.close()
            raise
        self._outcomes = {line["key"]: _outcome(line) for line in lines}

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._outcomes

    def __getitem__(self, key: str) -> Outcome:
        return self._outcomes[key]

    def add(self, key: str, recipe: Recipe, outcome: Outcome) -> None:
        """Writes an outcome; it is safe from then on.

        A score that is not finite, of a task that may have one, becomes None, as JSON has it.
        """
        outcome = Outcome(*map(_finite, outcome))
        about = {"key": key, "version": self._version, "dataset": recipe.dataset}
        line = about | {"seed": recipe.seed, **outcome._asdict()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        self._outcomes[key] = outcome

    def _checked(self, lines: list[dict[str, Any]], mix: bool) -> list[dict[str, Any]]:
        others = {line["version"] for line in lines} - {self._version}
        if others and not mix:
            raise WorkdirError(
                f"{self._path} holds runs of another version, {' and '.join(sorted(others))}; this "
                f"is {self._version}. Choose another --workdir, or mix them by --mix_versions."
            )
        return lines


class Lab:
    """Trains what is not in the store yet.

    Args:
      store: The outcomes that are there, and the place for others.
      chunk: Runs that a device trains at once; None is the fastest.
    """

    def __init__(self, store: Store, chunk: int | None = None):
        self._store, self._chunk = store, chunk
        self._populations: dict[str, Population] = {}

    def complete(self, recipes: Sequence[Recipe], splits: Sequence[str]) -> list[Outcome]:
        """Returns the outcomes of the recipes, in order; a run that has ended reads `splits`."""
        missing, done = self._missing(recipes, splits), 0
        with _bar() as bar:
            task = bar.add_task("runs", total=len(missing))
            for family, members in families(missing).items():
                population = self._population(family, members)
                with Waiting("compiling") as compiling:
                    move = _mover(bar, task, done, compiling)
                    of_family = population.outcomes(list(members.values()), splits, progress=move)
                    for (key, recipe), outcome in zip(members.items(), of_family, strict=True):
                        self._store.add(key, recipe, outcome)
                done += len(members)
        return [self._store[run_key(recipe, splits)] for recipe in recipes]

    def seconds_left(self, recipes: Sequence[Recipe], splits: Sequence[str]) -> float:
        """Returns how long `complete` will take, by the first updates of each population."""
        with Waiting("compiling, to estimate the time"):
            return sum(
                len(members) * self._population(family, members).seconds_a_member()
                for family, members in families(self._missing(recipes, splits)).items()
            )

    def has(self, recipes: Sequence[Recipe], splits: Sequence[str]) -> bool:
        """Returns whether `complete` has nothing to train."""
        return not self._missing(recipes, splits)

    def _missing(self, recipes, splits) -> dict[str, Recipe]:
        keyed = {run_key(recipe, splits): recipe for recipe in recipes}
        return {key: recipe for key, recipe in keyed.items() if key not in self._store}

    def _population(self, family: str, members: Mapping[str, Recipe]) -> Population:
        if family not in self._populations:
            first = next(iter(members.values()))
            dataset, earlier = prepare(first, load(first))
            options = {"num_members": len(members), "earlier": earlier}
            chunk = self._chunk or best_chunk(first, dataset, **options)
            self._populations[family] = Population(first, dataset, earlier=earlier, chunk=chunk)
        return self._populations[family]


def families(recipes: Mapping[str, Recipe]) -> dict[str, dict[str, Recipe]]:
    """Returns {population: {key: recipe}} of the populations that the recipes make."""
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
    """Returns a digest of all that the outcome of a run depends on, but for the version."""
    own = dataclasses.replace(recipe, **dict.fromkeys(_NO_PART_OF_A_RUN))
    text = json.dumps([repr(own), sorted(splits), identities(recipe)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
    """Returns a duration in words, such as "40 s" or "1 h 5 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _whole_lines(file: TextIO, path: Path) -> list[dict[str, Any]]:
    """Locks the file, removes a last line that was cut off, and returns the others."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise WorkdirError(f"another process writes to {path}; wait for it.") from error
    file.seek(0)
    content = file.buffer.read()
    whole = content[: content.rfind(b"\n") + 1]
    file.truncate(len(whole))
    return [
        _line(text, f"{path}, line {number},") for number, text in enumerate(whole.splitlines(), 1)
    ]


def _line(text: bytes, place: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
        if missing := {"key", "version", *Outcome._fields} - line.keys():
            raise ValueError(f"no {', '.join(sorted(missing))}")
    except (AttributeError, ValueError) as error:
        raise WorkdirError(f"{place} is damaged: {error}. Move it away.") from error
    return line


def _mover(bar: Progress, task: TaskID, before: int, compiling: Waiting) -> Callable[[float], None]:
    """Returns a function that shows how many runs of a population are trained, in parts too."""

    def move(members: float) -> None:
        compiling.end()
        bar.update(task, completed=before + members)

    return move


def _bar() -> Progress:
    """Returns a bar of runs, disabled where there is no terminal to draw it on."""
    console = Console()
    columns = MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    return Progress(
        *Progress.get_default_columns()[:2],
        *columns,
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def _finite(value: Any) -> Any:
    """Returns a JSON value with None in place of each number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _outcome(line: dict[str, Any]) -> Outcome:
    return Outcome(**{name: line[name] for name in Outcome._fields})
