"""A loss of your own: Poly-1 adds epsilon (1 - p of the label) to the cross entropy.

Its `epsilon` is a new key, and may cycle. Source: Leng et al., arXiv 2204.12511.
"""

import jax

from cyclical_jax import softmax_cross_entropy
from cyclical_jax.tasks.classification import Loss
from cyclical_jax.training.fields import knob


def poly_loss(logits, labels, *, epsilon, label_smoothing):
    is_index = labels.ndim < logits.ndim  # else probabilities: mixup mixes labels, say
    y = jax.nn.one_hot(labels, logits.shape[-1]) if is_index else labels
    p_label = (y * jax.nn.softmax(logits)).sum(-1)
    plain = softmax_cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return plain + epsilon * (1 - p_label)


EPSILON = knob(1.0, "weight of 1 - p of the label", minimum=-1)
LOSSES = {"poly": Loss(poly_loss, {"loss.epsilon": EPSILON})}
