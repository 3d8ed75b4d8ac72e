"""Easy examples first, by the losses of an earlier run. The maths is in curriculum.py."""

import jax.numpy as jnp
import numpy as np

from cyclical_jax.curriculum import difficulty_ranks, sample_weights
from cyclical_jax.distillation import teacher_logits
from cyclical_jax.losses import softmax_cross_entropy
from cyclical_jax.training.fields import earlier_run, knob
from cyclical_jax.training.technique import (
    CLASS_LOGITS,
    IN_MEMORY,
    LABELS,
    BatchTransform,
    Part,
    Prepared,
    Site,
    Technique,
)

RUN, PREFERENCE = "curriculum.scorer", "curriculum.preference"
RANK = "rank"  # entry of a batch: the place of an example's loss among all

KEYS = {
    RUN: earlier_run("workdir of the run whose losses rank the examples from easy to difficult"),
    PREFERENCE: knob(
        {"easy": 4.0, "hard": 0.0},
        "preference c for easy examples: an example of rank r, from 0 (easiest) to 1, weighs "
        "c exp(-c r) / (1 - exp(-c))",
        minimum=-100,
        maximum=100,
    ),
}


def prepare(host) -> Prepared:
    """Ranks the examples by their loss."""
    if RANK in host.dataset.train:
        return Prepared()
    train = host.dataset.train
    logits = teacher_logits(host.apply, host.read_run(RUN), train["image"])
    losses = softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(train["label"]))
    return Prepared(examples={RANK: np.asarray(difficulty_ranks(losses))})


def part(site: Site) -> Part:
    def weigh(batch, key, preference):
        own = batch.get("weight", jnp.float32(1))
        return batch | {"weight": sample_weights(batch[RANK], preference) * own}

    return Part(transforms=(BatchTransform(weigh, site.schedules[PREFERENCE]),))


TECHNIQUE = Technique(
    "curriculum",
    KEYS,
    part,
    switch=RUN,
    needs=frozenset({LABELS, CLASS_LOGITS, IN_MEMORY}),
    prepare=prepare,
    about="Gives easy examples more weight at first; the losses of an earlier run say which are "
    "easy.",
)
