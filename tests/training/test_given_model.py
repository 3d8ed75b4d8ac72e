"""A run of a model that somebody brings, of whatever library, as two functions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cyclical_jax.models import MLP, Model, from_linen, make_model
from cyclical_jax.testing import compilations
from cyclical_jax.training import evaluation, loop, run, ways
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.earlier import prepare
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.keeper import Keeper, StoppedError
from cyclical_jax.training.population import Population
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.technique import spec_of
from tests.helpers import CLASSES, bright_classes, recipe_of, without_times
from tests.own_models import (
    make_convolution_model,
    make_layers_model,
    make_nnx_model,
    make_transformed_model,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")
DATASET = bright_classes(53, 40)
NNX = functools.partial(make_nnx_model, pixels=9, classes=CLASSES)
MODELS = {
    "nnx": NNX,  # of the axis name
    "layers": make_layers_model(),
    "transformed": make_transformed_model,
}


def recipe(**changes):
    small = dict(batch_size=12, duration="6 epochs", optimizer__learning_rate=0.1)
    return recipe_of(num_devices=2, **small | changes)


def train(model, **options):
    rows = []
    changes = options.pop("changes", {})
    state = loop.train(recipe(**changes), DATASET, report=rows.append, model=model, **options)
    return state, rows


@pytest.mark.parametrize("name", MODELS)
def test_it_learns_and_is_evaluated_and_resumed(name, tmp_path):
    model, run_ = MODELS[name], recipe()
    state, rows = train(model)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    arguments = run_.structure, spec_of(DATASET), state.evaluated, DATASET.validation
    scores = evaluation.evaluate(*arguments, model=model)
    assert scores["accuracy"] == rows[-1]["val_accuracy"] > 0.5
    asked = itertools.count()
    with Checkpoints(tmp_path) as checkpoints:
        keeper = Keeper(checkpoints, is_stopping=lambda: next(asked) > 2)
        with pytest.raises(StoppedError):
            train(model, keeper=keeper)
        start = checkpoints.restore(run.begin(run_, DATASET, model=model))
    assert 0 < int(start.state.micro_step) < 24
    with compilations() as compiled:
        resumed, _ = train(model, start=start)
    assert not compiled  # the same object is the same program
    jax.tree.map(np.testing.assert_array_equal, resumed.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, resumed.model_state, state.model_state)


def test_it_is_the_network_that_a_name_gives_bit_for_bit():
    def own(axis_name):
        return make_model(
            "mlp", num_classes=CLASSES, axis_name=axis_name, hidden_sizes=(6,), batch_norm=True
        )

    by_name, expected = train(None, changes=dict(model__hidden_sizes=(6,), model__batch_norm=True))
    given, rows = train(own)
    assert without_times(rows) == without_times(expected)
    jax.tree.map(np.testing.assert_array_equal, given.params, by_name.params)


def test_the_function_of_an_axis_normalises_over_all_devices():
    """A member of a population is on one device: only such a model is the same there."""
    ends = {}
    for name, model in (("over", make_transformed_model), ("each", make_transformed_model(None))):
        state, _ = train(model)
        population = Population(recipe(), DATASET, model=model)
        members = population.train([recipe().numbers], [0])
        one = jax.tree.map(lambda leaf: leaf[0, 0], members.states.params)
        leaves = zip(*map(jax.tree.leaves, (one, state.params)), strict=True)
        ends[name] = max(float(jnp.abs(a - b).max()) for a, b in leaves)
    assert ends["over"] < 1e-5 < 1e-3 < ends["each"]


def test_a_population_trains_and_judges_it():
    model = make_layers_model()
    population = Population(recipe(), DATASET, model=model)
    (outcome,) = population.outcomes([recipe()], ["validation"])
    _, rows = train(model)
    assert outcome.rows[-1]["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-4)
    assert outcome.scores["validation"]["accuracy"] == outcome.rows[-1]["val_accuracy"]


def test_a_convolution_of_its_own_is_run_step_by_step_on_a_cpu():
    with_convolution = recipe().with_model(make_convolution_model())
    assert ways.way_of(with_convolution, DATASET) == "stepwise"
    assert ways.way_of(recipe().with_model(make_layers_model()), DATASET) == "resident"
    train(make_convolution_model(), changes=dict(duration="3 steps"))


def test_a_knob_is_for_the_model_that_names_it():
    seen = []

    def model_with(knobs):
        plain = make_layers_model()

        def apply(params, model_state, images, *, train, key=None, dropout=None):
            seen.append((train, dropout is not None))
            return plain.apply(params, model_state, images, train=train, key=key)

        return Model(plain.init, apply, knobs)

    changes = dict(model__dropout=cyclical(0.1, 0.5), duration="5 steps", log_every="1 steps")
    with pytest.raises(RecipeError) as error:
        train(model_with(()), changes=changes)
    assert str(error.value) == (
        "model.dropout must be None where model= is given and its knobs do not name 'dropout', "
        "got ()."
    )
    _, rows = train(model_with(("dropout",)), changes=changes)
    assert [row["dropout"] for row in rows] == pytest.approx([0.1, 0.3, 0.5, 0.3, 0.1])
    assert set(seen) == {(True, True), (False, False)}
    seen.clear()
    train(model_with(("dropout",)), changes=dict(duration="2 steps"))
    assert set(seen) == {(True, False), (False, False)}  # it is off


def test_techniques_prepare_a_run_of_it(tmp_path):
    with pytest.raises(RecipeError, match="^finetuning needs a model whose parameters are a dict"):
        changes = {"finetuning__start": str(tmp_path)}
        prepare(recipe(**changes), DATASET, model=make_layers_model())


LAYERS = make_layers_model()


def logits_of(function):
    def apply(params, model_state, images, *, train, key=None):
        logits, model_state = LAYERS.apply(params, model_state, images, train=train, key=key)
        return function(logits, train, model_state)

    return Model(LAYERS.init, apply)


SHOULD = "model: its outputs for 3 inputs must be floats of shape [3, 4], got "
WHAT = "model= must be a Model, or a function that takes an axis name and returns one"
WRONG = {
    "shape": (logits_of(lambda x, train, s: (x[:, :3], s)), f"{SHOULD}float32[3, 3]."),
    "batch": (logits_of(lambda x, train, s: (x.mean(0), s)), f"{SHOULD}float32[4]."),
    "dtype": (logits_of(lambda x, train, s: (x.argmax(-1), s)), f"{SHOULD}int32[3]."),
    "judged": (
        logits_of(lambda x, train, s: (x if train else x[:1], s)),
        f"{SHOULD}float32[1, 4].",
    ),
    "several": (logits_of(lambda x, train, s: ((x, x), s)), f"{SHOULD}('float32[3, 4]', 'float32["),
    "state": (
        logits_of(lambda x, train, s: (x, {"mean": x.mean(0)})),
        "model: apply must return a model_state like that of init, None, got {'mean': 'float32[4]",
    ),
    "one": (
        logits_of(lambda x, train, s: x),
        "model: apply must return outputs and model_state, got ShapeDtypeStruct.",
    ),
    "type": (logits_of(lambda x, train, s: x + "a"), "model: TypeError: "),
    "init": (Model(lambda key, x: {}, LAYERS.apply), "model: init must return params and model_"),
    "no key": (Model(LAYERS.init, lambda p, s, x, *, train: x), "model: TypeError: "),
    "module": (MLP(num_classes=4), f"{WHAT}; it raises "),
    "class": (MLP, f"{WHAT}, got MLP; "),
    "none": (lambda axis_name: 3, f"{WHAT}, got int; from_linen makes one of a linen module."),
    "number": (3, f"{WHAT}, got int; "),
    "unhashable": (Model([], []), f"{WHAT}; it raises TypeError: unhashable type: 'list'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_model_is_a_line_before_anything_is_compiled(name):
    model, line = WRONG[name]
    with compilations() as compiled, pytest.raises(RecipeError) as error:
        run.plan(recipe(), DATASET, model=model)
    assert str(error.value).startswith(line) and len(str(error.value).splitlines()) == 1
    assert not compiled


def test_an_error_of_the_model_names_its_place():
    def apply(params, model_state, images, *, train, key=None):
        raise KeyError("absent")

    with pytest.raises(RecipeError) as error:
        run.plan(recipe(), DATASET, model=Model(LAYERS.init, apply))
    line = apply.__code__.co_firstlineno + 1
    assert str(error.value) == f"model: KeyError: 'absent' ({__file__}, line {line})"


def test_a_linen_module_of_fixed_size_is_a_model():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(CLASSES)(images.reshape(len(images), -1))

    _, rows = train(from_linen(Net()))
    assert rows[-1]["loss"] < rows[0]["loss"]
