"""Random configs: whatever stands in one, it is a recipe that runs, or lines that say why not."""

import math
import re
import tempfile
from collections import Counter

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from ml_collections import ConfigDict

from cyclical_jax import data
from cyclical_jax.catalogue import CATALOGUE, default_config, parse
from cyclical_jax.training.earlier import prepare
from cyclical_jax.training.fields import Cycle, RecipeError
from cyclical_jax.training.loop import train
from cyclical_jax.training.run import NonFiniteError
from cyclical_jax.training.structure import Recipe
from cyclical_jax.training.ways import way_of

KEYS, SECTIONS = CATALOGUE.keys, CATALOGUE.sections

pytestmark = pytest.mark.filterwarnings("ignore:.*`gamma_hc`:UserWarning")

# Or the directory of the tests would get one of its own, even without a database.
hypothesis.configuration.set_hypothesis_home_dir(f"{tempfile.gettempdir()}/hypothesis")

settings = hypothesis.settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)

SMALL_MODELS = ("mlp", "patch_dense", "cnn")  # the published networks take a minute each
# {word: the changes that choose a loss}
LOSSES = {
    name: {"loss.name": name}
    for name in ("cross_entropy", "focal", "asymmetric_focal", "cyclical_focal")
} | {
    f"{name} multilabel": {"task.name": "multilabel", "multilabel.loss": name}
    for name in ("cyclical", "asymmetric")
}

# ---- values, by key

NUMBERS = st.one_of(
    st.floats(0, 1), st.floats(0.1, 10), st.sampled_from([0, 1, 0.0, 1.0, 1e-8, 3, np.float32(0.5)])
)
DURATIONS = st.sampled_from(["1 step", "4 steps", "1.2 epochs", "33 examples", "1 epoch"])
WORDS = {
    "dataset": ["digits", "cifar10"],
    "image_size": [None],
    "augment.operations": [(), (), ("flip",)],
    "subset": [None, "4k", "long_tailed 30 3"],
    "data_dir": [None, "/there"],
    "seed": [0, 1e4, 2**31 - 1],
    "batch_size": [8, 8.0, 16, 64],
    "accumulate": [1, 2, 3, {"easy": 3, "hard": 1}],
    "optimizer.learning_rate_schedule": [None, "cosine", "one_cycle", "warm_restarts"],
    "optimizer.first_cycle": [None, None, None, "2 steps"],
    "optimizer.restart_multiplier": [2, 2.0, 2, 1.5],
    "cycle.span": ["run", "run", "run", "restart"],
    "validate_every": ["1 epoch", "3 steps", "1 step", "cycle"],
    "cycle.num_cycles": [1, 2],
    "cycle.shape": ["linear", "rex", ("rex", "cosine")],
    "precision.quantizer": ["affine", "affine", "symmetric"],
    "model.hidden_sizes": [(), (4,), [3, 2]],
    "model.patch_size": [8, 2, 4],
    "model.stride": [4, 2, 1],
    "model.channels": [32, 2],
    "model.widths": [(32, 64), (2,), [2, 3]],
}
JUNK = [None, True, "", "abc", "1 step", b"x", 1j, -1, 0, 0.5, 2**31, 10**25, 1e300, -1e-9]
JUNK += [math.nan, math.inf, -math.inf, np.float32(math.nan), np.bool_(True), object(), {}]
JUNK += [{"easy": 1}, {"hard": "x"}, {"easy": 1, "hard": 2, "phase": 3}, {"shape": 7}, frozenset()]
SEQUENCES = [(), (0.1, 0.2), [64], ((1, 2),), [1, [2]], {"easy": (1, 2), "hard": [3]}]
SEQUENCES += [np.array([1.0, 2.0]), np.array(["a", "b"])]


