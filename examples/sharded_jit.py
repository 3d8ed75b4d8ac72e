"""Several devices: `jit` keeps the parameters on all of them and spreads each batch over them.

    python examples/sharded_jit.py    # needs scikit-learn

The log is that of one device, up to rounding.
"""

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits

import cyclical_jax as cj

NUM_UPDATES = 201
IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = np.float32(IMAGES / 8 - 1)


def train(optimizer, loss_of, devices):
    """Yields one row of the log per update; `loss_of` takes logits, labels and the update count."""
    mesh = Mesh(np.array(devices), ("batch",))
    replicated = NamedSharding(mesh, PartitionSpec())
    spread = NamedSharding(mesh, PartitionSpec("batch"))

    @jax.jit
    def train_step(params, opt_state, step, images, labels):
        def mean_loss(params):
            logits = jax.nn.relu(images @ params["hidden"]) @ params["out"]
            return loss_of(logits, labels, step).mean()

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        row = {"loss": loss, **cj.current_values(opt_state)}
        return optax.apply_updates(params, updates), opt_state, row

    rng = np.random.default_rng(0)
    params = {"hidden": rng.normal(0, 1 / 8, (64, 128)), "out": np.zeros((128, 10))}
    params = jax.device_put(jax.tree.map(np.float32, params), replicated)
    opt_state = jax.device_put(optimizer.init(params), replicated)
    for step in range(NUM_UPDATES):
        batch = rng.integers(0, len(LABELS), 128)
        examples = jax.device_put((IMAGES[batch], LABELS[batch]), spread)
        params, opt_state, row = train_step(params, opt_state, step, *examples)
        yield row


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)  # without an accelerator
    hardness = cj.hardness_schedule(NUM_UPDATES, factor=4)
    decay, max_norm = cj.between(1e-5, 8e-5, hardness), cj.between(0.5, 2.0, hardness)
    sgd = optax.sgd(0.1, momentum=0.9)
    cycling = optax.chain(cj.clip_by_global_norm(max_norm), cj.add_decayed_weights(decay), sgd)
    gamma = cj.between(0.0, 2.0, hardness)
    rows = train(cycling, lambda x, y, t: cj.focal_loss(x, y, gamma=gamma(t)), jax.devices())
    for step, row in enumerate(rows):
        if step % 50 == 0:
            print(step, {name: round(float(value), 6) for name, value in row.items()})
