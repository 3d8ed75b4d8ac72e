"""The step is the same on one device, on two, and under every kind of mapped axis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

import cyclical_jax as cj
from cyclical_jax.models import Model, from_linen, make_model
from cyclical_jax.training.devices import AXIS, on_all_devices, place, scatter
from cyclical_jax.training.state import init_state
from cyclical_jax.training.step import Program, make_train_step
from cyclical_jax.training.technique import MAIN, BatchTransform, LossTerm, Memory

pytestmark = pytest.mark.usefixtures("fast_compilation")

STEPS, BATCH, CLASSES = 5, 12, 5
CYCLE = dict(total_steps=STEPS, factor=2)
HARDNESS = [0.0, 0.5, 1.0, 0.5, 0.0]
KNOBS = {
    "loss.hardness": cj.hardness_schedule(**CYCLE),
    "loss.temperature": cj.cyclical_schedule(0.5, 2.0, **CYCLE),
}


def optimizer():
    return optax.chain(
        cj.clip_by_global_norm(cj.cyclical_schedule(0.05, 0.2, **CYCLE)),
        cj.add_decayed_weights(cj.cyclical_schedule(0.0, 0.5, **CYCLE)),
        optax.sgd(0.3, momentum=0.9),
    )


def is_right(logits, batch, values):
    return logits.argmax(-1) == batch["label"]


def measured(loss, weight=1.0):
    return LossTerm(loss, weight, measures=(("accuracy", is_right),))


def focal(logits, batch, values):
    knobs = dict(hardness=values["loss.hardness"], temperature=values["loss.temperature"])
    return cj.cyclical_focal_loss(logits, batch["label"], **knobs)


def cross_entropy(logits, batch, values):
    return cj.softmax_cross_entropy(logits, batch["label"])


def noise(batch, key, strength):
    image = batch["image"]
    return batch | {"image": image + strength * jax.random.normal(key, image.shape)}


def mlp(axis_name, **options):
    options = dict(hidden_sizes=(6,), batch_norm=True) | options
    return make_model("mlp", num_classes=CLASSES, axis_name=axis_name, **options)


LINEAR = Model(  # logits = pixels @ params
    init=lambda key, images: (jax.random.normal(key, (images[0].size, CLASSES)), {}),
    apply=lambda params, state, images, *, train, key: (
        images.reshape(len(images), -1) @ params,
        state,
    ),
)


def _counted(memory, seen):
    mask = seen.batch.get("mask", jnp.ones(len(seen.batch["label"])))
    count, largest = (mask > 0).sum(), seen.outputs[MAIN].max()
    if seen.axis_name:
        count = jax.lax.psum(count, seen.axis_name)
        largest = jax.lax.pmax(largest, seen.axis_name)
    return {
        "examples": memory["examples"] + count,
        "largest": jnp.maximum(memory["largest"], largest),
        "hardness": seen.values["loss.hardness"],
        "last": seen.new.params,
        "before": seen.old.params,
    }


# How many examples it has seen, which a batch recalls, and the largest output of all of them.
COUNTER = Memory(
    init=lambda variables: {
        "examples": jnp.int32(0),
        "largest": jnp.float32(-1e9),
        "hardness": jnp.float32(-1),
        **{name: jax.tree.map(jnp.copy, variables.params) for name in ("last", "before")},
    },
    update=_counted,
    recall=lambda memory, batch: batch | {"so far": jnp.full(BATCH, memory["examples"])},
)
COUNTED = dict(memories={"counter": COUNTER})


def make(axis_name=None, *, model=LINEAR, optimizer=None, terms=None, seed=1, **options):
    """A step and its first state; the model is one that compiles fast."""
    optimizer, terms = optimizer or optax.sgd(1.0), terms or [measured(cross_entropy)]
    program = Program(model, optimizer, terms, knobs=KNOBS, axis_name=axis_name, **options)
    image = batches()[0]["image"][: BATCH // 2]
    state = init_state(model, optimizer, image, seed, memories=program.memories)
    return make_train_step(program), state


def batches(**extra):
    """STEPS of them, lopsided: the second half of each is brighter and of other labels.

    `extra`: name -> [STEPS, BATCH].
    """
    rng = np.random.default_rng(0)
    image = rng.normal(size=(STEPS, BATCH, 3, 3, 1)).astype(np.float32)
    label = rng.integers(0, 2, (STEPS, BATCH)).astype(np.int32)
    image[:, BATCH // 2 :] = 3 * image[:, BATCH // 2 :] + 2
    label[:, BATCH // 2 :] += 3
    stacked = {"image": image, "label": label, **extra}
    return [{name: array[index] for name, array in stacked.items()} for index in range(STEPS)]


# In no batch do both halves, one for each device, have as many examples that are no padding.
MASK = np.array([[1] * real + [0] * (BATCH - real) for real in (6, 1, 7, 10, 3)], np.float32)
WEIGHT = np.random.default_rng(1).uniform(0.1, 3, (STEPS, BATCH)).astype(np.float32)


def run(step, state, batches):
    metrics = []
    for batch in batches:
        state, row = step(state, batch)
        metrics.append(jax.device_get(row))
    return state, metrics


def without_key(state):
    return jax.device_get(state._replace(key=0))


def assert_trees_close(actual, expected, rtol=2e-5, atol=2e-6):
    def close(path, a, b):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)

    jax.tree_util.tree_map_with_path(close, actual, expected)


def assert_trees_equal(actual, expected):
    assert_trees_close(actual, expected, rtol=0, atol=0)


# ---- programs, compiled once for all tests


def pmapped(step):
    mapped = on_all_devices(step, in_axes=(None, 0), donate=True)
    return lambda state, batch: mapped(state, scatter(batch))


def vmapped(step):
    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name=AXIS))
    return lambda state, batch: mapped(state, scatter(batch))


def shard_mapped(step):
    everywhere, shared = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.shard_map(
        step,
        mesh=Mesh(np.array(jax.devices()), (AXIS,)),
        in_specs=(everywhere, shared),
        out_specs=everywhere,
        check_vma=False,
    )
    return jax.jit(mapped)


# With BatchNorm, a clip that is active, decay, momentum and a memory.
VARIANTS = {
    "plain": lambda: dict(optimizer=optimizer(), terms=[measured(focal)]),
    "accumulating": lambda: dict(
        optimizer=cj.accumulate_gradients(optimizer(), 2), terms=[measured(focal)]
    ),
    "of another's norm": lambda: dict(
        optimizer=optimizer(), terms=[measured(focal)], reference=[LossTerm(cross_entropy)]
    ),
    "skipping": lambda: dict(
        optimizer=optimizer(), terms=[measured(poisoned)], skip_nonfinite=True
    ),
}


@functools.cache
def program(variant, mapped=jax.jit):
    """The step of a variant, mapped, and its first state on the host."""
    axis_name = None if mapped is jax.jit else AXIS
    step, state = make(axis_name, model=mlp(axis_name), **COUNTED, **VARIANTS[variant]())
    return mapped(step), state


def run_program(variant, mapped, batches):
    step, state = program(variant, mapped)
    return run(step, place(state) if mapped is pmapped else state, batches)


# ---- many devices


@pytest.mark.parametrize(
    "variant, mapped, extra",
    [
        ("plain", pmapped, {}),
        ("accumulating", pmapped, dict(mask=MASK, weight=WEIGHT)),
        ("accumulating", vmapped, dict(mask=MASK, weight=WEIGHT)),
        ("accumulating", shard_mapped, dict(mask=MASK, weight=WEIGHT)),
        ("of another's norm", pmapped, dict(mask=MASK, weight=WEIGHT)),
    ],
)
def test_two_devices_on_halves_equal_one_on_the_whole_batch(variant, mapped, extra):
    """A missing pmean shows."""
    expected_state, expected = run_program(variant, jax.jit, batches(**extra))
    state, metrics = run_program(variant, mapped, batches(**extra))
    assert_trees_close(without_key(state), without_key(expected_state))
    for row, expected_row in zip(metrics, expected, strict=True):
        assert row.keys() == expected_row.keys()
        for name in row:
            np.testing.assert_allclose(row[name], expected_row[name], rtol=2e-5, err_msg=name)
    assert sum(row["grad_norm"] > row["max_norm"] for row in metrics) > 1


def test_all_devices_hold_the_same_state():
    step, state = make(
        AXIS,
        model=mlp(AXIS, dropout=0.4),
        optimizer=optimizer(),
        transforms=[BatchTransform(noise, 0.5)],
        skip_nonfinite=True,
        **COUNTED,
    )
    state, _ = run(pmapped(step), place(state), batches(mask=MASK)[:3])
    for leaf in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key))):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 2
        np.testing.assert_array_equal(*shards)


def test_the_state_of_a_model_that_knows_no_axis_is_averaged_too():
    """Its floats; an integer is taken as it is."""

    def apply(params, state, images, *, train, key):
        logits, _ = LINEAR.apply(params, state, images, train=train, key=key)
        return logits, {"mean": images.mean(), "count": state["count"] + 1}

    def init(key, images):
        return LINEAR.init(key, images)[0], {"mean": jnp.float32(0), "count": jnp.int32(0)}

    step, state = make(AXIS, model=Model(init, apply))
    batch = batches()[0]
    state, _ = pmapped(step)(place(state), batch)
    for shard in state.model_state["mean"].addressable_shards:
        np.testing.assert_allclose(shard.data, batch["image"].mean(), rtol=1e-6)
    assert state.model_state["count"] == 1 and state.model_state["count"].dtype == jnp.int32


# ---- randomness


class _ShowsItsDropout(nn.Module):
    """Its model state is what dropout left of ones."""

    @nn.compact
    def __call__(self, images, *, train):
        dropped = nn.Dropout(0.5, deterministic=not train)(jnp.ones((len(images), 16)))
        seen = dropped.astype(jnp.int32)  # integers are not averaged over the devices
        self.variable("seen", "dropped", lambda: seen).value = seen
        return nn.Dense(CLASSES)(dropped)


def dropout_of(step, seed):
    """What each device, or half of one, dropped at each step: [STEPS, 2, ...]."""
    step, state, seen = *step, []
    for batch in batches():
        state = state._replace(key=jax.random.key(seed))
        new_state, _ = step(state, batch)
        seen.append(np.asarray(new_state.model_state["seen"]["dropped"]))
        state = state._replace(micro_step=state.micro_step + 1)
    return np.stack(seen).reshape(STEPS, 2, -1)


def test_dropout_differs_between_steps_and_devices_and_repeats_with_the_seed():
    model = from_linen(_ShowsItsDropout())
    step, state = make(AXIS, model=model)
    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0), out_axes=(0, None), axis_name=AXIS))
    on_two = (lambda state, batch: mapped(state, scatter(batch))), state
    on_one = jax.jit(make(model=model)[0]), state
    dropped, same, other, single = (
        dropout_of(*args) for args in ((on_two, 1), (on_two, 1), (on_two, 2), (on_one, 1))
    )
    assert set(np.unique(dropped)) == {0, 2}
    assert len(np.unique(dropped.reshape(2 * STEPS, -1), axis=0)) == 2 * STEPS
    np.testing.assert_array_equal(dropped, same)
    assert (dropped != other).any((1, 2)).all()
    assert (dropped != single).any((1, 2)).all()


def test_every_transform_and_the_model_have_keys_of_their_own_at_every_micro_step():
    """Each transform adds a channel of one random number, and the model's state shows them."""

    def drawing(entry):
        def transform(batch, key, strength):
            drawn = jnp.full_like(batch[entry][..., :1], jax.random.uniform(key))
            return batch | {entry: jnp.concatenate([batch[entry], drawn], -1)}

        return BatchTransform(transform)

    def apply(params, state, images, *, train, key):
        drawn = [*images[0, 0, 0, 1:], jax.random.uniform(key)]
        return LINEAR.apply(params, {"drawn": jnp.stack(drawn)}, images[..., :1], train=1, key=key)

    model = LINEAR._replace(apply=apply)
    step, state = make(model=model, transforms=[drawing("image")] * 2, later=[drawing(MAIN)])
    step, drawn = jax.jit(step), []
    for batch in batches()[:2]:
        new_state, _ = step(state, batch)
        drawn += new_state.model_state["drawn"].tolist()
        state = state._replace(micro_step=state.micro_step + 1)
    assert len(set(drawn)) == len(drawn) == 8


