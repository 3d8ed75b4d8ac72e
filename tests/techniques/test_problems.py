"""What a technique or a task cannot be run with is one line: the table of all of them."""

import math

import pytest

from configs import digits, fashion_mnist
from cyclical_jax.catalogue import CATALOGUE, default_config, parse
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.recipe import cyclical, put
from cyclical_jax.training.technique import no_problems

FEW = {"subset": "balanced 60", "semisupervised.unlabelled_weight": 1.0}
RESTARTS = {
    "optimizer.learning_rate_schedule": "warm_restarts",
    "optimizer.first_cycle": "1 epoch",
}
IMAGENET = {"dataset": "imagenet2012", "image_size": 32}

# {technique or task: [(changes of the default config, the line)]}
CASES = {
    "classification": [
        ({"loss.temperature": 0}, "loss.temperature must be above 0, got 0.0."),
        ({"loss.temperature": -2.0}, "loss.temperature must be above 0, got -2.0."),
        (
            {"loss.temperature": cyclical(0.5, 0.0)},
            "loss.temperature.hard must be above 0, got 0.0.",
        ),
        (
            {"loss.label_smoothing": 1.5},
            "loss.label_smoothing must be at least 0 and at most 1, got 1.5.",
        ),
        (
            {"loss.gamma": 3.0},
            "loss.gamma is read where loss.name is 'focal', not 'cross_entropy'; leave it at 2.0.",
        ),
        (
            {"loss.name": "focal", "loss.gamma_pos": 1},
            "loss.gamma_pos is read where loss.name is 'asymmetric_focal' or "
            "'cyclical_focal', not 'focal'; leave it at 2.0.",
        ),
        (
            {"loss.hardness": 0.5},
            "loss.hardness is read where loss.name is 'cyclical_focal', not "
            "'cross_entropy'; leave it at cyclical(easy=0.0, hard=1.0).",
        ),
        (
            {"task.name": "multilabel", "loss.temperature": 2.0},
            "loss.temperature is read where task.name is 'classification', not "
            "'multilabel'; leave it at 1.0.",
        ),
        (
            {"task.name": "multilabel", "loss.name": "focal"},
            "loss.name is read where task.name is 'classification', not 'multilabel'; leave"
            " it at 'cross_entropy'.",
        ),
        (
            {"loss.name": "cyclical_multilabel"},
            "loss.name 'cyclical_multilabel' is now task.name='multilabel' with "
            "multilabel.loss='cyclical'.",
        ),
        (
            {"loss.name": "asymmetric_multilabel", "loss.gamma_neg": 4.0},
            "loss.name 'asymmetric_multilabel' is now task.name='multilabel' with "
            "multilabel.loss='asymmetric'.",
        ),
        (
            {"loss.name": "cyclical_fokal"},
            "loss.name must be one of 'cross_entropy', 'focal', 'asymmetric_focal', "
            "'cyclical_focal', got 'cyclical_fokal'. Did you mean 'cyclical_focal'?",
        ),
    ],
    "multilabel": [
        (
            {"multilabel.margin": 0.1},
            "multilabel.margin is read where task.name is 'multilabel', not "
            "'classification'; leave it at 0.05.",
        ),
        (
            {"multilabel.loss": "asymmetric"},
            "multilabel.loss is read where task.name is 'multilabel', not 'classification';"
            " leave it at 'cyclical'.",
        ),
        (
            {"task.name": "multilabel", "multilabel.margin": 1.0},
            "multilabel.margin must be at least 0 and at most 0.999, got 1.0.",
        ),
        (
            {
                "task.name": "multilabel",
                "multilabel.loss": "asymmetric",
                "multilabel.gamma_hc": 2.0,
            },
            "multilabel.gamma_hc is read where multilabel.loss is 'cyclical', not "
            "'asymmetric'; leave it at 3.0.",
        ),
        (
            {"task.name": "multilable"},
            "task.name must be one of 'classification', 'multilabel', got 'multilable'. Did"
            " you mean 'multilabel'?",
        ),
        (
            {"task.name": "cyclical_multilabel"},
            "task.name must be one of 'classification', 'multilabel', got "
            "'cyclical_multilabel'. Did you mean 'multilabel'?",
        ),
    ],
    "network": [
        (
            {"model.name": "mpl"},
            "model.name must be one of 'mlp', 'patch_dense', 'cnn', 'resnet10', 'resnet18',"
            " 'resnet50', 'resnet152', 'resnet18_cifar', 'resnet20_cifar', 'tresnet_m', got"
            " 'mpl'. Did you mean 'mlp'?",
        ),
        (
            {"model.hidden_sizes": 64},
            "model.hidden_sizes must be a tuple of whole numbers, such as (64,), got 64.",
        ),
        (
            {"model.hidden_sizes": (0,)},
            "model.hidden_sizes must be a whole number from 1 to 2147483647, got 0.",
        ),
        ({"model.hidden_sizes": (3, "a")}, "model.hidden_sizes must be a number, got 'a'."),
        ({"model.batch_norm": "yes"}, "model.batch_norm must be True or False, got 'yes'."),
        ({"model.batch_norm": 1}, "model.batch_norm must be True or False, got 1."),
        (
            {"model.batch_norm": True, "model.batch_norm_group": 0},
            "model.batch_norm_group must be a whole number from 1 to 2147483647, got 0.",
        ),
        (
            {"model.batch_norm": True, "model.batch_norm_group": 3},
            "model.batch_norm_group must divide the number of devices, 2, got 3.",
        ),
        (
            {"model.batch_norm_group": 1},
            "model.batch_norm_group is read where model.batch_norm is True; leave it at None.",
        ),
        ({"model.dropout": 1.1}, "model.dropout must be at least 0 and at most 1, got 1.1."),
        (
            {"model.dtype": "float16"},
            "model.dtype must be one of 'float32', 'bfloat16', got 'float16'. Did you mean "
            "'bfloat16'?",
        ),
        (
            {"model.widths": (32,)},
            "model.widths is read where model.name is 'cnn', not 'mlp'; leave it at (32, 64).",
        ),
        (
            {"model.name": "cnn", "model.stride": 1},
            "model.stride is read where model.name is 'patch_dense', not 'cnn'; leave it at 4.",
        ),
        (
            {"model.hidden_sizes": (), "model.dropout": 0.5},
            "model.dropout is read where model.hidden_sizes has a layer; leave it at None.",
        ),
        (
            {"model.hidden_sizes": (), "model.batch_norm": True},
            "model.batch_norm is read where model.hidden_sizes has a layer; leave it at False.",
        ),
        (
            {"model.stochastic_depth": 0.1},
            "model.stochastic_depth is read where model.name is 'resnet10' or 'resnet18' or"
            " 'resnet50' or 'resnet152' or 'resnet18_cifar' or 'resnet20_cifar' or "
            "'tresnet_m', not 'mlp'; leave it at None.",
        ),
    ],
    "optimizer": [
        (
            {"optimizer.name": "adam"},
            "optimizer.name must be one of 'sgd', 'adamw', got 'adam'. Did you mean 'adamw'?",
        ),
        ({"optimizer.max_norm": -1}, "optimizer.max_norm must be at least 0, got -1."),
        (
            {"optimizer.momentum": 1.1},
            "optimizer.momentum must be at least 0 and at most 1, got 1.1.",
        ),
        (
            {"optimizer.name": "adamw", "optimizer.nesterov": False},
            "optimizer.nesterov is read where optimizer.name is 'sgd', not 'adamw'; leave "
            "it at True.",
        ),
        (
            {"optimizer.b1": 0.8},
            "optimizer.b1 is read where optimizer.name is 'adamw', not 'sgd'; leave it at 0.9.",
        ),
        (
            {"optimizer.name": "adamw", "optimizer.b1": cyclical(0.9, 0.8)},
            "optimizer.b1 must be a number, got {'easy': 0.9, 'hard': 0.8, 'scale': 'linear'}.",
        ),
        (
            {"optimizer.name": "adamw", "optimizer.b2": 1.0},
            "optimizer.b2 must be at least 0 and below 1, got 1.0.",
        ),
    ],
    "learning_rate": [
        ({"optimizer.learning_rate": 0}, "optimizer.learning_rate must be above 0, got 0.0."),
        (
            {"optimizer.learning_rate": math.nan},
            "optimizer.learning_rate must be above 0 and finite, got nan.",
        ),
        ({"optimizer.learning_rate": None}, "optimizer.learning_rate must be a number, got None."),
        (
            {"optimizer.learning_rate": "0.1"},
            "optimizer.learning_rate must be a number or cyclical(easy, hard), got '0.1'.",
        ),
        (
            {"optimizer.learning_rate_schedule": "linear"},
            "optimizer.learning_rate_schedule must be one of 'cosine', 'one_cycle', "
            "'warm_restarts', got 'linear'.",
        ),
        (
            {"optimizer.learning_rate_schedule": "warm_restarts"},
            "optimizer.first_cycle must be set, such as '2 epochs', where "
            "optimizer.learning_rate_schedule is 'warm_restarts'; got None.",
        ),
        (
            {"optimizer.first_cycle": "1 epoch"},
            "optimizer.first_cycle is read where optimizer.learning_rate_schedule is "
            "'warm_restarts', not 'cosine'; leave it at None.",
        ),
        (
            {"optimizer.restart_multiplier": 3},
            "optimizer.restart_multiplier is read where optimizer.learning_rate_schedule is "
            "'warm_restarts', not 'cosine'; leave it at 2.0.",
        ),
        (
            RESTARTS | {"optimizer.restart_multiplier": 0.5},
            "optimizer.restart_multiplier must be at least 1 and at most 1e+06, got 0.5.",
        ),
        (
            RESTARTS | {"optimizer.restart_multiplier": 1.001},
            "optimizer.restart_multiplier must be 1, or at least 1.01, got 1.001.",
        ),
        (
            RESTARTS | {"optimizer.first_cycle": "2"},
            "optimizer.first_cycle must be a number above 0 and a unit, such as '1.5 epochs' or "
            "'9 steps', got '2'.",
        ),
        (
            {"optimizer.num_restarts": 2},
            "optimizer.num_restarts is now optimizer.first_cycle, the length of the first cycle.",
        ),
        (
            RESTARTS | {"accumulate": cyclical(4, 1)},
            "accumulate must be a number where optimizer.learning_rate_schedule is "
            "'warm_restarts', got 4 and 1: its cycle would change the lengths of the others.",
        ),
        (
            {"cycle.span": "restart", "optimizer.learning_rate_schedule": "one_cycle"},
            "cycle.span may be 'restart' only where optimizer.learning_rate_schedule is "
            "'warm_restarts'.",
        ),
        (
            {"validate_every": "cycle", "optimizer.warmup": "1 epoch"},
            "validate_every may be 'cycle' only where optimizer.learning_rate_schedule is "
            "'warm_restarts'.",
        ),
        (
            {"optimizer.warmup": "2"},
            "optimizer.warmup must be a number above 0 and a unit, such as '1.5 epochs' or "
            "'9 steps', got '2'.",
        ),
    ],
    "finetuning": [
        (
            {"finetuning.share": 0.5},
            "finetuning.share is read where finetuning.start is set, not None; leave it at None.",
        ),
        (
            {"finetuning.new_head": True},
            "finetuning.new_head is read where finetuning.start is set, not None; leave it "
            "at False.",
        ),
        ({"finetuning.start": 3}, "finetuning.start must be a string, got 3."),
    ],
    "augmentation": [
        (
            {"augment.operations": ("crop",)},
            "augment.operations is read where augment.strength is set, not None; leave it at ().",
        ),
        (
            {"augment.strength": 0.5},
            "augment.strength is set, but augment.operations is (): set both.",
        ),
        (
            {"augment.strength": cyclical(0, 2)},
            "augment.strength.hard must be at least 0 and at most 1, got 2.",
        ),
        (
            {"augment.operations": "crop"},
            "augment.operations must be a tuple, such as ('crop',), got 'crop'.",
        ),
        (
            {"augment.operations": ("flop",)},
            "augment.operations must be one of 'crop', 'flip', 'affine', 'brightness', "
            "'contrast', 'saturation', 'erase', 'mix', 'mixup', 'cutmix', got 'flop'. Did "
            "you mean 'flip'?",
        ),
    ],
    "semisupervised": [
        (
            {"semisupervised.unlabelled_weight": 1.0},
            "semisupervised.unlabelled_weight needs a subset, say 'balanced 250': "
            "unlabelled images are those that subset leaves out, got None.",
        ),
        (
            FEW | {"semisupervised.batch_size": 1200},
            "semisupervised.batch_size 1200 is more than the 1137 unlabelled examples.",
        ),
        (
            FEW | {"semisupervised.batch_size": 9},
            "semisupervised.batch_size must be a multiple of the number of devices, 2, got 9.",
        ),
        (
            FEW | {"semisupervised.threshold": 1.5},
            "semisupervised.threshold must be at least 0 and at most 1, got 1.5.",
        ),
        (
            {"semisupervised.threshold": 0.5},
            "semisupervised.threshold is read where semisupervised.unlabelled_weight is "
            "set, not None; leave it at 0.95.",
        ),
        (
            {"semisupervised.strong": ("mixup",)},
            "semisupervised.strong must be one of 'crop', 'flip', 'affine', 'brightness', "
            "'contrast', 'saturation', 'erase', 'mix', got 'mixup'. Did you mean 'mix'?",
        ),
        (
            FEW | {"task.name": "multilabel"},
            "semisupervised.unlabelled_weight must be None where task.name is 'multilabel':"
            " it needs class logits.",
        ),
    ],
    "distillation": [
        (
            {"distillation.teacher_weight": 0.5},
            "distillation.teacher_weight is read where distillation.teacher is set, not "
            "None; leave it at cyclical(easy=1.0, hard=0.0).",
        ),
        ({"distillation.teacher": 3}, "distillation.teacher must be a string, got 3."),
        (
            {"distillation.teacher": "runs/a", "task.name": "multilabel"},
            "distillation.teacher must be None where task.name is 'multilabel': it needs "
            "class logits.",
        ),
    ],
    "curriculum": [
        (
            {"curriculum.preference": 1.0},
            "curriculum.preference is read where curriculum.scorer is set, not None; leave "
            "it at cyclical(easy=4.0, hard=0.0).",
        ),
        (
            IMAGENET | {"curriculum.scorer": "runs/a"},
            "curriculum.scorer needs a dataset that fits in memory; leave it at None for "
            "'imagenet2012'.",
        ),
        ({"curriculum.scorer": 3}, "curriculum.scorer must be a string, got 3."),
        (
            {"curriculum.scorer": "runs/a", "task.name": "multilabel"},
            "curriculum.scorer must be None where task.name is 'multilabel': it needs class"
            " logits.",
        ),
        (
            {"curriculum.name": "running_average"},
            "curriculum.name is now curriculum.scorer for the losses of an earlier run, or "
            "running_curriculum.preference for running averages.",
        ),
        (
            {"curriculum.name": None},
            "curriculum.name is now curriculum.scorer for the losses of an earlier run, or "
            "running_curriculum.preference for running averages.",
        ),
        (
            {"curriculum.average_decay": 0.9},
            "curriculum.average_decay is now running_curriculum.average_decay.",
        ),
        ({"loss.margin": 0.05}, "loss.margin is now multilabel.margin."),
    ],
    "running_curriculum": [
        (
            {"running_curriculum.preference": 101},
            "running_curriculum.preference must be at least -100 and at most 100, got 101.",
        ),
        (
            {"running_curriculum.average_decay": 0.5},
            "running_curriculum.average_decay is read where running_curriculum.preference "
            "is set, not None; leave it at 0.9.",
        ),
        (
            {"running_curriculum.preference": 4, "task.name": "multilabel"},
            "running_curriculum.preference must be None where task.name is 'multilabel': it"
            " needs class logits.",
        ),
        (
            {"running_curriculum.preference": 4, "curriculum.preference": 1},
            "curriculum.preference is read where curriculum.scorer is set, not None; leave "
            "it at cyclical(easy=4.0, hard=0.0).",
        ),
    ],
    "class_weights": [
        (
            {"loss.class_weights": (1.0, 2.0)},
            "loss.class_weights must have 10 numbers for 'digits', got 2.",
        ),
        (
            {"loss.class_weights": "equal"},
            "loss.class_weights must be 'balanced' or a tuple of numbers, got 'equal'.",
        ),
        ({"loss.class_weights": (1, "a", 2)}, "loss.class_weights must be a number, got 'a'."),
        (
            {"loss.class_weights": ()},
            "loss.class_weights must be 'balanced' or a tuple of numbers, got ().",
        ),
        (
            IMAGENET | {"loss.class_weights": "balanced"},
            "loss.class_weights needs a dataset that fits in memory; leave it at None for "
            "'imagenet2012'.",
        ),
    ],
    "moving_average": [
        ({"ema_decay": 1.5}, "ema_decay must be at least 0 and at most 1, got 1.5."),
    ],
    "gradient_norm": [
        (
            {"loss.gradient_norm": "focal"},
            "loss.gradient_norm must be one of 'cross_entropy', got 'focal'.",
        ),
        (
            {"task.name": "multilabel", "loss.gradient_norm": "cross_entropy"},
            "loss.gradient_norm must be None where task.name is 'multilabel': it needs "
            "class logits.",
        ),
    ],
    "precision": [
        ({"precision.weights": 1}, "precision.weights must be at least 2 and at most 16, got 1."),
        (
            {"precision.gradients": cyclical(17, 3)},
            "precision.gradients.easy must be at least 2 and at most 16, got 17.",
        ),
        (
            {"precision.weights": 4, "precision.quantizer": "symetric"},
            "precision.quantizer must be one of 'affine', 'symmetric', got 'symetric'. Did you "
            "mean 'symmetric'?",
        ),
        (
            {"precision.weights": 4, "precision.keep": "last"},
            "precision.keep must be a tuple of names, such as ('last',), got 'last'.",
        ),
        (
            {"precision.keep": ("first",)},
            "precision.keep is read where precision.weights, precision.activations or "
            "precision.gradients is set, not None; leave it at ('last',).",
        ),
        (
            {"precision.gradients": 8, "precision.quantizer": "symmetric"},
            "precision.quantizer is read where precision.weights or precision.activations is set, "
            "not None; leave it at 'affine'.",
        ),
        (
            {"precision.weights": 4, "precision.deficit": 0.5},
            "precision.deficit must be (start, end), such as (0, 0.25), got 0.5.",
        ),
        (
            {"precision.weights": 4, "precision.deficit": (0.5, 0.5), "precision.deficit_bits": 3},
            "precision.deficit must be (start, end) with start below end, got (0.5, 0.5).",
        ),
        (
            {"precision.weights": 4, "precision.deficit": (0, 1.5), "precision.deficit_bits": 3},
            "precision.deficit must be at least 0 and at most 1, got 1.5.",
        ),
        (
            {"precision.weights": 4, "precision.deficit": (0, 0.5)},
            "precision.deficit and precision.deficit_bits must both be set or both be None, got "
            "(0.0, 0.5) and None.",
        ),
        (
            {"precision.weights": 4, "precision.deficit": (0, 1), "precision.deficit_bits": 1},
            "precision.deficit_bits must be a whole number from 2 to 16, got 1.",
        ),
        (
            {"precision.gradients": 8, "precision.deficit_bits": 3, "precision.deficit": (0, 1)},
            "precision.deficit is read where precision.weights or precision.activations is set, "
            "not None; leave it at None.\n"
            "precision.deficit_bits is read where precision.weights or precision.activations is "
            "set, not None; leave it at None.",
        ),
        (
            {"precision.deficit_bits": 3, "precision.deficit": (0, 1)},
            "precision.deficit is read where precision.weights or precision.activations is set, "
            "not None; leave it at None.\n"
            "precision.deficit_bits is read where precision.weights or precision.activations is "
            "set, not None; leave it at None.",
        ),
        (
            RESTARTS
            | {"cycle.span": "restart", "precision.weights": 4}
            | {"precision.deficit": (0, 0.5), "precision.deficit_bits": 3},
            "precision.deficit is a part of the whole run; where cycle.span is 'restart' it must "
            "be None, got (0.0, 0.5).",
        ),
        (
            {"cycle.span": "restrat", "precision.weights": 4}
            | {"precision.deficit": (0, 0.5), "precision.deficit_bits": 3},
            "cycle.span must be one of 'run', 'restart', got 'restrat'. Did you mean 'restart'?",
        ),
    ],
}


