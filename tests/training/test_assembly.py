"""Structure and numbers become the chain that one would write by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cyclical_jax as cj
from cyclical_jax.accumulation import uniform_windows
from cyclical_jax.catalogue import default_config, parse
from cyclical_jax.models import Model
from cyclical_jax.training import assembly
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.recipe import cyclical, put
from cyclical_jax.training.state import JUDGED, Variables, init_state
from cyclical_jax.training.step import Program, make_train_step
from cyclical_jax.training.technique import (
    MAIN,
    BatchTransform,
    LossTerm,
    Memory,
    Part,
    Place,
    Spec,
    Task,
    Technique,
)
from tests.helpers import structure_of

STEPS = 13
PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([4.0, -1.0])}
CONSTANT_RATE = {"optimizer.learning_rate_schedule": None}
SPEC = Spec(num_train=20, num_outputs=3, shape=(2, 2, 1))


def parsed(changes):
    config = default_config()
    with config.ignore_type():
        for key, value in changes.items():
            put(config, key, value)
    return parse(config)


def timetable(micro_steps, accumulate=1):
    return Timetable(uniform_windows(micro_steps, accumulate), 5, 5, 5)


def schedules_of(recipe, table):
    return assembly.make_schedules(recipe.structure, recipe.numbers, table)


def parts_of(recipe, table, given=None):
    schedules = schedules_of(recipe, table)
    return assembly.make_parts(recipe.structure, schedules, SPEC, given or {}, None)


def optimizer_of(changes, table):
    return assembly.make_optimizer(parts_of(parsed(CONSTANT_RATE | changes), table), table)


def assembled(recipe, table):
    """The step of a recipe and its first state."""
    options = dict(timetable=table, spec=SPEC)
    program = assembly.assemble(recipe.structure, recipe.numbers, **options)
    state = assembly.assemble_state(recipe.structure, recipe.numbers, 0, **options)
    return make_train_step(program), state


def test_a_schedule_has_the_shape_scale_factor_and_cycles_of_the_config():
    recipe = parsed(
        {
            "cycle.num_cycles": 2,
            "cycle.factor": 3.0,
            "optimizer.weight_decay": cyclical(1e-4, 1e-1, shape="rex", scale="log"),
            "loss.temperature": cyclical(0.5, 2.0, factor=4),
        }
    )
    schedules = schedules_of(recipe, timetable(STEPS))
    expected = {
        "optimizer.weight_decay": cj.cyclical_schedule(
            1e-4, 1e-1, STEPS, factor=3, num_cycles=2, shape="rex", scale="log"
        ),
        "loss.temperature": cj.cyclical_schedule(0.5, 2.0, STEPS, factor=4, num_cycles=2),
        "optimizer.learning_rate": optax.cosine_decay_schedule(0.1, STEPS),
    }
    counts = jnp.arange(STEPS + 2)
    for name, schedule in expected.items():
        np.testing.assert_allclose(
            schedules[name](counts), schedule(counts), rtol=2e-6, err_msg=name
        )


def test_without_decay_the_learning_rate_is_its_knob():
    recipe = parsed(CONSTANT_RATE)
    schedules = schedules_of(recipe, timetable(STEPS))
    assert schedules["optimizer.learning_rate"](7) == pytest.approx(0.1)


def test_a_learning_rate_that_cycles_is_multiplied_by_its_decay():
    recipe = parsed({"optimizer.learning_rate": cyclical(0.1, 0.5)})
    schedules = schedules_of(recipe, timetable(5))
    triangle = np.array([0.1, 0.3, 0.5, 0.3, 0.1])
    cosine = (1 + np.cos(np.pi * np.arange(5) / 5)) / 2
    np.testing.assert_allclose(
        schedules["optimizer.learning_rate"](np.arange(5)), triangle * cosine, rtol=1e-5
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
    step, state = assembled(recipe, timetable(10, accumulate=4))
    batch = {"image": jnp.cos(jnp.arange(8.0)).reshape(2, 2, 2, 1), "label": jnp.array([0, 2])}
    step, start, states, hardness = jax.jit(step), state, [], []
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
        states[3].evaluated.params,
    )


@pytest.mark.parametrize("on_nonfinite, step_of_three", [("stop", 3), ("skip", 0)])
def test_a_step_skips_where_the_recipe_says_so(on_nonfinite, step_of_three):
    recipe = parsed({"on_nonfinite": on_nonfinite, "model.hidden_sizes": ()})
    step, state = assembled(recipe, timetable(STEPS))
    batch = {"image": jnp.full((2, 2, 2, 1), jnp.inf), "label": jnp.array([0, 2])}
    step = jax.jit(step)
    for _ in range(3):
        state, _ = step(state, batch)
    assert (state.step, state.micro_step) == (step_of_three, 3)
    assert state.memory == {} and state.evaluated == state.variables


TEMPERED = {"loss.temperature": 2.0, "loss.label_smoothing": 0.2, "model.hidden_sizes": ()}
BATCH = {
    "image": np.random.default_rng(3).normal(size=(4, 2, 2, 1)).astype(np.float32),
    "label": np.array([0, 2, 2, 0], np.int32),
}


def step_of(recipe):
    """The train step of a recipe by hand, of its parts, and its first state."""
    table = timetable(STEPS)
    parts = parts_of(recipe, table)
    model = assembly.assemble_model(recipe.structure, SPEC)
    optimizer = assembly.make_optimizer(parts, table)
    terms, knobs = parts["classification"].terms, schedules_of(recipe, table)
    step = make_train_step(Program(model, optimizer, terms, knobs=knobs))
    return step, init_state(model, optimizer, BATCH["image"], seed=0)


@pytest.mark.parametrize("gradient_norm, is_plain", [(None, True), ("cross_entropy", False)])
def test_without_a_norm_the_program_is_that_of_the_loss_alone(gradient_norm, is_plain):
    recipe = parsed(TEMPERED | {"loss.gradient_norm": gradient_norm})
    step, state = step_of(recipe)
    other, first = assembled(recipe, timetable(STEPS))
    jax.tree.map(np.testing.assert_array_equal, first._replace(key=0), state._replace(key=0))
    programs = [jax.jit(f).lower(state, BATCH).as_text() for f in (step, other)]
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
    step, state = assembled(recipe, timetable(STEPS))
    new, metrics = jax.jit(step)(state, BATCH)

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
    model = assembly.assemble_model(recipe.structure, SPEC)
    example = assembly.example_of(recipe.structure, SPEC)
    assert example.shape == (1, *SPEC.shape)
    params, model_state = model.init(jax.random.key(0), example)
    shapes = {name: layer["kernel"].shape for name, layer in params.items() if "kernel" in layer}
    assert shapes == {"Dense_0": (4, 5), "Dense_1": (5, 4), "Dense_2": (4, 3)}
    assert list(model_state) == ["batch_stats"]


# ---- parts of made-up techniques and tasks

LINEAR = Model(
    init=lambda key, inputs: ({"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}, {}),
    apply=lambda params, state, inputs, *, train, key: (
        inputs.reshape(len(inputs), -1) @ params["kernel"] + params["bias"][None],
        state,
    ),
)


def weighted(weight, **options):
    """A term that says its weight, as the loss of each example."""
    return LossTerm(lambda outputs, batch, values: 1 + 0 * outputs[:, 0], weight, **options)


SGD = ((Place.RATE, optax.scale(-0.1)),)


def task_of(*terms, transforms=(), chain=SGD, **options):
    part = Part(transforms, terms or (weighted(1.0),), chain)
    options = dict(model=lambda site, before: LINEAR) | options
    return Task("made_up", {}, lambda site: part, **options)


def technique(name, part, **options):
    return Technique(name, {}, part if callable(part) else lambda site: part, **options)


def program_of(task, *techniques, **options):
    structure, options = structure_of(task, *techniques), dict(spec=SPEC) | options
    return assembly.assemble(structure, {}, timetable=timetable(STEPS), **options)


def terms_of(task, *techniques):
    structure = structure_of(task, *techniques)
    return assembly.make_terms(structure, assembly.make_parts(structure, {}, SPEC, {}, None))


def weights_of(terms, count=0):
    return [term.weight(count) if callable(term.weight) else term.weight for term in terms]


def test_the_order_is_what_changes_the_inputs_then_the_task_then_all_others():
    """Each in the order of the catalogue; the task makes the main view between its own changes and
    those of all others, and memories recall before all of them."""
    acted = []

    def acting(name):
        def act(batch, key=None, strength=None):
            acted.append((name, MAIN in batch))
            return batch

        return act

    def entry(name, **options):
        def recall(memory, batch):
            return acting(f"recall {name}")(batch)

        memory = Memory(lambda variables: 0, lambda memory, seen: acted.append((name, "update")))
        transforms = (BatchTransform(acting(f"{name} first")), BatchTransform(acting(name)))
        return technique(name, Part(transforms, memory=memory._replace(recall=recall)), **options)

    def view(batch):
        acted.append("view")
        return batch["image"]

    task = task_of(transforms=(BatchTransform(acting("task")),), view=view)
    inputs = dict(changes_inputs=True)
    entries = entry("a"), entry("b", **inputs), entry("c"), entry("d", **inputs)
    program = program_of(task, *entries)
    state = init_state(LINEAR, program.optimizer, BATCH["image"], 0, memories=program.memories)
    make_train_step(program)(state, BATCH)
    before = ["b first", "b", "d first", "d", "task"]
    after = ["a first", "a", "c first", "c"]
    assert acted == [
        *((f"recall {name}", False) for name in "bdac"),
        *((name, False) for name in before),
        "view",
        *((name, True) for name in after),
        *((name, "update") for name in "bdac"),
    ]


def test_terms_that_stand_instead_share_the_weight_of_the_tasks_own_term():
    """The others do not; the reference has the own term's weight, and all other terms."""
    task = task_of(weighted(1.0), weighted(7.0))
    entries = (
        technique("a", Part(terms=(weighted(3.0),))),
        technique("b", Part(terms=(weighted(lambda count: 0.1 * count, is_instead=True),))),
        technique("c", Part(terms=(weighted(0.25, is_instead=True), weighted(5.0)))),
        technique("d", Part(reference=weighted(100.0))),
    )
    terms, reference = terms_of(task, *entries)
    for count in (0, 2, 5):
        share = pytest.approx(0.1 * count)
        rest = pytest.approx(1 - 0.1 * count - 0.25)
        assert weights_of(terms, count) == [rest, share, 0.25, 7, 3, 5]
        assert weights_of(reference, count) == [rest, share, 0.25, 7, 3, 5]
    parts = [entry.part(None) for entry in (task, *entries)]
    assert terms[0].loss is parts[0].terms[0].loss and reference[0].loss is parts[4].reference.loss
    assert reference[1:] == terms[1:]