# ---- terms, transforms, views, metrics


def test_metrics_carry_the_value_in_force_of_every_knob():
    _, metrics = run_program("plain", jax.jit, batches())
    for count, (row, hardness) in enumerate(zip(metrics, HARDNESS, strict=True)):
        expected = {
            "hardness": hardness,
            "temperature": 0.5 + 1.5 * hardness,
            "max_norm": 0.05 + 0.15 * hardness,
            "weight_decay": 0.5 * hardness,
        }
        assert row.keys() == {"loss", "accuracy", "grad_norm", "num_examples", *expected}
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-6), (count, name)


def test_knobs_have_the_names_that_the_program_gives_them():
    columns = {"loss.hardness": "hardness", "loss.temperature": "loss.temperature"}
    step, state = make(columns=columns)
    _, row = jax.jit(step)(state, batches()[0])
    assert {"hardness", "loss.temperature"} <= row.keys() and "temperature" not in row


def test_the_model_takes_its_knobs_by_their_last_word():
    def apply(params, state, images, *, train, key, hardness):
        logits, _ = LINEAR.apply(params, state, images, train=train, key=key)
        return logits, {"hardness": hardness}

    step, state = make(model=LINEAR._replace(apply=apply), model_knobs=["loss.hardness"])
    new, _ = jax.jit(step)(state._replace(step=jnp.int32(1)), batches()[0])
    assert new.model_state == {"hardness": 0.5}


