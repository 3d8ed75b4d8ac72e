"""Equinox: clipping, weight decay and the focal loss cycle while an Equinox model is trained.

python examples/equinox_mlp.py    # needs Equinox and scikit-learn
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import cyclical_jax as cj

NUM_UPDATES = 201
IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = jnp.asarray(IMAGES / 8 - 1, jnp.float32)


def train(optimizer, loss_of):
    """Yields one row of the log per update; `loss_of` takes logits, labels and the update count."""

    @eqx.filter_jit
    def train_step(model, opt_state, step, images, labels):
        def mean_loss(model):
            return loss_of(jax.vmap(model)(images), labels, step).mean()

        loss, grads = eqx.filter_value_and_grad(mean_loss)(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        row = {"loss": loss, **cj.current_values(opt_state)}
        return eqx.apply_updates(model, updates), opt_state, row

    model = eqx.nn.MLP(64, 10, width_size=128, depth=2, key=jax.random.key(0))
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    for step in range(NUM_UPDATES):
        batch = jax.random.randint(jax.random.key(step), (128,), 0, len(LABELS))
        images, labels = IMAGES[batch], LABELS[batch]
        # An array, not a Python number, for which `filter_jit` would compile each step anew.
        model, opt_state, row = train_step(model, opt_state, jnp.asarray(step), images, labels)
        yield row


if __name__ == "__main__":
    hardness = cj.hardness_schedule(NUM_UPDATES, factor=4)
    cycling = optax.chain(
        cj.adaptive_grad_clip(cj.between(0.01, 0.1, hardness)),
        optax.scale_by_adam(),
        cj.add_decayed_weights(cj.between(1e-4, 8e-4, hardness)),
        optax.scale_by_learning_rate(3e-3),
    )
    rows = train(cycling, lambda x, y, step: cj.cyclical_focal_loss(x, y, hardness(step)))
    for step, row in enumerate(rows):
        if step % 50 == 0:
            print(step, {name: round(float(value), 6) for name, value in row.items()})
