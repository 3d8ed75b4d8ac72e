"""The network of a structure, and the order of its layers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cyclical_jax.models import Model, make_model
from cyclical_jax.training.recipe import Structure


def assemble_model(structure: Structure, num_classes: int, axis_name: str | None) -> Model:
    """The model, whose BatchNorm averages over `axis_name`."""
    options = dict(structure.model_options)
    return make_model(structure.model, num_classes=num_classes, axis_name=axis_name, **options)


def layers(structure: Structure, image_shape: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """The names of the parameters of each layer, from the head to the input.

    A layer is a part of the network with a matrix, in the order in which they are first used, and
    the parts without one that follow it, such as a normalisation. `image_shape` has a batch axis.
    """
    model, parts = assemble_model(structure, num_classes=2, axis_name=None), []

    def init():
        params, _ = model.init(jax.random.key(0), jnp.zeros(image_shape))
        for name, part in params.items():  # as they were made: a result of jit would be sorted
            parts.append((name, any(leaf.ndim > 1 for leaf in jax.tree.leaves(part))))

    jax.eval_shape(init)
    found: list[tuple[str, ...]] = []
    for name, has_matrix in parts:
        if has_matrix or not found:
            found.append((name,))
        else:
            found[-1] += (name,)
    return tuple(reversed(found))
