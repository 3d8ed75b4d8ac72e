"""What techniques add to a run: each alone against NumPy, all of them at once, and none of them."""

import functools
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cyclical_jax.training.images import as_batch
from cyclical_jax.training.pretrained import Earlier, prepare
from scipy.special import log_softmax, softmax
from scipy.stats import rankdata

from configs import default
from cyclical_jax import augment, data
from cyclical_jax.accumulation import uniform_windows
from cyclical_jax.data.batches import part_of
from cyclical_jax.training import assembly, evaluation, loop, networks, pretrained, ways
from cyclical_jax.training.checkpoints import CHECKPOINTS, CONFIG, Checkpoints
from cyclical_jax.training.devices import place
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.keeper import Keeper, StoppedError
from cyclical_jax.training.population import Population
from cyclical_jax.training.recipe import RecipeError, cyclical, parse, put
from cyclical_jax.training.state import init_state
from cyclical_jax.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("fast_compilation")

CLASSES, STEPS, SHAPE = 10, 5, (1, 8, 8, 1)


def config_of(**changes):
    config = default.get_config()
    small = dict(batch_size=12, duration="3 epochs", model__hidden_sizes=(6,), subset="balanced 60")
    for key, value in (small | changes).items():
        put(config, key.replace("__", "."), value)
    return config


def recipe(**changes):
    return parse(config_of(**changes), num_devices=2)


@functools.cache
def digits(unlabelled=True, number=60):
    """Few of them: the first of each class, and some of the others."""
    dataset = data.load("digits", subset=f"balanced {number}", unlabelled=True)
    train = dict(dataset.train)
    train["unlabelled"] = train["unlabelled"][:100]
    if not unlabelled:
        del train["unlabelled"]
    few = {name: array[:30] for name, array in dataset.validation.items()}
    return dataset._replace(train=train, validation=few)


def train(run, dataset, seed=0, **options):
    rows = []
    state = loop.train(run, dataset, seed=seed, report=rows.append, **options)
    return jax.device_get(state._replace(key=0)), rows


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def earlier_runs(tmp_path_factory):
    """{name: workdir} of a run with a moving average, one without, and one of other widths."""
    root = tmp_path_factory.mktemp("earlier")
    kinds = {
        "averaged": dict(ema_decay=0.5, model__batch_norm=True),
        "plain": dict(model__batch_norm=True),
        "wide": dict(model__hidden_sizes=(9,)),
    }
    for seed, (name, changes) in enumerate(kinds.items()):
        config = config_of(duration="2 epochs", **changes)
        (root / name).mkdir()
        (root / name / CONFIG).write_text(json.dumps(config.to_dict()))
        with Checkpoints(root / name / CHECKPOINTS) as checkpoints:
            train(parse(config), digits(), seed, keeper=Keeper(checkpoints, every=1e9))
    return {name: str(root / name) for name in kinds}


# ---- the step, against NumPy


def assembled(run, table, **options):
    return assembly.assemble_train_step(
        run.structure,
        run.numbers,
        timetable=table,
        num_classes=CLASSES,
        axis_name=None,
        image_shape=SHAPE,
        **options,
    )


def step_and_state(changes, *, num_train=0, **options):
    """The step of a network without hidden layers on a dataset's batch, by the recipe."""
    run = recipe(model__hidden_sizes=(), optimizer__weight_decay=None, **changes)
    table, structure = Timetable(uniform_windows(STEPS, 1), 5, 5, 5), run.structure
    step = assembled(run, table, **options)
    state = loop.make_initial_state(structure, table, CLASSES, SHAPE, num_train, run.numbers, 3)
    return step, state._replace(step=jnp.int32(1))  # a quarter of the way: hardness 1/2


def logits_of(state, images):
    (layer,) = jax.device_get(state.params).values()
    return images.reshape(len(images), -1) @ layer["kernel"] + layer["bias"]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(6, 8, 8, 1)).astype(np.float32),
        "label": rng.integers(0, CLASSES, 6).astype(np.int32),
        "index": np.arange(6, dtype=np.int32),
    }


def cross_entropies(logits, labels):
    return -log_softmax(logits, axis=-1)[np.arange(len(labels)), labels]


