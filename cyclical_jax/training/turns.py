"""The number of chunks of a population that a device trains one after the other in a call."""

import functools
import math

import jax

from cyclical_jax.data import num_examples
from cyclical_jax.data.dataset import Dataset
from cyclical_jax.training.assembly import assemble_model, example_of
from cyclical_jax.training.structure import Recipe, Structure
from cyclical_jax.training.technique import Spec, spec_of
from cyclical_jax.training.ways import way_of

_GROUP_SECONDS = 10.0  # of training, in which a table that is killed loses what it began
_FLOPS_A_SECOND = 1e10  # of a core, with float32; only the order of magnitude counts


def chunks_in_turn(recipe: Recipe, dataset: Dataset, *, num_members: int, chunk: int = 1) -> int:
    """Returns `in_turn` of a `Population` with that chunk, for `num_members`.

    A call takes the host some milliseconds. A small model trains for less than that between two
    rows, so one call should serve many members. All members of a call end together, so a call
    should take at most ten seconds, by an estimate. The chunks are spread evenly over the calls.
    The result is 1 where more would gain nothing: on accelerators, and if a call is one micro step.
    """
    if jax.default_backend() != "cpu" or way_of(recipe, dataset) != "resident":
        return 1
    seconds = chunk * _estimated_seconds(recipe, dataset)
    a_device = math.ceil(num_members / (chunk * jax.local_device_count()))
    most = max(1, min(a_device, int(_GROUP_SECONDS / seconds)))
    return math.ceil(a_device / math.ceil(a_device / most))


def _estimated_seconds(recipe: Recipe, dataset: Dataset) -> float:
    """Returns about how many seconds a core trains a member: a step is 3 forward passes."""
    micro_steps = recipe.timetable(num_examples(dataset.train)).micro_steps
    flops = _flops_an_example(recipe.structure, spec_of(dataset))
    return 3 * flops * micro_steps * recipe.structure.batch_size / _FLOPS_A_SECOND


@functools.lru_cache(maxsize=32)
def _flops_an_example(structure: Structure, spec: Spec) -> float:
    """Returns the FLOPs of a forward pass, estimated by the compiler; at least 1."""
    model = assemble_model(structure, spec)

    def start():
        example = example_of(structure, spec)
        return model.init(jax.random.key(0), example), example

    def forward(variables, example):
        return model.apply(*variables, example, train=False)

    lowered = jax.jit(forward).lower(*jax.eval_shape(start))
    return max(1.0, (lowered.cost_analysis() or {}).get("flops", 0.0))
