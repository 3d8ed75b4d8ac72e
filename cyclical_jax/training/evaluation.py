"""The scores of a task over a split, every example exactly once."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cyclical_jax import data
from cyclical_jax.data.batches import Select, in_order
from cyclical_jax.data.dataset import Split
from cyclical_jax.training.assembly import assemble_model
from cyclical_jax.training.devices import AXIS, Throttle, on_all_devices
from cyclical_jax.training.feeding import sent_batches
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.state import Variables
from cyclical_jax.training.structure import AnyModel, Structure
from cyclical_jax.training.technique import Batch, Site, Spec, Task

Scores = dict[str, float]
Leaves = Any  # a tree of arrays [examples, ...]

_BATCH_SIZE = 1024  # a device at most; bounds the memory of the activations


class Look(NamedTuple):
    """The values to read for each example, in addition to the scores of all.

    Attributes:
      of_examples: (outputs of the model, batch) -> a tree of arrays [batch, ...], on the devices.
      take: Called with that tree of each batch, in the order of the split, without padding.
    """

    of_examples: Callable[[Any, Batch], Leaves]
    take: Callable[[Leaves], None]


def evaluate(
    structure: Structure,
    spec: Spec,
    variables: Variables,
    split: Split,
    *,
    model: AnyModel | None = None,
    num_workers: int = 0,
    after_batch: Callable[[], None] = lambda: None,
    look: Look | None = None,
    is_checked: bool = False,
) -> Scores:
    """Returns the scores of a split, by the task's own `sums` and `scores`.

    Args:
      structure: The structure of the run that `variables` belong to.
      spec: The spec of its dataset.
      variables: Such as `TrainState.evaluated`, on all devices.
      split: A split of a dataset, on the host, or a stream.
      model: The model of one's own that was trained, as in `loop.train`; None is the structure's.
      num_workers: Processes that read a stream.
      after_batch: Called after each batch; what it raises ends the evaluation.
      look: What else to read for the examples; None is nothing. It works in one process only.
      is_checked: Whether the split is known to be sound: the check takes a pass over it.

    Raises:
      RecipeError: The split is not as `Dataset` says, the task cannot score it, or it has no
        examples of that shape; a line for each problem.
    """
    if not is_checked:
        _check(structure.task[0], split, spec)
    structure = structure.with_model(model)
    of_split = structure, spec, variables, split
    sums = sums_of(*of_split, num_workers=num_workers, after_batch=after_batch, look=look)
    return scores_of(structure.task[0], sums)


def sums_of(
    structure: Structure,
    spec: Spec,
    variables: Any,
    split: Split,
    *,
    num_workers: int = 0,
    after_batch: Callable[[], None] = lambda: None,
    look: Look | None = None,
) -> list[Any]:
    """Returns the task's `sums` of each batch of a split, on the host; arguments of `evaluate`."""
    program = _sums_on_all_devices(structure, spec, look and look.of_examples)
    select, count = evaluation_batches(data.num_examples(split), jax.device_count())
    sent = sent_batches(split, select, start=0, stop=count, seed=0, num_workers=num_workers)
    sums, throttle = [], Throttle()
    with contextlib.closing(sent) as batches:
        for batch in batches:
            of_batch, of_examples = program(variables, batch)
            sums.append(of_batch)
            throttle(of_batch)
            if look is not None:
                look.take(_without_padding(of_examples, batch["mask"]))
            after_batch()
    return jax.device_get(sums)


def _check(task: Task, split: Split, spec: Spec) -> None:
    described = "the split", split, spec.num_outputs
    problems = list(data.split_problems(*described)) or list(task.misfits(*described))
    if not problems and not data.num_examples(split):
        problems = ["the split must have examples, got none."]
    if not problems and (shape := tuple(data.image_shape(split))) != spec.shape:
        problems = [f"the split's examples must be {list(spec.shape)}, got {list(shape)}."]
    if problems:
        raise RecipeError("\n".join(problems))


def scores_of(task: Task, sums: Sequence[Any]) -> Scores:
    """Returns the scores that a task computes from the sums of all batches, as plain numbers.

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
    """Returns the function (variables, examples with a mask) -> what they add to the sums."""
    task, own = structure.task
    model, site = assemble_model(structure, spec), Site(dict(own), spec)

    def batch_sums(variables, examples):
        return task.sums(site, model, variables, task.as_batch(examples))

    return batch_sums


@functools.lru_cache(maxsize=32)
def _sums_on_all_devices(structure, spec, of_examples):
    """Returns the function (variables, examples) -> the sums, and what `look` reads."""
    batch_sums = make_batch_sums(structure, spec)
    model, task = assemble_model(structure, spec), structure.task[0]

    def read(variables, examples):  # XLA finds that the sums have the same forward pass
        batch = task.as_batch(examples)
        outputs, _ = model.apply(*variables, task.view(batch), train=False)
        return of_examples(outputs, batch)

    def program(variables, examples):
        sums = jax.lax.psum(batch_sums(variables, examples), AXIS)
        return sums, () if of_examples is None else read(variables, examples)

    return on_all_devices(program, in_axes=(None, 0), out_axes=(None, 0))


def _without_padding(leaves: Leaves, mask: jax.Array) -> Leaves:
    """Returns leaves [devices, batch, ...] without padding, [examples, ...], on the host."""
    is_real = np.asarray(mask).reshape(-1) > 0
    found = jax.device_get(leaves)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[is_real], found)
