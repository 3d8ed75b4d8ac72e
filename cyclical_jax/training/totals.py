"""The numbers of a row of the log, summed on the device over many steps."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax.opt_state import find_values
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.step import MEASURED, Metrics


class Totals(NamedTuple):
    """The totals of all micro steps since the last row."""

    num_examples: jax.Array  # (), int32
    # What is measured: over the examples of batches that are finite; grad_norm over the updates
    # that are complete, each with the weight of its examples, and infinite before there is one.
    means: dict[str, jax.Array]
    values: dict[str, jax.Array]  # of each knob, at the last micro step
    # At the first batch whose loss or gradient is not finite; its step is -1 as long as all are.
    nonfinite: dict[str, jax.Array]


def no_totals(state: TrainState, knobs: Iterable[str], measures: Iterable[str] = ()) -> Totals:
    """Returns the totals before the first micro step.

    Args:
      state: The state, whose optimizer may report values.
      knobs: Names of the knobs in the log.
      measures: Names of the measures of the loss terms.
    """
    # The names alone count: of arrays, `find_values` would make copies.
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.opt_state)
    names = {*knobs, *find_values(shapes, injected=False)}
    return Totals(
        num_examples=_array(np.int32(0)),
        means=_zeros((*MEASURED, *measures)) | {"grad_norm": _array(np.float32(np.inf))},
        values=_zeros(names),
        nonfinite={"step": _array(np.int32(-1))} | _zeros(MEASURED),
    )


def _zeros(names: Iterable[str]) -> dict[str, jax.Array]:
    return {name: _array(np.float32(0)) for name in names}


def _array(number: np.generic) -> jax.Array:
    """Returns a number on the device; `jnp.float32` would compile a program for it."""
    return jax.device_put(number)


def is_empty(totals: Totals) -> bool:
    """Returns whether no micro step was added: each has examples, or is not finite."""
    return not (int(totals.num_examples) or int(totals.nonfinite["step"]) >= 0)


def add(totals: Totals, metrics: Metrics, step: jax.Array) -> Totals:
    """Returns `totals` with one more micro step.

    Args:
      totals: The totals so far.
      metrics: The metrics that the train step returned.
      step: Number of updates before the micro step.
    """
    is_finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    added = jnp.where(is_finite, metrics["num_examples"], 0)
    num_examples = totals.num_examples + added

    def new_mean(name, mean):
        own = metrics.get("examples_of_update", added) if name == "grad_norm" else added
        # Of an update that began before the row, all that the row has so far.
        part = jnp.minimum(jnp.where(is_finite, own, 0) / jnp.maximum(num_examples, 1), 1)
        moved = mean + part * jnp.where(part > 0, metrics[name] - mean, 0)
        return jnp.where(part == 1, metrics[name], moved)

    is_first = ~is_finite & (totals.nonfinite["step"] < 0)
    nonfinite = jax.tree.map(
        lambda old, new: jnp.where(is_first, new, old),
        totals.nonfinite,
        {"step": step} | {name: metrics[name] for name in MEASURED},
    )
    return Totals(
        num_examples,
        {name: new_mean(name, mean) for name, mean in totals.means.items()},
        {name: metrics[name].astype(jnp.float32) for name in totals.values},
        nonfinite,
    )