def test_labels_and_confident_predictions_make_the_loss(batch):
    step, state = step_and_state(
        dict(
            semisupervised__unlabelled_weight=cyclical(0, 3),
            semisupervised__threshold=cyclical(0.0, 0.375),
            semisupervised__weak=(),
            semisupervised__strong=("flip",),
        )
    )
    unlabelled = np.random.default_rng(1).uniform(-1, 1, (10, 8, 8, 1)).astype(np.float32)
    batch |= {"unlabelled": unlabelled, "mask": np.array([1, 1, 0, 1, 1, 0], np.float32)}
    _, metrics = jax.jit(step)(state, batch)
    predicted, mirrored = (
        logits_of(state, images) for images in (unlabelled, unlabelled[:, :, ::-1])
    )
    is_taken = softmax(predicted, axis=-1).max(-1) >= 0.1875
    assert 0 < is_taken.sum() < 10
    labelled = cross_entropies(logits_of(state, batch["image"]), batch["label"])
    labelled = (labelled * batch["mask"]).sum() / 4

    # Which are mirrored is drawn: the loss is that of some combination.
    each = [is_taken * cross_entropies(v, predicted.argmax(-1)) for v in (predicted, mirrored)]
    is_mirrored = np.array(list(itertools.product([False, True], repeat=10)))
    combinations = labelled + 1.5 * np.where(is_mirrored, each[1], each[0]).mean(-1)
    assert np.abs(combinations - metrics["loss"]).min() < 1e-6
    assert metrics["unlabelled_weight"] == 1.5 and metrics["threshold"] == 0.1875
    assert metrics["confident"] == pytest.approx(is_taken.mean())
    assert metrics["num_examples"] == 4


def test_the_share_of_confident_predictions_is_of_the_weak_view():
    run = recipe(semisupervised__unlabelled_weight=1.0)
    schedules = dict.fromkeys(run.numbers)
    *_, term = assembly.make_loss_terms(run.structure, schedules)
    ((name, measure),) = term.measures
    assert (name,) == assembly.measures_of(run.structure) == ("confident",)
    views = {view: jnp.zeros((4, CLASSES)) for view in term.views}
    views["weak"] = views["weak"].at[0, 3].set(9.0)
    found = measure(*[views[view] for view in term.views], {}, {"threshold": 0.9})
    np.testing.assert_array_equal(found, [True, False, False, False])


def test_without_operations_the_views_are_the_images(batch):
    changes = dict(semisupervised__unlabelled_weight=2.0, semisupervised__threshold=0.0)
    step, state = step_and_state(changes | dict(semisupervised__weak=(), semisupervised__strong=()))
    unlabelled = np.random.default_rng(1).normal(size=(10, 8, 8, 1)).astype(np.float32)
    new, metrics = step(state, batch | {"unlabelled": unlabelled})
    predicted = logits_of(state, unlabelled)
    labelled = cross_entropies(logits_of(state, batch["image"]), batch["label"]).mean()
    expected = labelled + 2 * cross_entropies(predicted, predicted.argmax(-1)).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_a_teacher_leads_and_falls_silent(batch):
    step, state = step_and_state(
        dict(
            distillation__teacher="there",
            distillation__teacher_weight=cyclical(0.9, 0.3),
            distillation__teacher_temperature=cyclical(1, 5),
        )
    )
    teacher = np.random.default_rng(1).normal(size=(6, CLASSES)).astype(np.float32)
    _, metrics = step(state, batch | {"teacher": teacher})
    logits, t = logits_of(state, batch["image"]), 3.0
    p = softmax(teacher / t, axis=-1)
    divergence = t**2 * (p * (np.log(p) - log_softmax(logits / t, axis=-1))).sum(-1)
    expected = 0.4 * cross_entropies(logits, batch["label"]) + 0.6 * divergence
    np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-5)


def test_a_teacher_that_is_asked_sees_the_changed_images(batch, earlier_runs):
    changes = dict(
        distillation__teacher="there",
        distillation__teacher_weight=1.0,
        distillation__teacher_temperature=1.0,
        augment__operations=("flip",),
        augment__strength=1.0,
        seed=1,
    )
    teacher = pretrained.read_trained("distillation.teacher", earlier_runs["plain"], digits())
    step, state = step_and_state(changes, teacher=teacher)
    batch["image"] = np.clip(batch["image"], -1, 1)
    _, metrics = jax.jit(step)(state, batch)
    losses = []
    for images in (batch["image"], batch["image"][:, :, ::-1]):
        p = softmax(np.asarray(teacher.logits(images)), axis=-1)
        losses.append((p * (np.log(p) - log_softmax(logits_of(state, images), axis=-1))).sum(-1))
    combinations = [
        np.where([(number >> bit) & 1 for bit in range(6)], *losses).mean() for number in range(64)
    ]
    assert np.abs(np.array(combinations) - metrics["loss"]).min() < 1e-5


