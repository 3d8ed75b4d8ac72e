"""The step is the same on one device, on two, and under every kind of mapped axis."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

import cyclical_jax as cj
from cyclical_jax.models import make_model
from cyclical_jax.training.devices import AXIS, on_all_devices, place, split_over_devices
from cyclical_jax.training.state import init_state
from cyclical_jax.training.step import BatchTransform, LossTerm, make_train_step

STEPS, BATCH, CLASSES = 3, 12, 5
CYCLE = dict(total_steps=STEPS, factor=2)
KNOBS = {
    "hardness": cj.hardness_schedule(**CYCLE),
    "temperature": cj.cyclical_schedule(0.5, 2.0, **CYCLE),
}


def optimizer():
    return optax.chain(
        cj.clip_by_global_norm(cj.cyclical_schedule(0.05, 0.2, **CYCLE)),
        cj.add_decayed_weights(cj.cyclical_schedule(0.0, 0.5, **CYCLE)),
        optax.sgd(0.3, momentum=0.9),
    )


def focal(logits, batch, values):
    return cj.cyclical_focal_loss(
        logits, batch["label"], values["hardness"], temperature=values["temperature"]
    )


def noise(batch, key, strength):
    image = batch["image"]
    return batch | {"image": image + strength * jax.random.normal(key, image.shape)}


FOCAL = (LossTerm(focal),)


def make(axis_name, *, terms=FOCAL, transforms=()):
    model = make_model(
        "mlp", num_classes=CLASSES, axis_name=axis_name, hidden_sizes=(8, 6), batch_norm=True
    )
    step = make_train_step(model, optimizer(), terms, transforms, knobs=KNOBS, axis_name=axis_name)
    return step, init_state(model, optimizer(), batches()["image"][0], seed=1)


def batches():
    """[STEPS, BATCH, ...], lopsided: the second half of a batch is brighter and of other labels."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(STEPS, BATCH, 3, 3, 1)).astype(np.float32)
    label = rng.integers(0, 2, (STEPS, BATCH)).astype(np.int32)
    image[:, BATCH // 2 :] = 3 * image[:, BATCH // 2 :] + 2
    label[:, BATCH // 2 :] += 3
    return {"image": image, "label": label}


def run(step, state, stacked):
    metrics = []
    for index in range(STEPS):
        state, row = step(state, jax.tree.map(lambda x, i=index: x[i], stacked))
        metrics.append(jax.device_get(row))
    return state, metrics


def run_on_one_device():
    step, state = make(None)
    return run(jax.jit(step), state, batches())


def run_pmapped():
    step, state = make(AXIS)
    mapped = on_all_devices(step, in_axes=(None, 0), donate=True)
    halves = jax.tree.map(lambda x: split_over_devices(x, axis=1).swapaxes(0, 1), batches())
    return run(mapped, place(state), halves)


def run_vmapped():
    step, state = make(AXIS)
    mapped = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name=AXIS)
    halves = jax.tree.map(lambda x: split_over_devices(x, axis=1).swapaxes(0, 1), batches())
    return run(jax.jit(mapped), state, halves)


def run_shard_mapped():
    step, state = make(AXIS)
    everywhere, shared = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.shard_map(
        step,
        mesh=Mesh(np.array(jax.devices()), (AXIS,)),
        in_specs=(everywhere, shared),
        out_specs=everywhere,
        check_vma=False,
    )
    return run(jax.jit(mapped), state, batches())


def assert_trees_close(actual, expected, rtol=2e-5, atol=2e-6):
    def close(path, a, b):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)

    drop_key = jax.tree.map(np.asarray, actual._replace(key=0))
    jax.tree_util.tree_map_with_path(close, drop_key, expected._replace(key=0))


@pytest.mark.parametrize("run_mapped", [run_pmapped, run_vmapped, run_shard_mapped])
def test_two_devices_on_halves_equal_one_on_the_whole_batch(run_mapped):
    """With BatchNorm, a clip that is active, decay and momentum: a missing pmean shows."""
    expected_state, expected = run_on_one_device()
    state, metrics = run_mapped()
    assert_trees_close(state, expected_state)
    for row, expected_row in zip(metrics, expected, strict=True):
        assert row.keys() == expected_row.keys()
        for name in row:
            np.testing.assert_allclose(row[name], expected_row[name], rtol=2e-5, err_msg=name)
    assert all(row["grad_norm"] > row["max_norm"] for row in metrics)


