"""Structure and numbers become the chain that one would write by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

import cyclical_jax as cj
from configs import default
from cyclical_jax.training import assembly
from cyclical_jax.training.recipe import cyclical, parse

STEPS = 13
PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([4.0, -1.0])}


def parsed(**changes):
    config = default.get_config().to_dict()
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    return parse(ConfigDict(config))


def test_a_schedule_has_the_shape_scale_factor_and_cycles_of_the_config():
    recipe = parsed(
        cycle__num_cycles=2,
        cycle__factor=3.0,
        optimizer__weight_decay=cyclical(1e-4, 1e-1, shape="rex", scale="log"),
        loss__temperature=cyclical(0.5, 2.0, factor=4),
    )
    schedules = assembly.make_schedules(recipe.structure, recipe.numbers, STEPS)
    expected = {
        "weight_decay": cj.cyclical_schedule(
            1e-4, 1e-1, STEPS, factor=3, num_cycles=2, shape="rex", scale="log"
        ),
        "temperature": cj.cyclical_schedule(0.5, 2.0, STEPS, factor=4, num_cycles=2),
        "learning_rate": optax.cosine_decay_schedule(0.1, STEPS),
    }
    counts = jnp.arange(STEPS + 2)
    for name, schedule in expected.items():
        np.testing.assert_allclose(
            schedules[name](counts), schedule(counts), rtol=2e-6, err_msg=name
        )


def test_without_decay_the_learning_rate_is_its_knob():
    recipe = parsed(optimizer__learning_rate_decay=None)
    schedules = assembly.make_schedules(recipe.structure, recipe.numbers, STEPS)
    assert schedules["learning_rate"](7) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "name, after_clips",
    [
        ("sgd", [optax.add_decayed_weights(0.3), optax.trace(0.8, nesterov=True)]),
        ("adamw", [optax.scale_by_adam(b1=0.8), optax.add_decayed_weights(0.3)]),
    ],
)
def test_the_chain_is_clips_then_the_optimizer_with_decay_of_matrices_alone(name, after_clips):
    recipe = parsed(
        optimizer__name=name,
        optimizer__momentum=0.8,
        optimizer__learning_rate_decay=None,
        optimizer__weight_decay=0.3,
        optimizer__max_norm=2.0,
        optimizer__max_delta=1.2,
        optimizer__clipping=0.9,
    )
    schedules = assembly.make_schedules(recipe.structure, recipe.numbers, STEPS)
    ours = assembly.make_optimizer(recipe.structure, schedules)

    def only_kernel(transform):
        is_decay = transform.update.__qualname__.startswith("add_decayed_weights")
        return optax.masked(transform, {"kernel": True, "bias": False}) if is_decay else transform

    by_hand = optax.chain(
        optax.clip_by_global_norm(2.0),
        optax.clip(1.2),
        optax.adaptive_grad_clip(0.9),
        *map(only_kernel, after_clips),
        optax.scale(-0.1),
    )
    grads = jax.tree.map(lambda p: 3 * jnp.cos(p), PARAMS)
    state, expected_state = ours.init(PARAMS), by_hand.init(PARAMS)
    for _ in range(3):
        updates, state = ours.update(grads, state, PARAMS)
        expected, expected_state = by_hand.update(grads, expected_state, PARAMS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected)


@pytest.mark.parametrize(
    "name, gammas, loss",
    [
        ("cross_entropy", {}, cj.softmax_cross_entropy),
        ("focal", {"gamma": 1.5}, cj.focal_loss),
        ("asymmetric_focal", {"gamma_pos": 1.5, "gamma_neg": 2.5}, cj.asymmetric_focal_loss),
        (
            "cyclical_focal",
            {"hardness": 0.3, "gamma_hc": 2.0, "gamma_pos": 1.5, "gamma_neg": 2.5},
            cj.cyclical_focal_loss,
        ),
    ],
)
def test_each_loss_gets_the_knobs_it_names(name, gammas, loss):
    knobs = {"temperature": 2.0, "label_smoothing": 0.2, **gammas}
    recipe = parsed(loss__name=name, **{f"loss__{key}": value for key, value in knobs.items()})
    schedules = assembly.make_schedules(recipe.structure, recipe.numbers, STEPS)
    values = {key: schedule(0) for key, schedule in schedules.items()}
    logits, labels = jnp.array([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]]), jnp.array([0, 2])
    term = assembly.make_loss_term(recipe.structure)
    actual = term.loss(logits, {"label": labels}, values)
    np.testing.assert_allclose(actual, loss(logits, labels, **knobs), rtol=1e-5)