def test_weights_follow_ranks_and_classes(batch):
    step, state = step_and_state(
        dict(
            curriculum__name="earlier_run",
            curriculum__scorer="there",
            curriculum__preference=cyclical(4, -2),
        )
    )
    batch |= {
        "rank": np.linspace(0, 1, 6, dtype=np.float32),
        "weight": np.float32([1, 2, 1, 3, 0, 1]),
    }
    _, metrics = step(state, batch)
    losses = cross_entropies(logits_of(state, batch["image"]), batch["label"])
    easy_first = np.exp(-batch["rank"]) / (1 - np.exp(-1))
    expected = (losses * easy_first * batch["weight"]).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_class_weights_are_mixed_as_labels_are(batch):
    step, state = step_and_state(
        dict(
            loss__class_weights="balanced",
            augment__operations=("mixup",),
            augment__strength=1.0,
        )
    )
    batch["image"] = np.clip(batch["image"], -1, 1)
    batch |= {"weight": np.arange(6, dtype=np.float32)}
    _, metrics = step(state, batch)
    key = jax.random.split(jax.random.fold_in(jax.random.fold_in(state.key, 0), 0), 2)[0]
    labels = {"label": jax.nn.one_hot(batch["label"], CLASSES), "weight": batch["weight"]}
    mixture = jax.random.split(key, 1)[0]
    images, mixed = augment.mixup(mixture, jnp.asarray(batch["image"]), labels, 1.0)
    log_p = log_softmax(logits_of(state, np.asarray(images)), axis=-1)
    expected = (-(mixed["label"] * log_p).sum(-1) * mixed["weight"]).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_a_running_average_weighs_the_examples_of_a_batch(batch):
    step, state = step_and_state(
        dict(
            curriculum__name="running_average",
            curriculum__average_decay=cyclical(0.5, 0.9),
            curriculum__preference=cyclical(4, -2),
            loss__temperature=2.0,  # the average is of the loss at 1
        ),
        num_train=8,
    )
    np.testing.assert_allclose(state.difficulty, np.full(8, np.log(CLASSES)), rtol=1e-6)
    so_far = np.float32([5, 1, 2, 2, 0, 7, 3, 4])
    batch |= {"index": np.array([7, 1, 2, 0, 3, 5]), "mask": np.float32([1, 1, 1, 1, 1, 0])}
    new, metrics = jax.jit(step)(state._replace(difficulty=jnp.asarray(so_far)), batch)
    logits = logits_of(state, batch["image"])
    ranks = (rankdata(so_far[batch["index"]]) - 0.5) / 6
    weights = np.exp(-ranks) / (1 - np.exp(-1))
    weights /= weights[:5].mean()
    expected = (weights * cross_entropies(logits / 2, batch["label"]))[:5].mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert metrics["average_decay"] == np.float32(0.7) and metrics["preference"] == 1
    averages = so_far.copy()
    seen = batch["index"][:5]
    averages[seen] = 0.7 * so_far[seen] + 0.3 * cross_entropies(logits, batch["label"])[:5]
    np.testing.assert_allclose(new.difficulty, averages, rtol=1e-5)


def test_a_gradient_with_the_plain_losss_norm_keeps_what_other_terms_teach(batch):
    """Where labels are learnt their gradient vanishes, and what is rescaled to it would too."""
    changes = dict(
        semisupervised__unlabelled_weight=1.0,
        semisupervised__threshold=0.0,
        semisupervised__weak=(),
        semisupervised__strong=("flip",),
        loss__name="focal",
    )
    unlabelled = np.random.default_rng(1).normal(size=(10, 8, 8, 1)).astype(np.float32)
    norms = {}
    for name in (None, "cross_entropy"):
        step, state = step_and_state(changes | dict(loss__gradient_norm=name))
        (layer,) = state.params
        bias = jnp.zeros(CLASSES).at[3].set(40.0)  # sure of class 3, which all labels are
        params = {layer: {"kernel": state.params[layer]["kernel"] * 20, "bias": bias}}
        learnt = batch | {"image": 0 * batch["image"], "label": 0 * batch["label"] + 3}
        _, metrics = step(state._replace(params=params), learnt | {"unlabelled": unlabelled})
        norms[name] = float(metrics["grad_norm"])
    assert norms[None] > 0.1
    assert norms["cross_entropy"] == pytest.approx(norms[None], rel=1e-4)


@pytest.mark.parametrize("name", ["asymmetric_multilabel", "cyclical_multilabel"])
def test_labels_of_several_classes_or_of_one(batch, name):
    hardness = {"loss__hardness": cyclical(0, 1)} if name == "cyclical_multilabel" else {}
    step, state = step_and_state(
        dict(loss__name=name, loss__gamma_pos=1.0, loss__gamma_neg=3.0, **hardness)
    )
    several = np.eye(CLASSES, dtype=np.float32)[batch["label"]]
    several[[0, 2], [1, 4]] = 1
    logits = logits_of(state, batch["image"])
    p, h = 1 / (1 + np.exp(-logits)), 0.5 if hardness else 1.0
    p_m = np.maximum(p - 0.05, 0)
    confident = (1 + p) ** 3 if hardness else 1
    positive = -(h * (1 - p) + (1 - h) * confident) * np.log(p)
    negative = -(h * p_m**3 + 1 - h) * np.log(1 - p_m)
    for labels in (several, batch["label"]):
        hot = labels if labels.ndim == 2 else np.eye(CLASSES)[labels]
        _, metrics = step(state, batch | {"label": labels})
        expected = (hot * positive + (1 - hot) * negative).sum(-1).mean()
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)
        right = hot[np.arange(6), logits.argmax(-1)]
        assert metrics["accuracy"] == pytest.approx(right.mean())


