"""Temporal ensemble: a loss draws predictions to the average of earlier ones; its weight may cycle.

Source: Laine & Aila, arXiv 1610.02242. Their correction of the start is left out: an example's
average begins at 1 / classes. That the consistency is weak at the easy ends is our reading.
"""

import jax
import jax.numpy as jnp

from cyclical_jax.training.devices import gathered
from cyclical_jax.training.fields import knob, or_none
from cyclical_jax.training.technique import (
    CLASS_LOGITS,
    MAIN,
    LossTerm,
    Memory,
    Part,
    Site,
    Technique,
)

WEIGHT, DECAY = "temporal_ensemble.consistency", "temporal_ensemble.ensemble_decay"
KEYS = {
    WEIGHT: or_none(knob(None, "weight of the squared distance to the average", minimum=0)),
    DECAY: knob(0.6, "decay of an example's average, each time it is seen", minimum=0, maximum=1),
}


def part(site: Site) -> Part:
    number, classes = site.spec.num_train, site.spec.num_outputs

    def init(variables):
        return jnp.full([number, classes], 1 / classes)

    def recall(averages, batch):
        return batch | {"ensemble": averages[batch["index"]]}

    def loss(logits, batch, values):
        return jnp.square(jax.nn.softmax(logits) - batch["ensemble"]).mean(-1)

    def update(averages, seen):
        decay, p = seen.values[DECAY], jax.nn.softmax(seen.outputs[MAIN])
        new = decay * seen.batch["ensemble"] + (1 - decay) * p
        index = seen.batch["index"]
        if "mask" in seen.batch:  # what is out of range is dropped
            index = jnp.where(seen.batch["mask"] > 0, index, number)
        index, new = gathered((index, new), seen.axis_name)  # of all devices
        return averages.at[index].set(new, mode="drop")

    term = LossTerm(loss, site.schedules[WEIGHT])
    return Part(terms=(term,), memory=Memory(init, update, recall))


TECHNIQUES = (
    Technique("temporal_ensemble", KEYS, part, switch=WEIGHT, needs=frozenset({CLASS_LOGITS})),
)
