"""Fine-tuning of a share of the layers of an earlier run. The maths is in finetuning.py."""

import contextlib
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cyclical_jax.finetuning import layers_by_name, scale_by_layer
from cyclical_jax.models import Model
from cyclical_jax.training.fields import RecipeError, earlier_run, flag, knob, or_none
from cyclical_jax.training.technique import Part, Place, Prepared, Site, Technique

RUN, NEW_HEAD, SHARE = "finetuning.start", "finetuning.new_head", "finetuning.share"
KEYS = {
    RUN: earlier_run("workdir of the run whose parameters training starts from"),
    NEW_HEAD: flag(False, "new random parameters for the last layer"),
    SHARE: or_none(
        knob(
            None,
            "share of the layers that learn, counted from the head; BatchNorm's statistics are "
            "updated in all layers",
            minimum=0,
            maximum=1,
        )
    ),
}


def prepare(host) -> Prepared:
    """Reads the first variables, without those of a head that is drawn anew."""
    head = layers(host.model, host.example)[0]
    read = functools.partial(host.read_start, RUN)
    if host.own[NEW_HEAD]:
        return Prepared(start=read(without=head))
    try:
        return Prepared(start=read())
    except RecipeError as error:
        with contextlib.suppress(RecipeError):
            read(without=head)
            hint = f"All but its last layer does; {NEW_HEAD}=True draws that one anew."
            error = RecipeError(f"{error} {hint}")
        raise error from None


def part(site: Site) -> Part:
    if SHARE not in site.schedules:
        return Part()
    by_name = functools.partial(layers_by_name, names=layers(site.model, site.example))
    return Part(chain=((Place.THAW, scale_by_layer(site.schedules[SHARE], by_name)),))


def layers(model: Model, example) -> tuple[tuple[str, ...], ...]:
    """Returns the names of the parameters of each layer, from the head to the input.

    A layer is a part of the network with a matrix, in the order in which they are first used, and
    the parts without one that follow it, such as a normalisation.
    """
    parts = []

    def init():
        params, _ = model.init(jax.random.key(0), example)
        if not isinstance(params, Mapping):
            raise RecipeError(
                "finetuning needs a model whose parameters are a dictionary of layers, got a "
                f"{type(params).__name__}."
            )
        for name, part in params.items():  # as they were made: a result of jit would be sorted
            parts.append((name, any(leaf.ndim > 1 for leaf in jax.tree.leaves(part))))
        return jnp.zeros([])

    jax.eval_shape(init)
    found: list[tuple[str, ...]] = []
    for name, has_matrix in parts:
        if has_matrix or not found:
            found.append((name,))
        else:
            found[-1] += (name,)
    return tuple(reversed(found))


TECHNIQUE = Technique(
    "finetuning",
    KEYS,
    part,
    switch=RUN,
    prepare=prepare,
    about="Starts training from the parameters of an earlier run.",
)
