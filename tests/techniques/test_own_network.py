"""A linen module class of somebody's, by its place: its attributes are keys of the run."""

import importlib
import json
import sys

import jax
import jax.numpy as jnp
import pytest

from cyclical_jax.catalogue import (
    CATALOGUE,
    default_config,
    describe,
    parse,
    with_network,
    with_plugins,
)
from cyclical_jax.training.assembly import assemble_model
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.inputs import identities
from cyclical_jax.training.recipe import change, cyclical, with_own_defaults
from cyclical_jax.training.run import plan
from cyclical_jax.training.technique import Spec
from tests.helpers import bright_classes

DATASET = bright_classes(80, 40)
IMAGES = jax.random.normal(jax.random.key(5), (2, 3, 3, 1))
SPEC = Spec(80, 4, (3, 3, 1))
FILE = """
from typing import Any, Literal, Optional, Sequence
import flax.linen as nn
import jax
import jax.numpy as jnp


class Net(nn.Module):
    num_classes: int
    hidden_sizes: Sequence[int] = (8, 7)  # ours is (64,)
    activation: Literal["relu", "gelu"] = "relu"
    dropout: float = 0.25  # ours may be None
    skip: Optional[int] = None
    kernel_init: Any = nn.initializers.he_normal()
    dtype: Any = jnp.float32
    axis_name: Optional[str] = None

    @nn.compact
    def __call__(self, x, train: bool):
        x = x.reshape(len(x), -1)
        for size in self.hidden_sizes:
            x = nn.Dense(size, dtype=self.dtype, kernel_init=self.kernel_init)(x)
            x = nn.BatchNorm(not train, axis_name=self.axis_name)(x)
            x = getattr(nn, self.activation)(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x).astype(jnp.float32)


class Fixed(nn.Module):
    width: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x):
        hidden = nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1)))
        return self.scale * nn.Dense(4)(hidden)


class Scaled(nn.Module):
    scale: float

    @nn.compact
    def __call__(self, x):
        return self.scale * nn.Dense(4)(x.reshape(len(x), -1))


class Typed(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, *inputs, **options):
        (x,) = inputs
        return nn.Dense(4, dtype=self.dtype)(x.reshape(len(x), -1))


class Half(Typed):
    dtype: Any = jnp.float16


class Odd(Typed):
    dtype: Any = None


class Seven(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(7)(x.reshape(len(x), -1))


class Raising(nn.Module):
    @nn.compact
    def __call__(self, x):
        return self.absent


class Needy(nn.Module):
    activation: Any

    def __call__(self, x):
        return x


class Called(nn.Module):
    def __call__(self, x, mask):
        return x


class Bare:
    pass


def function(x):
    return x
"""


@pytest.fixture
def own(tmp_path):
    """Returns the name of a class of the file."""
    (tmp_path / "mine.py").write_text(FILE)
    return lambda name="Net": f"{tmp_path}/mine.py:{name}"


def config_of(name, **changes):
    changes = {f"model.{key}": value for key, value in changes.items()}
    return changed(default_config(), {"model.name": name, **changes})


def changed(config, changes):
    return change(CATALOGUE, config.copy_and_resolve_references(), changes)


def recipe_of(name, **changes):
    return parse(config_of(name, **changes))


def model_of(name, axis_name=None, **changes):
    return assemble_model(recipe_of(name, **changes).structure, SPEC, axis_name)


def initialised(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros([1, 3, 3, 1])))


def test_its_attributes_are_keys_with_its_own_defaults(own):
    catalogue = with_network(own())
    config = default_config(catalogue)
    assert config.model.name == own()
    assert config.model.hidden_sizes == (8, 7) and config.model.dropout == 0.25
    assert config.model.activation == "relu" and config.model.skip is None
    assert config.model.dtype == "float32"
    assert catalogue.keys.keys() - CATALOGUE.keys.keys() == {"model.activation", "model.skip"}
    recipe = parse(config)  # also where the catalogue is ours
    assert recipe.catalogue is catalogue is with_network(own())
    assert parse(config, catalogue=catalogue).structure == recipe.structure
    assert dict(recipe.structure.techniques[0][1]) == {
        "model.name": own(),
        "model.hidden_sizes": (8, 7),
        "model.activation": "relu",
        "model.dropout": 0.25,
        "model.skip": None,
        "model.dtype": "float32",
    }
    told = "model.activation = 'relu'\n    attribute activation of Net\n    allowed: relu or gelu\n"
    assert told in describe(config)


def test_the_other_networks_keep_their_keys(own):
    catalogue = with_network(own())
    config = default_config(catalogue)
    config.model.name = "mlp"
    with pytest.raises(RecipeError, match="^model.activation is not a key of a config"):
        parse(config, catalogue=catalogue)
    base = catalogue.of({"model.name": "mlp"})
    assert base.keys.keys() == CATALOGUE.keys.keys() and base.plugins == ()
    assert base.techniques == CATALOGUE.techniques