def overlaid(seed, number):
    """Two digits in one image, and both as labels."""
    digits = data.load("digits").train
    one, other = np.random.default_rng(seed).integers(0, len(digits["label"]), (2, number))
    labels = np.maximum(
        *(np.eye(CLASSES, dtype=np.float32)[digits["label"][i]] for i in (one, other))
    )
    return {"image": np.maximum(digits["image"][one], digits["image"][other]), "label": labels}


def test_several_digits_in_an_image_are_learned():
    dataset = data.Dataset(*(overlaid(seed, n) for seed, n in enumerate((3000, 300, 300))), CLASSES)
    run = recipe(
        subset=None,
        duration="12 epochs",
        batch_size=60,
        model__hidden_sizes=(64,),
        loss__name="cyclical_multilabel",
        loss__gamma_pos=1.0,
        loss__gamma_neg=4.0,
        optimizer__learning_rate=0.02,
    )
    state, rows = train(run, dataset)
    variables = place(state.evaluated)
    scores = evaluation.evaluate(run.structure, CLASSES, variables, dataset.test)
    assert rows[-1]["val_accuracy"] > 0.9 and scores["accuracy"] > 0.9
    model = networks.assemble_model(run.structure, CLASSES, None)
    images = as_batch({"image": dataset.test["image"]})["image"]
    logits, _ = model.apply(*state.evaluated, images, train=False)
    p, y = np.asarray(jax.nn.sigmoid(logits), np.float64), dataset.test["label"]
    expected = -(y * np.log(p) + (1 - y) * np.log1p(-p)).sum(-1).mean()
    assert scores["loss"] == pytest.approx(expected, rel=1e-3)


# ---- what earlier runs give


def test_the_variables_are_those_that_the_run_was_judged_by(earlier_runs):
    with Checkpoints(Path(earlier_runs["averaged"], CHECKPOINTS)) as checkpoints:
        arrays = checkpoints.arrays()
    teacher = pretrained.read_trained("curriculum.scorer", earlier_runs["averaged"], digits())
    of_average, of_last = (arrays[f"0.{w}params.Dense_0.kernel"] for w in ("ema.", ""))
    assert np.abs(of_average - of_last).max() > 1e-4
    np.testing.assert_array_equal(teacher.variables.params["Dense_0"]["kernel"], of_average)


def test_logits_are_made_once_where_images_do_not_change(earlier_runs):
    own = dict(distillation__teacher=earlier_runs["plain"])
    dataset, earlier = prepare(recipe(**own), digits())
    assert earlier == Earlier()
    teacher = pretrained.read_trained("distillation.teacher", earlier_runs["plain"], digits())
    images = as_batch({"image": digits().train["image"]})["image"]
    np.testing.assert_allclose(
        dataset.train["teacher"], teacher.logits(images), rtol=1e-4, atol=1e-5
    )
    changing = own | dict(augment__operations=("crop",), augment__strength=1.0)
    dataset, earlier = prepare(recipe(**changing), digits())
    assert "teacher" not in dataset.train
    assert_same(earlier.teacher.variables, teacher.variables)


def test_ranks_are_of_the_losses_of_the_earlier_run(earlier_runs):
    run = recipe(
        curriculum__name="earlier_run",
        curriculum__scorer=earlier_runs["wide"],
        loss__class_weights=[1.0] * 9 + [5.0],
    )
    dataset, _ = prepare(run, digits())
    scorer = pretrained.read_trained("curriculum.scorer", earlier_runs["wide"], digits())
    images, labels = as_batch({"image": digits().train["image"]})["image"], digits().train["label"]
    losses = cross_entropies(np.asarray(scorer.logits(images)), labels)
    np.testing.assert_array_equal(np.argsort(dataset.train["rank"]), np.argsort(losses))
    np.testing.assert_array_equal(dataset.train["weight"], np.where(labels == 9, 5, 1))


def test_balanced_weights_give_each_class_the_same_sum():
    dataset = digits(unlabelled=False)
    imbalanced = dataset._replace(train={name: a[:17] for name, a in dataset.train.items()})
    prepared, _ = prepare(recipe(loss__class_weights="balanced"), imbalanced)
    labels, weights = (prepared.train[name] for name in ("label", "weight"))
    sums = np.bincount(labels, weights, minlength=CLASSES)
    there = np.bincount(labels, minlength=CLASSES) > 0
    np.testing.assert_allclose(sums[there], 1.7, rtol=1e-6)


