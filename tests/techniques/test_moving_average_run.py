"""The moving average of a run's variables: by hand, judged, and read by later runs."""

from pathlib import Path

import jax
import numpy as np
import pytest

from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.devices import place
from cyclical_jax.training.earlier import read_trained
from cyclical_jax.training.evaluation import evaluate
from cyclical_jax.training.files import CHECKPOINTS
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.technique import spec_of
from tests.techniques.helpers import assert_same, digits, recipe, step_and_state, train

pytestmark = pytest.mark.usefixtures("fast_compilation")

KEY = "curriculum.scorer"


def test_the_average_follows_its_formula_through_the_steps(batch):
    step, state = step_and_state(ema_decay=cyclical(0.1, 0.5), count=0)
    assert_same(state.evaluated, state.variables)
    average = jax.device_get(state.params)
    for decay in (0.1, 2 / 11, 3 / 12):  # at most (1 + count) / (10 + count)
        state, metrics = step(state, batch)
        average = jax.tree.map(
            lambda old, new, d=decay: d * old + (1 - d) * np.asarray(new), average, state.params
        )
    assert metrics["ema_decay"] == 0.5
    for found, expected in zip(
        jax.tree.leaves(state.evaluated.params), jax.tree.leaves(average), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert state.memory.keys() == {"judged"}


def test_a_run_is_judged_by_its_average():
    run = recipe(ema_decay=0.5, model__batch_norm=True)  # as the earlier run
    state, rows = train(run, digits())
    own, judged = (
        evaluate(run.structure, spec_of(digits()), place(variables), digits().validation)
        for variables in (state.variables, state.evaluated)
    )
    assert rows[-1]["val_loss"] == judged["loss"] != own["loss"]


def test_the_variables_are_those_that_the_run_was_judged_by(earlier_runs):
    with Checkpoints(Path(earlier_runs["averaged"], CHECKPOINTS)) as checkpoints:
        arrays = checkpoints.arrays()
    of_average, of_last = (
        arrays[f"0.{whose}params.Dense_0.kernel"] for whose in ("memory.judged.", "")
    )
    assert np.abs(of_average - of_last).max() > 1e-4
    read = read_trained(KEY, earlier_runs["averaged"], digits(), recipe().catalogue)
    np.testing.assert_array_equal(read.variables.params["Dense_0"]["kernel"], of_average)