def test_changes_win_over_its_defaults_and_its_defaults_over_ours(own):
    base = default_config()
    assert config_of(own()).model.hidden_sizes == (8, 7)
    assert config_of(own(), hidden_sizes=(64,)).model.hidden_sizes == (64,)  # ours, but set
    base.model.name = own()
    base.model.dropout = 0.5
    settled = with_own_defaults(CATALOGUE, base)
    assert (settled.model.dropout, settled.model.hidden_sizes) == (0.5, (8, 7))
    again = changed(settled, {"model.hidden_sizes": (64,)})
    assert changed(again, {"seed": 3}).model.hidden_sizes == (64,)
    back = changed(settled, {"model.name": "mlp", "model.dropout": None})
    assert "activation" not in back.model and back.model.hidden_sizes == (64,)
    parse(back)


def test_values_reach_the_module(own):
    params, state = initialised(model_of(own(), hidden_sizes=(5,), activation="gelu"))
    assert params["Dense_0"]["kernel"].shape == (9, 5) and "batch_stats" in state
    assert params["Dense_1"]["kernel"].shape == (5, 4)  # num_classes
    low = model_of(own(), dtype="bfloat16", dropout=0.0)
    variables = low.init(jax.random.key(0), IMAGES)
    logits, _ = low.apply(*variables, IMAGES, train=False)
    exact, _ = model_of(own()).apply(*variables, IMAGES, train=False)
    assert 0 < float(jnp.abs(logits - exact).max()) < 0.1


@pytest.mark.parametrize(
    "name, default", [("Typed", "float32"), ("Half", "float16"), ("Odd", None), ("Net", "float32")]
)
def test_a_dtype_has_the_default_of_the_class(own, name, default):
    config = config_of(own(name))
    assert config.model.dtype == default
    plan(parse(config), DATASET, num_devices=1)
    config.model.dtype = "bfloat16"
    model = assemble_model(parse(config).structure, SPEC)
    if name != "Net":  # whose logits are always float32
        variables = initialised(model)
        outputs, _ = jax.eval_shape(lambda v: model.apply(*v, IMAGES, train=False), variables)
        assert outputs.dtype == jnp.bfloat16


def test_the_axis_is_given_to_a_class_that_has_it(own):
    model = model_of(own(), axis_name="devices", dropout=0.0)
    images = jax.random.normal(jax.random.key(1), (2, 5, 3, 3, 1))
    variables = model.init(jax.random.key(0), images[0])
    key = jax.random.key(2)
    apply = jax.vmap(
        lambda x: model.apply(*variables, x, train=True, key=key)[1], axis_name="devices"
    )
    mean = apply(images)["batch_stats"]["BatchNorm_0"]["mean"]
    assert (mean[0] == mean[1]).all() and bool(mean.any())


def test_dropout_draws_in_training_alone(own):
    def drawn(model):
        keys = map(jax.random.key, (1, 2))
        return [model.apply(*variables, IMAGES, train=True, key=key)[0] for key in keys]

    model = model_of(own(), dropout=0.5)
    variables = model.init(jax.random.key(0), IMAGES)
    judged = [model.apply(*variables, IMAGES, train=False)[0] for _ in range(2)]
    assert (judged[0] == judged[1]).all()
    one, two = drawn(model)
    assert not (one == two).all()
    one, two = drawn(model_of(own(), dropout=0.0))  # the class's default is another
    assert (one == two).all()


def test_a_class_without_train_and_num_classes_is_trained(own):
    recipe = recipe_of(own("Fixed"), width=6, scale=cyclical(1.0, 2.0))
    plan(recipe, DATASET, num_devices=1)
    assert recipe.numbers["model.scale"].hard == 2
    model = assemble_model(recipe.structure, SPEC)
    variables = model.init(jax.random.key(0), IMAGES)
    one, two = (
        model.apply(*variables, IMAGES, train=True, scale=scale)[0]
        for scale in (jnp.float32(1), jnp.float32(2))
    )
    assert jnp.allclose(2 * one, two) and bool(one.any())


def test_an_importable_class_is_hashed_by_its_file(own, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "__init__.py").write_text("from .nets import Net")
    (tmp_path / "package_of_mine" / "nets.py").write_text(FILE)
    importlib.invalidate_caches()
    by_module = recipe_of("package_of_mine:Net")
    by_path = recipe_of(own())
    named = ["plugin nets.py:Net", "plugin mine.py:Net"]
    digests = [identities(by_module)[named[0]], identities(by_path)[named[1]]]
    assert digests[0] == digests[1] and digests[0].startswith("content ")
    for name in ("package_of_mine", "package_of_mine.nets"):
        del sys.modules[name]


def test_a_changed_file_is_another_catalogue(own, tmp_path):
    first = with_network(own())
    (tmp_path / "mine.py").write_text(FILE + "# changed")
    second = with_network(own())
    assert first is not second and first.plugins != second.plugins
    assert [name for name, _ in second.plugins] == ["mine.py:Net"]


