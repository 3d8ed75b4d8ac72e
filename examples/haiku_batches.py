"""Haiku: the batch size cycles. An update takes 8 batches at the easy ends and 2 at the peak.

python examples/haiku_batches.py    # needs Haiku (dm-haiku) and scikit-learn
"""

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import cyclical_jax as cj

NUM_BATCHES = 408
IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = jnp.asarray(IMAGES / 8 - 1, jnp.float32)
NETWORK = hk.without_apply_rng(hk.transform(lambda images: hk.nets.MLP([128, 10])(images)))


def train(optimizer, loss_of):
    """Yields one row of the log per update; `loss_of` takes logits, labels and the update count."""

    @jax.jit
    def train_step(params, opt_state, images, labels):
        step = cj.num_updates(opt_state)  # not of batches

        def mean_loss(params):
            return loss_of(NETWORK.apply(params, images), labels, step).mean()

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        row = {"loss": loss, **cj.current_values(opt_state)}
        return optax.apply_updates(params, updates), opt_state, row

    params = NETWORK.init(jax.random.key(0), IMAGES[:1])
    opt_state = optimizer.init(params)
    for micro_step in range(NUM_BATCHES):
        batch = jax.random.randint(jax.random.key(micro_step), (32,), 0, len(LABELS))
        params, opt_state, row = train_step(params, opt_state, IMAGES[batch], LABELS[batch])
        if optax.tree.get(opt_state, "mini_step") == 0:  # this batch completed an update
            yield row


def every(num_updates):
    return cj.between(8, 2, cj.hardness_schedule(num_updates, factor=4))


if __name__ == "__main__":
    num_updates = cj.updates_of(NUM_BATCHES, every)  # 81: the cycle is of updates, not of batches
    hardness = cj.hardness_schedule(num_updates, factor=4)
    clip = cj.clip_by_global_norm(cj.between(0.5, 2.0, hardness))
    adam = optax.chain(clip, optax.adam(1e-2))
    cycling = cj.accumulate_gradients(adam, every(num_updates))
    temperature = cj.between(0.5, 2.0, hardness)
    rows = train(cycling, lambda x, y, t: cj.focal_loss(x, y, temperature=temperature(t)))
    for step, row in enumerate(rows):
        if step % 20 == 0:
            print(step, {name: round(float(value), 6) for name, value in row.items()})
