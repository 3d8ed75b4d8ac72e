"""Augmentation of the images, whose strength is a knob. The maths: cyclical_jax/augment.py."""

from collections.abc import Iterator

import jax.numpy as jnp

from cyclical_jax import augment
from cyclical_jax.training.fields import knob, names, or_none
from cyclical_jax.training.technique import (
    IMAGES,
    Batch,
    BatchTransform,
    Own,
    Part,
    Site,
    Technique,
)

OPERATIONS, STRENGTH = "augment.operations", "augment.strength"
KEYS = {
    OPERATIONS: names(augment.NAMES, "operations on each image, in this order"),
    STRENGTH: or_none(
        knob(
            None,
            "strength of all operations, from none to full; see cyclical_jax/augment.py",
            minimum=0,
            maximum=1,
        )
    ),
}


def problems(checked: Own) -> Iterator[str]:
    if checked.get(OPERATIONS) == ():
        yield f"{STRENGTH} is set, but {OPERATIONS} is (): set both."


def part(site: Site) -> Part:
    operations, classes = site.own[OPERATIONS], site.spec.num_outputs

    def change(batch, key, strength):
        transform = augment.augment(operations, num_classes=classes, mixed=_mixed(batch))
        return transform(batch, key, strength)

    return Part(transforms=(BatchTransform(change, site.schedules[STRENGTH]),))


def _mixed(batch: Batch) -> list[str]:
    """Returns the entries that are mixed as images and labels are: floats, one an example."""
    size = len(batch["image"])
    return [
        name
        for name, array in batch.items()
        if name not in ("image", "label", "mask")
        and jnp.issubdtype(array.dtype, jnp.floating)
        and len(array) == size
    ]


TECHNIQUE = Technique(
    "augmentation",
    KEYS,
    part,
    switch=STRENGTH,
    needs=frozenset({IMAGES}),
    changes_inputs=True,
    problems=problems,
)