def test_without_terms_instead_the_tasks_own_term_keeps_its_weight():
    own = weighted(0.5)
    terms, reference = terms_of(task_of(own), technique("a", Part(terms=(weighted(3.0),))))
    assert terms[0] is own and weights_of(terms) == [0.5, 3] and reference == []
    terms, _ = terms_of(
        task_of(weighted(lambda count: 2.0 + count)),
        technique("a", Part(terms=(weighted(0.5, is_instead=True),))),
    )
    assert weights_of(terms, 1) == [2.5, 0.5]


def test_the_weights_of_a_teacher_and_of_unlabelled_images_are_those_of_their_keys():
    """The labels get what the teacher leaves of 1, and unlabelled images take nothing of it."""
    recipe = parsed(
        {
            "subset": "balanced 60",
            "distillation.teacher": "runs/teacher",
            "distillation.teacher_weight": cyclical(0.8, 0.2),
            "semisupervised.unlabelled_weight": cyclical(3.0, 5.0),
        }
    )
    terms, _ = assembly.make_terms(recipe.structure, parts_of(recipe, timetable(5)))
    weights = [weights_of(terms, count) for count in range(5)]
    teacher, unlabelled = np.array([0.8, 0.5, 0.2, 0.5, 0.8]), np.array([3, 4, 5, 4, 3])
    np.testing.assert_allclose(weights, np.stack([1 - teacher, teacher, unlabelled], 1), rtol=1e-6)
    assert [term.views for term in terms] == [(MAIN,), (MAIN,), ("strong", "weak")]


