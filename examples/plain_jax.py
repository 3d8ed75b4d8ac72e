"""Plain JAX: clipping, weight decay and the focal loss cycle in a training loop of your own.

python examples/plain_jax.py    # needs scikit-learn
"""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import cyclical_jax as cj

NUM_UPDATES = 201
IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = jnp.asarray(IMAGES / 8 - 1, jnp.float32)


def init(key):
    keys = jax.random.split(key)
    return {"hidden": jax.random.normal(keys[0], (64, 128)) / 8, "out": jnp.zeros((128, 10))}


def logits_of(params, images):
    return jax.nn.relu(images @ params["hidden"]) @ params["out"]


def train(optimizer, loss_of):
    """Yields one row of the log per update; `loss_of` takes logits, labels and the update count."""

    @jax.jit
    def train_step(params, opt_state, step, images, labels):
        def mean_loss(params):
            return loss_of(logits_of(params, images), labels, step).mean()

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        row = {"loss": loss, **cj.current_values(opt_state)}
        return optax.apply_updates(params, updates), opt_state, row

    params = init(jax.random.key(0))
    opt_state = optimizer.init(params)
    for step in range(NUM_UPDATES):
        batch = jax.random.randint(jax.random.key(step), (128,), 0, len(LABELS))
        params, opt_state, row = train_step(params, opt_state, step, IMAGES[batch], LABELS[batch])
        yield row


if __name__ == "__main__":
    hardness = cj.hardness_schedule(NUM_UPDATES, factor=4)
    cycling = optax.chain(
        cj.clip_by_global_norm(cj.between(0.5, 2.0, hardness)),
        cj.add_decayed_weights(cj.between(1e-5, 8e-5, hardness)),
        optax.sgd(0.1, momentum=0.9),
    )
    rows = train(cycling, lambda x, y, step: cj.cyclical_focal_loss(x, y, hardness(step)))
    for step, row in enumerate(rows):
        if step % 50 == 0:
            print(step, {name: round(float(value), 6) for name, value in row.items()})
