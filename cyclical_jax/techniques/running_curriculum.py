"""Easy examples first, by the running average of each one's loss.

The maths: cyclical_jax/curriculum.py.
"""

import jax.numpy as jnp

from cyclical_jax.curriculum import difficulty_ranks, sample_weights, update_difficulty
from cyclical_jax.losses import softmax_cross_entropy
from cyclical_jax.training.devices import gathered, own_slice
from cyclical_jax.training.fields import knob, or_none
from cyclical_jax.training.technique import (
    CLASS_LOGITS,
    LABELS,
    MAIN,
    BatchTransform,
    Memory,
    Part,
    Site,
    Technique,
)

PREFERENCE, DECAY = "running_curriculum.preference", "running_curriculum.average_decay"
DIFFICULTY = "difficulty"  # entry of a batch: the running averages of its examples so far

KEYS = {
    PREFERENCE: or_none(
        knob(
            None,
            "preference c for easy examples, such as cyclical(4, 0): an example whose rank in its "
            "batch is r, from 0 (easiest) to 1, weighs c exp(-c r) / (1 - exp(-c)), divided by the "
            "mean of the batch",
            minimum=-100,
            maximum=100,
        )
    ),
    DECAY: knob(
        0.9,
        "decay of the running average of an example's loss, each time that it is seen",
        minimum=0,
        maximum=1,
    ),
}


def part(site: Site) -> Part:
    number, axis_name = site.spec.num_train, site.axis_name

    def init(variables):
        """Returns what a network without a preference for any class loses."""
        return jnp.full([number], jnp.log(site.spec.num_outputs))

    def recall(memory, batch):
        return batch | {DIFFICULTY: memory[batch["index"]]}

    def weigh(batch, key, preference):
        """Weighs by the place in the batch of all devices, with a mean of 1 over it."""
        own = batch[DIFFICULTY], batch.get("mask", jnp.ones_like(batch[DIFFICULTY]))
        difficulty, mask = gathered(own, axis_name)
        weights = sample_weights(difficulty_ranks(difficulty), preference)
        weights = own_slice(weights / weights.mean(where=mask > 0), axis_name, len(own[0]))
        return batch | {"weight": weights * batch.get("weight", jnp.float32(1))}

    def update(memory, seen):
        found = gathered(_losses(seen.batch, seen.outputs[MAIN], number), axis_name)
        return update_difficulty(memory, *found, decay=seen.values[DECAY])

    transform = BatchTransform(weigh, site.schedules[PREFERENCE])
    return Part(transforms=(transform,), memory=Memory(init, update, recall))


def _losses(batch, logits, number: int):
    """Returns the positions of a batch's examples, `number` for padding, and their losses."""
    losses = softmax_cross_entropy(logits, batch["label"])
    losses = losses.mean(tuple(range(1, losses.ndim)))
    index = batch["index"]
    if "mask" in batch:
        mask = batch["mask"]
        index = jnp.where((mask > 0).any(tuple(range(1, mask.ndim))), index, number)
    return index, losses


TECHNIQUE = Technique(
    "running_curriculum",
    KEYS,
    part,
    switch=PREFERENCE,
    needs=frozenset({LABELS, CLASS_LOGITS}),
    about="Gives easy examples more weight at first; the running average of each loss says which "
    "are easy.",
)