def test_the_loss_is_the_weighted_sum_of_its_terms():
    def constant(value):
        return lambda logits, batch, values: jnp.full(len(logits), value)

    grows = LossTerm(constant(10.0), weight=lambda count: count)
    step, state = make(terms=[LossTerm(constant(1.0), 0.5), grows])
    _, metrics = run(jax.jit(step), state, batches())
    assert [float(row["loss"]) for row in metrics] == [0.5, 10.5, 20.5, 30.5, 40.5]


def test_transforms_run_in_order_with_their_strength():
    def add(batch, key, strength):
        return batch | {"image": batch["image"] + strength}

    def double(batch, key, strength):
        return batch | {"image": strength * batch["image"]}

    def mean_of_image(logits, batch, values):
        return batch["image"].mean((1, 2, 3))

    transforms = [BatchTransform(add, lambda count: count), BatchTransform(double, 2.0)]
    step, state = make(terms=[LossTerm(mean_of_image)], transforms=transforms)
    _, metrics = run(jax.jit(step), state, batches())
    expected = [2 * (batch["image"].mean() + count) for count, batch in enumerate(batches())]
    np.testing.assert_allclose([row["loss"] for row in metrics], expected, rtol=1e-5)


def test_the_main_view_is_made_after_the_transforms_and_before_the_later_ones():
    """And the model gets it as the later ones leave it."""

    def double(entry):
        return BatchTransform(lambda batch, key, strength: batch | {entry: 2 * batch[entry]})

    def apply(params, state, images, *, train, key):
        return LINEAR.apply(params, {"got": images.mean()}, images, train=train, key=key)

    step, state = make(
        model=LINEAR._replace(apply=apply),
        transforms=[double("image")],
        view=lambda batch: batch["image"] + 1,
        later=[double("image"), double(MAIN)],
    )
    batch = batches()[0]
    new, _ = jax.jit(step)(state, batch)
    expected = 2 * (2 * batch["image"].mean() + 1)
    np.testing.assert_allclose(new.model_state["got"], expected, rtol=1e-5)


