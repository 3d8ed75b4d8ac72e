"""Training with few bits in the trainer: bits, cost, evaluation, earlier runs, every way."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from cyclical_jax import testing
from cyclical_jax.catalogue import default_config, parse, with_network
from cyclical_jax.models import Model
from cyclical_jax.models.quantized import BITS, RANGES, with_bits
from cyclical_jax.testing import SMALL, Case
from cyclical_jax.training import assembly, run
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.earlier import prepare, read_trained
from cyclical_jax.training.evaluation import evaluate
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import CHECKPOINTS, CONFIG
from cyclical_jax.training.keeper import Keeper
from cyclical_jax.training.population import Population
from cyclical_jax.training.recipe import cyclical, put
from cyclical_jax.training.step import make_train_step
from cyclical_jax.training.technique import spec_of
from tests.techniques.helpers import assert_same, config_of, digits, recipe, train

pytestmark = pytest.mark.usefixtures("fast_compilation")

FEW = dict(precision__weights=cyclical(8, 3), precision__activations=cyclical(6, 2))
ALL = FEW | dict(precision__gradients=5)
EACH_EPOCH = dict(log_every="8 epochs", validate_every="8 epochs")
EACH_STEP = dict(log_every="1 step", validate_every="5 steps")


# ---- bits, and what they cost


def test_rows_have_whole_bits_and_the_cost_and_the_summary_is_its_mean():
    _, rows = train(recipe(**ALL, **EACH_STEP), digits())
    weights, activations = [8, 6, 3, 6, 8], [6, 4, 2, 4, 6]  # 5.5 is rounded to even
    assert [row["weight_bits"] for row in rows] == weights
    assert [row["activation_bits"] for row in rows] == activations
    assert [row["gradient_bits"] for row in rows] == [5] * 5
    assert all(type(row[f"{of}_bits"]) is int for row in rows for of in ("weight", "gradient"))
    costs = [(w * a + 5 * w + 5 * a) / 192 for w, a in zip(weights, activations, strict=True)]
    np.testing.assert_allclose([row["relative_cost"] for row in rows], costs, rtol=1e-6)
    found = assembly.summary_of(recipe(**ALL), 60)
    assert found == {"relative_cost": pytest.approx(np.mean(costs), rel=1e-6)}
    assert assembly.summary_of(recipe(), 60) == {}


@pytest.mark.parametrize(
    "span, bits",
    [((0, 0.4), [2, 2, 6, 6, 6]), ((0.4, 1), [6, 6, 2, 2, 2]), ((0.5, 0.7), [6, 6, 2, 2, 6])],
)
def test_a_deficit_takes_the_place_of_the_bits_between_two_fractions(span, bits):
    """Half of 5 updates is 2, to even, and .7 of them is 4, up."""
    for few, whole in (("weights", "activations"), ("activations", "weights")):
        static = {f"precision__{few}": 6, "precision__gradients": 7}
        given = recipe(**static, precision__deficit=span, precision__deficit_bits=2)
        schedules = assembly.make_schedules(given.structure, given.numbers, given.timetable(60))
        assert f"precision.{whole}" not in schedules
        of_few, of_gradients = (
            np.asarray(schedules[f"precision.{of}"](np.arange(5))) for of in (few, "gradients")
        )
        assert of_few.tolist() == bits and set(np.ravel(of_gradients)) == {7}
        costs = [(32 * b + 7 * b + 7 * 32) / 192 for b in bits]
        assert assembly.summary_of(given, 60)["relative_cost"] == pytest.approx(np.mean(costs))


def test_a_deficit_is_one_of_weights_and_activations():
    deficit = dict(precision__deficit=(0, 0.4), precision__deficit_bits=2)
    own = dict(precision__weights=6, precision__activations=5, precision__gradients=7)
    _, rows = train(recipe(**own, **deficit, **EACH_STEP), digits())
    weights, activations = [2, 2, 6, 6, 6], [2, 2, 5, 5, 5]
    assert [row["weight_bits"] for row in rows] == weights
    assert [row["activation_bits"] for row in rows] == activations
    costs = [(w * a + 7 * w + 7 * a) / 192 for w, a in zip(weights, activations, strict=True)]
    np.testing.assert_allclose([row["relative_cost"] for row in rows], costs, rtol=1e-6)


# ---- training and evaluation


def test_many_bits_are_as_good_as_all_and_two_bits_hurt():
    own = dict(model__hidden_sizes=(12,), duration="8 epochs", **EACH_EPOCH)
    losses = []
    for bits in (None, 16, 2):
        few = {f"precision__{of}": bits for of in ("weights", "activations", "gradients")}
        few |= {} if bits is None else dict(precision__keep=())
        losses.append(train(recipe(**own, **few), digits())[1][-1]["val_loss"])
    whole, many, two = losses
    assert many == pytest.approx(whole, rel=1e-2) and two > 1.2 * whole


def scores(given, variables):
    return evaluate(given.structure, spec_of(digits()), variables, digits().validation)


@pytest.mark.parametrize("average", [{}, dict(ema_decay=0.5)], ids=["last", "averaged"])
def test_an_evaluation_has_the_bits_of_the_last_update(average):
    given = recipe(**FEW | dict(precision__weights=cyclical(8, 3, factor=1.0)), **average)
    state, rows = train(given, digits())
    assert state.evaluated.model_state[BITS] == {"weights": 3, "activations": 6}
    loss = scores(given, state.evaluated)["loss"]
    assert loss == pytest.approx(rows[-1]["val_loss"])
    for bits in (0, 4):
        other = with_bits(state.evaluated.model_state, bits)
        assert scores(given, state.evaluated._replace(model_state=other))["loss"] != loss


def test_a_skipped_batch_leaves_ranges_and_bits_alone():
    given = recipe(**FEW, on_nonfinite="skip")
    dataset = digits()
    state = run.begin(given, dataset).state
    static = dict(timetable=given.timetable(60), spec=spec_of(dataset))
    program = assembly.assemble(given.structure, given.numbers, **static)
    step = jax.jit(make_train_step(program))
    images = np.full((12, *static["spec"].shape), np.nan, np.float32)
    batch = {"image": images, "label": np.zeros(12, np.int32), "index": np.arange(12)}
    new, _ = step(state, batch)
    assert int(new.skipped) == 1
    assert_same(jax.device_get(new.model_state), jax.device_get(state.model_state))


# ---- one program, every way, several devices


def test_ranges_are_those_of_all_devices():
    """Without random rounding two devices are one, up to the order of sums."""
    changes = {"precision.weights": 4, "precision.activations": 4, "precision.keep": ()}
    testing.two_devices_are_as_good_as_one(Case("precision", changes))


@pytest.mark.parametrize(
    "changes",
    [
        dict(accumulate=2),
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param(dict(task__name="multilabel"), marks=pytest.mark.slow),
    ],
)
def test_all_ways_give_the_same_run(changes):
    found = [
        train(recipe(**ALL, **changes, loop=loop, log_every="5 steps"), digits())
        for loop in ("resident", "stepwise", "streamed")
    ]
    for state, _ in found[1:]:
        assert_same(jax.device_get(state), jax.device_get(found[0][0]))


def test_a_population_of_many_bits_is_compiled_once(count_compilations):
    runs = [recipe(precision__weights=b, precision__gradients=b) for b in (2, 3, 8, 16)]
    runs = [dataclasses.replace(each, seed=seed) for seed, each in enumerate(runs)]
    alike = Population(runs[0], digits())
    list(alike.outcomes(runs[:2], ["validation"]))
    with count_compilations() as compilations:
        outcomes = list(Population(runs[0], digits()).outcomes(runs, ["validation"]))
    assert compilations == []
    bits = [outcome.rows[-1]["weight_bits"] for outcome in outcomes]
    assert bits == [2, 3, 8, 16] and all(outcome.error is None for outcome in outcomes)


# ---- earlier runs


@pytest.fixture(scope="module")
def run_with_few_bits(tmp_path_factory):
    workdir, config = tmp_path_factory.mktemp("few"), config_of(**FEW)
    (workdir / CONFIG).write_text(json.dumps(config.to_dict()))
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
        state, _ = train(parse(config), digits(), keeper=Keeper(checkpoints, every=1e9))
    return str(workdir), state


def test_a_teacher_answers_with_its_bits(run_with_few_bits):
    workdir, state = run_with_few_bits
    given = recipe(distillation__teacher=workdir)
    teacher = read_trained("distillation.teacher", workdir, digits(), given.catalogue)
    assert_same(jax.device_get(teacher.variables), state.variables)
    dataset, _ = prepare(given, digits())
    wanted = teacher.outputs_of(digits().train["image"])
    np.testing.assert_allclose(dataset.train["teacher"], wanted, atol=1e-5)
    whole = dataclasses.replace(
        teacher,
        variables=teacher.variables._replace(
            model_state=with_bits(teacher.variables.model_state, 0)
        ),
    )
    assert not np.allclose(wanted, whole.outputs_of(digits().train["image"]), atol=1e-3)


@pytest.mark.parametrize("starts_few", [False, True])
@pytest.mark.parametrize("is_few", [False, True])
def test_a_run_may_start_from_one_with_other_bits(starts_few, is_few, run_with_few_bits, plain_run):
    (workdir, earlier_state) = run_with_few_bits if starts_few else plain_run
    given = recipe(finetuning__start=workdir, **FEW if is_few else {})
    dataset, earlier = prepare(given, digits())
    state = run.begin(given, dataset, earlier=earlier).state
    assert_same(jax.device_get(state.params), earlier_state.params)
    assert (state.model_state == {}) == (not is_few)
    if is_few:
        assert state.model_state[BITS] == {"weights": 0, "activations": 0}
        assert not np.any(jax.tree.leaves(state.model_state[RANGES]))


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    workdir, config = tmp_path_factory.mktemp("plain"), config_of()
    (workdir / CONFIG).write_text(json.dumps(config.to_dict()))
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
        state, _ = train(parse(config), digits(), keeper=Keeper(checkpoints, every=1e9))
    return str(workdir), state


# ---- what cannot be run


@pytest.mark.parametrize(
    "changes, line",
    [
        (
            dict(precision__keep=("Dense_9",)),
            "model: precision.keep must name 'first', 'last' or layers of Dense_0, Dense_1, got "
            "'Dense_9'.",
        ),
        (
            dict(model__hidden_sizes=()),
            "model: precision.keep leaves no layer to quantize of Dense_0.",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_one_line_before_anything_is_compiled(changes, line):
    with pytest.raises(RecipeError) as error:
        run.plan(recipe(**FEW | changes), digits())
    assert str(error.value) == line


class Own(nn.Module):
    num_classes: int = 10
    weights: float = 1.0

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Dense(6)(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes)(self.weights * x)


class Recurrent(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes)(nn.RNN(nn.SimpleCell(4))(images[..., 0])[:, -1])


class Normed(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, images):
        x = nn.WeightNorm(nn.Dense(6))(images.reshape(len(images), -1))
        return nn.Dense(self.num_classes)(x)


def config_with(module, **bits):
    """Returns the config of a small run of a class of this file."""
    name = f"{__name__}:{module.__name__}"
    config = default_config(with_network(name))
    changes = SMALL | {"model.name": name}
    changes |= {f"precision.{word}": number for word, number in bits.items()}
    del changes["model.hidden_sizes"]
    for key, value in changes.items():
        put(config, key, value)
    return config


@pytest.mark.parametrize(
    "module, layers, where",
    [
        (
            Recurrent,
            "SimpleCell_0/i, SimpleCell_0/h",
            "nn.scan, nn.RNN or nn.vmap, where one call stands for many",
        ),
        (Normed, "Dense_0", "nn.WeightNorm or nn.map_variables, where a range has no place"),
    ],
)
def test_layers_without_a_place_for_ranges_train_with_few_bits_for_weights_alone(
    module, layers, where
):
    _, rows = train(parse(config_with(module, weights=4)), digits())
    assert rows[-1]["weight_bits"] == 4 and np.isfinite(rows[-1]["val_loss"])
    with pytest.raises(RecipeError) as error:
        run.plan(parse(config_with(module, weights=4, activations=4, keep=())), digits())
    assert str(error.value) == (
        f"model.name '{__name__}:{module.__name__}': {layers} cannot have bits for activations "
        f"inside {where}: add it to precision.keep."
    )


def test_a_class_of_a_user_trains_with_few_bits_unless_a_knob_has_the_same_word():
    config = config_with(Own, weights=4, gradients=4)
    state, rows = train(parse(config), digits())
    assert state.model_state == {BITS: {"weights": 4}} and np.isfinite(rows[-1]["loss"])
    config.model.weights = cyclical(1, 2)
    with pytest.raises(RecipeError) as error:
        run.plan(parse(config), digits())
    assert str(error.value).endswith(
        "model.weights and precision.weights cannot both be on: the model gets both as 'weights'."
    )


def test_a_model_of_another_library_is_one_line():
    model = Model(lambda key, x: ({}, {}), lambda params, state, x, **options: (x, state))
    with pytest.raises(RecipeError) as error:
        run.plan(recipe(**FEW), digits(), model=model)
    assert str(error.value).startswith("model: no layer can be quantized: there is none of flax")
