"""Every argument of every public function of the maths: its numbers, its shapes and its arrays.

`NUMBERS` and `EXAMPLES` have an entry for each argument that is a number, and for each array that
must fit another one. The first test reads the signatures: an argument without an entry fails it. An
error is one line that names the argument, what was given and what is wanted.
"""

import functools
import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cyclical_jax as cj
from cyclical_jax import accumulation
from tests.test_public import (
    BATCH,
    CASES,
    CLASSES,
    IMAGES,
    INDICES,
    KEY,
    LOGITS,
    NEARLY,
    OTHERS,
    PARAMS,
    PROBABILITIES,
    UPDATES,
    function_of,
    is_floating,
    of_state,
    public_functions,
    rising,
)

# ---- the table

SCALAR, EACH = "a scalar", "a scalar or one per example"
HOST, FLAG = "a scalar that is never traced", "a scalar that is true or false"
GAMMAS = {"gamma_pos": EACH, "gamma_neg": EACH}
SOFTMAX = {"temperature": EACH, "label_smoothing": EACH}
CYCLE = {"total_steps": SCALAR, "factor": SCALAR, "num_cycles": HOST}
MULTILABEL = GAMMAS | {"margin": EACH, "alpha": EACH}
COLOUR = {"strength": SCALAR, "most": SCALAR}
BITS = {"bits": SCALAR, "gradient_bits": SCALAR, "activation_bits": SCALAR}

NUMBERS: dict[str, dict[str, str]] = {
    "softmax_cross_entropy": SOFTMAX,
    "focal_loss": SOFTMAX | {"gamma": EACH},
    "asymmetric_focal_loss": SOFTMAX | GAMMAS,
    "cyclical_focal_loss": SOFTMAX | GAMMAS | {"hardness": EACH, "gamma_hc": EACH},
    "asymmetric_multilabel_loss": MULTILABEL,
    "cyclical_multilabel_loss": MULTILABEL | {"hardness": EACH, "gamma_hc": EACH},
    "weighted_mean": {"weights": EACH},
    "hardness_schedule": CYCLE,
    "cyclical_schedule": CYCLE | {"easy": SCALAR, "hard": SCALAR},
    "between": {"easy": SCALAR, "hard": SCALAR},
    "per_epoch": {"steps_per_epoch": SCALAR},
    "as_integer": {"schedule": SCALAR, "minimum": HOST},
    "add_decayed_weights": {"weight_decay": SCALAR},
    "clip": {"max_delta": SCALAR},
    "clip_by_global_norm": {"max_norm": SCALAR},
    "adaptive_grad_clip": {"clipping": SCALAR, "eps": SCALAR},
    "accumulate_gradients": {"every": SCALAR},
    "finetuning.scale_by_layer": {"share": SCALAR},
    "averaging.moving_average": {"decay": SCALAR, "step": SCALAR, "is_update": FLAG},
    "augment.random_crop": {"strength": SCALAR, "most": HOST},
    "augment.random_flip": {"strength": SCALAR},
    "augment.random_affine": {
        **{"strength": SCALAR, "rotation": SCALAR, "translation": SCALAR, "shear": SCALAR}
    },
    "augment.random_brightness": COLOUR,
    "augment.random_contrast": COLOUR,
    "augment.random_saturation": COLOUR,
    "augment.random_erase": COLOUR,
    "augment.random_mix": {"strength": SCALAR, "number": HOST},
    "augment.mixup": {"strength": SCALAR, "alpha": SCALAR},
    "augment.cutmix": {"strength": SCALAR, "alpha": SCALAR},
    "augment.affine": {"fill": SCALAR},
    "augment.augment": {"num_classes": HOST},
    "curriculum.sample_weights": {"preference": SCALAR},
    "curriculum.update_difficulty": {"decay": SCALAR},
    "distillation.teacher_logits": {"batch_size": HOST},
    "distillation.distillation_loss": {"temperature": EACH},
    "precision.fake_quantize": {"bits": SCALAR},
    "precision.quantize_gradient": {"bits": SCALAR},
    "precision.quantized_dot_general": BITS,
    "precision.quantized_conv": BITS,
    "precision.relative_cost": BITS | {"reference": SCALAR},
    "semisupervised.pseudo_labels": {"threshold": EACH},
    "semisupervised.pseudo_label_loss": {"threshold": EACH, "temperature": EACH},
    "warm_restart_schedule": {"first_cycle": HOST, "multiplier": HOST, "warmup": HOST},
    "cycle_ends": {
        **{"total_steps": HOST, "first_cycle": HOST, "multiplier": HOST, "warmup": HOST}
    },
    "updates_of": {"micro_steps": HOST, "every": HOST},
    "accumulation.uniform_windows": {"micro_steps": HOST, "every": HOST},
    "accumulation.windows_of_updates": {"total_steps": HOST},
    "accumulation.windows_of_micro_steps": {"micro_steps": HOST, "least": HOST, "minimum": HOST},
}
# A legal value where neither `CASES` nor the signature has one.
LEGAL: dict[str, Any] = {"alpha": 0.3, "gamma_pos": 0.7, "gamma_neg": 0.7, "weights": 1.0}
ON_HOST: dict[str, dict[str, Any]] = {
    "augment.augment": dict(operations=["mixup"], num_classes=3),
    "distillation.teacher_logits": dict(
        apply=lambda variables, images: images, variables=None, images=LOGITS, batch_size=3
    ),
    "updates_of": dict(micro_steps=10, every=3),
    "warm_restart_schedule": dict(first_cycle=3),
    "cycle_ends": dict(total_steps=10, first_cycle=3),
    "accumulation.uniform_windows": dict(micro_steps=10, every=3),
    "accumulation.windows_of_updates": dict(schedule_of=rising, total_steps=5),
    "accumulation.windows_of_micro_steps": dict(
        schedule_of=rising, micro_steps=10, least=2, minimum=1
    ),
}

