"""What lies outside of a recipe: told apart by what is in it, wherever it lies."""

import jax.numpy as jnp
import pytest

from cyclical_jax.catalogue import CATALOGUE, default_config, parse, with_plugins
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import CHECKPOINTS
from cyclical_jax.training.inputs import identities
from cyclical_jax.training.recipe import put
from cyclical_jax.training.snapshots import Snapshot
from cyclical_jax.training.state import TrainState
from cyclical_jax.training.totals import Totals


def recipe(catalogue=CATALOGUE, **changes):
    config = default_config(catalogue)
    for key, value in changes.items():
        put(config, key.replace("__", "."), str(value))
    return parse(config, catalogue=catalogue)


def save(workdir, micro_step, value):
    counts = (jnp.int32(micro_step) for _ in range(4))
    state = TrainState({"w": jnp.float32(value)}, {}, (), {}, *counts)
    totals = Totals(jnp.int32(0), {}, {}, {"step": jnp.int32(-1)})
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
        checkpoints.save(Snapshot(state, totals, 0.0))


def test_a_recipe_of_itself_has_none():
    assert identities(recipe()) == {}
    assert identities(recipe(subset="balanced 100")) == {}


def test_an_index_file_is_its_content(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("0 1 2 3")
    second.write_text("0 1 2 3")
    one, other = (identities(recipe(subset=path)) for path in (first, second))
    assert one == other and one.keys() == {"subset"}
    second.write_text("0 1 2 4")
    assert identities(recipe(subset=second)) != one


@pytest.mark.parametrize("key", ["distillation.teacher", "curriculum.scorer", "finetuning.start"])
def test_an_earlier_run_is_its_newest_checkpoint(tmp_path, key):
    save(tmp_path / "a", 4, 1.0)
    save(tmp_path / "b", 4, 1.0)

    def of(name):
        return identities(recipe(**{key.replace(".", "__"): tmp_path / name}))

    assert of("a") == of("b") and of("a").keys() == {key}
    save(tmp_path / "b", 5, 1.0)
    save(tmp_path / "c", 4, 1.5)
    assert of("a") != of("b") and of("a") != of("c")


def test_a_run_that_is_not_there_is_one_line_with_the_key(tmp_path):
    with pytest.raises(RecipeError) as caught:
        identities(recipe(distillation__teacher=tmp_path))
    line = f"distillation.teacher: there is no checkpoint in {tmp_path / CHECKPOINTS}."
    hint = "Train that run first, or name the workdir of another one."
    assert str(caught.value) == f"{line} {hint}"


def test_a_plugin_is_its_content_beside_all_else(tmp_path):
    subset = tmp_path / "subset.txt"
    subset.write_text("0 1 2 3")

    def of(directory, line):
        path = tmp_path / directory / "mine.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{line}\nTECHNIQUES = ()\n")
        return identities(recipe(with_plugins([path]), subset=subset))

    one, other = of("a", "x = 1"), of("b", "x = 1")
    assert one == other and one.keys() == {"subset", "plugin mine.py"}
    assert of("b", "x = 2") != one and of("b", "x = 1") == one