def test_all_devices_hold_the_same_state():
    step, state = make(AXIS, transforms=[BatchTransform(noise, 0.5)])
    mapped = on_all_devices(step, in_axes=(None, 0), donate=True)
    halves = jax.tree.map(lambda x: split_over_devices(x, axis=1).swapaxes(0, 1), batches())
    state, _ = run(mapped, place(state), halves)
    for leaf in jax.tree.leaves(state._replace(key=())):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 2
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0])


def test_metrics_carry_the_value_in_force_of_every_knob():
    _, metrics = run_on_one_device()
    for count, row in enumerate(metrics):
        hardness = [0.0, 1.0, 0.0][count]
        expected = {
            "hardness": hardness,
            "temperature": 0.5 + 1.5 * hardness,
            "max_norm": 0.05 + 0.15 * hardness,
            "weight_decay": 0.5 * hardness,
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-6), (count, name)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    def constant(value):
        return lambda logits, batch, values: jnp.full(len(logits), value)

    grows = LossTerm(constant(10.0), weight=lambda count: count)
    step, state = make(None, terms=[LossTerm(constant(1.0), 0.5), grows])
    _, metrics = run(jax.jit(step), state, batches())
    assert [float(row["loss"]) for row in metrics] == [0.5, 10.5, 20.5]


def test_transforms_run_in_order_with_their_strength():
    def add(batch, key, strength):
        return batch | {"image": batch["image"] + strength}

    def double(batch, key, strength):
        return batch | {"image": strength * batch["image"]}

    def mean_of_image(logits, batch, values):
        return batch["image"].mean((1, 2, 3))

    transforms = [BatchTransform(add, lambda count: count), BatchTransform(double, 2.0)]
    step, state = make(None, terms=[LossTerm(mean_of_image)], transforms=transforms)
    _, metrics = run(jax.jit(step), state, batches())
    expected = [2 * (image.mean() + count) for count, image in enumerate(batches()["image"])]
    np.testing.assert_allclose([row["loss"] for row in metrics], expected, rtol=1e-5)


def test_randomness_differs_between_steps_and_devices_and_repeats_with_the_seed():
    draws = []

    def draw(batch, key, strength):
        return batch | {"image": jnp.zeros_like(batch["image"]), "draw": jax.random.uniform(key)}

    def show(logits, batch, values):
        return jnp.broadcast_to(batch["draw"], len(logits))

    for _ in range(2):
        step, state = make(AXIS, terms=[LossTerm(show)], transforms=[BatchTransform(draw)])
        halves = jax.tree.map(lambda x: split_over_devices(x, axis=1).swapaxes(0, 1), batches())
        mapped = on_all_devices(step, in_axes=(None, 0))
        _, metrics = run(mapped, place(state), halves)
        draws.append([float(row["loss"]) for row in metrics])
    assert draws[0] == draws[1]
    assert len(set(draws[0])) == STEPS

    step, state = make(None, terms=[LossTerm(show)], transforms=[BatchTransform(draw)])
    _, metrics = run(jax.jit(step), state, batches())
    single = [float(row["loss"]) for row in metrics]
    assert not np.allclose(single, draws[0])


def test_step_counts_updates_and_micro_step_counts_batches():
    model = make_model("mlp", num_classes=CLASSES, axis_name=None, hidden_sizes=(4,))
    accumulating = cj.accumulate_gradients(optimizer(), every=2)
    step = make_train_step(model, accumulating, FOCAL, knobs=KNOBS)
    state = init_state(model, accumulating, batches()["image"][0], seed=0)
    state, metrics = run(jax.jit(step), state, batches())
    assert (int(state.step), int(state.micro_step)) == (1, 3)
    assert [float(row["hardness"]) for row in metrics] == [0, 0, 1]
    assert [float(row["max_norm"]) for row in metrics] == pytest.approx([0.05, 0.05, 0.05])
    assert [int(row["every"]) for row in metrics] == [2, 2, 2]
