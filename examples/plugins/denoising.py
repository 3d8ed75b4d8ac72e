"""A task without labels: a model finds images again under noise, whose size may cycle.

The task has a model of its own. A split is judged by the mean squared error at a fixed noise.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cyclical_jax.models import from_linen
from cyclical_jax.tasks.classification import as_batch
from cyclical_jax.training.fields import knob, whole
from cyclical_jax.training.technique import (
    IMAGES,
    BatchTransform,
    LossTerm,
    Part,
    Site,
    Task,
)

NOISE, WIDTH = "denoising.noise", "denoising.width"
KEYS = {
    NOISE: knob({"easy": 0.1, "hard": 0.5}, "standard deviation of the noise", minimum=0),
    WIDTH: whole(32, "width of the hidden layer", minimum=1),
}
JUDGED_AT = 0.3  # standard deviation of the noise that a split is judged at


class Denoiser(nn.Module):
    width: int

    @nn.compact
    def __call__(self, images, *, train):
        hidden = nn.relu(nn.Dense(self.width)(images.reshape(len(images), -1)))
        return nn.Dense(images[0].size)(hidden).reshape(images.shape)


def part(site: Site) -> Part:
    def add_noise(batch, key, noise):
        images = batch["image"]
        return batch | {"noisy": images + noise * jax.random.normal(key, images.shape)}

    def loss(found, batch, values):
        return squared_error(found, batch["image"])

    transform = BatchTransform(add_noise, site.schedules[NOISE])
    return Part(transforms=(transform,), terms=(LossTerm(loss),))


def squared_error(found, images):
    return jnp.square(found - images).mean((1, 2, 3))


def sums(site: Site, model, variables, batch):
    """An example has the same noise in every evaluation."""
    images, mask = batch["image"], batch["mask"]
    keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(0), index))(batch["index"])
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    found, _ = model.apply(*variables, images + JUDGED_AT * noise, train=False)
    return {"loss": (squared_error(found, images) * mask).sum(), "num_examples": mask.sum()}


def scores(sums):
    loss, number = (float(np.sum([of[name] for of in sums])) for name in ("loss", "num_examples"))
    return {"loss": loss / number, "num_examples": int(number)}


TASKS = (
    Task(
        "denoising",
        KEYS,
        part,
        model=lambda site, before: from_linen(Denoiser(site.own[WIDTH])),
        offers=frozenset({IMAGES}),
        changes_inputs=True,
        as_batch=as_batch,
        view=lambda batch: batch["noisy"],
        sums=sums,
        scores=scores,
        judged_by=("loss", "min"),
    ),
)