# Arguments with an axis of examples that must fit another argument, as they are where they do.
LABELS, MASK = {"labels": INDICES}, {"where": np.ones(BATCH, bool)}
HOT = {"labels": PROBABILITIES}
WEIGHTS = {"class_weights": np.ones(CLASSES, np.float32)}
MIXTURE = {"labels": PROBABILITIES, "mask": np.ones(BATCH, np.float32)}
EXAMPLES: dict[str, dict[str, np.ndarray]] = {
    "softmax_cross_entropy": LABELS | MASK | WEIGHTS,
    "focal_loss": LABELS | MASK | WEIGHTS,
    "asymmetric_focal_loss": LABELS | MASK | WEIGHTS,
    "cyclical_focal_loss": LABELS | MASK | WEIGHTS,
    "asymmetric_multilabel_loss": HOT | MASK | WEIGHTS,
    "cyclical_multilabel_loss": HOT | MASK | WEIGHTS,
    "weighted_mean": LABELS | MASK,
    "distillation.distillation_loss": {"teacher_logits": OTHERS} | MASK,
    "semisupervised.pseudo_labels": MASK,
    "semisupervised.pseudo_label_loss": {"weak_logits": OTHERS} | MASK,
    "curriculum.difficulty_ranks": {"difficulty": LOGITS[0]},
    "curriculum.update_difficulty": {
        **{"difficulty": LOGITS[0], "index": INDICES, "losses": LOGITS[:, 0]}
    },
    "augment.mixup": MIXTURE,
    "augment.cutmix": MIXTURE,
    "augment.affine": {
        "matrix": np.broadcast_to(np.eye(2, dtype=np.float32), (BATCH, 2, 2)),
        "shift": np.zeros((BATCH, 2), np.float32),
    },
    "averaging.moving_average": {"new": UPDATES["b"]},
}
# Arrays that another argument must fit, or of any shape.
FIRST = {
    *("logits", "strong_logits", "losses", "images", "ranks", "average"),
    *("key", "opt_state", "params", "variables", "layers", "x"),
}
NO_ARRAY = re.compile(
    r"Axis|Limits|Shape|Scale|Schedule|ScheduleOf|Windows|bool|str|Sequence|Callable"
    r"|optax.GradientTransformation|Any \| Callable|int \| tuple"
)
NUMBER = re.compile(r"(Number|NumberOrSchedule|float|int)( \||$)(?! tuple)")


