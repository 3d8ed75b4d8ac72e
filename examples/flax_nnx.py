"""Flax NNX: an `nnx.Optimizer` takes the pieces that cycle, and its count of updates drives them.

python examples/flax_nnx.py    # needs Flax and scikit-learn
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import cyclical_jax as cj

NUM_UPDATES = 201
IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = jnp.asarray(IMAGES / 8 - 1, jnp.float32)


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.norm = nnx.BatchNorm(128, rngs=rngs)
        self.out = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, images):
        return self.out(nnx.relu(self.norm(self.hidden(images))))


@nnx.jit(static_argnums=2)
def train_step(model, optimizer, loss_of, images, labels):
    def mean_loss(model):
        return loss_of(model(images), labels, optimizer.step[...]).mean()

    loss, grads = nnx.value_and_grad(mean_loss)(model)
    optimizer.update(model, grads)
    return {"loss": loss, **cj.current_values(optimizer.opt_state)}


def train(transformation, loss_of):
    """Yields one row of the log per update; `loss_of` takes logits, labels and the update count."""
    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    for step in range(NUM_UPDATES):
        batch = jax.random.randint(jax.random.key(step), (128,), 0, len(LABELS))
        yield train_step(model, optimizer, loss_of, IMAGES[batch], LABELS[batch])


if __name__ == "__main__":
    hardness = cj.hardness_schedule(NUM_UPDATES, factor=4)
    temperature = cj.between(0.5, 2.0, hardness)
    cycling = optax.chain(
        cj.clip_by_global_norm(cj.between(0.5, 2.0, hardness)),
        cj.add_decayed_weights(cj.between(1e-5, 8e-5, hardness)),
        optax.sgd(0.1, momentum=0.9),
    )
    rows = train(cycling, lambda x, y, t: cj.focal_loss(x, y, temperature=temperature(t)))
    for step, row in enumerate(rows):
        if step % 50 == 0:
            print(step, {name: round(float(value), 6) for name, value in row.items()})
