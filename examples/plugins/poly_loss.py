"""A loss of one's own: Poly-1, cross entropy + epsilon (1 - p of the label).

Leng et al., arXiv 2204.12511. Its `epsilon` is a new key, and may cycle.
"""

import jax
import jax.numpy as jnp

from cyclical_jax import softmax_cross_entropy
from cyclical_jax.tasks.classification import Loss
from cyclical_jax.training.fields import knob


def poly_loss(logits, labels, *, epsilon, label_smoothing):
    p = jax.nn.softmax(logits)
    p_label = jnp.take_along_axis(p, labels[..., None], -1)[..., 0]
    plain = softmax_cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return plain + epsilon * (1 - p_label)


EPSILON = knob(1.0, "weight of 1 - p of the label", minimum=-1)
LOSSES = {"poly": Loss(poly_loss, {"loss.epsilon": EPSILON})}