def test_beside_a_plugin(own, tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text("LOSSES = {'squared': lambda logits, labels: logits.sum(-1) ** 2}")
    catalogue = with_network(own(), with_plugins([path]))
    config = default_config(catalogue)
    config.loss.name = "squared"
    recipe = parse(config, catalogue=with_plugins([path]))
    assert [name for name, _ in recipe.catalogue.plugins] == ["plugin.py", "mine.py:Net"]


WRONG = {
    "Absent": ": there is no Absent in {path}; it has Net, Fixed, Scaled, Typed, Half, Odd",
    "Bare": " must be a class that inherits flax.linen.Module, got another class.",
    "function": " must be a class that inherits flax.linen.Module, got a function.",
    "Needy": ": its attribute activation has no default, and no key can express its type; give it",
    "Called": " is called as module(images, train=...) or module(images), but its __call__ takes x",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_class_that_cannot_be_a_network_is_a_line(own, name):
    with pytest.raises(RecipeError) as error:
        recipe_of(own(name))
    line = WRONG[name].format(path=own().rpartition(":")[0])
    assert str(error.value).startswith(f"model.name {own(name)!r}{line}")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name, content, line",
    [
        ("none.py:Net", None, " cannot be read: No such file or directory."),
        ("broken.py:Net", "import nothing_such", ", line 1: ModuleNotFoundError: No module named "),
        ("broken.py:Net", "def x(:", ": SyntaxError: invalid syntax"),
        ("broken.py:Net", "raise OSError('one\\ntwo')", ", line 1: OSError: one"),
        ("bare.py:Net", "x = 1", ": there is no Net in {path}; it has no class."),
    ],
)
def test_a_file_that_cannot_be_used_is_a_line(tmp_path, name, content, line):
    place = f"{tmp_path}/{name}"
    if content:
        (tmp_path / name.partition(":")[0]).write_text(content)
    with pytest.raises(RecipeError) as error:
        recipe_of(place)
    wanted = line.format(path=place.partition(":")[0])
    assert str(error.value).startswith(f"model.name {place!r}{wanted}")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name, line",
    [
        (
            "~nobody-has-this-name/x.py:Net",
            "model.name '~nobody-has-this-name/x.py:Net' must be a pat",
        ),
        (
            "gs://bucket/x.py:Net",
            "model.name 'gs://bucket/x.py:Net' must be a path on this machine",
        ),
        (
            "no.such.module:Net",
            "model.name 'no.such.module:Net': ModuleNotFoundError: No module na",
        ),
        (
            "mine.py",
            "model.name must be path/to/file.py:ClassName, or one of our networks, got 'mi",
        ),
        ("nets/mine", "model.name must be path/to/file.py:ClassName, or one of our networks, got "),
        ("sys:Net", "model.name 'sys:Net' cannot be read: No such file or directory."),
        ("math:pi", "model.name 'math:pi' "),
        (":", "model.name ':': ValueError: Empty module name"),
        ("mlq", "model.name must be one of 'mlp', "),
    ],
)
def test_a_place_that_is_none_is_a_line(name, line):
    with pytest.raises(RecipeError) as error:
        recipe_of(name)
    assert str(error.value).startswith(line) and len(str(error.value).splitlines()) == 1


def test_what_a_run_of_it_lacks_is_a_line(own):
    def lines(name, **changes):
        with pytest.raises(RecipeError) as error:
            plan(recipe_of(own(name), **changes), DATASET, num_devices=1)
        return str(error.value)

    assert lines("Fixed") == (
        "model.width must be set to a whole number: the class has no default for it."
    )
    assert lines("Scaled") == (
        "model.scale must be set to a number: the class has no default for it."
    )
    assert lines("Scaled", scale=cyclical(1, 2)) == (
        "model.scale must be a number, got {'easy': 1, 'hard': 2, 'scale': 'linear'}."
    )
    assert lines("Net", activation="tanh") == (
        "model.activation must be one of 'relu', 'gelu', got 'tanh'."
    )
    assert lines("Net", widths=(3,)).startswith("model.widths is read where model.name is 'cnn'")
    assert lines("Seven") == (
        f"model.name {own('Seven')!r}: its outputs for 3 inputs must be floats of shape [3, 4], "
        "got float32[3, 7]."
    )
    path, line = own().rpartition(":")[0], FILE[: FILE.index("self.absent")].count("\n") + 1
    assert lines("Raising") == (
        f'model.name {own("Raising")!r}: AttributeError: "Raising" object has no attribute '
        f'"absent". ({path}, line {line})'
    )
    assert lines("Net", dropout=cyclical(0, 0.5)).startswith(
        f"model.name {own()!r}: TracerBoolConversionError: "
    )


def test_json_keeps_its_values(own):
    config = config_of(own(), hidden_sizes=(5, 6))
    stored = json.loads(json.dumps(config.to_dict()))
    catalogue = CATALOGUE.of(stored)
    assert catalogue is with_network(own())
    assert catalogue.keys["model.hidden_sizes"].check("", stored["model"]["hidden_sizes"]) == (5, 6)
