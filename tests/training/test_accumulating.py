"""The gradient of an accumulated update: averaged over the devices once, and the same as before."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cyclical_jax as cj
from cyclical_jax import data
from cyclical_jax.models import make_model
from cyclical_jax.training import accumulating, ahead, loop, ways
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.devices import AXIS, on_all_devices, place, scatter
from cyclical_jax.training.keeper import Keeper, StoppedError
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.run import begin
from cyclical_jax.training.state import init_state
from cyclical_jax.training.step import Program, make_train_step
from cyclical_jax.training.technique import LossTerm
from tests.helpers import recipe_of, without_times

pytestmark = pytest.mark.usefixtures("fast_compilation")

CLASSES, BATCH = 3, 4
SIZES = (3, 1, 2)  # micro steps of each update


# ---- one step


def cross_entropy(logits, batch, values):
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])


def make(every, batch_norm=True, **options):
    """A step whose update is the negative gradient, on all devices, and its first state."""
    shape = dict(hidden_sizes=(5,), batch_norm=batch_norm)
    model = make_model("mlp", num_classes=CLASSES, axis_name=AXIS, **shape)
    sizes = jnp.asarray(SIZES)
    optimizer = cj.accumulate_gradients(optax.sgd(1.0), lambda count: sizes[count])
    given = {"every": lambda count: sizes[count]} if every else {}
    program = Program(model, optimizer, [LossTerm(cross_entropy)], axis_name=AXIS, **given)
    state = init_state(model, optimizer, batches()[0]["image"], 0)
    return make_train_step(program._replace(**options)), state


def batches():
    """The halves of each, one for each device, are of other classes and brightness."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(sum(SIZES), BATCH, 2, 2, 1)).astype(np.float32)
    image[:, BATCH // 2 :] += 2
    label = rng.integers(0, 2, (sum(SIZES), BATCH)).astype(np.int32)
    label[:, BATCH // 2 :] += 1
    return [{"image": i, "label": y} for i, y in zip(image, label, strict=True)]


def trained(every, **options):
    """Returns states and metrics after each micro step."""
    step, state = make(every, **options)
    axes = accumulating.AXES if every else None
    mapped = on_all_devices(step, in_axes=(axes, 0), out_axes=(axes, None))
    state, found = place(state), []
    if every:
        state = accumulating.spread(state)
    for batch in batches():
        state, metrics = mapped(state, scatter(batch))
        found.append(jax.device_get((state._replace(key=0), metrics)))
    return found


def close(actual, expected, rtol=1e-5):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6), actual, expected
    )


ENDS = np.cumsum(SIZES) - 1


def test_an_update_is_that_of_means_over_the_devices_at_each_micro_step():
    found, expected, before = trained(True), trained(False), make(True)[1].params
    for number, ((state, metrics), (other, others)) in enumerate(zip(found, expected, strict=True)):
        own = state.opt_state.multi_steps.acc_grads
        close(jax.tree.map(lambda leaf: leaf.mean(0), own), other.opt_state.multi_steps.acc_grads)
        close((state.params, state.model_state), (other.params, other.model_state))
        assert state.step == other.step == sum(ENDS <= number)
        assert metrics["loss"] == pytest.approx(others["loss"], rel=1e-5)
        if number not in ENDS:
            assert metrics["examples_of_update"] == 0
            # Of each device's own: by the triangle inequality no less than that of the mean.
            assert metrics["grad_norm"] > 1.01 * others["grad_norm"]
            parts = np.stack(
                [np.concatenate([x[d].ravel() for x in jax.tree.leaves(own)]) for d in (0, 1)]
            )
            assert np.abs(parts[0] - parts[1]).max() > 1e-3
        else:
            assert not any(leaf.any() for leaf in jax.tree.leaves(own))
            change = optax.tree.norm(optax.tree.sub(state.params, before))
            assert metrics["grad_norm"] == pytest.approx(float(change), rel=1e-4)
            assert metrics["examples_of_update"] == BATCH * SIZES[state.step - 1]
            before = state.params


@pytest.mark.parametrize("bad", [1, 2])
def test_a_gradient_of_one_device_that_is_not_finite_is_known_at_its_micro_step(bad):
    """No BatchNorm carries it to the other one, and the end of the update would be too late."""

    def poisoned(logits, batch, values):
        # 0 / 0 in the gradient alone, for the last example of a batch
        flat = jnp.where(batch["image"][:, 0, 0, 0] > 50, 0, 1) * logits[:, 0]
        return cross_entropy(logits, batch, values) + 0.1 * jnp.sqrt(flat**2)

    step, state = make(True, batch_norm=False, terms=[LossTerm(poisoned)])
    data_of_all = batches()
    data_of_all[bad]["image"][-1, 0, 0, 0] = 100
    axes = accumulating.AXES
    mapped = on_all_devices(step, in_axes=(axes, 0), out_axes=(axes, None))
    state = accumulating.spread(place(state))
    for number, batch in enumerate(data_of_all[: bad + 1]):
        state, metrics = mapped(state, scatter(batch))
        assert np.isfinite(metrics["grad_norm"]) == (number != bad)
        assert np.isfinite(metrics["loss"])


# ---- runs


