"""The moving average in the step: by its formula, in memory of its own, and without a trace."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cyclical_jax as cj
from cyclical_jax.models import Model, make_model
from cyclical_jax.techniques import moving_average
from cyclical_jax.training.devices import AXIS, on_all_devices, place, scatter
from cyclical_jax.training.state import JUDGED, Variables, init_state
from cyclical_jax.training.step import Program, make_train_step
from cyclical_jax.training.technique import LossTerm, Site, Spec

pytestmark = pytest.mark.usefixtures("fast_compilation")

STEPS, BATCH, CLASSES = 5, 12, 5
DECAYS = np.array([0.9, 0.15, 0.9, 0.2, 0.9], np.float32)
MASK = np.array([[1] * real + [0] * (BATCH - real) for real in (6, 1, 7, 10, 3)], np.float32)
WEIGHT = np.random.default_rng(1).uniform(0.1, 3, (STEPS, BATCH)).astype(np.float32)


def cross_entropy(logits, batch, values):
    return cj.softmax_cross_entropy(logits, batch["label"])


def mlp(axis_name):
    options = dict(num_classes=CLASSES, hidden_sizes=(6,), batch_norm=True)
    return make_model("mlp", axis_name=axis_name, **options)


LINEAR = Model(  # logits = pixels @ params
    init=lambda key, images: (jax.random.normal(key, (images[0].size, CLASSES)), {}),
    apply=lambda params, state, images, *, train, key: (
        images.reshape(len(images), -1) @ params,
        state,
    ),
)


def make(model, *, decay=lambda count: 0.5, optimizer=None, axis_name=None, **options):
    """A step with a moving average, and its first state."""
    memory = moving_average.TECHNIQUE.part(Site({}, Spec(100, CLASSES, (3, 3, 1)))).memory
    assert memory.is_judged
    optimizer = optimizer or optax.chain(cj.clip_by_global_norm(0.1), optax.sgd(0.3, momentum=0.9))
    options |= dict(knobs={moving_average.DECAY: decay}, memories={JUDGED: memory})
    program = Program(model, optimizer, [LossTerm(cross_entropy)], axis_name=axis_name, **options)
    state = init_state(model, optimizer, batches()[0]["image"], 1, memories=program.memories)
    return make_train_step(program), state


def batches(**extra):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(STEPS, BATCH, 3, 3, 1)).astype(np.float32)
    label = rng.integers(0, CLASSES, (STEPS, BATCH)).astype(np.int32)
    stacked = {"image": image, "label": label, **extra}
    return [{name: array[index] for name, array in stacked.items()} for index in range(STEPS)]


def run(step, state, batches):
    for batch in batches:
        state, _ = step(state, batch)
    return state


def are_equal(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def averages_by_hand(states):
    """After each step, given the states from the first on."""
    average = jax.tree.map(np.float64, states[0].variables)
    averages = []
    for old, new in zip(states, states[1:], strict=False):
        if new.step > old.step:
            decay = min(float(DECAYS[old.step]), (1 + old.step) / (10 + old.step))
            average = jax.tree.map(
                lambda a, v, d=decay: d * a + (1 - d) * v, average, new.variables
            )
        averages.append(average)
    return averages


@pytest.mark.parametrize("every, extra", [(1, {}), (2, dict(mask=MASK, weight=WEIGHT))])
def test_the_moving_average_follows_its_formula_and_is_no_alias(every, extra):
    """Donated: an average that shared memory with what it averages would be lost, or move."""
    optimizer = cj.accumulate_gradients(optax.sgd(0.3, momentum=0.9), every)
    options = dict(decay=lambda count: jnp.asarray(DECAYS)[count], optimizer=optimizer)
    step, state = make(mlp(AXIS), axis_name=AXIS, **options)
    mapped = on_all_devices(step, in_axes=(None, 0), donate=True)
    states, state = [jax.device_get(state._replace(key=0))], place(state)
    assert are_equal(states[0].memory[JUDGED], states[0].variables)
    for batch in batches(**extra):
        state, row = mapped(state, scatter(batch))
        states.append(jax.device_get(state._replace(key=0)))
        assert row["ema_decay"] == DECAYS[states[-2].step]
    for new, expected in zip(states[1:], averages_by_hand(states), strict=True):
        assert new.evaluated is new.memory[JUDGED]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            tuple(new.evaluated),
            tuple(expected),
        )
    for old, new in zip(states, states[1:], strict=False):
        assert are_equal(old.evaluated, new.evaluated) == (new.step == old.step)
    assert states[-1].step == STEPS // every
    assert states[0].model_state and not are_equal(states[-1].evaluated.params, states[-1].params)
    for leaf in jax.tree.leaves(state.evaluated):
        np.testing.assert_array_equal(
            *(np.asarray(shard.data) for shard in leaf.addressable_shards)
        )


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_the_first_average_is_a_copy_of_the_variables(transform):
    """A donated state gives each array up once."""
    state = transform(lambda: make(mlp(None))[1])()
    leaves = jax.tree.leaves(state)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    jax.tree.map(
        np.testing.assert_array_equal, state.evaluated, Variables(state.params, state.model_state)
    )


def test_an_integer_of_the_models_state_is_not_averaged():
    def apply(params, state, images, *, train, key):
        return LINEAR.apply(params, {}, images, train=train, key=key)[0], {
            "count": state["count"] + 1
        }

    def init(key, images):
        return LINEAR.init(key, images)[0], {"count": jnp.int32(0)}

    step, state = make(Model(init, apply))
    new = run(jax.jit(step), state, batches()[:2])
    assert new.model_state["count"] == new.evaluated.model_state["count"] == 2
    assert new.evaluated.model_state["count"].dtype == jnp.int32


def test_the_moving_average_keeps_the_dtype_of_the_parameters():
    def init(key, images):
        params, model_state = LINEAR.init(key, images)
        return jax.tree.map(lambda param: param.astype(jnp.bfloat16), params), model_state

    step, state = make(LINEAR._replace(init=init))
    new, _ = jax.jit(step)(state, batches()[0])
    dtypes = [jax.tree.map(jnp.result_type, of.evaluated) for of in (new, state)]
    assert dtypes[0] == dtypes[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(new.evaluated.params)} == {jnp.dtype("bfloat16")}


def test_a_batch_that_is_not_finite_spoils_the_average_unless_it_is_skipped():
    """Within an accumulated update the next batch takes its place."""
    data = batches()
    data[2]["image"][-1, 0, 0, 0] = np.nan
    optimizer = cj.accumulate_gradients(optax.sgd(0.1), 2)
    step, state = make(LINEAR, optimizer=optimizer)
    assert np.isnan(run(jax.jit(step), state, data).evaluated.params).any()
    step, state = make(LINEAR, optimizer=optimizer, skip_nonfinite=True)
    skipping, without = (run(jax.jit(step), state, of) for of in (data, data[:2] + data[3:]))
    assert skipping.step == 2 and skipping.skipped == 1
    assert are_equal(skipping.evaluated, without.evaluated)
