"""A run that starts from an earlier one: what is read, which layers learn, what does not fit."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from cyclical_jax.techniques.finetuning import layers
from cyclical_jax.training import assembly
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.earlier import prepare
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import CHECKPOINTS, CONFIG
from cyclical_jax.training.recipe import cyclical
from cyclical_jax.training.run import begin
from cyclical_jax.training.technique import Spec
from tests.techniques.helpers import (
    CLASSES,
    PLAIN_SGD,
    assert_same,
    digits,
    flat,
    recipe,
    step_and_state,
    train,
)

pytestmark = pytest.mark.usefixtures("fast_compilation")

KEY = "finetuning.start"


def from_plain(earlier_runs, **changes):
    return recipe(finetuning__start=earlier_runs["plain"], model__batch_norm=True, **changes)


def start_of(run, **changes):
    dataset, earlier = prepare(run, digits()._replace(**changes))
    return begin(run, dataset, earlier=earlier).state


def test_a_run_starts_from_another_with_its_own_head_or_a_new_one(earlier_runs):
    kept, new = (
        start_of(from_plain(earlier_runs, seed=5, finetuning__new_head=new_head))
        for new_head in (False, True)
    )
    fresh = begin(recipe(model__batch_norm=True, seed=5), digits()).state
    with Checkpoints(Path(earlier_runs["plain"], CHECKPOINTS), read_only=True) as checkpoints:
        arrays = checkpoints.arrays()
    for state in (kept, new):
        np.testing.assert_array_equal(
            state.params["Dense_0"]["kernel"], arrays["0.params.Dense_0.kernel"]
        )
        mean = state.model_state["batch_stats"]["BatchNorm_0"]["mean"]
        np.testing.assert_array_equal(mean, arrays["0.model_state.batch_stats.BatchNorm_0.mean"])
    kept, new, fresh = (state.params["Dense_1"]["kernel"] for state in (kept, new, fresh))
    np.testing.assert_array_equal(kept, arrays["0.params.Dense_1.kernel"])
    np.testing.assert_allclose(new, fresh, rtol=1e-5)  # another program drew them


def test_the_head_learns_first_and_last(earlier_runs):
    own = dict(duration="5 steps", log_every="1 step")
    run = from_plain(earlier_runs, finetuning__share=cyclical(0, 1), **own)
    dataset, earlier = prepare(run, digits())
    start = jax.device_get(begin(run, dataset, earlier=earlier).state.params)
    cycled, rows = train(run, dataset, earlier=earlier)
    assert [row["share"] for row in rows] == [0, 0.5, 1, 0.5, 0]
    run = from_plain(earlier_runs, finetuning__share=0.0, **own)
    head_alone, _ = train(run, dataset, earlier=earlier)
    for name in ("Dense_0", "BatchNorm_0"):
        assert_same(head_alone.params[name], start[name])

    def has_learnt(state, name):
        return not np.array_equal(state.params[name]["kernel"], start[name]["kernel"])

    assert has_learnt(head_alone, "Dense_1")
    assert has_learnt(cycled, "Dense_1") and has_learnt(cycled, "Dense_0")


def test_the_share_scales_what_a_layer_learns(batch):
    step, state = step_and_state(
        finetuning__start="there",
        finetuning__share=0.25,  # of the one layer below the head
        model__hidden_sizes=(6,),
        **PLAIN_SGD | dict(optimizer__weight_decay=0.1),
    )
    new, _ = step(state, batch)
    before, after = jax.device_get((state.params, new.params))
    x, hidden, head = flat(batch["image"]), before["Dense_0"], before["Dense_1"]
    features = np.maximum(x @ hidden["kernel"] + hidden["bias"], 0)
    p = softmax(features @ head["kernel"] + head["bias"], axis=-1)
    slopes = (p - np.eye(CLASSES)[batch["label"]]) / 6
    below = slopes @ head["kernel"].T * (features > 0)
    learnt = jax.tree.map(np.subtract, before, after)
    close = dict(rtol=1e-4, atol=1e-6)
    of_head = features.T @ slopes + 0.1 * head["kernel"]
    of_hidden = x.T @ below + 0.1 * hidden["kernel"]
    np.testing.assert_allclose(learnt["Dense_1"]["kernel"], of_head, **close)
    np.testing.assert_allclose(learnt["Dense_0"]["kernel"], of_hidden / 4, **close)
    np.testing.assert_allclose(learnt["Dense_0"]["bias"], below.sum(0) / 4, **close)


@pytest.mark.parametrize(
    "model, options, head, deepest",
    [
        (
            "mlp",
            dict(hidden_sizes=(5, 4), batch_norm=True),
            ("Dense_2",),
            ("Dense_0", "BatchNorm_0"),
        ),
        ("cnn", dict(widths=(2, 3), batch_norm=True), ("Dense_1",), ("Conv_0", "BatchNorm_0")),
        ("resnet20_cifar", {}, ("Dense_0",), ("ConvNorm_0",)),
        ("tresnet_m", {}, ("Dense_36",), ("ConvNorm_0",)),
    ],
)
def test_layers_go_from_the_head_to_the_input(model, options, head, deepest):
    changes = {f"model__{name}": value for name, value in options.items()}
    structure = recipe(model__name=model, **{"model__hidden_sizes": (64,)} | changes).structure
    network = assembly.assemble_model(structure, Spec(60, 3, (32, 32, 3)))
    example = jnp.zeros((1, 32, 32, 3))
    found = layers(network, example)
    assert found[0] == head and found[-1] == deepest
    params, _ = jax.eval_shape(lambda: network.init(jax.random.key(0), example))
    assert sorted(name for layer in found for name in layer) == sorted(params)


@pytest.mark.parametrize(
    "flaw, words",
    [
        ("nowhere", "there is no"),
        ("no checkpoint", "there is no"),
        ("wide", "params.Dense_0.bias is float32[9] there, float32[6] here"),
        ("other classes", "Dense_0"),
    ],
)
def test_a_run_that_does_not_fit_is_one_line_with_the_key(flaw, words, earlier_runs, tmp_path):
    workdir, dataset = tmp_path / "run", digits()
    if flaw == "no checkpoint":
        workdir.mkdir()
        (workdir / CONFIG).write_text(Path(earlier_runs["plain"], CONFIG).read_text())
    elif flaw != "nowhere":
        workdir = Path(earlier_runs["wide"])
    if flaw == "other classes":
        dataset = dataset._replace(num_classes=11)
    with pytest.raises(RecipeError) as caught:
        prepare(recipe(finetuning__start=str(workdir)), dataset)
    message = str(caught.value)
    assert message.startswith(KEY) and "\n" not in message and str(workdir) in message
    assert words in message


def test_a_start_with_another_head_alone_is_told_what_to_do(earlier_runs):
    dataset = digits()._replace(num_classes=11)
    with pytest.raises(RecipeError) as caught:
        prepare(from_plain(earlier_runs), dataset)
    message = str(caught.value)
    assert "Dense_1.bias is float32[10] there, float32[11] here" in message
    assert message.endswith("; finetuning.new_head=True draws that one anew.")
    state = start_of(from_plain(earlier_runs, finetuning__new_head=True), num_classes=11)
    assert state.params["Dense_1"]["bias"].shape == (11,)


def test_reading_a_run_changes_nothing_of_it(earlier_runs):
    directory = Path(earlier_runs["plain"], CHECKPOINTS)
    unfinished = directory / "999.orbax-checkpoint-tmp"
    unfinished.mkdir()
    try:
        before = sorted(directory.rglob("*"))
        prepare(from_plain(earlier_runs), digits())
        assert sorted(directory.rglob("*")) == before
    finally:
        unfinished.rmdir()