def test_a_run_starts_from_another_with_its_own_head_or_a_new_one(earlier_runs):
    own = dict(finetuning__start=earlier_runs["plain"], model__batch_norm=True)
    path = Path(earlier_runs["plain"], CHECKPOINTS)
    starts = {}
    for new_head in (False, True):
        run = recipe(**own, finetuning__new_head=new_head)
        dataset, earlier = prepare(run, digits())
        starts[new_head] = loop.begin(run, dataset, seed=5, earlier=earlier).state
    with Checkpoints(path, read_only=True) as checkpoints:
        arrays = checkpoints.arrays()
    for state in starts.values():
        np.testing.assert_array_equal(
            state.params["Dense_0"]["kernel"], arrays["0.params.Dense_0.kernel"]
        )
        mean = state.model_state["batch_stats"]["BatchNorm_0"]["mean"]
        np.testing.assert_array_equal(mean, arrays["0.model_state.batch_stats.BatchNorm_0.mean"])
    kept, new = (starts[new_head].params["Dense_1"]["kernel"] for new_head in (False, True))
    fresh = loop.begin(recipe(model__batch_norm=True), digits(), seed=5).state.params["Dense_1"]
    np.testing.assert_array_equal(kept, arrays["0.params.Dense_1.kernel"])
    np.testing.assert_array_equal(new, fresh["kernel"])


def test_the_head_learns_first_and_last(earlier_runs):
    own = dict(finetuning__start=earlier_runs["plain"], model__batch_norm=True)
    run = recipe(**own, finetuning__share=cyclical(0, 1), duration="5 steps", log_every="1 step")
    dataset, earlier = prepare(run, digits())
    start = loop.begin(run, dataset, seed=0, earlier=earlier)
    state, rows = train(run, dataset, earlier=earlier)
    assert [row["share"] for row in rows] == [0, 0.5, 1, 0.5, 0]
    one_update, _ = train(recipe(**own, finetuning__share=0.0), dataset, earlier=earlier)
    for name in ("Dense_0", "BatchNorm_0"):
        assert_same(one_update.params[name], jax.device_get(start.state.params[name]))

    def has_learnt(state, name):
        return not np.array_equal(state.params[name]["kernel"], start.state.params[name]["kernel"])

    assert has_learnt(state, "Dense_1") and has_learnt(one_update, "Dense_1")
    assert has_learnt(state, "Dense_0")


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
    found = networks.layers(structure, (1, 32, 32, 3))
    assert found[0] == head and found[-1] == deepest
    shape = jnp.zeros((1, 32, 32, 3))
    init = networks.assemble_model(structure, 3, None).init
    params, _ = jax.eval_shape(lambda: init(jax.random.key(0), shape))
    assert sorted(name for layer in found for name in layer) == sorted(params)


@pytest.mark.parametrize("key", ["distillation.teacher", "curriculum.scorer", "finetuning.start"])
@pytest.mark.parametrize("flaw", ["nowhere", "no checkpoint", "wide", "other classes"])
def test_what_does_not_fit_is_one_line_with_the_key(key, flaw, earlier_runs, tmp_path):
    workdir = tmp_path / "run"
    if flaw == "no checkpoint":
        workdir.mkdir()
        (workdir / CONFIG).write_text(Path(earlier_runs["plain"], CONFIG).read_text())
    elif flaw != "nowhere":
        workdir = Path(earlier_runs["wide"])
    dataset = digits()
    if flaw == "other classes":
        dataset = dataset._replace(num_classes=11)
    name = dict(curriculum__name="earlier_run") if key == "curriculum.scorer" else {}
    run = recipe(**{key.replace(".", "__"): str(workdir)}, **name)
    if flaw == "wide" and key != "finetuning.start":
        prepare(run, dataset)  # another network may teach
        return
    with pytest.raises(RecipeError) as caught:
        prepare(run, dataset)
    message = str(caught.value)
    assert message.startswith(key) and "\n" not in message and str(workdir) in message
    words = {
        "nowhere": "no run" if key != "finetuning.start" else "there is no",
        "no checkpoint": "there is no",
        "wide": r"params.Dense_0.bias is float32[9] there, float32[6] here",
        "other classes": "must tell 11 classes apart" if key != "finetuning.start" else "Dense_0",
    }
    assert words[flaw] in message


def test_a_start_with_another_head_alone_is_told_what_to_do(earlier_runs):
    dataset = digits()._replace(num_classes=11)
    own = dict(finetuning__start=earlier_runs["plain"], model__batch_norm=True)
    with pytest.raises(RecipeError) as caught:
        prepare(recipe(**own), dataset)
    message = str(caught.value)
    assert "Dense_1.bias is float32[10] there, float32[11] here" in message
    assert message.endswith("; finetuning.new_head=True draws that one anew.")
    prepare(recipe(**own, finetuning__new_head=True), dataset)


