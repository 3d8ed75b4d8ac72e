"""Language model: the loss ignores some tokens of a sequence and weighs the others.

    python examples/language_model.py

The model learns the bytes of a text, with logits [batch, time, vocabulary]. The first eight labels
of a sequence are -1, which the loss ignores; a space counts half.
"""

import jax
import jax.numpy as jnp
import optax

import cyclical_jax as cj

NUM_UPDATES = 201
TEXT = jnp.array(list(jnp.einsum.__doc__.encode()))


def logits_of(params, tokens):
    """Returns [batch, time, 128] logits, each from the last eight tokens."""
    seen = jnp.stack([jnp.roll(tokens, i, axis=1) for i in range(8)], axis=-1)
    features = params["embedding"][seen].reshape(*tokens.shape, -1)
    return jax.nn.relu(features @ params["hidden"]) @ params["out"]


def train(optimizer, loss_of):
    """Yields one row of the log per update; `loss_of` takes logits, labels and the update count."""

    @jax.jit
    def train_step(params, opt_state, step):
        starts = jax.random.randint(jax.random.key(step), (32, 1), 0, len(TEXT) - 64)
        tokens = TEXT[starts + jnp.arange(65)]
        labels = tokens[:, 1:].at[:, :8].set(-1)
        weights = jnp.where(labels == ord(" "), 0.5, 1.0)

        def mean_loss(params):
            losses = loss_of(logits_of(params, tokens[:, :-1]), labels, step)
            return cj.weighted_mean(losses, weights=weights, labels=labels)

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return params, opt_state, {"loss": loss, **cj.current_values(opt_state)}

    shapes = {"embedding": (128, 16), "hidden": (128, 128), "out": (128, 128)}
    params = {n: jax.random.normal(jax.random.key(0), s) / 12 for n, s in shapes.items()}
    opt_state = optimizer.init(params)
    for step in range(NUM_UPDATES):
        params, opt_state, row = train_step(params, opt_state, step)
        yield row


if __name__ == "__main__":
    hardness = cj.hardness_schedule(NUM_UPDATES, factor=4)
    gamma = cj.between(0.0, 2.0, hardness)
    adam = optax.chain(cj.clip_by_global_norm(cj.between(0.25, 1.0, hardness)), optax.adam(1e-2))
    for step, row in enumerate(train(adam, lambda x, y, t: cj.focal_loss(x, y, gamma=gamma(t)))):
        if step % 50 == 0:
            print(step, {name: round(float(value), 6) for name, value in row.items()})
