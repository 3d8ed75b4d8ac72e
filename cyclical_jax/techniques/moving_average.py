"""A moving average of the variables, which is then evaluated. The maths is in averaging.py."""

import jax
import jax.numpy as jnp

from cyclical_jax.averaging import moving_average
from cyclical_jax.training.fields import knob, or_none
from cyclical_jax.training.technique import Memory, Part, Site, Technique

DECAY = "ema_decay"
KEYS = {
    DECAY: or_none(
        knob(
            None,
            "decay, per update, of the moving average",
            minimum=0,
            maximum=1,
        )
    )
}


def part(site: Site) -> Part:
    def init(variables):
        # Copies, because a state may be donated, and no array can be given up twice.
        return jax.tree.map(jnp.copy, variables)

    def update(average, seen):
        new, step = seen.new.variables, seen.old.step
        is_update = seen.new.step > step
        return moving_average(average, new, seen.values[DECAY], step=step, is_update=is_update)

    return Part(memory=Memory(init, update, is_judged=True))


TECHNIQUE = Technique(
    "moving_average",
    KEYS,
    part,
    switch=DECAY,
    about="Evaluates a moving average of the parameters in their place.",
)