def annotations(name):
    return {
        argument: str(parameter.annotation)
        for argument, parameter in inspect.signature(function_of(name)).parameters.items()
    }


def test_every_argument_of_every_function_is_in_the_table():
    for name in public_functions():
        of = annotations(name)
        of.pop("accumulator_dtype", None)
        numbers = {argument for argument, text in of.items() if NUMBER.match(text)}
        assert numbers == NUMBERS.get(name, {}).keys(), name
        arrays = {argument for argument in of.keys() - numbers if not NO_ARRAY.match(of[argument])}
        assert arrays - FIRST <= EXAMPLES.get(name, {}).keys() <= arrays, name
    assert (NUMBERS.keys() | EXAMPLES.keys()) <= public_functions()


ROWS = {case.name: case for case in reversed(CASES)}


def call(name, argument, value):
    """Calls a function as its row of `CASES` does, with another value of one argument."""
    if name in ON_HOST:
        return function_of(name)(**ON_HOST[name] | {argument: value})
    case = ROWS[name]
    if argument in case.data.keys() | EXAMPLES.get(name, {}).keys():
        return case.run({**case.data, argument: value}, case.numbers)
    return case.run(case.data, {**case.numbers, argument: value})


def legal(name, argument):
    default = inspect.signature(function_of(name)).parameters[argument].default
    known = ON_HOST.get(name) or ROWS[name].numbers
    return known.get(argument, LEGAL.get(argument, default))


def every(table, is_wanted=lambda kind: True):
    rows = [
        (name, argument)
        for name, arguments in table.items()
        for argument, kind in arguments.items()
        if is_wanted(kind)
    ]
    return pytest.mark.parametrize("name, argument", rows, ids=map("-".join, rows))


def refused(name, argument, value, is_traced=False):
    """Returns the message of the error, which names the argument."""
    run = functools.partial(call, name, argument)
    with pytest.raises(ValueError) as error:
        if name in ON_HOST:
            run(value)
        elif is_traced:
            jax.eval_shape(run, value)
        else:
            jax.eval_shape(lambda: run(value))  # nothing is compiled for what comes before
    return one_line(error.value, argument)


def one_line(error, argument):
    message = str(error)
    assert "\n" not in message and f"`{argument}`" in message
    return message


# ---- numbers that float32 cannot hold


@every(NUMBERS, lambda kind: kind != FLAG)
def test_a_number_that_float32_cannot_hold_is_refused(name, argument):
    for value in (1e300, -1e39, 1e-300, 1e-40, np.float64(1e-300), np.nan):
        assert str(value) in refused(name, argument, value)
    if NUMBERS[name][argument] == EACH:
        for value in (1e300, 1e-300):
            refused(name, argument, np.full(BATCH, value))


def test_the_line_says_what_float32_holds():
    line = "must be 0 or from 1.2e-38 to 3.4e+38 in size, which float32 can hold, got 1e+300."
    with pytest.raises(ValueError, match=re.escape(f"`max_norm` {line}")):
        cj.clip_by_global_norm(1e300)
    line = "`easy` must be from 1.2e-38 to 3.4e+38 in size, which float32 can hold, got 1e-300."
    with pytest.raises(ValueError, match=re.escape(line)):
        cj.cyclical_schedule(1e-300, 1, 101, scale="log")


@pytest.mark.parametrize("number", [0, 1.17549436e-38, 3.4028235e38, np.float32(3e38), 2**62])
def test_the_largest_and_the_smallest_are_held(number):
    state = cj.clip_by_global_norm(number).init(None)
    np.testing.assert_array_equal(state.max_norm, np.float32(number))