def plausible(key: str) -> st.SearchStrategy:
    """A value of the right type; a key may still be unread, or the value out of its range."""
    field = KEYS[key]
    if key in WORDS:
        values = st.sampled_from(WORDS[key])
    elif "number and steps" in field.type:
        values = DURATIONS
    elif field.type.startswith("number"):
        values = NUMBERS | cycles(NUMBERS) if field.may_cycle else NUMBERS
    elif field.type == "True or False":
        values = st.booleans()
    else:
        values = st.sampled_from(field.type.removesuffix(", or None").split(" or "))
    return values | st.none() if field.type.endswith("or None") else values


def cycles(ends: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries(
        {"easy": ends, "hard": ends},
        optional={
            "factor": st.sampled_from([None, 1, 2.0, 3.5]),
            "shape": st.sampled_from([None, "cosine", "exponential", ("rex", "early_rex")]),
            "scale": st.sampled_from(["linear", "log"]),
        },
    )


def broken_cycles(junk: st.SearchStrategy) -> st.SearchStrategy:
    return st.dictionaries(st.sampled_from([*Cycle._fields, "hrad"]), NUMBERS | junk)


def put(config: dict, key: str, value) -> None:
    *section, name = key.split(".")
    (config[section[0]] if section else config)[name] = value


# ---- any config at all


@st.composite
def any_configs(draw, junk):
    """The default with random keys at random values, without some, and with unknown ones."""
    config, words = default_config().to_dict(), st.text("abeglmnorst_", min_size=1, max_size=9)
    for key in draw(st.lists(st.sampled_from(list(KEYS)), max_size=6)):
        put(config, key, draw(plausible(key) | junk | broken_cycles(junk)))
    for key in draw(st.lists(words, max_size=1)):
        section = draw(st.sampled_from([*SECTIONS, None]))
        put(config, f"{section}.{key}" if section else key, draw(junk | NUMBERS))
    for key in draw(st.lists(st.sampled_from(list(KEYS)), max_size=1)):
        *section, name = key.split(".")
        (config[section[0]] if section else config).pop(name, None)
    return config


def keys_of(config: dict) -> set[str]:
    sections = {f"{name}.{key}" for name in SECTIONS for key in config[name]}
    return KEYS.keys() | config.keys() | sections


def check_lines(message: str, config: dict) -> None:
    """Each line begins with a key, or with one and an entry of its cycle."""
    for line in message.split("\n"):
        key = line.split(" ")[0] or "nothing"
        entry = re.fullmatch(r"(.+)\.\w+", key)
        assert key in keys_of(config) or (entry and entry[1] in KEYS), line


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(JUNK, id="scalars"),
        pytest.param(
            JUNK + SEQUENCES,
            id="sequences",
        ),
    ],
)
def test_any_config_is_a_recipe_or_lines_that_name_a_key(junk):
    seen = Counter()

    @settings
    @hypothesis.given(config=any_configs(st.sampled_from(junk)))
    def check(config):
        try:
            assert isinstance(parse(ConfigDict(config), num_devices=2), Recipe)
        except RecipeError as error:
            seen["refused"] += 1
            check_lines(str(error), config)
        else:
            seen["recipe"] += 1

    check()
    assert seen["recipe"] > 8 and seen["refused"] > 100, seen


# ---- configs that run


def read_by(config: dict, key: str) -> bool:
    """Whether the choices made so far read the key."""
    section, _, name = key.rpartition(".")
    entry = CATALOGUE.owners.get(key)
    if entry is None:
        return True
    if entry in CATALOGUE.tasks and entry.name != config["task"]["name"]:
        return False
    if entry.switches and all(value_at(config, switch) is None for switch in entry.switches):
        return False
    for choice, options in (entry.options or {}).items():
        optional = {option for names in options.values() for option in names}
        if name in optional and choice.startswith(f"{section}."):
            return name in options.get(value_at(config, choice), ())
    return True


