"""Structure and numbers become the chain that one would write by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cyclical_jax as cj
from cyclical_jax.accumulation import uniform_windows
from cyclical_jax.training import assembly
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.recipe import cyclical, default_config, parse
from cyclical_jax.training.state import init_state
from cyclical_jax.training.step import make_train_step

STEPS = 13
PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([4.0, -1.0])}
CONSTANT_RATE = {"optimizer.learning_rate_schedule": None}


def parsed(changes):
    config = default_config()
    for key, value in changes.items():
        *section, name = key.split(".")
        (config[section[0]] if section else config)[name] = value
    return parse(config)


def timetable(micro_steps, accumulate=1):
    return Timetable(uniform_windows(micro_steps, accumulate), 5, 5, 5)


def optimizer_of(changes, table):
    recipe = parsed(CONSTANT_RATE | changes)
    schedules = assembly.make_schedules(recipe.structure, recipe.numbers, table)
    return assembly.make_optimizer(recipe.structure, schedules, table)


def test_a_schedule_has_the_shape_scale_factor_and_cycles_of_the_config():
    recipe = parsed(
        {
            "cycle.num_cycles": 2,
            "cycle.factor": 3.0,
            "optimizer.weight_decay": cyclical(1e-4, 1e-1, shape="rex", scale="log"),
            "loss.temperature": cyclical(0.5, 2.0, factor=4),
        }
    )
    schedules = assembly.make_schedules(recipe.structure, recipe.numbers, timetable(STEPS))
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
    recipe = parsed(CONSTANT_RATE)
    schedules = assembly.make_schedules(recipe.structure, recipe.numbers, timetable(STEPS))
    assert schedules["learning_rate"](7) == pytest.approx(0.1)


def test_a_learning_rate_that_cycles_is_multiplied_by_its_decay():
    recipe = parsed({"optimizer.learning_rate": cyclical(0.1, 0.5)})
    schedules = assembly.make_schedules(recipe.structure, recipe.numbers, timetable(5))
    triangle = np.array([0.1, 0.3, 0.5, 0.3, 0.1])
    cosine = (1 + np.cos(np.pi * np.arange(5) / 5)) / 2
    np.testing.assert_allclose(
        schedules["learning_rate"](np.arange(5)), triangle * cosine, rtol=1e-5
    )


MATRICES = {"kernel": True, "bias": False}


@pytest.mark.parametrize(
    "changes, after_clips",
    [
        (
            {"optimizer.momentum": 0.8},
            [optax.add_decayed_weights(0.3, MATRICES), optax.sgd(0.1, 0.8, nesterov=True)],
        ),
        (
            {"optimizer.momentum": 0.8, "optimizer.nesterov": False},
            [optax.add_decayed_weights(0.3, MATRICES), optax.sgd(0.1, 0.8, nesterov=False)],
        ),
        (
            {
                "optimizer.name": "adamw",
                "optimizer.b1": 0.8,
                "optimizer.b2": 0.95,
                "optimizer.eps": 0.01,
            },
            [optax.adamw(0.1, 0.8, 0.95, 0.01, weight_decay=0.3, mask=MATRICES)],
        ),
    ],
    ids=["nesterov", "heavy ball", "adamw"],
)
@pytest.mark.parametrize("clips", [(), ("max_norm", "max_delta", "clipping"), ("max_delta",)])
def test_the_chain_is_clips_then_the_optimizer_with_decay_of_matrices_alone(
    changes, after_clips, clips
):
    limits = {"max_norm": 2.0, "max_delta": 0.9, "clipping": 0.3}
    by_name = {
        "max_norm": optax.clip_by_global_norm,
        "max_delta": optax.clip,
        "clipping": optax.adaptive_grad_clip,
    }
    ours = optimizer_of(
        changes
        | {"optimizer.weight_decay": 0.3}
        | {f"optimizer.{name}": limits[name] for name in clips},
        timetable(STEPS),
    )
    by_hand = optax.chain(*(by_name[name](limits[name]) for name in clips), *after_clips)
    update, update_by_hand = jax.jit(ours.update), jax.jit(by_hand.update)
    state, expected_state = ours.init(PARAMS), by_hand.init(PARAMS)
    params = PARAMS
    for step in range(3):
        grads = jax.tree.map(lambda p, step=step: 3 * jnp.cos(p + step), params)
        updates, state = update(grads, state, params)
        expected, expected_state = update_by_hand(grads, expected_state, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected)
        params = optax.apply_updates(params, updates)


def test_what_is_none_is_not_in_the_chain():
    optimizer = optimizer_of(
        {"optimizer.weight_decay": None, "optimizer.momentum": 0.0}, timetable(STEPS)
    )
    grads = jax.tree.map(jnp.cos, PARAMS)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -0.1 * g, rtol=1e-6), updates, grads)


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_momentum_that_cycles_is_that_of_the_update(nesterov):
    momentum = [0.5, 0.6, 0.7, 0.8, 0.7, 0.6, 0.5]  # a triangle over 7 updates
    grads = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    optimizer = optimizer_of(
        {
            "optimizer.momentum": cyclical(0.5, 0.8),
            "optimizer.nesterov": nesterov,
            "optimizer.weight_decay": None,
        },
        timetable(7),
    )
    update, params = jax.jit(optimizer.update), jnp.zeros(3)
    state = optimizer.init(params)
    expected, velocity = np.zeros(3), np.zeros(3)
    for grad, m in zip(grads, momentum, strict=True):
        updates, state = update(grad, state, params)
        params = optax.apply_updates(params, updates)
        velocity = grad + m * velocity
        expected = expected - 0.1 * (grad + m * velocity if nesterov else velocity)
        np.testing.assert_allclose(params, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "micro_steps, windows, rates",
    [(10, (4, 4, 2), (0.1, 0.4, 0.1)), (8, (4, 4), (0.1, 0.1)), (9, (4, 4, 1), (0.1, 0.4, 0.1))],
)
def test_an_update_is_by_the_mean_gradient_of_its_window(micro_steps, windows, rates):
    grads = np.random.default_rng(2).normal(size=(micro_steps, 3)).astype(np.float32)
    optimizer = optimizer_of(
        {
            "accumulate": 4,
            "optimizer.learning_rate": cyclical(0.1, 0.4),
            "optimizer.momentum": 0.0,
            "optimizer.weight_decay": None,
        },
        timetable(micro_steps, accumulate=4),
    )
    update, params = jax.jit(optimizer.update), jnp.zeros(3)
    state = optimizer.init(params)
    expected, start = np.zeros(3), 0
    for window, rate in zip(windows, rates, strict=True):
        for micro_step in range(start, start + window):
            np.testing.assert_allclose(params, expected, rtol=1e-5, atol=1e-7)
            updates, state = update(grads[micro_step], state, params)
            params = optax.apply_updates(params, updates)
        expected = expected - rate * grads[start : start + window].mean(0)
        start += window
    np.testing.assert_allclose(params, expected, rtol=1e-5, atol=1e-7)
    assert state.multi_steps.gradient_step == len(windows)


def test_the_knobs_of_an_accumulating_step_count_updates():
    recipe = parsed(
        {"accumulate": 4, "loss.name": "cyclical_focal", "model.hidden_sizes": (), "ema_decay": 0.5}
    )
    table, structure = timetable(10, accumulate=4), recipe.structure
    step = jax.jit(
        assembly.assemble_train_step(
            structure, recipe.numbers, timetable=table, num_classes=3, axis_name=None
        )
    )
    schedules = assembly.make_schedules(structure, recipe.numbers, table)
    optimizer = assembly.make_optimizer(structure, schedules, table)
    model = assembly.assemble_model(structure, 3, None)
    batch = {"image": jnp.cos(jnp.arange(8.0)).reshape(2, 2, 2, 1), "label": jnp.array([0, 2])}
    state = init_state(model, optimizer, batch["image"], seed=0, ema=True)
    start, states, hardness = state, [], []
    for _ in range(10):
        state, metrics = step(state, batch)
        hardness.append(float(metrics["hardness"]))
        states.append(state)
    updates = [int(state.step) for state in states]
    assert hardness == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert updates == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3]
    jax.tree.map(  # (1 + step) / (10 + step) of the old average at first
        lambda old, new, ema: np.testing.assert_allclose(ema, 0.1 * old + 0.9 * new, atol=1e-7),
        start.params,
        states[3].params,
        states[3].ema.params,
    )


@pytest.mark.parametrize("on_nonfinite, step_of_three", [("stop", 3), ("skip", 0)])
def test_a_step_skips_where_the_recipe_says_so(on_nonfinite, step_of_three):
    recipe = parsed({"on_nonfinite": on_nonfinite, "model.hidden_sizes": ()})
    table, structure = timetable(STEPS), recipe.structure
    step = jax.jit(
        assembly.assemble_train_step(
            structure, recipe.numbers, timetable=table, num_classes=3, axis_name=None
        )
    )
    schedules = assembly.make_schedules(structure, recipe.numbers, timetable(STEPS))
    optimizer = assembly.make_optimizer(structure, schedules, table)
    model = assembly.assemble_model(structure, 3, None)
    batch = {"image": jnp.full((2, 2, 2, 1), jnp.inf), "label": jnp.array([0, 2])}
    state = init_state(model, optimizer, batch["image"], seed=0)
    for _ in range(3):
        state, _ = step(state, batch)
    assert (state.step, state.micro_step) == (step_of_three, 3)
    assert state.ema is None


@pytest.mark.parametrize(
    "name, gammas, loss",
    [
        ("cross_entropy", {}, cj.softmax_cross_entropy),
        ("focal", {"gamma": 1.5}, cj.focal_loss),
        ("asymmetric_focal", {"gamma_pos": 1.5, "gamma_neg": 2.5}, cj.asymmetric_focal_loss),
        (
            "cyclical_focal",
            {"hardness": 0.3, "gamma_hc": 2.5, "gamma_pos": 1.5, "gamma_neg": 3.5},
            cj.cyclical_focal_loss,
        ),
    ],
)
def test_each_loss_gets_the_knobs_it_names(name, gammas, loss):
    knobs = {"temperature": 2.0, "label_smoothing": 0.2, **gammas}
    recipe = parsed({"loss.name": name} | {f"loss.{key}": value for key, value in knobs.items()})
    schedules = assembly.make_schedules(recipe.structure, recipe.numbers, timetable(STEPS))
    values = {key: schedule(0) for key, schedule in schedules.items()}
    logits, labels = jnp.array([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]]), jnp.array([0, 2])
    term = assembly.make_loss_term(recipe.structure)
    actual = term.loss(logits, {"label": labels}, values)
    np.testing.assert_allclose(actual, loss(logits, labels, **knobs), rtol=1e-5)


TEMPERED = {"loss.temperature": 2.0, "loss.label_smoothing": 0.2, "model.hidden_sizes": ()}
BATCH = {
    "image": np.random.default_rng(3).normal(size=(4, 2, 2, 1)).astype(np.float32),
    "label": np.array([0, 2, 2, 0], np.int32),
}


def step_of(recipe, **options):
    """The train step of a recipe by hand, of its parts, and its first state."""
    structure, table = recipe.structure, timetable(STEPS)
    schedules = assembly.make_schedules(structure, recipe.numbers, timetable(STEPS))
    optimizer = assembly.make_optimizer(structure, schedules, table)
    model = assembly.assemble_model(structure, 3, None)
    terms = [assembly.make_loss_term(structure)]
    step = make_train_step(model, optimizer, terms, knobs=schedules, **options)
    return step, init_state(model, optimizer, BATCH["image"], seed=0)


def assembled(recipe):
    return assembly.assemble_train_step(
        recipe.structure,
        recipe.numbers,
        timetable=timetable(STEPS),
        num_classes=3,
        axis_name=None,
    )


@pytest.mark.parametrize("gradient_norm, is_plain", [(None, True), ("cross_entropy", False)])
def test_without_a_norm_the_program_is_that_of_the_loss_alone(gradient_norm, is_plain):
    recipe = parsed(TEMPERED | {"loss.gradient_norm": gradient_norm})
    step, state = step_of(recipe)
    programs = [jax.jit(f).lower(state, BATCH).as_text() for f in (step, assembled(recipe))]
    assert (programs[0] == programs[1]) == is_plain


def test_the_gradient_has_the_norm_of_the_plain_loss_of_the_same_smoothing():
    recipe = parsed(
        TEMPERED
        | CONSTANT_RATE
        | {
            "optimizer.learning_rate": 1.0,
            "optimizer.weight_decay": None,
            "optimizer.momentum": 0.0,
            "loss.gradient_norm": "cross_entropy",
        }
    )
    _, state = step_of(recipe)
    new, metrics = jax.jit(assembled(recipe))(state, BATCH)

    def loss(params, temperature):
        (layer,) = params.values()
        logits = BATCH["image"].reshape(4, -1) @ layer["kernel"] + layer["bias"][None]
        log_p = jax.nn.log_softmax(logits / temperature)
        labels = 0.8 * np.eye(3)[BATCH["label"]] + 0.2 / 3
        return -(labels * log_p).sum(-1).mean()

    tempered, plain = (jax.grad(loss)(state.params, temperature) for temperature in (2.0, 1.0))
    scale = optax.tree.norm(plain) / optax.tree.norm(tempered)
    expected = jax.tree.map(lambda param, grad: param - scale * grad, state.params, tempered)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new.params, expected
    )
    assert not 0.8 < scale < 1.25
    assert metrics["grad_norm"] == pytest.approx(float(optax.tree.norm(plain)), rel=1e-5)
    assert metrics["loss"] == pytest.approx(float(loss(state.params, 2.0)), rel=1e-5)


def test_the_model_is_that_of_the_recipe():
    recipe = parsed({"model.hidden_sizes": (5, 4), "model.batch_norm": True})
    model = assembly.assemble_model(recipe.structure, 3, axis_name=None)
    params, model_state = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
    shapes = {name: layer["kernel"].shape for name, layer in params.items() if "kernel" in layer}
    assert shapes == {"Dense_0": (4, 5), "Dense_1": (5, 4), "Dense_2": (4, 3)}
    assert list(model_state) == ["batch_stats"]