def changed(changes):
    """Returns the default config with {"section.key": value} set, whatever the type."""
    config = default_config()
    with config.ignore_type():
        for key, value in changes.items():
            put(config, key, value)
    return config


@pytest.mark.parametrize("changes, line", [case for cases in CASES.values() for case in cases])
def test_what_cannot_be_run_is_one_line(changes, line):
    with pytest.raises(RecipeError) as error:
        parse(changed(changes), num_devices=2)
    assert str(error.value) == line


def test_every_entry_that_can_be_wrong_has_a_case():
    able = {
        entry.name
        for entry in CATALOGUE.entries
        if entry.problems is not no_problems or entry.switches or entry.needs or entry.options
    }
    assert able == CASES.keys() and all(CASES.values())


def test_every_case_is_of_its_entry():
    """A key of the entry, or one of an earlier version, is among the changes."""
    moved = dict(CATALOGUE.moved)
    for entry in CATALOGUE.entries:
        for changes, _ in CASES[entry.name]:
            assert changes.keys() & {*entry.keys, *moved, "task.name"}
    assert moved.keys() <= {
        key for cases in CASES.values() for changes, _ in cases for key in changes
    }


def test_a_moved_key_and_a_moved_loss_name_what_is_set_now():
    """And what is named is a key."""
    for key, now in CATALOGUE.moved:
        assert key not in CATALOGUE.keys
        words = now.replace(",", "").split()
        assert any(word in CATALOGUE.keys for word in words)


def test_everything_wrong_about_a_technique_is_told_at_once():
    changes = FEW | {"task.name": "multilabel", "distillation.teacher": "runs/a"}
    changes |= {"subset": None, "semisupervised.batch_size": 9, "curriculum.name": None}
    with pytest.raises(RecipeError) as error:
        parse(changed(changes), num_devices=2)
    assert [line.split()[0] for line in str(error.value).splitlines()] == [
        "curriculum.name",
        "semisupervised.batch_size",
        "semisupervised.unlabelled_weight",
        "semisupervised.unlabelled_weight",
        "distillation.teacher",
    ]


# ---- what is right, and warned of


@pytest.mark.parametrize("value", [6.0, cyclical(6.0, 2.0), cyclical(2.0, 6.0)])
@pytest.mark.parametrize(
    "config, section",
    [(digits.get_config("focal"), "loss"), (fashion_mnist.get_config("multilabel"), "multilabel")],
)
def test_a_gamma_that_makes_the_easy_loss_non_monotone_warns(config, section, value):
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        put(config, f"{section}.gamma_hc", value)
    with pytest.warns(UserWarning, match="`gamma_hc` 6.0 is above 3.591"):
        parse(config)