@st.composite
def structures(draw, loss):
    """Small configs that are right: what decides the compiled program, and lengths."""
    config = default_config().to_dict()
    for key, value in LOSSES[loss].items():
        put(config, key, value)
    for key, words in {
        "model.name": SMALL_MODELS,
        "model.hidden_sizes": [(4,), ()],
        "model.batch_norm": [False, True],
        "model.dropout": [None, 0.5],
        "augment.operations": [()],
        "model.dtype": ["float32", "bfloat16"],
        "optimizer.name": ["sgd", "adamw"],
        "optimizer.learning_rate_schedule": ["cosine", "one_cycle", None],
        "optimizer.warmup": [None, None, "1 step"],
        "optimizer.weight_decay": [1e-3, None],
        "optimizer.max_norm": [None, 1.0],
        "optimizer.max_delta": [None, None, 0.1],
        "optimizer.clipping": [None, None, 0.1],
        "loss.gradient_norm": [None, "cross_entropy"],
        "loss.class_weights": [None, "balanced"],
        "semisupervised.unlabelled_weight": [None, None, 1.0],
        "loop": [None, "resident", "stepwise", "streamed"],
        "ema_decay": [None, 0.9],
        "on_nonfinite": ["stop", "skip"],
        "batch_size": [8, 16],
        "duration": ["4 steps", "2.4 epochs", "70 examples"],
        "log_every": ["2 steps", "1 epoch", "11 examples"],
        "validate_every": ["1 epoch", "3 steps"],
        "cycle.shape": ["linear", "cosine", ("rex", "early_rex")],
    }.items():
        put(config, key, draw(st.sampled_from(words)))
    if config["task"]["name"] == "multilabel":
        config["loss"]["gradient_norm"] = config["semisupervised"]["unlabelled_weight"] = None
    else:
        put(config, "running_curriculum.preference", draw(st.sampled_from([None, 2.0])))
    if config["semisupervised"]["unlabelled_weight"] is not None:
        config["subset"] = "balanced 40"
        config["semisupervised"] |= {"batch_size": 6, "weak": (), "strong": ("flip",)}
    put(
        config,
        *draw(
            st.sampled_from(
                [
                    ("accumulate", 1),
                    ("accumulate", 3),
                    ("accumulate", {"easy": 3, "hard": 1}),
                    ("remainder", "pad"),
                ]
            )
        ),
    )
    if config["model"]["name"] == "mlp" and not config["model"]["hidden_sizes"]:
        config["model"] |= {"batch_norm": False, "dropout": None}
    if config["model"]["name"] == "patch_dense":
        config["model"] |= draw(st.sampled_from([{}, {"patch_size": 4, "channels": 2}]))
    if config["model"]["name"] == "cnn":
        config["model"]["widths"] = draw(st.sampled_from([(2,), (2, 3)]))
    return config


@st.composite
def runs(draw, config):
    """The config with other numbers, which compile nothing, and now and then anything at all."""
    config = {name: dict(v) if isinstance(v, dict) else v for name, v in config.items()}
    ends = st.floats(0, 1) | st.sampled_from([1e-3, 0.1, 1, 30.0])
    plain_cycles = st.fixed_dictionaries(
        {"easy": ends, "hard": ends}, optional={"factor": st.sampled_from([1, 2.0, 3.5])}
    )
    knobs = [key for key, field in KEYS.items() if field.may_cycle]
    knobs.remove("accumulate")  # part of the structure
    knobs = [key for key in knobs if read_by(config, key) and value_at(config, key) is not None]
    config["seed"] = draw(st.integers(0, 9))
    for key in draw(st.lists(st.sampled_from(knobs), max_size=3, unique=True)):
        put(config, key, draw(ends | plain_cycles))
    if draw(st.integers(0, 4)) == 0:
        key = draw(st.sampled_from(list(KEYS)))
        put(config, key, draw(plausible(key) | st.sampled_from(JUNK)))
    return config


def value_at(config: dict, key: str):
    *section, name = key.split(".")
    return (config[section[0]] if section else config)[name]


@pytest.fixture(scope="module")
def dataset():
    digits = data.load("digits")
    train, validation = (
        {name: array[:size] for name, array in split.items()}
        for split, size in ((digits.train, 41), (digits.validation, 11))
    )
    train["unlabelled"] = digits.train["image"][41:70]
    return digits._replace(train=train, validation=validation)