def test_the_chain_is_in_the_order_of_the_places():
    """Whatever the order of the techniques; each link writes its digit behind the others."""

    def link(digit):
        return optax.stateless(lambda updates, _: jax.tree.map(lambda u: 10 * u + digit, updates))

    names = "RATE", "CLIP", "THAW", "DECAY", "PRECONDITION", "MOMENTUM"
    links = [(Place[name], link(Place[name] + 1)) for name in names]
    links.append((Place.CLIP, link(7)))  # behind the one that came before it
    for parts in (links[:3], links[3:]), (links[:1], links[1:]), (links,):
        entries = [
            technique(str(number), Part(chain=tuple(own))) for number, own in enumerate(parts)
        ]
        optimizer = program_of(task_of(chain=()), *entries).optimizer
        updates, _ = optimizer.update(jnp.zeros([]), optimizer.init(jnp.zeros([])))
        assert updates == 1723456


def test_memories_are_known_by_their_technique_and_the_judged_one_by_its_use():
    memory = Memory(lambda variables: variables, lambda memory, seen: memory)
    entries = (
        technique("a", Part(memory=memory)),
        technique("b", Part()),
        technique("c", Part(memory=memory._replace(is_judged=True))),
    )
    assert program_of(task_of(), *entries).memories.keys() == {"a", JUDGED}


