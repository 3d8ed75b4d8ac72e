"""Scores of the states that a run has kept at the ends of its cycles, alone and together."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cyclical_jax import data
from cyclical_jax._words import counted
from cyclical_jax.data.dataset import Split
from cyclical_jax.trained import LoadedRun, read_run
from cyclical_jax.training.devices import place
from cyclical_jax.training.earlier import read_cycle_ends
from cyclical_jax.training.ensemble import EnsembleScores, evaluate_together
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.structure import Catalogue
from experiments.class_scores import aligned
from experiments.score import Score, in_order, words


class Ends(NamedTuple):
    """The ends of cycles that a run has kept.

    Attributes:
      epochs: {updates: epochs} until each end, in their order.
      runs: The run as it was at each end.
    """

    epochs: dict[int, float]
    runs: list[LoadedRun]


def read_ends(key: str, workdir: Path, catalogue: Catalogue) -> Ends:
    """Returns the ends of cycles that a run has kept; arguments and errors as in `read_run`."""
    newest = read_run(key, workdir, catalogue, checkpoint="newest")
    micro_steps = read_cycle_ends(key, workdir)
    if not micro_steps:
        raise RecipeError(
            f"{key}: {workdir} keeps no end of a cycle; --keep_cycle_ends of experiments.train "
            "keeps them, where the learning rate restarts."
        )
    runs = [read_run(key, workdir, catalogue, checkpoint=end) for end in micro_steps]
    timetable = newest.recipe.timetable(newest.trained.spec.num_train)
    return Ends({end: timetable.epoch(at) for end, at in micro_steps.items()}, runs)


def scores_of(ends: Ends, examples: Split, *, num_workers: int = 0) -> EnsembleScores:
    """Returns the scores of the ends on a split, alone and together."""
    first = ends.runs[0].trained
    states = [place(run.trained.variables) for run in ends.runs]
    of_run = first.structure, first.spec, states
    return evaluate_together(*of_run, examples, num_workers=num_workers)


def told(ends: Ends, scores: EnsembleScores, examples: Split, of_what: str) -> str:
    """Returns a table of the scores, and what it shows; `of_what` names the run and the split."""
    number = counted(len(ends.runs), "end of a cycle", "ends of cycles")
    head = f"{number} of {of_what}, on {counted(data.num_examples(examples), 'example')}"
    return "\n".join([head, *aligned([*_cells(ends, scores)]), *_notes(ends, scores)])


def _cells(ends: Ends, scores: EnsembleScores) -> Iterator[list[str]]:
    recipe = ends.runs[0].recipe
    names = in_order(Score.of_recipe(recipe).name, scores.each[0])
    yield ["updates", "epochs", *map(words, names)]
    places = [(f"{end:,}", f"{epochs:g}") for end, epochs in ends.epochs.items()]
    places += [(f"last {m} together", "") for m in range(2, 2 + len(scores.together))]
    for place_, own in zip(places, [*scores.each, *scores.together], strict=True):
        yield [*place_, *(recipe.structure.shown(name, own[name]) for name in names)]


def _notes(ends: Ends, scores: EnsembleScores) -> Iterator[str]:
    if scores.together:
        yield "together: by the mean of their probabilities, a snapshot ensemble"
    elif len(ends.runs) > 1:
        task = ends.runs[0].recipe.task
        yield f"not scored together: the task {task} says no way to average its outputs"