def is_small(recipe: Recipe, num_train: int) -> bool:
    """A run of a moment; the durations of junk are not drawn to be short."""
    return recipe.structure.batch_size <= 64 and recipe.timetable(num_train).micro_steps <= 60


def techniques_of(config: dict, recipe: Recipe, dataset: data.Dataset) -> list[str]:
    structure = recipe.structure
    names = [config["model"]["name"], config["optimizer"]["name"], structure.on_nonfinite]
    names += [word for word, changes in LOSSES.items() if chosen(config, changes)]
    names += [way_of(recipe, dataset), structure.remainder, config["model"]["dtype"]]
    names += ["accumulate"] * (max(structure.accumulate.knob[:2]) > 1)
    names += [entry.name for entry, _ in structure.entries]
    names += ["batch_norm"] * config["model"]["batch_norm"]
    cycling = [name for name, knob in recipe.numbers.items() if knob.easy != knob.hard]
    return names + ["cycle"] * bool(cycling) + list(recipe.numbers)


def chosen(config: dict, changes: dict) -> bool:
    task = {"task.name": "classification"}
    return all(value_at(config, key) == value for key, value in (task | changes).items())


ALL_TECHNIQUES = {
    *SMALL_MODELS,
    "sgd",
    "adamw",
    *LOSSES,
    "stop",
    "skip",
    "drop",
    "pad",
    "accumulate",
}
ALL_TECHNIQUES |= {"resident", "stepwise", "streamed", "float32", "bfloat16", "batch_norm", "cycle"}
ALL_TECHNIQUES |= {f"optimizer.{name}" for name in ("max_norm", "max_delta", "clipping")}
ALL_TECHNIQUES |= {"ema_decay", "optimizer.momentum", "optimizer.b1"}
ALL_TECHNIQUES |= {"loss.hardness", "multilabel.hardness", "running_curriculum.average_decay"}
ALL_TECHNIQUES |= {"semisupervised.unlabelled_weight", "semisupervised.threshold", "class_weights"}


@pytest.mark.slow
def test_a_random_config_trains_or_says_why_not(dataset, fast_compilation, capsys):
    outcomes, ran = Counter(), Counter()

    def check(loss, seed):
        @hypothesis.seed(seed)
        @hypothesis.settings(
            settings,
            max_examples=5,
            phases=[hypothesis.Phase.generate],
            report_multiple_bugs=False,
        )
        @hypothesis.given(structures(loss).flatmap(lambda config: st.tuples(*[runs(config)] * 5)))
        def check_configs(configs):
            for config in configs:
                check_run(config)

        check_configs()

    def check_run(config):
        rows, num_train = [], len(dataset.train["label"])
        try:
            recipe = parse(ConfigDict(config), num_devices=jax.device_count())
            if not is_small(recipe, num_train):
                outcomes["too long to run"] += 1
                return
            prepared, earlier = prepare(recipe, dataset)
            state = train(recipe, prepared, report=rows.append, earlier=earlier)
        except RecipeError as error:
            outcomes["refused"] += 1
            assert all(line.strip() for line in str(error).split("\n"))
        except NonFiniteError as error:
            outcomes["diverged"] += 1
            what = r"[\w ]+ is -?(nan|inf) at step \d+.*|skipped \d+ of \d+ batches, .*"
            assert re.fullmatch(f"({what}); try .*", str(error))
        else:
            outcomes["ran"] += 1
            ran.update(techniques_of(config, recipe, dataset))
            steps = recipe.timetable(num_train).total_steps
            assert int(state.step) + (config["on_nonfinite"] == "skip") * steps >= steps
            assert rows[-1]["step"] == int(state.step) and math.isfinite(rows[-1]["val_loss"])

    for seed, loss in enumerate(LOSSES):
        check(loss, seed)
    with capsys.disabled():  # pytest would not show it
        print(f"\n{dict(outcomes)}; of those that ran: {dict(ran.most_common())}")
    assert outcomes["ran"] > 0.3 * outcomes.total() and outcomes.total() >= 100
    assert ran.keys() >= ALL_TECHNIQUES
