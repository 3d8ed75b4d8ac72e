"""`make bare` runs this where only jax, optax and the built wheel are: the README's promise."""

import importlib.util
import pathlib
import sysconfig

import jax
import jax.numpy as jnp
import optax

import cyclical_jax as cj

NUM_STEPS = 100


def main():
    for absent in ("flax", "ml_collections", "sklearn", "tensorflow_datasets"):
        assert importlib.util.find_spec(absent) is None, f"{absent} is here: not a bare environment"
    installed = pathlib.Path(sysconfig.get_path("purelib"))
    assert installed in pathlib.Path(cj.__file__).parents, f"{cj.__file__} is not the wheel's"
    accuracy, values = train()
    assert accuracy > 0.9, accuracy
    assert abs(values["max_norm"] - 0.5) < 1e-6, values
    print(f"bare environment: accuracy {accuracy:.0%}, {values}")


def train():
    cycle = dict(total_steps=NUM_STEPS, factor=4)
    optimizer = optax.chain(
        cj.clip_by_global_norm(cj.cyclical_schedule(0.5, 2.0, **cycle)),
        cj.add_decayed_weights(cj.cyclical_schedule(1e-5, 8e-5, **cycle)),
        optax.sgd(0.1, momentum=0.9),
    )
    hardness = cj.hardness_schedule(**cycle)
    images = jax.random.normal(jax.random.key(0), (64, 8))
    labels = jnp.argmax(images[:, :3], axis=-1)

    @jax.jit
    def train_step(params, opt_state, step):
        def loss_of(params):
            return cj.cyclical_focal_loss(images @ params, labels, hardness(step)).mean()

        updates, opt_state = optimizer.update(jax.grad(loss_of)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jnp.zeros((8, 3))
    opt_state = optimizer.init(params)
    for step in range(NUM_STEPS):
        params, opt_state = train_step(params, opt_state, step)
    accuracy = (jnp.argmax(images @ params, axis=-1) == labels).mean()
    return accuracy, cj.current_values(opt_state)


if __name__ == "__main__":
    main()
