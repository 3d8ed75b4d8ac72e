"""Keras on JAX: Optax trains layers of Keras, and its chain holds the pieces that cycle.

    python examples/keras_layers.py    # needs Keras and scikit-learn

Keras' own optimizers take a schedule for the learning rate alone. A loop takes any chain of Optax.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import optax
from sklearn.datasets import load_digits

import cyclical_jax as cj

NUM_UPDATES = 201
IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = IMAGES / 8 - 1


def train(optimizer, loss_of):
    """Yields one row of the log per update; `loss_of` takes logits, labels and the update count."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(128), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])

    @jax.jit
    def train_step(params, others, opt_state, step, images, labels):
        def mean_loss(params):
            logits, new = model.stateless_call(params, others, images, training=True)
            return loss_of(logits, labels, step).mean(), new

        (loss, others), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        row = {"loss": loss, **cj.current_values(opt_state)}
        return optax.apply_updates(params, updates), others, opt_state, row

    params = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]
    state = params, others, optimizer.init(params)
    for step in range(NUM_UPDATES):
        batch = jax.random.randint(jax.random.key(step), (128,), 0, len(LABELS))
        *state, row = train_step(*state, step, IMAGES[batch], LABELS[batch])
        yield row


if __name__ == "__main__":
    hardness = cj.hardness_schedule(NUM_UPDATES, factor=4)
    decay, max_norm = cj.between(1e-5, 8e-5, hardness), cj.between(0.5, 2.0, hardness)
    sgd = optax.sgd(0.1, momentum=0.9)
    cycling = optax.chain(cj.clip_by_global_norm(max_norm), cj.add_decayed_weights(decay), sgd)
    rows = train(cycling, lambda x, y, step: cj.cyclical_focal_loss(x, y, hardness(step)))
    for step, row in enumerate(rows):
        if step % 50 == 0:
            print(step, {name: round(float(value), 6) for name, value in row.items()})