def test_a_weight_may_vanish_beside_a_larger_one():
    losses = np.array([1, 2, 3, 6], np.float32)
    assert cj.weighted_mean(losses, weights=np.array([1e-300, 3, 0, 1])) == 3
    weights = np.array([1, 1, 1e-42], np.float32)
    run = functools.partial(cj.asymmetric_multilabel_loss, class_weights=weights)
    jax.eval_shape(lambda: run(LOGITS[:, :3], LOGITS[:, :3]))
    for values in ([1e-300, 1e-310, 0, 0], [1e300, 1, 1, 1]):
        with pytest.raises(ValueError, match="`weights` must be 0 or from 1.2e-38"):
            cj.weighted_mean(losses, weights=np.array(values))
        with pytest.raises(ValueError, match="`class_weights` must be 0 or from 1.2e-38"):
            call("softmax_cross_entropy", "class_weights", np.array([*values, 0, 0]))


def test_limits_of_pixels_are_held_by_float32():
    with pytest.raises(ValueError, match=r"^`limits` .* got \[\[0. 0.\] \[0. 0.\]\]\.$"):
        cj.augment.augment(["flip"], limits=np.zeros((2, 2)))
    for limits in ((0, 1e300), (-1e300, 0), (0, 1e-300)):
        with pytest.raises(ValueError, match="`limits` must be 0 or from 1.2e-38 to 3.4e"):
            cj.augment.random_flip(KEY, IMAGES, 0.5, limits=limits)
        with pytest.raises(ValueError, match="`limits` must be 0 or from 1.2e-38 to 3.4e"):
            cj.augment.augment(["flip"], limits=limits)


# ---- shapes that would be broadcast


@every(NUMBERS)
def test_a_number_of_another_shape_is_refused(name, argument):
    """NumPy's, and traced: a shape is known before the values."""
    kind, value = NUMBERS[name][argument], legal(name, argument)
    examples = INDICES.shape if name != "weighted_mean" else LOGITS[0].shape
    (batch,) = examples
    shapes = [(batch, 1), (1, batch), (batch, batch)]
    shapes += [(batch + 1,)] if kind == EACH else [(1,), (batch,)]
    wanted = f"broadcast to the shape {examples}" if kind == EACH else "must be a scalar"
    for shape in shapes:
        message = refused(name, argument, np.full(shape, value))
        assert str(shape) in message and wanted in message
        if kind != HOST:
            message = refused(name, argument, jnp.full(shape, value), is_traced=True)
            assert str(shape) in message and wanted in message


@every(NUMBERS, lambda kind: kind != HOST)
def test_a_number_may_be_traced_and_mapped(name, argument):
    """With as many results as numbers; of one per example, each is a number of its own."""
    both = jnp.full(2, legal(name, argument))
    run = functools.partial(call, name, argument)
    one, mapped = jax.eval_shape(run, both[0]), jax.eval_shape(jax.vmap(run), both)
    for leaf, other in zip(jax.tree.leaves(one), jax.tree.leaves(mapped), strict=True):
        assert (2, *leaf.shape) == other.shape and leaf.dtype == other.dtype


SCHEDULED = [
    (name, argument)
    for name in NUMBERS
    for argument, text in annotations(name).items()
    if text == "NumberOrSchedule" and name != "as_integer"  # it takes counts of any shape
]


@pytest.mark.parametrize("name, argument", SCHEDULED, ids=map("-".join, SCHEDULED))
def test_a_schedule_of_another_shape_is_refused(name, argument):
    for shape in ((1,), (BATCH,), (BATCH, 1), (BATCH, BATCH)):
        message = refused(name, argument, lambda count, shape=shape: jnp.ones(shape))
        assert "must be a scalar" in message and str(shape) in message


@pytest.mark.parametrize("shape", [(3,), (10, 1), (1, 10)])
def test_a_schedule_on_the_host_has_one_value_for_each_count(shape):
    def schedule(count):
        return np.full(shape, 2.0)

    line = rf"^`every` must have one value for each count, got shape {re.escape(str(shape))}\.$"
    for every in (schedule, lambda total_steps: schedule):
        with pytest.raises(ValueError, match=line):
            cj.updates_of(10, every)


