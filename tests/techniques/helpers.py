"""A small run, its dataset, and its step on a batch, for tests of what techniques add to it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from cyclical_jax import data
from cyclical_jax.accumulation import uniform_windows
from cyclical_jax.catalogue import default_config, parse
from cyclical_jax.training import assembly, loop
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.recipe import put
from cyclical_jax.training.step import make_train_step
from cyclical_jax.training.technique import Spec

CLASSES, SHAPE = 10, (8, 8, 1)
TABLE = Timetable(uniform_windows(5, 1), 5, 5, 5)
PLAIN_SGD = dict(  # an update is the negative gradient
    optimizer__momentum=0.0,
    optimizer__learning_rate=1.0,
    optimizer__learning_rate_schedule=None,
)


def config_of(**changes):
    """A config of 5 batches an epoch; `section__word=value` changes a key."""
    config = default_config()
    small = dict(batch_size=12, duration="1 epoch", model__hidden_sizes=(6,), subset="balanced 60")
    for key, value in (small | changes).items():
        put(config, key.replace("__", "."), value)
    return config


def recipe(**changes):
    return parse(config_of(**changes), num_devices=2)


@functools.cache
def digits(unlabelled=True):
    """Few of them: the first of each class, and some of the others without labels."""
    dataset = data.load("digits", subset="balanced 60", unlabelled=True)
    train = dict(dataset.train)
    train["unlabelled"] = train["unlabelled"][:100]
    if not unlabelled:
        del train["unlabelled"]
    few = {name: array[:30] for name, array in dataset.validation.items()}
    return dataset._replace(train=train, validation=few)


def train(run, dataset, seed=0, **options):
    rows = []
    run = dataclasses.replace(run, seed=seed)
    state = loop.train(run, dataset, report=rows.append, **options)
    return jax.device_get(state._replace(key=0)), rows


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


# ---- one step


def step_and_state(*, num_train=0, given=None, count=1, model__hidden_sizes=(), **changes):
    """The step of a network without hidden layers or weight decay, and a state at `count` of 5.

    At 1, a quarter of the way, a cycle is halfway between easy and hard.
    """
    small = dict(model__hidden_sizes=model__hidden_sizes, optimizer__weight_decay=None)
    run = recipe(**small | changes)
    static = dict(timetable=TABLE, spec=Spec(num_train, CLASSES, SHAPE))
    program = assembly.assemble(run.structure, run.numbers, given=given, **static)
    state = assembly.assemble_state(run.structure, run.numbers, 3, **static)
    return jax.jit(make_train_step(program)), state._replace(step=jnp.int32(count))


def flat(images):
    return np.asarray(images).reshape(len(images), -1)


def logits_of(state, images):
    (layer,) = jax.device_get(state.params).values()
    return flat(images) @ layer["kernel"] + layer["bias"]


def cross_entropies(logits, labels):
    return -log_softmax(logits, axis=-1)[np.arange(len(labels)), labels]


def divergences(teacher, logits, temperature=1.0):
    """Returns T^2 KL(teacher || logits)."""
    log_p, log_q = (log_softmax(each / temperature, axis=-1) for each in (teacher, logits))
    return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(-1)


def some_images(number=10, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (number, *SHAPE)).astype(np.float32)


def some_bytes(number=10, seed=1):
    """Images as a dataset has them, and as a model sees them."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (number, *SHAPE)).astype(np.uint8)
    return images, np.float32(images / 127.5 - 1)


def choices(*values):
    """Returns [2^n, n]: of two arrays [n], each way to take one value or the other."""
    number = len(values[0])
    is_other = (np.arange(2**number)[:, None] >> np.arange(number)) & 1
    return np.where(is_other, values[1], values[0])
