"""BatchNorm over groups of devices: the step by hand, and the runs that are refused."""

import functools

import jax
import numpy as np
import optax
import pytest

from cyclical_jax.catalogue import parse
from cyclical_jax.models import make_model
from cyclical_jax.training import ahead, run, workdirs
from cyclical_jax.training.devices import AXIS, on_all_devices, place, scatter
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.inputs import of_devices
from cyclical_jax.training.population import Population
from cyclical_jax.training.state import init_state
from cyclical_jax.training.step import Program, make_train_step
from cyclical_jax.training.technique import LossTerm
from tests import commands
from tests.helpers import CLASSES, bright_classes, config_of, recipe_of

pytestmark = pytest.mark.usefixtures("fast_compilation")
DATASET = bright_classes(40, 12)
GROUPED = dict(model__hidden_sizes=(6,), model__batch_norm=True, batch_size=8, duration="2 epochs")
MOMENTUM, EPSILON = 0.99, 1e-5


def recipe(group, **changes):
    return recipe_of(None, **GROUPED | {"model__batch_norm_group": group} | changes)


# ---- the step


def cross_entropy(logits, batch, values):
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])


@functools.cache
def batch():
    """The second half is brighter, and of a wider spread, than the first."""
    rng = np.random.default_rng(4)
    image = rng.normal(size=(8, 3, 3, 1)) * np.repeat([1, 3], 4)[:, None, None, None]
    image += np.repeat([0, 2], 4)[:, None, None, None]
    return {"image": image.astype(np.float32), "label": rng.integers(0, CLASSES, 8)}


def step_and_state(axis_name, group):
    model = make_model(
        "mlp",
        num_classes=CLASSES,
        axis_name=axis_name,
        hidden_sizes=(6,),
        batch_norm=True,
        batch_norm_group=group,
    )
    optimizer = optax.sgd(1.0)
    program = Program(model, optimizer, [LossTerm(cross_entropy)], axis_name=axis_name)
    return make_train_step(program), init_state(model, optimizer, batch()["image"][:1], 3)


