"""Each script of examples/ is short, runs as a user runs it, and its numbers go easy, hard, easy.

At constant numbers the loops give the losses of Optax's own pieces: see `PIECES`.
"""

import ast
import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cyclical_jax as cj

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
# What the scripts import beside this project's own requirements; Haiku's package is dm-haiku.
PEERS = {"equinox_mlp": "equinox", "haiku_batches": "haiku", "keras_layers": "keras"}


# All that scripts import beside what comes with this package: {module: its name}.
NEEDED = {
    "equinox": "Equinox",
    "flax": "Flax",
    "haiku": "Haiku (dm-haiku)",
    "keras": "Keras",
    "sklearn": "scikit-learn",
}
THERE = {"cyclical_jax", "jax", "numpy", "optax", *sys.stdlib_module_names}


def needs_peer(name):
    peer = PEERS.get(name)
    if peer is not None and importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer}, which examples/{name}.py shows, is not installed")


def test_there_is_one_for_each_kind_of_project():
    kinds = {"plain_jax", "flax_nnx", "sharded_jit", "language_model", "segmentation", *PEERS}
    assert {path.stem for path in SCRIPTS} == kinds


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_and_says_how_it_is_run(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name}" in ast.get_docstring(ast.parse(text)).splitlines()[2]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_what_else_it_needs(path):
    tree = ast.parse(path.read_text())
    imports = re.findall(r"^(?:import|from) (\w+)", path.read_text(), re.M)
    names = [NEEDED[module] for module in sorted({*imports} - THERE)]
    assert ast.get_docstring(tree).splitlines()[2].partition("# needs ")[2] == " and ".join(names)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda p: p.stem)
def test_the_first_line_is_a_title_and_a_sentence(path):
    """The gallery of the site has a page with that title."""
    first = ast.get_docstring(ast.parse(path.read_text())).split("\n\n")[0]
    assert re.fullmatch(r"[A-Z][\w ]{3,25}: \S[^\n]+\.", first), first


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_learns_while_its_numbers_cycle(path):
    needs_peer(path.stem)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", str(path)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    first, peak, *_, last = (ast.literal_eval(row) for _, row in lines)
    assert [int(step) / int(lines[-1][0]) for step, _ in lines] == [0, 1 / 4, 1 / 2, 3 / 4, 1]
    assert len(first) >= 2 and first.keys() == peak.keys() == last.keys()
    for name in first.keys() - {"loss"}:
        assert first[name] == last[name] and first[name] != peak[name], name
        assert max(peak[name] / first[name], first[name] / peak[name]) >= 4, name
    assert last["loss"] < first["loss"] / 2


# ---- the original with our pieces at constants gives its own losses


def constant(value):
    """Returns a schedule from `value` over `value` to `value`: ours, not a plain number."""
    return cj.cyclical_schedule(value, value, total_steps=8, factor=2)


def optax_loss(logits, labels, step, where=None):
    """Masks by hand, and not by the library whose masks are tested."""
    is_kept = labels >= 0 if where is None else where
    logits = logits if where is None else jnp.moveaxis(logits, 1, -1)
    labels = jnp.where(is_kept, labels, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.where(is_kept, losses, 0)


def pixels(where):
    """Options of a loss: only the segmentation has a mask, and classes before the pixels."""
    return {} if where is None else {"axis": 1, "where": where}


def our_loss(logits, labels, step, where=None):
    numbers = {"gamma": constant(0.0)(step), "temperature": constant(1.0)(step)}
    return cj.focal_loss(logits, labels, **numbers, **pixels(where))


def our_cyclical_loss(logits, labels, step, where=None):
    """All weights are 1 at gammas of 0."""
    numbers = dict.fromkeys(("gamma_hc", "gamma_pos", "gamma_neg"), constant(0.0)(step))
    hardness = cj.hardness_schedule(8, factor=2)(step)
    numbers |= {"label_smoothing": 0.0}
    return cj.cyclical_focal_loss(logits, labels, hardness, **numbers, **pixels(where))


def chain(library, number):
    """All pieces at numbers at which each of them acts."""
    return optax.chain(
        library.clip_by_global_norm(number(0.5)),
        library.clip(number(0.01)),
        library.adaptive_grad_clip(number(0.5)),
        library.add_decayed_weights(number(1e-2)),
        optax.sgd(0.1, momentum=0.9),
    )


def optimizers(name):
    theirs, ours = chain(optax, float), chain(cj, constant)
    if name != "haiku_batches":
        return theirs, ours
    every = cj.as_integer(constant(3.0))
    return optax.MultiSteps(theirs, every_k_schedule=3), cj.accumulate_gradients(ours, every)


def losses_of(module, optimizer, loss_of, *arguments):
    rows = zip(range(12), module.train(optimizer, loss_of, *arguments), strict=False)
    return [float(row["loss"]) for _, row in rows]


def weighted_mean(losses, weights=1.0, *, labels=0, where=True):
    """By its formula: the loop of Optax's pieces is to have none of ours."""
    weights = jnp.broadcast_to(weights * where * (labels >= 0), losses.shape)
    return (weights * losses).sum() / weights.sum()


@pytest.fixture
def script(monkeypatch, request):
    """Yields the name and the module of a script."""
    needs_peer(request.param)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    spec = importlib.util.spec_from_file_location(
        f"examples_{request.param}", ROOT / "examples" / f"{request.param}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with jax.numpy_rank_promotion("allow"):  # other people's libraries need it
        yield request.param, module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("script", [path.stem for path in SCRIPTS], indirect=True)
def test_constants_give_the_losses_of_optax(script, monkeypatch):
    name, module = script
    devices = [jax.devices()] if name == "sharded_jit" else []
    theirs, ours = optimizers(name)
    with monkeypatch.context() as without_ours:
        without_ours.setattr(cj, "current_values", lambda opt_state: {})
        without_ours.setattr(cj, "weighted_mean", weighted_mean)
        expected = losses_of(module, theirs, optax_loss, *devices)
    assert len(expected) == 12 and math.isfinite(sum(expected))
    assert len(set(expected)) == 12  # they move
    for loss_of in (our_loss, our_cyclical_loss):
        np.testing.assert_allclose(losses_of(module, ours, loss_of, *devices), expected, rtol=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["sharded_jit"], indirect=True)
def test_two_devices_give_the_losses_of_one(script):
    _, module = script
    optimizer = chain(cj, constant)
    one, two = (
        losses_of(module, optimizer, our_cyclical_loss, jax.devices()[:count]) for count in (1, 2)
    )
    np.testing.assert_allclose(two, one, rtol=1e-5)
