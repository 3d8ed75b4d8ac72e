import functools

import jax
import numpy as np
import pytest

from cyclical_jax.training import assembly, run
from cyclical_jax.training.technique import spec_of
from tests.training.test_population import dataset, recipe

# What XLA does by itself; the tests of all else do with less.
ALL = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
NETWORKS = {
    "mlp": dict(model__hidden_sizes=(6,), model__batch_norm=True),
    "cnn": dict(model__name="cnn", model__widths=(2,), model__hidden_sizes=()),
}


@pytest.mark.parametrize("network", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def test_less_effort_of_the_compiler_leaves_the_first_state_as_it_was(network):
    own, data = recipe(**NETWORKS[network], batch_size=12, ema_decay=0.9), dataset()
    assert run.compiled_for_one_call()
    found = run.begin(own, data).state
    spec, lengths = spec_of(data), run.plan(own, data).lengths

    @functools.partial(jax.jit, compiler_options=ALL)
    def with_all(numbers, seed):
        options = dict(timetable=lengths, spec=spec)
        return assembly.assemble_state(own.structure, numbers, seed, **options)

    expected = with_all(jax.tree.map(np.float32, own.numbers), own.seed)
    assert jax.tree.leaves(found.params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other, strict=True)