def test_a_technique_gets_its_own_arrays_and_the_model_with_what_wraps_it():
    """Models are made in the order of the entries, and the task's may be the first."""
    sites, wrapped = {}, []

    def entry(name, **options):
        return technique(name, lambda site: sites.setdefault(name, site) and Part(), **options)

    def model(name):
        def wrap(site, before):
            wrapped.append((name, before, site.axis_name))
            return LINEAR._replace(init=name)

        return wrap

    task = task_of(model=model("task"), example=lambda own, spec: jnp.zeros((1, 7)))
    entries = entry("a", model=model("a")), entry("b", model=model("b"), changes_inputs=True)
    program = program_of(task, *entries, given={"a": 3}, axis_name="devices")
    assert program.model.init == "a" and program.axis_name == "devices"
    expected = [("b", None), ("task", "b"), ("a", "task")]
    for axis_name in (None, "devices"):  # for the parts, and for the program
        found = [(name, before and before.init) for name, before, on in wrapped if on == axis_name]
        assert found == expected
    assert (sites["a"].given, sites["b"].given) == (3, None)
    for site in sites.values():
        assert site.spec == SPEC and site.axis_name == "devices" and site.own == {}
        assert site.model.init == "a" and site.example.shape == (1, 7)


def test_no_model_is_an_error():
    with pytest.raises(TypeError, match="Neither the task made_up nor a technique makes a model."):
        program_of(task_of(model=None))


def test_a_state_begins_with_the_variables_that_are_given_and_draws_the_others():
    structure = structure_of(task_of())
    start = Variables({"kernel": jnp.full((4, 3), 5.0)}, {"count": jnp.int32(4)})
    options = dict(timetable=timetable(STEPS), spec=SPEC)
    state = assembly.assemble_state(structure, {}, 0, start=start, **options)
    assert (state.params["kernel"] == 5).all() and (state.params["bias"] == 0).all()
    assert state.model_state == {"count": 4} and state.step == 0
