"""A table of a model: its layers, the shapes of their arrays, and how many numbers they hold."""

import math
from typing import Any

import jax

from cyclical_jax.models.model import Model


def summary(model: Model, inputs: Any) -> str:
    """Returns the table as text, without computing anything.

    Args:
      model: A linen model gives a line for each layer, with the shapes of its inputs and outputs;
        any other model gives a line for each array of parameters.
      inputs: Inputs of one example, [1, ...].
    """
    if model.table is not None:
        return "\n".join(line.rstrip() for line in model.table(inputs).strip("\n").splitlines())
    params, model_state = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs))
    rows = [("parameters", "shape", "numbers"), *_rows(params), _total("total", params)]
    if jax.tree.leaves(model_state):
        rows += [("", "", ""), ("model state", "shape", "numbers"), *_rows(model_state)]
    names, shapes, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = (f"{name:<{names}}  {shape:<{shapes}}  {size:>13}" for name, shape, size in rows)
    return "\n".join(map(str.rstrip, lines))


def _rows(tree: Any) -> list[tuple[str, str, str]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        (
            jax.tree_util.keystr(path, simple=True, separator="/"),
            f"{leaf.dtype}{list(leaf.shape)}",
            f"{math.prod(leaf.shape):,}",
        )
        for path, leaf in leaves
    ]


def _total(name: str, tree: Any) -> tuple[str, str, str]:
    leaves = jax.tree.leaves(tree)
    size = sum(math.prod(leaf.shape) for leaf in leaves)
    megabytes = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves) / 1e6
    return name, f"{megabytes:,.2f} MB", f"{size:,}"