@every(EXAMPLES)
def test_an_array_that_does_not_fit_the_others_is_refused(name, argument):
    """[B, 1], [1, B] and [B, B] instead of [B], or instead of [B, ...]."""
    case, value = ROWS[name], EXAMPLES[name][argument]
    for shape in ((BATCH, 1), (1, BATCH), (BATCH, BATCH)):
        wrong = np.resize(value, shape)
        if argument == "where" and shape == (BATCH, 1) and name != "weighted_mean":
            continue  # it has as many axes as the logits: one example a row
        if argument == "labels" and "augment" in name and shape[0] == BATCH:
            continue  # so many classes
        data = {**case.data, argument: wrong}
        if name == "averaging.moving_average":
            data = {"average": value, "new": wrong}
        if name == "weighted_mean":
            data["losses"] = LOGITS[:, 0]
            data["weights"] = None
        with pytest.raises(ValueError) as error:
            jax.eval_shape(lambda data=data: case.run(data, case.numbers))
        assert str(shape) in one_line(error.value, argument)


TREES = ("add_decayed_weights", "adaptive_grad_clip")


@pytest.mark.parametrize("name", TREES)
def test_parameters_of_other_shapes_than_the_updates_are_refused(name):
    transform, updates = function_of(name)(0.1), jnp.ones(BATCH)
    for shape in ((BATCH, 1), (1, BATCH), (BATCH, BATCH)):
        params = jnp.ones(shape)
        with pytest.raises(ValueError) as error:
            transform.update(updates, transform.init(params), params)
        assert str(error.value) == f"`params` must have shape {(BATCH,)}, got {shape}."


@pytest.mark.parametrize("layer", [np.ones((BATCH, 1), int), np.ones(1, int), -1, 1.5])
def test_a_layer_is_one_whole_number(layer):
    transform = cj.finetuning.scale_by_layer(0.5, lambda params: {"a": 0, "b": layer})
    with pytest.raises(ValueError, match="^`layers` must be a (scalar|whole number)"):
        transform.update(UPDATES, transform.init(PARAMS), PARAMS)


@pytest.mark.parametrize("shape", [(BATCH, 1), (1, BATCH), (BATCH, BATCH)])
@pytest.mark.parametrize("entry, wrong", [("label", INDICES), ("mask", np.ones(BATCH))])
def test_a_batch_of_other_shapes_is_not_mixed(entry, wrong, shape):
    transform = cj.augment.augment(["mixup"], num_classes=CLASSES)
    batch = {"image": IMAGES, "label": INDICES, entry: np.resize(wrong, shape)}
    with pytest.raises(ValueError) as error:
        jax.eval_shape(lambda: transform(batch, KEY, 0.5))
    assert str(shape) in one_line(error.value, entry)


# ---- arrays


def of_numpy(array):
    """NumPy's own dtypes, and a view of every second entry."""
    array = np.asarray(array, np.float64 if is_floating(array) else np.int64)
    return np.repeat(array, 2, -1)[..., ::2] if array.ndim else array


def of_another_machine(array):
    """The other order of bytes and of axes, read-only."""
    array = np.asarray(array, ">f4" if is_floating(array) else ">i8", order="F")
    array.setflags(write=False)
    return array


KINDS = (of_numpy, of_another_machine)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def of_row(case):
    """Returns the function of a row, with NumPy's numbers, and its data."""
    if case.call is of_state:  # the state itself is the data
        return function_of(case.name), of_state(lambda state: state, case.data, {})
    numbers = {name: np.float64(value) for name, value in case.numbers.items()}
    return functools.partial(case.run, numbers=numbers), jax.tree.map(jnp.asarray, case.data)


def on_numpy(kind, data):
    return jax.tree.map(lambda leaf: kind(np.asarray(leaf)), data)


def assert_same_types(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jnp.shape(one) == jnp.shape(other)
        assert jnp.result_type(one) == jnp.result_type(other)


@every_case
def test_arrays_of_numpy_of_every_kind_are_taken(case):
    run, data = of_row(case)
    shapes = run if case.is_on_host else functools.partial(jax.eval_shape, run)
    for kind in KINDS:
        given = on_numpy(kind, data)
        found = run(given) if case.is_on_host else jax.eval_shape(lambda given=given: run(given))
        assert_same_types(found, shapes(data))


@pytest.mark.slow
@every_case
def test_arrays_of_numpy_of_every_kind_give_the_same(case):
    run, data = of_row(case)
    expected = run(data)
    for kind in KINDS:
        found = run(on_numpy(kind, data))
        assert_same_types(found, expected)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, **NEARLY)


