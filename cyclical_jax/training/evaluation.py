"""The scores of a task over a split, every example exactly once."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cyclical_jax import data
from cyclical_jax.data.batches import Select, in_order
from cyclical_jax.data.sources import Split
from cyclical_jax.training.assembly import assemble_model
from cyclical_jax.training.devices import AXIS, Throttle, on_all_devices
from cyclical_jax.training.feeding import sent_batches
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.state import Variables
from cyclical_jax.training.structure import AnyModel, Structure
from cyclical_jax.training.technique import Site, Spec, Task

Scores = dict[str, float]

_BATCH_SIZE = 1024  # a device at most; bounds the memory of the activations


def evaluate(
    structure: Structure,
    spec: Spec,
    variables: Variables,
    split: Split,
    *,
    model: AnyModel | None = None,
    num_workers: int = 0,
    after_batch: Callable[[], None] = lambda: None,
) -> Scores:
    """Returns the scores of a split, by the task's own `sums` and `scores`.

    Args:
      structure: The structure of the run that `variables` belong to.
      spec: That of its dataset.
      variables: Such as `TrainState.evaluated`, on all devices.
      split: A split of a dataset, on the host, or a stream.
      model: The model of one's own that was trained, as in `loop.train`; None is the structure's.
      num_workers: Processes that read a stream.
      after_batch: Called after each batch; what it raises ends the evaluation.
    """
    batch_sums = _sums_on_all_devices(structure.with_model(model), spec)
    select, count = evaluation_batches(data.num_examples(split), jax.device_count())
    sent = sent_batches(split, select, start=0, stop=count, seed=0, num_workers=num_workers)
    sums, throttle = [], Throttle()
    with contextlib.closing(sent) as batches:
        for batch in batches:
            sums.append(batch_sums(variables, batch))
            throttle(sums[-1])
            after_batch()
    return scores_of(structure.task[0], jax.device_get(sums))


def scores_of(task: Task, sums: Sequence[Any]) -> Scores:
    """Returns the scores that a task makes of the sums of all batches, as plain numbers.

    Raises:
      RecipeError: The loss, or the score that the task is judged by, is not among them.
    """
    scores = task.scores(sums)
    for name in dict.fromkeys(("loss", task.judged_by[0])):
        if name not in scores:
            raise RecipeError(f"the scores of {task} must have {name!r}, got {sorted(scores)}.")
    return {name: np.asarray(value).item() for name, value in scores.items()}


def evaluation_batches(num_examples: int, num_devices: int) -> tuple[Select, int]:
    """Returns every example once, in batches that devices can share; and the number of batches."""
    batch_size = min(_BATCH_SIZE, -(-num_examples // num_devices)) * num_devices
    return functools.partial(in_order, num_examples, batch_size), -(-num_examples // batch_size)


def make_batch_sums(structure: Structure, spec: Spec) -> Callable[[Variables, dict[str, Any]], Any]:
    """Returns (variables, examples with a mask) -> what they add to the sums."""
    task, own = structure.task
    model, site = assemble_model(structure, spec), Site(dict(own), spec)

    def batch_sums(variables, examples):
        return task.sums(site, model, variables, task.as_batch(examples))

    return batch_sums


@functools.lru_cache(maxsize=32)
def _sums_on_all_devices(structure, spec):
    batch_sums = make_batch_sums(structure, spec)
    return on_all_devices(
        lambda *inputs: jax.lax.psum(batch_sums(*inputs), AXIS), in_axes=(None, 0)
    )
