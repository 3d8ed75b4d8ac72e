"""BatchNorm over groups of devices, against statistics by hand."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from cyclical_jax.models import make_model

ROOT = Path(__file__).parents[2]
NAMES = ["mlp", "patch_dense", "cnn", "resnet10", "tresnet_m"]
SMALL = {"mlp": (5,), "patch_dense": (5,), "cnn": ()}  # hidden sizes; the others have none


def make(name, **options):
    more = dict(hidden_sizes=SMALL[name], batch_norm=True) if name in SMALL else {}
    return make_model(name, num_classes=3, **more, **options)


def groups_of(name, group, number):
    """Returns the groups of each mean over `number` devices, and how many BatchNorms there are."""
    images = jax.ShapeDtypeStruct((2, 32, 32, 1), np.float32)
    variables = jax.eval_shape(make(name, axis_name=None).init, jax.random.key(0), images)
    model = make(name, axis_name="devices", batch_norm_group=group)

    def train(variables, images):
        return model.apply(*variables, images, train=True)

    jaxpr = jax.make_jaxpr(train, axis_env=[("devices", number)])(variables, images)
    groups = [
        eqn.params["axis_index_groups"]
        for eqn in equations(jaxpr.jaxpr)
        if eqn.params.get("axis_index_groups", "none") != "none"
        and eqn.primitive.name != "axis_index"
    ]
    return groups, len(jax.tree.leaves(variables[1])) // 2


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_of_every_network_is_in_groups_of_neighbours(name):
    groups, number = groups_of(name, 2, 6)
    assert len(groups) == number > 0
    assert {str(np.array(of).tolist()) for of in groups} == {"[[0, 1], [2, 3], [4, 5]]"}


@pytest.mark.parametrize("group, expected", [(None, [None]), (6, [None]), (1, [])])
def test_all_devices_are_one_group_and_one_device_asks_no_other(group, expected):
    assert groups_of("mlp", group, 6) == (expected, 1)


@pytest.mark.parametrize("group", [4, 5, 12, 0, -2, 1.5])
def test_groups_that_leave_devices_are_one_line(group):
    words = "be a whole number from 1 to 6" if group in (12, 0, -2, 1.5) else "divide the 6 devices"
    with pytest.raises(ValueError) as error:
        groups_of("mlp", group, 6)
    first, *_ = str(error.value).splitlines()  # the others are JAX's own
    assert first == f"`batch_norm_group` must {words}, got {group}."


@pytest.mark.parametrize("train", [True, False])
def test_outside_of_an_axis_it_is_all_there_is(train):
    images = jax.ShapeDtypeStruct((6, 4, 4, 1), np.float32)

    def program(group):
        model = make("mlp", axis_name=None, batch_norm_group=group)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        apply = jax.make_jaxpr(lambda v, x: model.apply(*v, x, train=train))
        return str(apply(variables, images))

    assert program(3) == program(1) == program(None)


SCRIPT = """
import jax, numpy as np
from cyclical_jax.models.batch_norm import batch_norm
x = np.random.default_rng(3).normal(size=(4, 5, 3)).astype("float32") * [[[1]], [[2]], [[4]], [[8]]]
layer = batch_norm(False, axis_name=None, group=None)
variables = layer.init(jax.random.key(0), x[0])
def train(x):
    layer = batch_norm(True, axis_name="devices", group=2)
    return layer.apply(variables, x, mutable=["batch_stats"])
y, new = jax.pmap(train, "devices")(x.astype("float32"))
for pair in ([0, 1], [2, 3]):
    own = x[pair].reshape(10, 3)
    mean, var = own.mean(0), own.var(0)
    expected = (x[pair] - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(y[np.array(pair)], expected, rtol=1e-4, atol=1e-5)
    for device in pair:
        stats = new["batch_stats"]
        np.testing.assert_allclose(stats["mean"][device], 0.01 * mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(stats["var"][device], 0.99 + 0.01 * var, rtol=1e-4)
print("as by hand")
"""


@pytest.mark.slow
def test_two_of_four_devices_share_their_statistics():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "NPROC": "8"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX")}
    environment = kept | flags | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.stdout == "as by hand\n", ended.stderr