def dataset():
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, 40).astype(np.int32)
    image = (rng.integers(0, 100, (40, 2, 2, 1)) + 50 * label[:, None, None, None]).astype(np.uint8)
    split = {"image": image, "label": label}
    return data.Dataset(split, split, split, num_classes=CLASSES)


def recipe(**changes):
    small = dict(
        batch_size=BATCH,
        duration="3 epochs",
        accumulate=cyclical(3, 1),
        log_every="20 examples",
        validate_every="2 epochs",
        model__hidden_sizes=(5,),
        model__batch_norm=True,
        model__dropout=0.3,
        ema_decay=0.5,
    )
    return recipe_of(num_devices=2, **small | changes)


def train(run, **options):
    rows = []
    state = loop.train(run, dataset(), report=rows.append, **options)
    return jax.device_get(state._replace(key=0)), without_times(rows)


class _Watching(Keeper):
    """Remembers the states between calls, and may stop after one of them."""

    def __init__(self, checkpoints=None, stop=None):
        super().__init__(checkpoints, every=1e9, is_stopping=lambda: len(self.seen) == stop)
        self.seen = []

    def keep(self, snapshot, timetable, done, worth=None):
        self.seen.append(jax.tree.map(jnp.copy, snapshot.state))  # which the next call is given
        super().keep(snapshot, timetable, done, worth)


@pytest.fixture
def honest(monkeypatch):
    """After each call, what is said to be equal on all devices is."""

    def checked(*args):
        program = ways_compiled(*args)

        def call(state, inputs):
            found = program(state, inputs)
            for leaf in jax.tree.leaves((found[0]._replace(key=0), found[1])):
                if isinstance(leaf, jax.Array) and leaf.sharding.is_fully_replicated:
                    first, *others = [np.asarray(shard.data) for shard in leaf.addressable_shards]
                    np.testing.assert_array_equal(first, *others)
            return found

        return call

    ways_compiled = ways.compiled
    checked.cache_info = ways_compiled.cache_info
    monkeypatch.setattr(ways, "compiled", checked)


@pytest.fixture(scope="module")
def whole():
    return train(recipe(loop="resident"))


@pytest.mark.parametrize(
    "way", ["resident", "streamed", pytest.param("stepwise", marks=pytest.mark.slow)]
)
def test_a_run_that_is_stopped_is_the_same_run_in_all_ways(way, whole, tmp_path, honest):
    run = recipe(loop=way)
    with Checkpoints(tmp_path) as checkpoints:
        watching = _Watching(checkpoints, stop=3)
        with pytest.raises(StoppedError):
            train(run, keeper=watching)
        start = checkpoints.restore(begin(run, dataset()))
        for state in watching.seen:
            steps = state.opt_state.multi_steps
            assert steps.mini_step == 0 and state.micro_step < 30
            shapes = jax.tree.map(np.shape, (steps.acc_grads, state.params))
            assert shapes[0] == shapes[1]
            for leaf in jax.tree.leaves(steps.acc_grads):
                assert not any(np.asarray(shard.data).any() for shard in leaf.addressable_shards)
        assert 0 < start.state.micro_step < 30
        state, rows = train(run, start=start)
    jax.tree.map(np.testing.assert_array_equal, state, whole[0])
    assert rows == whole[1][-len(rows) :] and 0 < len(rows) <= len(whole[1])


# ---- what is sent


def all_reduces(program):
    """Yields (bytes, whether it is in a branch) of each all-reduce of a compiled program."""
    text, computation = program.as_text(), ""
    named = re.findall(r"(?:true_computation|false_computation)=%([\w.-]+)", text)
    lists = re.findall(r"branch_computations=\{([^}]*)\}", text)
    branches = {*named, *(name.strip(" %") for names in lists for name in names.split(","))}
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%([\w.-]+) \(.*\{$", line):
            computation = header[1]
        if found := re.search(r"= (.*?) all-reduce(?:-start)?\(", line):
            shapes = re.findall(r"[fs]32\[([\d,]*)\]", found[1])
            sizes = [np.prod([int(n) for n in shape.split(",") if n]) for shape in shapes]
            yield 4 * int(sum(sizes)), computation in branches


@pytest.mark.parametrize("way", [pytest.param("resident", marks=pytest.mark.slow), "streamed"])
def test_the_gradient_is_sent_once_an_update(way):
    """The rest of a micro step is scalars, and what BatchNorm sends: two times two vectors."""
    small = dict(model__dropout=0.0, ema_decay=None)  # which send nothing
    run = recipe(model__hidden_sizes=(64,), accumulate=4, **small)
    program = ahead.lowered(run, dataset(), way, tuple(jax.devices())).compile()
    of_parameters = 4 * (4 * 64 + 3 * 64 + 64 * CLASSES + CLASSES)
    found = list(all_reduces(program))
    assert sum(size for size, in_branch in found if in_branch) == of_parameters
    assert 0 < sum(size for size, in_branch in found if not in_branch) < of_parameters


@pytest.mark.slow
def test_a_gradient_that_is_needed_at_each_micro_step_is_sent_there():
    run = recipe(model__hidden_sizes=(64,), accumulate=4, on_nonfinite="skip")
    program = ahead.lowered(run, dataset(), "streamed", tuple(jax.devices())).compile()
    assert not any(in_branch for _, in_branch in all_reduces(program))