def test_what_was_not_prepared_is_told_before_training(earlier_runs):
    run = recipe(
        distillation__teacher=earlier_runs["plain"],
        curriculum__name="earlier_run",
        curriculum__scorer=earlier_runs["plain"],
        finetuning__start=earlier_runs["plain"],
        loss__class_weights="balanced",
        semisupervised__unlabelled_weight=1.0,
    )
    with pytest.raises(RecipeError) as caught:
        train(run, digits(unlabelled=False))
    for name in ("teacher", "scorer", "start", "class_weights", "unlabelled_weight"):
        assert f".{name} " in str(caught.value)
    with pytest.raises(RecipeError, match="prepare"):
        Population(run, digits(unlabelled=False))


def test_reading_a_run_changes_nothing_of_it(earlier_runs):
    directory = Path(earlier_runs["plain"], CHECKPOINTS)
    (directory / "999.orbax-checkpoint-tmp").mkdir()
    newest = max(directory.glob("[0-9]*[0-9]"), key=lambda path: path.stat().st_mtime)
    try:
        before = sorted(path for path in directory.rglob("*"))
        _, earlier = prepare(
            recipe(finetuning__start=earlier_runs["plain"], model__batch_norm=True), digits()
        )
        assert sorted(path for path in directory.rglob("*")) == before
    finally:
        (directory / "999.orbax-checkpoint-tmp").rmdir()
    assert newest.is_dir()


# ---- all at once

LABELLED = dict(
    semisupervised__unlabelled_weight=cyclical(0, 1),
    semisupervised__threshold=cyclical(0.9, 0.2),
    semisupervised__batch_size=8,
    semisupervised__strong=("flip", "erase"),
)


def everything(runs):
    return LABELLED | dict(
        distillation__teacher=runs["wide"],
        distillation__teacher_weight=cyclical(0.9, 0.1),
        distillation__teacher_temperature=cyclical(1, 4),
        curriculum__name="earlier_run",
        curriculum__scorer=runs["wide"],
        curriculum__preference=cyclical(4, -1),
        finetuning__start=runs["plain"],
        finetuning__share=cyclical(0, 1),
        finetuning__new_head=True,
        loss__class_weights="balanced",
        loss__name="cyclical_focal",
        loss__temperature=cyclical(0.5, 2.0),
        loss__label_smoothing=cyclical(0, 0.1),
        augment__operations=("crop", "flip", "brightness", "cutmix"),
        augment__strength=cyclical(0, 1),
        accumulate=cyclical(3, 1),
        ema_decay=cyclical(0.5, 0.9),
        model__batch_norm=True,
        model__dropout=cyclical(0, 0.3),
        optimizer__weight_decay=cyclical(1e-4, 1e-2, scale="log"),
        optimizer__max_norm=cyclical(0.5, 2.0),
        optimizer__max_delta=cyclical(0.5, 2.0),
        optimizer__clipping=cyclical(0.1, 0.5),
        optimizer__learning_rate=cyclical(0.01, 0.05),
        optimizer__learning_rate_schedule="one_cycle",
        optimizer__warmup="1 step",
    )


def test_all_techniques_run_together_again_and_nothing_recompiles(
    earlier_runs, monkeypatch, count_compilations
):
    run = recipe(**everything(earlier_runs))
    dataset, earlier = prepare(run, digits())
    state, rows = train(run, dataset, seed=1, earlier=earlier)
    assert len(rows) == 3 and all(np.isfinite(row["loss"]) for row in rows)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert {"share", "preference", "threshold", "teacher_weight", "strength"} <= rows[0].keys()
    assert all(0 <= row["confident"] <= 1 for row in rows)
    monkeypatch.setattr(ways, "compiled", functools.cache(ways.compiled.__wrapped__))
    with count_compilations() as compilations:
        again, rows_again = train(run, dataset, seed=1, earlier=earlier)
    assert len(compilations) == 1  # the program itself, which was forgotten
    assert_same(again, state)
    assert [row["loss"] for row in rows_again] == [row["loss"] for row in rows]
    other = recipe(**everything(earlier_runs) | dict(curriculum__preference=cyclical(2, -2)))
    with count_compilations() as compilations:
        train(other, dataset, seed=2, earlier=earlier)
    assert not compilations


RUNNING = dict(curriculum__name="running_average", curriculum__preference=cyclical(4, -2))


@pytest.mark.parametrize("way", ["stepwise", "streamed"])
def test_examples_without_labels_are_the_same_in_every_way(way):
    (state, _), (other, _) = (
        train(recipe(**LABELLED, **RUNNING, loop=of, duration="2 epochs"), digits())
        for of in ("resident", way)
    )
    assert_same(other, state)


