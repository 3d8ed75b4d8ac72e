"""Fine-tuning of a share of the layers, from the head down; the share may cycle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cyclical_jax import _checks
from cyclical_jax._dtypes import as_array, native, widened
from cyclical_jax._types import NumberOrSchedule
from cyclical_jax.opt_state import logged
from cyclical_jax.transforms import scheduled

Layers = Any | Callable[[optax.Params], Any]


@logged("share")
class ScaleByLayerState(NamedTuple):
    count: Any  # (), int32: updates so far
    share: jax.Array  # (), float32: used in the last update


def scale_by_layer(share: NumberOrSchedule, layers: Layers) -> optax.GradientTransformation:
    """Returns a transformation that trains a share of the layers, counted from the head.

    The updates of layer i are multiplied by clip(share L - (i - 1), 0, 1). The head is layer 0, and
    its factor is 1; L is the largest layer number. Share 0 trains only the head, 1 all layers;
    between them the layers thaw one after the other from the head down. Put it last in a chain, so
    that neither momentum nor decay moves a frozen layer. Earlier transformations see all layers: a
    clip of the global norm counts the gradients of frozen ones. BatchNorm's statistics are not
    parameters, so they change in frozen layers too.

    Args:
      share: In [0, 1]; a number or a schedule.
      layers: A tree of whole numbers like that of the parameters, or a function from parameters to
        such a tree. 0 is the head; larger numbers are nearer to the input. See `layers_by_name`. A
        tree may be callable itself, as a module of Equinox is.

    Returns:
      The transformation; its state holds `share`.

    Raises:
      ValueError: The share is not a scalar, or a plain one is out of its range; at update, a layer
        is not a whole number of at least 0.

    Source: the abstract of arXiv 2202.08835 names pretraining; training the head at the easy ends
    and the whole network at the peak is our reading. Gradual unfreezing: Howard & Ruder, arXiv
    1801.06146.
    """

    def thaw(updates, params, share):
        is_function = callable(layers) and not _is_tree_of_layers(layers)
        numbers = layers(params) if is_function else layers
        for layer in jax.tree.leaves(numbers):
            _checks.whole_number("layers", layer, minimum=0, maximum=2**31 - 1)
        deepest = max(jax.tree.leaves(numbers), default=0)

        def scaled(update, layer):
            if update is None or layer == 0:
                return native(update)
            factor = jnp.clip(share * deepest - (layer - 1), 0, 1)
            # 0 times an update that is not finite would be NaN.
            scaled = jnp.where(factor > 0, factor * widened(update, "updates"), 0)
            return scaled.astype(as_array(update).dtype)

        return jax.tree.map(scaled, updates, numbers, is_leaf=lambda leaf: leaf is None)

    return scheduled(ScaleByLayerState, share, thaw, maximum=1)


def layers_by_name(params: optax.Params, names: Sequence[str | int | Sequence[str | int]]) -> Any:
    """Returns the layer number of each parameter, for `scale_by_layer`.

    Args:
      params: Parameters in a dict, a FrozenDict, an `nnx.State`, a module of Equinox, or any other
        tree whose outermost parts have names or, in a list, numbers. The parts may nest.
      names: The names of the outermost parts of `params` from the head to the input: the first is
        layer 0. Several names of one layer, such as a dense layer and its normalisation, are a
        list: `["Dense_1", ["Dense_0", "Norm"]]`.

    Returns:
      A tree like `params` of whole numbers.

    Raises:
      ValueError: `names` and the outermost names of `params` are not the same.
    """
    together = [[name] if isinstance(name, str | int) else list(name) for name in names]
    layer_of = {name: layer for layer, keys in enumerate(together) for name in keys}
    parts, outermost = jax.tree_util.tree_flatten_with_path(params, lambda part: part is not params)
    found = [_name(keys[0]) if keys else "" for keys, _ in parts]
    if set(layer_of) != set(found) or len(layer_of) != sum(map(len, together)):
        expected = sorted(found, key=str)
        raise ValueError(f"`names` must be {expected} in some order, got {list(names)}.")
    numbered = [
        jax.tree.map(lambda _, name=name: layer_of[name], part)
        for name, (_, part) in zip(found, parts, strict=True)
    ]
    return jax.tree.unflatten(outermost, numbered)


def _is_tree_of_layers(layers: Layers) -> bool:
    """Returns whether `layers` is a tree of whole numbers, and not a function to call."""
    leaves = jax.tree.leaves(layers)
    kinds = int | np.integer | np.ndarray | jax.Array
    return bool(leaves) and all(isinstance(leaf, kinds) for leaf in leaves)


def _name(key: Any) -> str | int:
    """Returns a key of a tree as text: a name, or an index."""
    return getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))
