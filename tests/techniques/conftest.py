"""A batch, and earlier runs from which techniques take."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from cyclical_jax.catalogue import parse
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.files import CHECKPOINTS, CONFIG
from cyclical_jax.training.keeper import Keeper
from cyclical_jax.training.run import begin
from tests.techniques.helpers import CLASSES, config_of, digits, some_images, train


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": some_images(6, seed=0),
        "label": rng.integers(0, CLASSES, 6).astype(np.int32),
        "index": np.arange(6, dtype=np.int32),
    }


@pytest.fixture(scope="session")
def earlier_runs(tmp_path_factory, fast):
    """{name: workdir} of a run with a moving average, one without, and one of other widths.

    The first was trained; the others have random variables.
    """
    root = tmp_path_factory.mktemp("earlier")
    kinds = {
        "averaged": dict(ema_decay=0.5, model__batch_norm=True),
        "plain": dict(model__batch_norm=True),
        "wide": dict(model__hidden_sizes=(9,)),
    }
    with fast():
        for seed, (name, changes) in enumerate(kinds.items()):
            _make_run(root / name, config_of(**changes, seed=seed), is_trained=name == "averaged")
    return {name: str(root / name) for name in kinds}


def _make_run(workdir, config, *, is_trained):
    workdir.mkdir()
    (workdir / CONFIG).write_text(json.dumps(config.to_dict()))
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
        if is_trained:
            train(parse(config), digits(), keeper=Keeper(checkpoints, every=1e9))
        else:
            checkpoints.save(_drawn(begin(parse(config), digits())))


def _drawn(snapshot):
    rng, state = np.random.default_rng(0), snapshot.state

    def moved(leaf):
        return leaf + rng.uniform(0.1, 0.9, leaf.shape).astype(leaf.dtype)

    params, model_state = jax.tree.map(moved, (state.params, state.model_state))
    return snapshot._replace(state=state._replace(params=params, model_state=model_state))


@pytest.fixture(params=["nowhere", "no checkpoint", "other classes"])
def unfit(request, earlier_runs, tmp_path):
    """(workdir of an earlier run that cannot teach, dataset, what is wrong with it)."""
    workdir, dataset = tmp_path / "run", digits()
    if request.param == "nowhere":
        return str(workdir), dataset, "no run that can be used"
    if request.param == "no checkpoint":
        workdir.mkdir()
        (workdir / CONFIG).write_text(Path(earlier_runs["plain"], CONFIG).read_text())
        return str(workdir), dataset, f"there is no {workdir / CHECKPOINTS}"
    return earlier_runs["wide"], dataset._replace(num_classes=11), "must be a run with 11 classes"