def test_running_averages_of_two_devices_are_those_of_one():
    run = recipe(**RUNNING, remainder="pad", batch_size=14, duration="2 epochs")
    dataset = digits(unlabelled=False)
    state, rows = train(run, dataset, seed=3)
    table = loop.plan(run, dataset)
    program = jax.jit(ways.make_program("resident", run.structure, table, CLASSES, None))
    start = loop.begin(run, dataset, seed=3)
    selection = loop.select_of(run.structure, dataset, 3)(start=0, stop=10)
    numbers = jax.tree.map(jnp.float32, run.numbers)
    alone, _ = program(start.state, (start.totals, (numbers, None), dataset.train, (selection, 10)))
    np.testing.assert_allclose(state.difficulty, alone.difficulty, rtol=2e-4)
    assert len(np.unique(state.difficulty)) > 50
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        state.params,
        jax.device_get(alone.params),
    )


def test_a_run_with_unlabelled_examples_goes_on_as_if_not_stopped(tmp_path):
    run = recipe(**LABELLED, **RUNNING)
    state, _ = train(run, digits(), seed=4)
    calls = []

    def is_stopping():
        calls.append(None)
        return len(calls) == 3  # within an epoch of either

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        with pytest.raises(StoppedError):
            train(run, digits(), seed=4, keeper=Keeper(checkpoints, is_stopping=is_stopping))
        start = checkpoints.restore(loop.begin(run, digits(), seed=4))
        assert 0 < int(start.state.micro_step) < 15
        resumed, _ = train(run, digits(), seed=4, start=start)
    assert_same(resumed, state)


def test_unlabelled_are_all_the_others():
    everything = data.load("digits").train["image"]
    train = data.load("digits", subset="balanced 60", unlabelled=True).train
    assert len(train["image"]) == 60 and len(train["unlabelled"]) == 1137
    both = np.concatenate([train["image"], train["unlabelled"]]).reshape(1197, -1)
    np.testing.assert_array_equal(np.sort(both, 0), np.sort(everything.reshape(1197, -1), 0))
    assert "unlabelled" not in data.load("digits", subset="balanced 60").train
    with pytest.raises(ValueError, match="unlabelled images are those that `subset` leaves out"):
        data.load("digits", unlabelled=True)


def test_unlabelled_batches_have_epochs_of_their_own():
    structure = recipe(**LABELLED).structure
    select = loop.select_of(structure, digits(), seed=0)
    found = select(start=0, stop=24)
    assert found["index"].shape == (24, 12) and found["unlabelled_index"].shape == (24, 8)
    for epoch in (found["unlabelled_index"][:12], found["unlabelled_index"][12:]):
        assert len(np.unique(epoch)) == 96  # 12 batches of 8 of 100
    assert not np.array_equal(found["unlabelled_index"][:12], found["unlabelled_index"][12:])
    as_many = digits()._replace(train={name: array[:60] for name, array in digits().train.items()})
    own = loop.select_of(structure, as_many, seed=0)(start=0, stop=5)
    assert not np.array_equal(own["index"].ravel()[:40], own["unlabelled_index"].ravel())
    later = select(start=7, stop=15)
    np.testing.assert_array_equal(later["unlabelled_index"], found["unlabelled_index"][7:15])
    halves = [part_of(found, number, 2)["unlabelled_index"] for number in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), found["unlabelled_index"])


@pytest.mark.parametrize("technique", ["unlabelled", "start and teacher", "running average"])
def test_a_member_of_a_population_is_the_run_on_one_device(technique, earlier_runs):
    changes = {
        "unlabelled": LABELLED,
        "running average": RUNNING,
        "start and teacher": dict(
            finetuning__start=earlier_runs["plain"],
            finetuning__share=cyclical(0, 1),
            model__batch_norm=True,
            distillation__teacher=earlier_runs["wide"],
            augment__operations=("flip",),
            augment__strength=0.5,
        ),
    }[technique]
    some = [recipe(**changes, seed=seed, duration="1 epoch") for seed in (1, 2)]
    dataset, earlier = prepare(some[0], digits())
    population = Population(some[0], dataset, earlier=earlier)
    found = [outcome.rows[-1] for outcome in population.outcomes(some, ["validation"])]
    structure, table = some[0].structure, population.timetable
    program = jax.jit(ways.make_program("resident", structure, table, CLASSES, None))
    for run, row in zip(some, found, strict=True):
        numbers = jax.tree.map(jnp.float32, run.numbers)
        start = loop.begin(run, dataset, seed=run.seed, earlier=earlier)
        selection = loop.select_of(run.structure, dataset, run.seed)(start=0, stop=5)
        inputs = start.totals, (numbers, earlier.teacher), dataset.train, (selection, 5)
        state, totals = program(start.state, inputs)
        np.testing.assert_allclose(row["loss"], totals.means["loss"], rtol=1e-5)


# ---- none


