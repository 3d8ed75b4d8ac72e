"""Fine-tuning of a share of the layers, from the head down; the share may cycle."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cyclical_jax.transforms import logged, scheduled

Layers = Any | Callable[[optax.Params], Any]


@logged("share")
class ScaleByLayerState(NamedTuple):
    count: Any  # (), int32: updates so far
    share: jax.Array  # (), float32: used in the last update


def scale_by_layer(share: optax.ScalarOrSchedule, layers: Layers) -> optax.GradientTransformation:
    """Multiplies the updates of layer i by clip(share L - (i - 1), 0, 1).

    The head is layer 0, and its factor is 1; L is the largest layer number. Share 0 trains only the
    head, 1 all layers; between them the layers thaw one after the other from the head down. Put it
    last in a chain, so that neither momentum nor decay moves a frozen layer. Earlier
    transformations see all layers: a clip of the global norm counts the gradients of frozen ones.
    BatchNorm's statistics are not parameters, so they change in frozen layers too.

    Args:
      share: In [0, 1]; a number or a schedule.
      layers: A tree of whole numbers like that of the parameters, or a function from parameters to
        such a tree. 0 is the head; larger numbers are nearer to the input. See `layers_by_name`.

    Returns:
      The transformation; its state holds `share`.

    Raises:
      ValueError: A plain share is out of its range.

    Source: the abstract of arXiv 2202.08835 names pretraining; training the head at the easy ends
    and the whole network at the peak is our reading. Gradual unfreezing: Howard & Ruder, arXiv
    1801.06146.
    """

    def thaw(updates, params, share):
        numbers = layers(params) if callable(layers) else layers
        deepest = max(jax.tree.leaves(numbers))

        def scaled(update, layer):
            if update is None or layer == 0:
                return update
            factor = jnp.clip(share * deepest - (layer - 1), 0, 1)
            # 0 times an update that is not finite would be NaN.
            return jnp.where(factor > 0, factor * update, 0).astype(update.dtype)

        return jax.tree.map(scaled, updates, numbers, is_leaf=lambda leaf: leaf is None)

    return scheduled(ScaleByLayerState, share, thaw, maximum=1)


def layers_by_name(params: optax.Params, names: Sequence[str | Sequence[str]]) -> Any:
    """Returns the layer number of each parameter, for `scale_by_layer`.

    Args:
      params: A dict of parameters, which may nest.
      names: The outer keys of `params` from the head to the input: the first is layer 0. Several
        keys of one layer, such as a dense layer and its normalisation, are a list:
        `["Dense_1", ["Dense_0", "Norm"]]`.

    Raises:
      ValueError: `names` and the keys of `params` are not the same.
    """
    together = [[name] if isinstance(name, str) else list(name) for name in names]
    layer_of = {name: layer for layer, keys in enumerate(together) for name in keys}
    if set(layer_of) != set(params) or len(layer_of) != sum(map(len, together)):
        raise ValueError(f"`names` must be {sorted(params)} in some order, got {list(names)}.")
    return {
        name: jax.tree.map(lambda _, name=name: layer_of[name], param)
        for name, param in params.items()
    }
