"""Augmentation of the images, whose strength is a knob. The maths is in cyclical_jax/augment.py."""

from collections.abc import Iterator

from cyclical_jax import augment
from cyclical_jax.training.fields import knob, names, or_none
from cyclical_jax.training.technique import (
    IMAGES,
    SPATIAL,
    BatchTransform,
    Own,
    Part,
    Site,
    Technique,
)

OPERATIONS, STRENGTH = "augment.operations", "augment.strength"
KEYS = {
    OPERATIONS: names(augment.NAMES, "random changes of each image, in this order"),
    STRENGTH: or_none(
        knob(
            None,
            "strength of all operations, from 0, none, to 1, full; see cyclical_jax/augment.py",
            minimum=0,
            maximum=1,
        )
    ),
}


def problems(checked: Own) -> Iterator[str]:
    if checked.get(OPERATIONS) == ():
        yield f"{STRENGTH} is set, but {OPERATIONS} is (): set both."


def part(site: Site) -> Part:
    limits = site.limits_for(OPERATIONS, augment.NEED_LIMITS)
    outputs = site.spec.num_outputs
    change = augment.augment(site.own[OPERATIONS], num_classes=outputs, limits=limits)
    return Part(transforms=(BatchTransform(change, site.schedules[STRENGTH]),))


TECHNIQUE = Technique(
    "augmentation",
    KEYS,
    part,
    switch=STRENGTH,
    needs=frozenset({IMAGES, SPATIAL}),
    changes_inputs=True,
    about="Changes the training images at random, for example by crops and mixtures.",
    problems=problems,
)
