"""Every public function of the maths under every condition that another project may bring.

A row of `CASES` is a function with its data and its numbers. A name that has no row fails the first
test. The conditions: numbers traced in low precision, data in low precision, strict promotion of
dtypes, a mesh with explicit axes, `vmap` over the numbers, gradients, and trees of other kinds.
`test_public_arguments.py` tries each argument alone. Values by hand are in the test files of the
functions.
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import cyclical_jax as cj
from cyclical_jax import finetuning
from cyclical_jax._dtypes import as_array

MODULES = (
    *("accumulation", "augment", "averaging", "curriculum"),
    *("distillation", "finetuning", "precision", "semisupervised"),
)
LOW = (jnp.bfloat16, jnp.float16)
KEY = jax.random.key(5)
RNG = np.random.default_rng(2)
BATCH, CLASSES = 4, 6


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


IMAGES = np.clip(0.4 * floats(BATCH, 6, 6, 3), -1, 1)
MATRICES = (np.eye(2) + 0.2 * floats(BATCH, 2, 2)).astype(np.float32)
LOGITS, OTHERS = 2 * floats(2, BATCH, CLASSES)
INDICES = np.array([3, 0, 5, 1], np.int32)
PROBABILITIES = RNG.dirichlet(np.ones(CLASSES), BATCH).astype(np.float32)
MULTILABELS = (RNG.uniform(size=(BATCH, CLASSES)) < 0.4).astype(np.float32)
PIXELS = RNG.integers(0, 32, (BATCH, 6, 6, 3)).astype(np.float32)  # levels of 5 bits
KERNEL = np.array([[0, 3, 31], [31, 0, 1], [9, 31, 0], [4, 7, 2], [5, 3, 1], [8, 1, 0]], "f4")
COUNTS = np.arange(12, dtype=np.int32)
UPDATES, PARAMS = ({"a": floats(BATCH, 3), "b": floats(BATCH)} for _ in range(2))


# ---- how a row calls its function


def direct(function, data, numbers):
    return function(**data, **numbers)


def keyed(function, data, numbers):
    return function(KEY, **data, **numbers)


def mixed_once(function, data, numbers):
    return keyed(functools.partial(function, number=1), data, numbers)


def at_counts(function, data, numbers):
    return function(**numbers)(data["count"])


def one_update(function, data, numbers):
    """Returns what an update makes of the updates, and the state after it."""
    transform = function(**numbers)
    state = transform.init(data["params"])
    updates, state = transform.update(data["updates"], state, data["params"])
    return updates, [leaf for leaf in jax.tree.leaves(state) if jnp.ndim(leaf) == 0]


def accumulated(function, data, numbers):
    return one_update(functools.partial(function, optax.sgd(0.5)), data, numbers)


def thawed(function, data, numbers):
    layers = numbered(data["params"])
    return one_update(lambda share: function(share, layers), data, numbers)


def numbered(tree):
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, range(len(leaves)))


def by_name(function, data, numbers):
    return function(data["params"], list(data["params"]))


def between_hardness(function, data, numbers):
    return function(hardness_schedule=lambda count: count / 11, **numbers)(data["count"])


def per_two_updates(function, data, numbers):
    return function(lambda epoch: 2.0 * epoch, **numbers)(data["count"])


def of_state(function, data, numbers):
    optimizer = optax.chain(cj.clip(0.3), cj.add_decayed_weights(0.2), optax.trace(0.9))
    state = optimizer.init(data["params"])
    return function(optimizer.update(data["updates"], state, data["params"])[1])


def augmented(function, data, numbers):
    batch = {"image": data["images"], "label": INDICES, "weight": data["weight"]}
    batch = function(["flip", "crop", "mixup"], num_classes=CLASSES)(batch, KEY, **numbers)
    return batch["image"], batch["weight"]


def windows(function, data, numbers):
    return function(((3, 1), (2, 4)))(data["count"])


def restarted(function, data, numbers):
    return function(3, warmup=2)(data["count"])


def in_powers(function, data, numbers):
    return function(lambda total_steps: lambda count: count + total_steps)(5)(data["count"])


def asked(function, data, numbers):
    return function(lambda variables, images: images * variables, 2.0, **data)


def quantized_backwards(function, data, numbers):
    """Returns the gradient, which is what the function changes."""
    x = as_array(data["x"])
    _, of_gradient = jax.vjp(lambda x: function(x, key=KEY, **numbers), x)
    return of_gradient(x)[0]


def multiplied(function, data, numbers):
    kernel = jnp.asarray(KERNEL, as_array(data["lhs"]).dtype)
    return function(key=KEY, **numbers)(data["lhs"], kernel, (((1,), (0,)), ((), ())))


def convolved(function, data, numbers):
    kernel = jnp.asarray(KERNEL.reshape(2, 1, 3, -1), as_array(data["lhs"]).dtype)
    conv = function(key=KEY, **numbers)
    return conv(data["lhs"], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Case(NamedTuple):
    name: str  # of an attribute of `cyclical_jax`, or "module.function"
    data: Mapping[str, Any]  # trees of arrays: floats may be of any dtype, the first axis spread
    numbers: Mapping[str, float] = {}  # may be traced; awkward ones, such that 1 - x is rounded
    call: Callable = direct
    keeps_dtype: bool = False  # of the data; else results are float32
    is_on_host: bool = False  # its result is NumPy's, so it cannot be traced
    takes_trees: bool = False

    def run(self, data, numbers):
        return self.call(function_of(self.name), data, numbers)


def function_of(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"cyclical_jax.{module}") if module else cj, attribute)


def loss(name, labels=INDICES, **numbers):
    return Case(name, {"logits": LOGITS, "labels": labels}, numbers)


def operation(name, **numbers):
    data = {"images": IMAGES}
    return Case(f"augment.{name}", data, {"strength": 0.7} | numbers, keyed, keeps_dtype=True)


def mixture(name):
    data = {"images": IMAGES, "labels": {"label": PROBABILITIES, "weight": floats(BATCH)}}
    numbers = {"strength": 0.7, "alpha": 0.7}
    return Case(f"augment.{name}", data, numbers, keyed, keeps_dtype=True)


def transform(name, call=one_update, **numbers):
    data = {"updates": UPDATES, "params": PARAMS}
    return Case(name, data, numbers, call, keeps_dtype=True, takes_trees=True)


def schedule(name, call=at_counts, **numbers):
    return Case(name, {"count": COUNTS}, numbers, call)


CASES = (
    loss("softmax_cross_entropy", temperature=1.3, label_smoothing=0.013),
    loss("softmax_cross_entropy", PROBABILITIES, temperature=1.3, label_smoothing=0.013),
    loss("focal_loss", gamma=1.7, temperature=1.3, label_smoothing=0.013),
    loss("asymmetric_focal_loss", gamma_pos=1.7, gamma_neg=0.7, label_smoothing=0.013),
    loss("cyclical_focal_loss", hardness=0.013, gamma_hc=2.7, label_smoothing=0.013),
    loss("cyclical_focal_loss", PROBABILITIES, hardness=0.013, gamma_hc=2.7, gamma_neg=0.7),
    loss("asymmetric_multilabel_loss", MULTILABELS, gamma_pos=1.7, gamma_neg=0.7, margin=0.013),
    loss("cyclical_multilabel_loss", MULTILABELS, hardness=0.013, gamma_neg=0.7, margin=0.013),
    Case("weighted_mean", {"losses": LOGITS[0], "weights": PROBABILITIES[0]}),
    schedule("hardness_schedule", total_steps=11, factor=2.7),
    schedule("cyclical_schedule", easy=0.013, hard=1.7, total_steps=11, factor=2.7),
    schedule("between", between_hardness, easy=0.013, hard=1.7),
    schedule("per_epoch", per_two_updates, steps_per_epoch=2),
    schedule("warm_restart_schedule", restarted),
    Case("as_integer", {"count": COUNTS}, {"schedule": 1.7}, at_counts),
    transform("add_decayed_weights", weight_decay=0.013),
    transform("clip", max_delta=0.7),
    transform("clip_by_global_norm", max_norm=0.7),
    transform("adaptive_grad_clip", clipping=0.7, eps=0.013),
    transform("accumulate_gradients", accumulated, every=1),
    transform("current_values", of_state),
    transform("num_updates", of_state),
    transform("finetuning.scale_by_layer", thawed, share=0.7),
    transform("finetuning.layers_by_name", by_name),
    Case(
        "averaging.moving_average",
        {"average": UPDATES, "new": PARAMS},
        {"decay": 0.997, "step": 2900},
        keeps_dtype=True,
        takes_trees=True,
    ),
    schedule("accumulation.windows_schedule", windows),
    schedule("accumulation.powers_of_two", in_powers),
    operation("random_crop"),
    operation("random_flip"),
    operation("random_affine", rotation=31.7, translation=0.13, shear=0.37),
    operation("random_brightness", most=0.37),
    operation("random_contrast", most=0.37),
    operation("random_saturation", most=0.37),
    operation("random_erase", most=0.57),
    operation("random_mix")._replace(call=mixed_once),
    mixture("mixup"),
    mixture("cutmix"),
    Case(
        "augment.affine",
        {
            "images": IMAGES,
            "matrix": np.eye(2) + 0.2 * floats(BATCH, 2, 2),
            "shift": floats(BATCH, 2),
        },
        {"fill": 0.37},
        keeps_dtype=True,
    ),
    Case(
        "augment.augment",
        {"images": IMAGES, "weight": floats(BATCH)},
        {"strength": 0.7},
        augmented,
        keeps_dtype=True,
    ),
    Case("curriculum.difficulty_ranks", {"difficulty": floats(8)}),
    Case("curriculum.sample_weights", {"ranks": np.linspace(0, 1, 6)}, {"preference": 1.7}),
    Case(
        "curriculum.update_difficulty",
        {"difficulty": floats(8), "index": INDICES, "losses": floats(BATCH)},
        {"decay": 0.997},
        keeps_dtype=True,
    ),
    Case("distillation.teacher_logits", {"images": LOGITS}, call=asked, is_on_host=True),
    Case(
        "distillation.distillation_loss",
        {"logits": LOGITS, "teacher_logits": OTHERS},
        {"temperature": 1.3},
    ),
    Case("precision.fake_quantize", {"x": LOGITS}, {"bits": 5.3}, keeps_dtype=True),
    Case(
        "precision.quantize_gradient",
        {"x": LOGITS},
        {"bits": 5.3},
        quantized_backwards,
        keeps_dtype=True,
    ),
    Case(
        "precision.quantized_dot_general",
        {"lhs": PROBABILITIES},
        {"bits": 5.3, "gradient_bits": 6.7, "activation_bits": 4.6},
        multiplied,
        keeps_dtype=True,
    ),
    Case(
        "precision.quantized_conv",
        {"lhs": PIXELS},
        {"bits": 5.3, "gradient_bits": 6.7, "activation_bits": 4.6},
        convolved,
        keeps_dtype=True,
    ),
    Case(
        "precision.relative_cost",
        {},
        {"bits": 5.3, "gradient_bits": 8.4, "activation_bits": 6.1, "reference": 16.0},
    ),
    Case("semisupervised.pseudo_labels", {"logits": LOGITS}, {"threshold": 0.51}),
    Case(
        "semisupervised.pseudo_label_loss",
        {"strong_logits": LOGITS, "weak_logits": OTHERS},
        {"threshold": 0.51, "temperature": 1.3},
    ),
)
# Functions of whole numbers, which the host computes with before anything is traced.
ON_HOST: dict[str, Callable] = {
    "updates_of": lambda function, whole: function(whole(10), whole(3)),
    "cycle_ends": lambda function, whole: function(whole(10), whole(3), warmup=whole(1)),
    "accumulation.uniform_windows": lambda function, whole: function(whole(10), whole(3)),
    "accumulation.windows_of_updates": lambda function, whole: function(rising, whole(5)),
    "accumulation.windows_of_micro_steps": lambda function, whole: function(
        rising, whole(10), least=whole(2), minimum=whole(1)
    ),
}


def rising(total_steps):
    return lambda count: 1 + count / total_steps


def public_functions():
    """Returns the names of the functions of floors 1 and 2 that are maths, from the package."""
    found = {}
    for name in getattr(cj, "__all__", dir(cj)):
        if inspect.isfunction(getattr(cj, name, None)) and not name.startswith("_"):
            found[getattr(cj, name)] = name
    for module in MODULES:
        for name, member in vars(importlib.import_module(f"cyclical_jax.{module}")).items():
            is_own = getattr(member, "__module__", "") == f"cyclical_jax.{module}"
            if inspect.isfunction(member) and is_own and not name.startswith("_"):
                found.setdefault(member, f"{module}.{name}")
    return set(found.values())


def test_every_public_function_has_a_row():
    rows = {case.name for case in CASES} | ON_HOST.keys()
    assert public_functions() == rows


# ---- the conditions


def rows(is_wanted=lambda case: not case.is_on_host):
    wanted = [case for case in CASES if is_wanted(case)]
    return pytest.mark.parametrize("case", wanted, ids=lambda case: case.name)


@functools.cache
def _compiled(number):
    return jax.jit(CASES[number].run)


def compiled(case):
    return _compiled(next(number for number, other in enumerate(CASES) if other is case))


def cast(tree, dtype):
    """Returns the floats of a tree in `dtype`; other leaves as they are."""

    def leaf_in(leaf):
        return jnp.asarray(leaf, dtype if is_floating(leaf) else None)

    return jax.tree.map(leaf_in, tree)


def is_floating(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def dtypes(tree):
    return [jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)]


def arrays(numbers, dtype=jnp.float32):
    return {name: jnp.asarray(value, dtype) for name, value in numbers.items()}


def assert_close(found, expected, **tolerance):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(
            np.asarray(one, np.float64), np.asarray(other, np.float64), **tolerance
        )


NEARLY = dict(rtol=2e-6, atol=2e-6)


@rows(lambda case: case.numbers)
def test_traced_numbers_of_low_precision_are_computed_with_in_float32(case):
    data, low = cast(case.data, jnp.float32), arrays(case.numbers, jnp.bfloat16)
    found, expected = compiled(case)(data, low), compiled(case)(data, cast(low, jnp.float32))
    assert_close(found, expected, **NEARLY)
    for dtype in LOW:
        found = jax.eval_shape(case.run, data, arrays(case.numbers, dtype))
        assert dtypes(found) == dtypes(expected)


@rows()
def test_data_of_low_precision_are_computed_with_in_float32(case):
    numbers = arrays(case.numbers)
    for dtype in LOW:
        data = cast(case.data, dtype)
        found = jax.tree.leaves(jax.eval_shape(case.run, data, numbers))
        kept = dtype if case.keeps_dtype else jnp.float32
        of_arrays = dtypes([leaf for leaf in found if leaf.ndim])
        assert {name for name in of_arrays if is_floating(name)} <= {jnp.dtype(kept)}
    data = cast(case.data, jnp.bfloat16)
    found, expected = (
        compiled(case)(data, numbers),
        compiled(case)(cast(data, jnp.float32), numbers),
    )
    assert_close(found, expected, **(dict(rtol=2**-8, atol=1e-6) if case.keeps_dtype else NEARLY))


@rows()
def test_strict_promotion_is_possible(case):
    plain = functools.partial(case.run, numbers=case.numbers)
    wide, low = (cast(case.data, dtype) for dtype in (jnp.float32, jnp.bfloat16))
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(plain, wide)
        jax.eval_shape(plain, low)
        jax.eval_shape(case.run, low, arrays(case.numbers))
        jax.eval_shape(case.run, wide, arrays(case.numbers, jnp.bfloat16))


@rows()
def test_a_mesh_with_explicit_axes_gives_the_same(case):
    mesh = jax.make_mesh((2,), ("data",))

    def spread(leaf):
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec("data")))

    data, numbers = cast(case.data, jnp.float32), arrays(case.numbers)
    found = compiled(case)(jax.tree.map(spread, data), numbers)
    assert_close(found, compiled(case)(data, numbers), **NEARLY)


@rows(lambda case: case.numbers)
def test_numbers_are_mapped(case):
    data = cast(case.data, jnp.float32)
    half = {
        name: value if isinstance(value, int) else value / 2 for name, value in case.numbers.items()
    }
    both = jax.tree.map(lambda *values: jnp.array(values, jnp.float32), case.numbers, half)
    found = jax.jit(jax.vmap(case.run, (None, 0)))(data, both)
    for member, numbers in enumerate((case.numbers, half)):
        expected = compiled(case)(data, arrays(numbers))
        assert_close(jax.tree.map(lambda leaf, m=member: leaf[m], found), expected, **NEARLY)


@rows()
def test_gradients_are_finite_at_zero_too(case):
    def total(of, others, numbers):
        found = jax.tree.leaves(case.run(together(of, others), numbers))
        return sum(map(jnp.sum, filter(is_floating, found)), start=jnp.zeros([]))

    data, numbers = cast(case.data, jnp.float32), arrays(case.numbers)
    gradient = jax.jit(jax.grad(total, (0, 2)))
    of, others = split(data)
    for at in (of, jax.tree.map(jnp.zeros_like, of)):
        for leaf in jax.tree.leaves(gradient(at, others, numbers)):
            assert np.isfinite(leaf).all()


def split(data):
    """Returns the floats of a tree, and its other leaves; None instead of the others in each."""
    return tuple(
        jax.tree.map(lambda leaf, w=wanted: leaf if is_floating(leaf) is w else None, data)
        for wanted in (True, False)
    )


def together(one, other):
    return jax.tree.map(
        lambda a, b: b if a is None else a, one, other, is_leaf=lambda leaf: leaf is None
    )


# ---- trees


class Pair(NamedTuple):
    a: Any
    b: Any
    nothing: Any = None


@jax.tree_util.register_pytree_with_keys_class
class Layer:
    """A callable tree, such as a module of Equinox."""

    def __init__(self, a, b, nothing=None):
        self.a, self.b, self.nothing = a, b, nothing

    def __call__(self, x):
        raise AssertionError("Parameters were called as if they were a function of them.")

    def tree_flatten_with_keys(self):
        names = ("a", "b", "nothing")
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def state_of(a, b):
    return nnx.State({"a": nnx.Param(a), "b": nnx.Param(b)})


KINDS: dict[str, Callable] = {
    "dict with None": lambda a, b: {"a": a, "b": b, "c": None},
    "nested": lambda a, b: {"a": {"inner": [a]}, "b": (b,)},
    "FrozenDict": lambda a, b: flax.core.freeze({"a": a, "b": b}),
    "nnx.State": state_of,
    "NamedTuple": Pair,
    "callable": Layer,
}


@rows(lambda case: case.takes_trees and case.call is not by_name)
def test_trees_of_every_kind_give_the_same_leaves(case):
    plain, numbers = cast(case.data, jnp.float32), arrays(case.numbers)
    expected = compiled(case)(plain, numbers)
    kinds = {
        kind: {name: make(**tree) for name, tree in plain.items()} for kind, make in KINDS.items()
    }

    def of_all_kinds(kinds, numbers):  # one program is compiled sooner than six
        return {kind: case.run(data, numbers) for kind, data in kinds.items()}

    for kind, found in jax.jit(of_all_kinds)(kinds, numbers).items():
        assert_close(found, expected, **NEARLY, err_msg=kind)
        if case.call in (one_update, thawed, accumulated):
            assert jax.tree.structure(found[0]) == jax.tree.structure(kinds[kind]["updates"])


@pytest.mark.parametrize("kind", ["dict with None", "nested", "FrozenDict", "nnx.State"])
def test_layers_are_found_by_name_in_mappings_of_every_kind(kind):
    params = KINDS[kind](**PARAMS)
    layers = finetuning.layers_by_name(params, list(params))
    assert jax.tree.leaves(layers) == [0, 1]
    assert jax.tree.structure(layers) == jax.tree.structure(params)


# ---- functions of the host


@pytest.mark.parametrize("name", ON_HOST)
def test_whole_numbers_of_numpy_are_whole_numbers(name):
    results = [ON_HOST[name](function_of(name), whole) for whole in (int, np.int32, np.array)]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("name", sorted(public_functions()))
def test_help_prints_a_readable_signature(name):
    """Long unions and reprs of types come from annotations that are not names."""
    signature = str(inspect.signature(function_of(name)))
    assert "ndarray[" not in signature and "Union[" not in signature and "<" not in signature


def test_what_needs_the_trainer_says_what_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cyclical_jax.trained", None)
    with pytest.raises(ModuleNotFoundError, match=r"load_run needs more .*in the clone") as error:
        cj.load_run  # noqa: B018
    assert error.value.name == "cyclical_jax.trained"
    assert str(error.value).endswith('pip install ".[train]".')