def by_hand(state, images, labels):
    """Returns loss and new running statistics of the examples of one group, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.params)
    hidden, norm, last = (params[name] for name in ("Dense_0", "BatchNorm_0", "Dense_1"))
    x = images.reshape(len(images), -1).astype(np.float64) @ hidden["kernel"] + hidden["bias"]
    mean, var = x.mean(0), x.var(0)
    x = (x - mean) / np.sqrt(var + EPSILON) * norm["scale"] + norm["bias"]
    logits = np.maximum(x, 0) @ last["kernel"] + last["bias"]
    log_sum = np.log(np.exp(logits).sum(-1))
    loss = (log_sum - logits[np.arange(len(labels)), labels]).mean()
    return loss, (1 - MOMENTUM) * mean, MOMENTUM + (1 - MOMENTUM) * var


def test_each_device_by_itself_is_its_half_by_hand():
    """The loss and the running statistics are means over both, and equal on both."""
    step, state = step_and_state(AXIS, 1)
    halves = [
        (batch()["image"][part], batch()["label"][part]) for part in np.split(np.arange(8), 2)
    ]
    of_halves = [by_hand(state, *half) for half in halves]
    mapped = on_all_devices(step, in_axes=(None, 0))
    new, metrics = mapped(place(state), scatter(batch()))
    loss, mean, var = (np.mean(of, 0) for of in zip(*of_halves, strict=True))
    stats = new.model_state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], var, rtol=1e-5)
    whole, _, other = by_hand(state, batch()["image"], batch()["label"])
    assert abs(whole - loss) > 1e-3 and np.abs(other - var).max() > 1e-2
    for leaf in jax.tree.leaves((new.params, new.model_state)):
        one, two = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        np.testing.assert_array_equal(one, two)


def test_its_gradient_is_the_mean_of_those_of_one_device_on_each_half():
    step, state = step_and_state(AXIS, 1)
    new, _ = on_all_devices(step, in_axes=(None, 0))(place(state), scatter(batch()))
    alone = jax.jit(step_and_state(None, None)[0])
    halves = [jax.tree.map(lambda array, i=i: np.split(array, 2)[i], batch()) for i in range(2)]
    ends = [alone(state, half)[0].params for half in halves]
    expected = jax.tree.map(lambda one, two: (one + two) / 2, *ends)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), new.params, expected
    )


def test_a_group_of_all_devices_is_the_program_of_before():
    """And a group of one device takes no mean over devices within the model."""

    def text(group):
        return ahead.lowered(recipe(group), DATASET, "resident", tuple(jax.devices())).as_text()

    whole = text(None)
    assert text(2) == whole
    assert text(1).count("stablehlo.all_reduce") == whole.count("stablehlo.all_reduce") - 2


# ---- what is refused


LINE = "model.batch_norm_group must divide the number of devices, {}, got {}."


@pytest.mark.parametrize("group", [3, 4])
def test_devices_that_would_be_left_are_refused_before_anything_is_made(group):
    with pytest.raises(RecipeError) as error:
        recipe(group, num_devices=2)
    assert str(error.value) == LINE.format(2, group)
    with pytest.raises(RecipeError) as error:
        run.plan(recipe(group), DATASET)
    assert str(error.value) == LINE.format(2, group)


def test_a_member_of_a_population_is_on_one_device():
    with pytest.raises(RecipeError) as error:
        Population(recipe(2), DATASET)
    assert str(error.value) == LINE.format(1, 2)
    assert run.plan(recipe(1), DATASET, num_devices=1).micro_steps == 10


def test_a_model_that_is_given_makes_its_own_groups():
    model = make_model("mlp", num_classes=CLASSES, axis_name=None)
    with pytest.raises(RecipeError) as error:
        run.plan(recipe(1), DATASET, model=model)
    assert str(error.value) == "model.batch_norm_group must be None where model= is given, got 1."
    run.plan(recipe(None), DATASET, model=model)


NETS = """
import flax.linen as nn
class Without(nn.Module):
    num_classes: int
    axis_name: str | None = None
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dense(5)(x.reshape(len(x), -1))
        return nn.Dense(self.num_classes)(nn.BatchNorm(not train, axis_name=self.axis_name)(x))
class With(Without):
    batch_norm_group: int | None = 1
"""


def test_a_class_of_ones_own_has_the_attribute_or_is_refused(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETS)

    def own(name, **changes):
        return parse(
            config_of(None, batch_size=8, model__name=f"{path}:{name}", **changes), num_devices=2
        )

    with pytest.raises(RecipeError) as error:
        own("Without", model__batch_norm_group=2)
    assert "model.batch_norm_group is read where model.name is 'mlp' or " in str(error.value)
    assert str(error.value).endswith("Without'; leave it at None.")
    with pytest.raises(RecipeError) as error:
        own("With", model__batch_norm_group=3)
    assert str(error.value) == LINE.format(2, 3)
    assert own("With", model__batch_norm_group=2).structure.device_groups == {
        "model.batch_norm_group": 2
    }


# ---- a run that goes on


def test_a_run_with_groups_goes_on_with_as_many_devices(tmp_path, monkeypatch):
    """Their number is one of the inputs that a workdir compares."""
    assert of_devices(recipe(None), 8) == {}
    assert of_devices(recipe(2), 8) == {"model.batch_norm_group": "2 of 8 devices"}

    def opened(workdir, config, catalogue, inputs, facts, **options):
        raise WorkdirError(f"the inputs are {inputs}.")

    monkeypatch.setattr(workdirs, "opened_workdir", opened)
    flags = {"model.batch_norm": "True", "model.batch_norm_group": "1", "duration": "2 steps"}
    options = [f"--config.{key}={value}" for key, value in flags.items()]
    ended = commands.in_this_process(
        "train", "--config=configs/digits.py", f"--workdir={tmp_path}", *options
    )
    assert "the inputs are {'model.batch_norm_group': '1 of 2 devices'}." in ended.stderr