@pytest.mark.parametrize("dtype", [object, np.longdouble, "U9"], ids=str)
def test_a_dtype_that_jax_lacks_is_one_line(dtype):
    of = {
        "softmax_cross_entropy": ("logits", LABELS),
        "weighted_mean": ("losses", {}),
        "augment.random_flip": ("images", {"strength": 0.5}),
    }
    for name, (argument, others) in of.items():
        data = ROWS[name].data[argument].astype(dtype)
        keys = {"key": KEY} if "augment" in name else {}
        with pytest.raises(TypeError) as error:
            function_of(name)(**keys, **{argument: data}, **others)
        given = f"got {data.dtype} of shape {data.shape}."
        line = f"`{argument}` must have a dtype of JAX, such as float32, {given}"
        assert str(error.value) == line
    transform = cj.clip_by_global_norm(1.0)
    with pytest.raises(TypeError, match="^`updates` must have a dtype of JAX.*float32, got .*$"):
        transform.update([np.ones(3).astype(dtype)], transform.init(None))


def without_examples(case):
    """Returns the data of a row without any example; `augment` has labels of its own."""
    return jax.tree.map(lambda leaf: leaf[:0], case.data)


HAVE_NONE = [case for case in CASES if case.name != "augment.augment"]
every_case_of_none = pytest.mark.parametrize("case", HAVE_NONE, ids=lambda case: case.name)


@every_case_of_none
def test_no_examples_give_no_results(case):
    run = functools.partial(case.run, numbers=case.numbers)
    found = run if case.is_on_host else functools.partial(jax.eval_shape, run)
    for leaf in jax.tree.leaves(found(without_examples(case))):
        assert 0 in jnp.shape(leaf) or jnp.ndim(leaf) == 0


@pytest.mark.slow
@every_case_of_none
def test_no_examples_give_finite_numbers(case):
    for leaf in jax.tree.leaves(case.run(without_examples(case), case.numbers)):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()


def updated(transform):
    return transform.update({}, transform.init({}), {})


def test_a_tree_without_leaves_has_no_updates():
    for transform in (
        cj.clip(1.0),
        cj.clip_by_global_norm(1.0),
        cj.adaptive_grad_clip(1.0),
        cj.add_decayed_weights(1.0),
        cj.accumulate_gradients(optax.sgd(0.1), 2),
        cj.finetuning.scale_by_layer(0.5, {}),
        cj.finetuning.scale_by_layer(0.5, lambda params: params),
    ):
        assert updated(transform)[0] == {}
    assert cj.averaging.moving_average({}, {}, 0.5, step=1) == {}
    assert cj.finetuning.layers_by_name({}, []) == {}


def test_positions_in_no_difficulties_are_all_out_of_range():
    found = cj.curriculum.update_difficulty(jnp.zeros(0), jnp.arange(3), jnp.ones(3))
    assert found.shape == (0,)


@pytest.mark.parametrize(
    "call",
    [
        lambda z: cj.softmax_cross_entropy(z, INDICES),
        lambda z: cj.cyclical_focal_loss(z, z, 0.5),
        lambda z: cj.semisupervised.pseudo_labels(z, 0.5),
        lambda z: cj.distillation.distillation_loss(z, z),
    ],
)
def test_a_softmax_of_no_classes_is_one_line(call):
    line = r"^`logits` must have at least one class, got shape \(4, 0\)\.$"
    with pytest.raises(ValueError, match=line):
        call(LOGITS[:, :0])


def test_images_without_pixels_and_runs_without_windows_are_one_line():
    for name in ("random_crop", "random_affine"):
        with pytest.raises(ValueError, match=r"^`images` must be .*shape \(4, 0, 6, 3\)\.$"):
            getattr(cj.augment, name)(KEY, IMAGES[:, :0], 0.5)
    with pytest.raises(ValueError, match="^`windows` must have at least one entry, got ..[.]$"):
        accumulation.windows_schedule(())
