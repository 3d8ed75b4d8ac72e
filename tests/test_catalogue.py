"""Every technique and task goes through the same trials; a new one is tested by being listed."""

import json
from collections import Counter

import jax
import pytest

from cyclical_jax.catalogue import CATALOGUE, default_config, parse
from cyclical_jax.data.dataset import num_examples
from cyclical_jax.models.quantized import RANGES
from cyclical_jax.testing import SMALL, Case, check
from cyclical_jax.training import ahead, assembly
from cyclical_jax.training.checkpoints import Checkpoints
from cyclical_jax.training.earlier import prepare
from cyclical_jax.training.files import CHECKPOINTS, CONFIG
from cyclical_jax.training.keeper import Keeper
from cyclical_jax.training.loop import train
from cyclical_jax.training.recipe import cyclical, load_dataset, put
from cyclical_jax.training.technique import spec_of
from tests import lowered
from tests.helpers import recipe_of

pytestmark = pytest.mark.usefixtures("fast_compilation")

RUN = "{earlier run}"  # stands for the workdir of a run
BATCH_NORM = {"model.batch_norm": True}
# How each entry is turned on; `Case` has further arguments.
ON = {
    "classification": {"loss.name": "cyclical_focal", "loss.temperature": cyclical(0.5, 2)},
    "multilabel": {"task.name": "multilabel"},
    "network": {"model.dropout": cyclical(0.1, 0.3), "model.batch_norm": True},
    "optimizer": {
        "optimizer.name": "adamw",
        "optimizer.weight_decay": cyclical(1e-4, 1e-2),
        "optimizer.max_norm": cyclical(0.5, 2),
        "optimizer.max_delta": cyclical(0.5, 2),
        "optimizer.clipping": cyclical(0.1, 0.5),
    },
    "learning_rate": {
        "optimizer.learning_rate": cyclical(0.01, 0.1),
        "optimizer.learning_rate_schedule": "warm_restarts",
        "optimizer.warmup": "2 steps",
        "optimizer.first_cycle": "4 steps",
        "optimizer.restart_multiplier": 1,
        "cycle.span": "restart",
    },
    "finetuning": {"finetuning.start": RUN, "finetuning.share": cyclical(0, 1)},
    "augmentation": {"augment.operations": ("flip", "mixup"), "augment.strength": cyclical(0, 1)},
    "semisupervised": {
        "semisupervised.unlabelled_weight": cyclical(0.5, 1),
        "semisupervised.threshold": cyclical(0.3, 0.1),
        "semisupervised.batch_size": 8,
        "semisupervised.weak": (),
        "semisupervised.strong": (),
    },
    "distillation": {"distillation.teacher": RUN, "distillation.teacher_weight": cyclical(0.9, 0)},
    "curriculum": {"curriculum.scorer": RUN, "curriculum.preference": cyclical(4, -2)},
    "running_curriculum": {
        "running_curriculum.preference": cyclical(4, -2),
        "running_curriculum.average_decay": cyclical(0.5, 0.9),
    },
    "class_weights": {"loss.class_weights": (2.0, *[1.0] * 9)},
    "moving_average": {"ema_decay": cyclical(0.5, 0.9)},
    "gradient_norm": {"loss.gradient_norm": "cross_entropy"},
    "precision": {
        "precision.weights": cyclical(8, 3),
        "precision.activations": cyclical(8, 3),
        "precision.gradients": 6,
    },
}
RANDOM = {"network", "augmentation", "precision"}
COMMON = {"gradient_norm": {"loss.temperature": 2.0}, "moving_average": BATCH_NORM}


@pytest.fixture(scope="module")
def earlier_run(tmp_path_factory):
    """The workdir of a run of a few updates."""
    workdir, config = tmp_path_factory.mktemp("earlier"), default_config()
    for key, value in SMALL.items():
        put(config, key, value)
    (workdir / CONFIG).write_text(json.dumps(config.to_dict()))
    recipe = parse(config)
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
        keeper = Keeper(checkpoints, every=1e9)
        train(recipe, load_dataset(recipe), report=lambda row: None, keeper=keeper)
    return str(workdir)


def test_every_entry_is_turned_on_here():
    assert ON.keys() == {entry.name for entry in CATALOGUE.entries}


def changes_of(name, earlier_run):
    return {key: earlier_run if value is RUN else value for key, value in ON[name].items()}


@pytest.mark.parametrize("name", ON)
def test_every_entry_passes_every_trial(name, earlier_run):
    changes = changes_of(name, earlier_run)
    check(Case(name, changes, is_random=name in RANDOM, common=COMMON.get(name, {})))


@pytest.mark.parametrize("name", ON)
def test_the_program_of_every_entry_lowers_for_tpu_and_cuda(name, earlier_run):
    changes = SMALL | COMMON.get(name, {}) | changes_of(name, earlier_run)
    recipe = recipe_of(None, changes, num_devices=2)
    dataset, earlier = prepare(recipe, load_dataset(recipe))
    run = (recipe, dataset, "resident", tuple(jax.devices()))
    program = lowered.for_accelerators(ahead.lowered, *run, earlier=earlier)
    text, ((state, _), _) = program.as_text(), program.args_info
    assert lowered.faults(text) == []
    assert lowered.donated(text) == lowered.types_of(state)
    assert lowered.all_reduced(text) == expected_sums(recipe, dataset, earlier, state)


def expected_sums(recipe, dataset, earlier, state):
    """Returns what devices have to sum: nothing twice."""
    static = {"timetable": recipe.timetable(num_examples(dataset.train)), "spec": spec_of(dataset)}
    program = assembly.assemble(recipe.structure, recipe.numbers, given=earlier.given, **static)
    measures = [measure for term in program.terms for measure in term.measures]
    losses = [program.terms, program.reference] if program.reference else [program.terms]
    params = lowered.types_of(state.params)
    averages, ranges = (
        lowered.types_of(state.model_state.get(name, {})) for name in ("batch_stats", RANGES)
    )
    # BatchNorm has two averages a layer, and sums both kinds at once: forwards and backwards.
    statistics = Counter({f"2x{kind}": number for kind, number in averages.items()})
    scalars = Counter({"f32": 1 + len(measures)})  # the loss
    # Both ends of the range of an input at once; those of a gradient one after the other.
    layers = ranges.total()
    ends = Counter({"2xf32": layers, "1x1xf32": 2 * layers})
    return sum([params] * len(losses), averages + statistics + scalars + ranges + ends)