@pytest.mark.parametrize("mapped", [jax.jit, pmapped])
def test_views_may_be_trees_of_which_the_model_makes_trees(mapped):
    """All views go through the model in one call, and each term gets the outputs of its own."""
    calls = []

    def outputs_of(params, inputs):
        images, shift = inputs["image"], inputs["shift"]
        logits = images.reshape(len(images), -1) @ params + shift[:, None]
        return {"sum": logits.sum(-1), "shifts": (2 * shift, -shift)}

    def apply(params, state, inputs, *, train, key):
        calls.append(len(inputs["shift"]))
        return outputs_of(params, inputs), state

    def scaled(batch, scale):
        return {name: scale * batch[name] for name in ("image", "shift")}

    def add_views(batch, key, strength):
        twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), scaled(batch, 3))
        return batch | {"other": twice, "third": scaled(batch, -1)}

    def own(outputs, batch, values):
        return outputs["sum"] + outputs["shifts"][0] * outputs["shifts"][1]

    def product(third, other, batch, values):
        size = len(third["sum"])
        first, second = other["sum"][:size], other["shifts"][0][size:]
        return first * third["sum"] + second * third["shifts"][1]

    axis_name = None if mapped is jax.jit else AXIS
    program = Program(
        Model(LINEAR.init, apply),
        optax.sgd(1e-3),
        [LossTerm(own), LossTerm(product, 0.5, views=("third", "other"))],
        view=lambda batch: scaled(batch, 1),
        later=[BatchTransform(add_views)],
        axis_name=axis_name,
    )
    batch = batches(shift=WEIGHT)[0]
    state = init_state(program.model, program.optimizer, batch["image"], seed=1)

    def by_hand(params):
        main, other, third = (outputs_of(params, scaled(batch, scale)) for scale in (1, 3, -1))
        product = other["sum"] * third["sum"] + other["shifts"][0] * third["shifts"][1]
        return (own(main, batch, {}) + 0.5 * product).mean()

    loss, gradient = jax.value_and_grad(by_hand)(state.params)
    expected = np.asarray(state.params - 1e-3 * gradient)
    new, row = mapped(make_train_step(program))(place(state), batch)
    assert row["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert row["num_examples"] == BATCH
    np.testing.assert_allclose(new.params, expected, rtol=1e-4, atol=1e-5)
    assert calls == [4 * BATCH // (2 if axis_name else 1)]


def test_measures_of_further_views_are_means_over_these():
    """And not over the examples of the main view, of which some are padding."""

    def twice(batch, key, strength):
        return batch | {"other": jnp.concatenate([batch[MAIN], -batch[MAIN]])}

    def is_first(outputs, batch, values):
        return jnp.arange(len(outputs)) < 3

    beside = LossTerm(
        lambda outputs, batch, values: 0 * outputs[:, 0],
        views=("other",),
        measures=(("first", is_first),),
    )
    own = LossTerm(cross_entropy, measures=(("own", is_first),))
    step, state = make(terms=[own, beside], later=[BatchTransform(twice)])
    _, row = jax.jit(step)(state, batches(mask=MASK)[2])
    assert row["first"] == pytest.approx(3 / 24) and row["own"] == pytest.approx(3 / 7)


# ---- memories


def test_a_batch_recalls_before_its_transforms_and_memories_follow_the_optimizer():
    """The memory gets the new state, the changed batch, the outputs and the values of knobs."""

    def change(batch, key, strength):
        return batch | {"image": batch["image"] + batch["so far"][:, None, None, None] / 100}

    options = dict(optimizer=optax.sgd(0.01), transforms=[BatchTransform(change)])
    step, state = make(**options, **COUNTED)
    step, data, so_far, largest = jax.jit(step), batches(mask=MASK), 0, -1e9
    for batch, hardness in zip(data, HARDNESS, strict=True):
        images = batch["image"] + np.float32(so_far / 100)
        outputs, _ = LINEAR.apply(state.params, {}, images, train=True, key=None)
        new, _ = step(state, batch)
        so_far, largest = so_far + batch["mask"].sum(), max(largest, float(outputs.max()))
        memory = new.memory["counter"]
        assert memory["examples"] == so_far
        assert memory["largest"] == pytest.approx(largest, rel=1e-5)
        assert memory["hardness"] == hardness
        assert_trees_equal((memory["last"], memory["before"]), (new.params, state.params))
        assert not np.array_equal(new.params, state.params)
        state = new


def test_memories_have_names_and_do_not_meet():
    def adding(amount):
        return Memory(lambda variables: jnp.int32(0), lambda memory, seen: memory + amount)

    step, state = make(memories={"one": adding(1), "other": adding(10)})
    state, _ = run(jax.jit(step), state, batches()[:3])
    assert state.memory == {"one": 3, "other": 30}


def test_a_memory_sees_the_counts_before_and_after():
    def counts(memory, seen):
        both = [(state.step, state.micro_step) for state in (seen.old, seen.new)]
        return jnp.array(both)

    step, state = make(memories={"counts": Memory(lambda _: jnp.zeros((2, 2), int), counts)})
    state, _ = run(jax.jit(step), state, batches()[:2])
    assert state.memory["counts"].tolist() == [[1, 1], [2, 2]]


# ---- a step by hand: softmax regression, one update of plain SGD at rate 1


def by_hand(params, batch, temperature=1):
    """Loss, accuracy, gradient and number of examples, in float64."""
    keep = np.asarray(batch.get("mask", np.ones(BATCH))) > 0
    weight = batch.get("weight", np.ones(BATCH))[keep].astype(float)
    images, label = batch["image"].reshape(BATCH, -1)[keep].astype(float), batch["label"][keep]
    logits = images @ np.asarray(params, float) / temperature
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    loss = (weight * -np.log(p[range(len(p)), label])).mean()
    slope = (p - np.eye(CLASSES)[label]) * weight[:, None] / len(p)
    return loss, (logits.argmax(-1) == label).mean(), images.T @ slope / temperature, keep.sum()


@pytest.mark.parametrize(
    "extra, mapped",
    [
        ({}, pmapped),
        (dict(mask=MASK.astype(bool)), jax.jit),
        (dict(weight=WEIGHT), jax.jit),
        (dict(mask=MASK.astype(np.int32), weight=WEIGHT), pmapped),
    ],
    ids=["plain-2", "mask-1", "weight-1", "mask-weight-2"],
)
def test_loss_gradient_and_measures_are_means_over_what_is_no_padding(extra, mapped):
    """A measure may be a condition, and has no weights."""
    step, state = make(None if mapped is jax.jit else AXIS)
    batch, params = batches(**extra)[2], np.asarray(state.params)
    state, row = mapped(step)(place(state), batch)
    loss, accuracy, gradient, count = by_hand(params, batch)
    assert row["loss"] == pytest.approx(loss, rel=1e-5)
    assert row["accuracy"] == pytest.approx(accuracy, rel=1e-6)
    assert row["num_examples"] == count and row["num_examples"].dtype == np.int32
    assert row["grad_norm"] == pytest.approx(np.sqrt((gradient**2).sum()), rel=1e-5)
    np.testing.assert_allclose(params - state.params, gradient, rtol=1e-4, atol=2e-6)
    assert state.memory == {}


@pytest.mark.parametrize("mapped", [jax.jit, pmapped])
def test_nothing_depends_on_the_label_or_weight_of_a_masked_example(mapped):
    changed = batches(mask=MASK, weight=WEIGHT)
    for batch in changed:
        is_padding = batch["mask"] == 0
        batch["label"] = np.where(is_padding, 4 - batch["label"], batch["label"])
        batch["weight"] = np.where(is_padding, np.float32(100), batch["weight"])
    original = batches(mask=MASK, weight=WEIGHT)
    state, metrics = run_program("accumulating", mapped, original)
    changed_state, changed_metrics = run_program("accumulating", mapped, changed)
    assert_trees_equal(without_key(state), without_key(changed_state))
    assert_trees_equal(metrics, changed_metrics)


# ---- a gradient with the norm of another's


def tempered(logits, batch, values):
    return cj.softmax_cross_entropy(logits, batch["label"], temperature=2.0)


def steepest(logits, batch, values):
    """Of a gradient that is finite, and whose norm is not."""
    return 1e30 * cross_entropy(logits, batch, values)


@pytest.mark.parametrize("mapped", [jax.jit, pmapped])
def test_the_gradient_has_its_direction_and_the_norm_of_the_other(mapped):
    options = dict(terms=[LossTerm(tempered)], reference=[LossTerm(cross_entropy)])
    step, state = make(None if mapped is jax.jit else AXIS, **options)
    batch, params = batches(mask=MASK, weight=WEIGHT)[2], np.asarray(state.params)
    state, row = mapped(step)(place(state), batch)
    loss, _, gradient, _ = by_hand(params, batch, temperature=2)
    wanted = np.linalg.norm(by_hand(params, batch)[2])
    expected = gradient * wanted / np.linalg.norm(gradient)
    assert not 0.8 < wanted / np.linalg.norm(gradient) < 1.25
    assert row["loss"] == pytest.approx(loss, rel=1e-5)
    assert row["grad_norm"] == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(params - state.params, expected, rtol=1e-4, atol=5e-6)


def test_the_norm_of_its_own_gradient_changes_nothing():
    states = []
    for reference in ([], [LossTerm(focal)]):
        step, state = make(terms=[measured(focal)], reference=reference)
        states.append(run(jax.jit(step), state, batches()))
    assert_trees_close(*(without_key(state) for state, _ in states), rtol=1e-5)
    assert_trees_close(*(metrics for _, metrics in states), rtol=1e-5)


@pytest.mark.parametrize(
    "weight, of_reference, is_learned",
    [(0.0, 0.0, False), (0.0, 1.0, False), (1.0, 0.0, True)],
    ids=["both zero", "zero", "zero reference"],
)
def test_where_one_gradient_is_zero_the_step_is(weight, of_reference, is_learned):
    """A gradient of zero stays zero, whatever the norm that it should have."""
    terms, reference = [LossTerm(cross_entropy, weight)], [LossTerm(cross_entropy, of_reference)]
    step, state = make(terms=terms, reference=reference)
    params = np.asarray(state.params)
    state, row = jax.jit(step)(state, batches()[0])
    assert row["grad_norm"] == 0 and (row["loss"] > 0) == is_learned
    np.testing.assert_array_equal(state.params, params)


@pytest.mark.parametrize("which", ["terms", "reference"])
def test_a_norm_that_is_not_finite_shows(which):
    terms = dict(terms=[LossTerm(cross_entropy)], reference=[LossTerm(cross_entropy)])
    step, state = make(**(terms | {which: [LossTerm(steepest)]}), skip_nonfinite=True)
    params = np.asarray(state.params)
    state, row = jax.jit(step)(state, batches()[0])
    assert np.isfinite(row["loss"]) and not np.isfinite(row["grad_norm"])
    np.testing.assert_array_equal(state.params, params)
    assert state.skipped == 1


def test_both_gradients_are_of_one_forward_pass():
    """One dropout key, and one change of the model's state."""
    calls = []

    def apply(params, state, images, *, train, key):
        calls.append(key)
        return LINEAR.apply(params, state, images, train=train, key=key)

    step, state = make(model=LINEAR._replace(apply=apply), reference=[LossTerm(tempered)])
    jax.jit(step)(state, batches()[0])
    assert len(calls) == 1


def test_each_parameter_keeps_the_dtype_of_its_gradient():
    """In the optimizer's state: parameters themselves are cast by any update."""

    def init(key, images):
        params, state = LINEAR.init(key, images)
        return {"kernel": params.astype(jnp.bfloat16), "bias": jnp.zeros(CLASSES)}, state

    def apply(params, state, images, *, train, key):
        logits, state = LINEAR.apply(params["kernel"], state, images, train=train, key=key)
        return logits + params["bias"][None], state

    options = dict(optimizer=optax.sgd(1.0, momentum=0.9), reference=[LossTerm(tempered)])
    step, state = make(model=Model(init, apply), **options)
    new, _ = jax.jit(step)(state, batches()[0])
    assert jax.tree.map(jnp.result_type, new) == jax.tree.map(jnp.result_type, state)


# ---- counts


@pytest.mark.parametrize(
    "accumulate",
    [
        lambda optimizer: cj.accumulate_gradients(optimizer, 2),
        lambda optimizer: optax.MultiSteps(optimizer, 2).gradient_transformation(),
    ],
    ids=["ours", "optax"],
)
def test_step_counts_updates_and_micro_step_counts_batches(accumulate):
    step, state = make(optimizer=accumulate(optax.sgd(0.1)))
    step, seen, params = jax.jit(step), [], [np.asarray(state.params)]
    for batch in batches():
        state, row = step(state, batch)
        seen.append((int(state.step), int(state.micro_step), float(row["hardness"])))
        params.append(np.asarray(state.params))
    assert seen == [(0, 1, 0), (1, 2, 0), (1, 3, 0.5), (2, 4, 0.5), (2, 5, 1)]
    moved = [(old != new).any() for old, new in zip(params, params[1:], strict=False)]
    assert moved == [False, True, False, True, False]


def test_an_accumulating_optimizer_reports_the_values_of_its_last_update():
    _, metrics = run_program("accumulating", jax.jit, batches(mask=MASK, weight=WEIGHT))
    norms = [float(row["max_norm"]) for row in metrics]
    assert norms == pytest.approx([0.05, 0.05, 0.05, 0.125, 0.125])
    assert [int(row["every"]) for row in metrics] == [2] * STEPS


# ---- batches that are not finite


def poisoned(logits, batch, values):
    """An infinite loss where `poison` is 1, a gradient of 0/0 where it is 2, both where it is 3."""
    poison = batch["poison"]
    factor = jnp.where(poison == 3, jnp.nan, 1)
    loss = factor * cj.softmax_cross_entropy(logits, batch["label"])
    flat = jnp.where(poison == 2, 0, 1) * logits[:, 0]
    return loss + jnp.where(poison == 1, jnp.inf, 0) + 0.1 * jnp.sqrt(flat**2)


def poison_batches(kind):
    """The third batch is not finite, by its last example alone."""
    poison = np.zeros((STEPS, BATCH), np.int32)
    poison[2, -1] = kind
    return batches(poison=poison)


@pytest.mark.parametrize(
    "kind, finite_loss, finite_grad", [(1, False, True), (2, True, False), (3, False, False)]
)
def test_a_skipped_batch_leaves_no_trace(kind, finite_loss, finite_grad):
    """In a memory neither."""
    data = poison_batches(kind)
    state, metrics = run_program("skipping", pmapped, data)
    without, expected = run_program("skipping", pmapped, data[:2] + data[3:])
    assert_trees_equal(
        without_key(state), without_key(without)._replace(micro_step=STEPS, skipped=1)
    )
    assert state.memory["counter"]["examples"] == (STEPS - 1) * BATCH
    assert np.isfinite(metrics[2]["loss"]) == finite_loss
    assert np.isfinite(metrics[2]["grad_norm"]) == finite_grad
    assert_trees_equal(metrics[:2] + metrics[3:], expected)
    assert [float(row["hardness"]) for row in metrics] == [0, 0.5, 1, 1, 0.5]


def test_an_update_to_parameters_that_are_not_finite_is_skipped():
    step, state = make(optimizer=optax.sgd(3e38), skip_nonfinite=True)
    params = np.asarray(state.params)
    state, row = jax.jit(step)(state, batches()[0])
    assert np.isfinite([row["loss"], row["grad_norm"]]).all()
    np.testing.assert_array_equal(state.params, params)
    assert (state.step, state.micro_step, state.skipped) == (0, 1, 1)


def test_a_skipped_batch_of_an_accumulated_update_is_replaced_by_the_next():
    options = dict(optimizer=cj.accumulate_gradients(optax.sgd(0.1), 2), **COUNTED)
    step, state = make(terms=[LossTerm(poisoned)], skip_nonfinite=True, **options)
    data, step = poison_batches(3), jax.jit(step)
    skipping, _ = run(step, state, data)
    without, _ = run(step, state, data[:2] + data[3:])
    assert skipping.step == 2
    assert_trees_equal(
        without_key(skipping), without_key(without)._replace(micro_step=STEPS, skipped=1)
    )


def test_a_batch_that_is_not_finite_spoils_what_does_not_skip_it():
    data = batches()
    data[2]["image"][-1, 0, 0, 0] = np.nan
    state, metrics = run_program("plain", pmapped, data)
    assert np.isnan(metrics[-1]["loss"])
    for leaf in jax.tree.leaves((state.params, state.model_state, state.memory["counter"]["last"])):
        assert np.isnan(leaf).any()
    assert (state.step, state.micro_step, state.skipped) == (STEPS, STEPS, 0)


# ---- a loss for each pixel

PIXELS = Model(  # the same linear layer at every pixel
    init=lambda key, images: (jax.random.normal(key, (images.shape[-1], CLASSES)), {}),
    apply=lambda params, state, images, *, train, key: (images @ params, state),
)


def dense_batch():
    rng = np.random.default_rng(4)
    return {
        "image": rng.normal(size=(BATCH, 3, 4, 2)).astype(np.float32),
        "label": rng.integers(0, CLASSES, (BATCH, 3, 4)).astype(np.int32),
    }


def flat(batch):
    return {name: array.reshape(-1, *array.shape[3:]) for name, array in batch.items()}


@pytest.mark.parametrize("axis_name", [None, AXIS])
@pytest.mark.parametrize("mask", [None, "examples", "pixels"])
def test_logits_of_more_axes_are_as_many_examples(mask, axis_name):
    """Of sequences or pixels: the step on [batch, h, w] is that on [batch h w]."""
    batch, rng = dense_batch(), np.random.default_rng(5)
    if mask == "examples":
        batch["mask"] = (np.arange(BATCH) % 5 > 0).astype(np.float32)
    if mask == "pixels":
        batch["mask"] = rng.integers(0, 2, (BATCH, 3, 4)).astype(np.float32)
    batch["weight"] = rng.uniform(0.5, 2, BATCH).astype(np.float32)
    wide = {
        name: np.broadcast_to(array.reshape(array.shape + (1,) * (3 - array.ndim)), (BATCH, 3, 4))
        for name, array in batch.items()
        if name in ("mask", "weight")
    }
    program = Program(PIXELS, optax.sgd(1.0), [measured(focal)], knobs=KNOBS)
    state = init_state(PIXELS, program.optimizer, batch["image"][:1], seed=0)
    single = jax.jit(make_train_step(program))
    expected, row = single(state, flat(batch | wide))
    if axis_name:
        shared = make_train_step(program._replace(axis_name=axis_name))
        found, metrics = on_all_devices(shared, in_axes=(None, 0))(place(state), scatter(batch))
    else:
        found, metrics = single(state, batch)
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-5, atol=1e-6)
    for name in ("loss", "accuracy", "grad_norm"):
        np.testing.assert_allclose(metrics[name], row[name], rtol=1e-5)
