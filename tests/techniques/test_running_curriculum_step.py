"""Running difficulties in the step: the same on two devices, and without a trace of what failed."""

import jax
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

from cyclical_jax.losses import softmax_cross_entropy
from cyclical_jax.models import Model
from cyclical_jax.techniques import running_curriculum
from cyclical_jax.training.devices import AXIS, on_all_devices, place, scatter
from cyclical_jax.training.state import init_state
from cyclical_jax.training.step import Program, make_train_step
from cyclical_jax.training.technique import LossTerm, Site, Spec

pytestmark = pytest.mark.usefixtures("fast_compilation")

NUMBER, BATCH, CLASSES, STEPS = 10, 8, 3, 3
NAME, DECAY = "running_curriculum", 0.7
LINEAR = Model(  # logits = pixels @ params
    init=lambda key, images: (jax.random.normal(key, (4, CLASSES)), {}),
    apply=lambda params, state, images, *, train, key: (images @ params, state),
)
# In the second batch one half, of one device, is nothing but padding.
MASK = np.array([[1] * real + [0] * (BATCH - real) for real in (8, 3, 6)], np.float32)


def make(axis_name=None, **options):
    knobs = {
        running_curriculum.PREFERENCE: lambda count: 3.0 - count,
        running_curriculum.DECAY: lambda count: DECAY,
    }
    site = Site({}, Spec(NUMBER, CLASSES, (4,)), axis_name, knobs)
    part = running_curriculum.TECHNIQUE.part(site)
    term = LossTerm(lambda logits, batch, values: softmax_cross_entropy(logits, batch["label"]))
    options |= dict(transforms=part.transforms, knobs=knobs, memories={NAME: part.memory})
    program = Program(LINEAR, optax.sgd(0.1), [term], axis_name=axis_name, **options)
    state = init_state(LINEAR, program.optimizer, 0, 1, memories=program.memories)
    return make_train_step(program), state


def batches():
    rng = np.random.default_rng(0)
    for mask in MASK:
        yield {
            "image": rng.normal(size=(BATCH, 4)).astype(np.float32),
            "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
            "index": rng.permutation(NUMBER)[:BATCH].astype(np.int32),
            "mask": mask,
        }


def run(step, state, batches):
    states = [jax.device_get(state._replace(key=0))]
    for batch in batches:
        state, _ = step(state, batch)
        states.append(jax.device_get(state._replace(key=0)))
    return states


def test_difficulties_are_running_averages_of_the_losses_before_each_update():
    step, state = make()
    states, expected = run(jax.jit(step), state, batches()), np.full(NUMBER, np.log(CLASSES))
    for old, new, batch in zip(states, states[1:], batches(), strict=False):
        losses = -log_softmax(batch["image"] @ old.params, axis=-1)[range(BATCH), batch["label"]]
        seen, real = batch["index"][batch["mask"] > 0], losses[batch["mask"] > 0]
        expected[seen] = DECAY * expected[seen] + (1 - DECAY) * real
        np.testing.assert_allclose(new.memory[NAME], expected, rtol=1e-5)
        assert not np.array_equal(old.params, new.params)


def test_difficulties_and_weights_of_two_devices_are_those_of_one():
    step, state = make()
    one = run(jax.jit(step), state, batches())
    step, state = make(AXIS)
    mapped = on_all_devices(step, in_axes=(None, 0))
    two = run(lambda state, batch: mapped(state, scatter(batch)), place(state), batches())
    for a, b in zip(one, two, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_a_skipped_batch_leaves_the_difficulties_alone():
    bad = list(batches())
    bad[1]["image"][0] = np.nan
    step, state = make(skip_nonfinite=True)
    first, second, third, _ = run(jax.jit(step), state, bad)
    np.testing.assert_array_equal(second.memory[NAME], third.memory[NAME])
    assert third.skipped == 1 and not np.array_equal(first.memory[NAME], second.memory[NAME])
