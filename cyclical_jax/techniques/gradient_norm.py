"""A control: the gradient of a loss gets the norm of plain cross entropy's gradient.

A loss that cycles also rescales its gradient, as a cycle of the learning rate would. With this
control the gradient keeps its direction but not its norm, so that the two effects can be told
apart. This control is ours.
"""

from cyclical_jax.losses import softmax_cross_entropy
from cyclical_jax.training.fields import one_of, or_none
from cyclical_jax.training.technique import (
    CLASS_LOGITS,
    LABELS,
    LossTerm,
    Part,
    Site,
    Technique,
)

NORM, SMOOTHING = "loss.gradient_norm", "loss.label_smoothing"
KEYS = {
    NORM: or_none(
        one_of(
            None,
            ("cross_entropy",),
            "loss that sets the norm of the gradient: each gradient is scaled to the norm that "
            "this loss would give (temperature 1, the same label smoothing); None leaves the norm "
            "alone",
        )
    )
}


def part(site: Site) -> Part:
    def loss(logits, batch, values):
        smoothing = values.get(SMOOTHING, 0.0)
        return softmax_cross_entropy(logits, batch["label"], label_smoothing=smoothing)

    return Part(reference=LossTerm(loss))


TECHNIQUE = Technique(
    "gradient_norm",
    KEYS,
    part,
    switch=NORM,
    needs=frozenset({LABELS, CLASS_LOGITS}),
    about="Keeps a loss that cycles from changing the gradient's norm; it is a control.",
)
