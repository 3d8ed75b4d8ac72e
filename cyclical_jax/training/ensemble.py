"""Scores of several states of a run, and of their averaged probabilities.

With the states at the ends of the cycles of a run, this is a snapshot ensemble (Huang et al.,
1704.00109).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cyclical_jax.data.dataset import Split
from cyclical_jax.models import Model
from cyclical_jax.training.evaluation import Scores, scores_of, sums_of
from cyclical_jax.training.state import Variables
from cyclical_jax.training.structure import Structure
from cyclical_jax.training.technique import Batch, Site, Spec, Task


class EnsembleScores(NamedTuple):
    """The scores of several states.

    Attributes:
      each: Those of each state, in their order.
      together: Those of the averaged probabilities of the last two states, the last three, and so
        on to all; empty if the task has no probabilities to average.
    """

    each: list[Scores]
    together: list[Scores]


def evaluate_together(
    structure: Structure,
    spec: Spec,
    states: Sequence[Variables],
    split: Split,
    *,
    num_workers: int = 0,
) -> EnsembleScores:
    """Returns the scores of states and of their averages, in one pass over a split.

    Args:
      structure: The structure of the run.
      spec: The spec of its dataset.
      states: Variables on all devices, the latest last.
      split: A split that is known to be sound, as in `evaluation.evaluate`.
      num_workers: Processes that read a stream.
    """
    task, own = structure.task
    of_all = dataclasses.replace(task, sums=functools.partial(_sums, task))
    together = dataclasses.replace(structure, task=(of_all, own))
    batches = sums_of(together, spec, tuple(states), split, num_workers=num_workers)
    found = [scores_of(task, sums) for sums in zip(*batches, strict=True)]
    return EnsembleScores(found[: len(states)], found[len(states) :])


def _sums(
    task: Task, site: Site, model: Model, states: Sequence[Variables], batch: Batch
) -> list[Any]:
    """Returns the task's sums of each state, then those of the averages, from the last two on."""
    inputs = task.view(batch)
    outputs = [model.apply(*state, inputs, train=False)[0] for state in states]
    if task.averaged is not None:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)
        numbers = range(2, len(states) + 1)
        lasts = (jax.tree.map(lambda leaf, m=m: leaf[-m:], stacked) for m in numbers)
        outputs += map(task.averaged, lasts)
    return [task.sums(site, _constant(model, found), states[0], batch) for found in outputs]


def _constant(model: Model, outputs: Any) -> Model:
    """Returns a model with these outputs, whatever its variables and inputs are."""
    return model._replace(apply=lambda *arguments, **options: (outputs, {}))
