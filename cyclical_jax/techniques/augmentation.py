"""Augmentation of the images, whose strength is a knob. The maths: cyclical_jax/augment.py."""

from collections.abc import Callable, Iterator
from typing import Any

from cyclical_jax import augment
from cyclical_jax.training.fields import RecipeError, knob, names, or_none
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


def change_of(key: str, site: Site, **options: Any) -> Callable[..., Any]:
    """Returns the change by the operations that `key` names, for images of the dataset's limits.

    Raises:
      RecipeError: An operation needs limits, which floats of the user's own do not have; a line.
    """
    operations, limits = site.own[key], site.spec.limits
    lacking = [name for name in operations if limits is None and name in augment.NEED_LIMITS]
    if lacking:
        raise RecipeError(
            f"{key} has {' and '.join(lacking)}, for which black must be known: take images of "
            "bytes, or leave it out."
        )
    return augment.augment(operations, limits=limits, **options)


def part(site: Site) -> Part:
    change = change_of(OPERATIONS, site, num_classes=site.spec.num_outputs)
    return Part(transforms=(BatchTransform(change, site.schedules[STRENGTH]),))


TECHNIQUE = Technique(
    "augmentation",
    KEYS,
    part,
    switch=STRENGTH,
    needs=frozenset({IMAGES, SPATIAL}),
    changes_inputs=True,
    problems=problems,
)