def test_what_is_not_used_leaves_nothing_in_the_program(batch):
    run = recipe(model__batch_norm=True)
    structure, table = run.structure, Timetable(uniform_windows(STEPS, 1), 5, 5, 5)
    schedules = assembly.make_schedules(structure, run.numbers, table)
    by_hand = make_train_step(
        networks.assemble_model(structure, CLASSES, None),
        assembly.make_optimizer(structure, schedules, table),
        [assembly.make_loss_term(structure)],
        knobs={name: schedules[name] for name in ("learning_rate", "weight_decay", "momentum")}
        | {name: schedules[name] for name in ("temperature", "label_smoothing")},
    )
    optimizer = assembly.make_optimizer(structure, schedules, table)
    model = networks.assemble_model(structure, CLASSES, None)
    state = init_state(model, optimizer, batch["image"], 0)
    own = assembled(run, table)
    texts = [jax.jit(step).lower(state, batch).compile().as_text() for step in (by_hand, own)]
    assert texts[0] == texts[1]


# ---- what cannot be run


@pytest.mark.parametrize(
    "changes, line",
    [
        (
            dict(subset=None, semisupervised__unlabelled_weight=1.0),
            "semisupervised.unlabelled_weight needs a subset, say 'balanced 250': unlabelled "
            "images are those that subset leaves out, got None.",
        ),
        (
            dict(semisupervised__unlabelled_weight=1.0, semisupervised__batch_size=1200),
            "semisupervised.batch_size 1200 is more than the 1137 unlabelled examples.",
        ),
        (
            dict(semisupervised__unlabelled_weight=1.0, semisupervised__batch_size=9),
            "semisupervised.batch_size must be a multiple of the 2 devices, got 9.",
        ),
        (
            dict(semisupervised__unlabelled_weight=1.0, semisupervised__threshold=1.5),
            "semisupervised.threshold must be at least 0 and at most 1, got 1.5.",
        ),
        (
            dict(semisupervised__threshold=0.5),
            "semisupervised.threshold is read where semisupervised.unlabelled_weight is set, not "
            "None; leave it at 0.95.",
        ),
        (
            dict(distillation__teacher_weight=0.5),
            "distillation.teacher_weight is read where distillation.teacher is set, not None; "
            "leave it at cyclical(easy=1.0, hard=0.0).",
        ),
        (
            dict(finetuning__share=0.5),
            "finetuning.share is read where finetuning.start is set, not None; leave it at None.",
        ),
        (
            dict(curriculum__preference=1.0),
            "curriculum.preference is read where curriculum.name is set, not None; leave it at "
            "cyclical(easy=4.0, hard=0.0).",
        ),
        (
            dict(loss__class_weights=(1.0, 2.0)),
            "loss.class_weights must have 10 numbers for 'digits', got 2.",
        ),
        (
            dict(loss__class_weights="equal"),
            "loss.class_weights must be 'balanced' or a tuple of numbers, got 'equal'.",
        ),
        (
            dict(distillation__teacher=3),
            "distillation.teacher must be a string, got 3.",
        ),
        (
            dict(curriculum__scorer="runs/a"),
            "curriculum.scorer is read where curriculum.name is 'earlier_run', not None; leave it "
            "at None.",
        ),
        (
            dict(curriculum__name="running_average", curriculum__scorer="runs/a"),
            "curriculum.scorer is read where curriculum.name is 'earlier_run', not "
            "'running_average'; leave it at None.",
        ),
        (
            dict(model__hidden_sizes=(), model__dropout=0.5),
            "model.dropout is read where model.hidden_sizes has a layer, not ().",
        ),
        (
            dict(curriculum__name="earlier_run"),
            "curriculum.scorer must be a run's workdir where curriculum.name is 'earlier_run'.",
        ),
        (
            dict(loss__name="cyclical_multilabel", curriculum__name="running_average"),
            "curriculum.name must be None where loss.name is 'cyclical_multilabel'.",
        ),
        (
            dict(loss__name="asymmetric_multilabel", loss__temperature=2.0),
            "loss.temperature is read where loss.name is 'cross_entropy' or 'focal' or "
            "'asymmetric_focal' or 'cyclical_focal', not 'asymmetric_multilabel'; leave it at 1.0.",
        ),
        (
            dict(optimizer__name="adamw", optimizer__b1=cyclical(0.9, 0.8)),
            "optimizer.b1 must be a number, got {'easy': 0.9, 'hard': 0.8, 'scale': 'linear'}.",
        ),
        (
            dict(optimizer__name="adamw", optimizer__b2=1.0),
            "optimizer.b2 must be at least 0 and below 1, got 1.0.",
        ),
        (
            dict(
                dataset="imagenet2012",
                image_size=32,
                subset=None,
                curriculum__name="earlier_run",
                curriculum__scorer="runs/a",
            ),
            "curriculum.scorer is for datasets that fit in memory; leave it None for "
            "'imagenet2012'.",
        ),
    ],
)
def test_what_cannot_be_run_is_one_line(changes, line):
    with pytest.raises(RecipeError) as caught:
        recipe(**changes)
    assert str(caught.value) == line
