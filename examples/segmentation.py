"""Segmentation: each pixel has a class, and the loss leaves out the pixels without a label.

    python examples/segmentation.py

The model learns to tell discs from noise. The edge of a disc has the label 255, which means none.
"""

import jax
import jax.numpy as jnp
import optax

import cyclical_jax as cj

NUM_UPDATES = 201


def examples(key):
    """Returns images [16, 1, 24, 24] and labels [16, 24, 24]: 0, 1 or 255."""
    place_key, noise_key = jax.random.split(key)
    y, x = jnp.mgrid[:24, :24][:, None] - jax.random.uniform(place_key, (2, 16, 1, 1), maxval=23.0)
    images = (jnp.hypot(x, y) < 6) + 0.5 * jax.random.normal(noise_key, x.shape)
    labels = jnp.where(abs(jnp.hypot(x, y) - 6) < 1, 255, jnp.hypot(x, y) < 6)
    return images[:, None], labels


def train(optimizer, loss_of):
    """Yields one row of the log per update; `loss_of` takes logits, labels, the count, a mask."""

    @jax.jit
    def train_step(params, opt_state, step):
        images, labels = examples(jax.random.key(step))
        where = labels != 255

        def mean_loss(params):
            hidden = jax.nn.relu(jax.lax.conv(images, params["hidden"], (1, 1), "SAME"))
            logits = jax.lax.conv(hidden, params["out"], (1, 1), "SAME")
            return cj.weighted_mean(loss_of(logits, labels, step, where), where=where)

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        row = {"loss": loss, **cj.current_values(opt_state)}
        return optax.apply_updates(params, updates), opt_state, row

    shapes = {"hidden": (8, 1, 5, 5), "out": (2, 8, 5, 5)}
    params = {n: jax.random.normal(jax.random.key(0), s) / 8 for n, s in shapes.items()}
    opt_state = optimizer.init(params)
    for step in range(NUM_UPDATES):
        params, opt_state, row = train_step(params, opt_state, step)
        yield row


if __name__ == "__main__":
    hardness = cj.hardness_schedule(NUM_UPDATES, factor=4)
    gamma = cj.between(0.0, 2.0, hardness)
    cycling = optax.chain(cj.clip_by_global_norm(cj.between(0.5, 2.0, hardness)), optax.adam(1e-2))
    rows = train(cycling, lambda x, y, t, w: cj.focal_loss(x, y, gamma=gamma(t), axis=1, where=w))
    for step, row in enumerate(rows):
        if step % 50 == 0:
            print(step, {name: round(float(value), 6) for name, value in row.items()})
