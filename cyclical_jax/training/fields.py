"""Every key of a config, once: its default, what may stand there, and what it means.

A key is read by all configs but for the options of a choice: `loss.gamma_hc`, say, is read where
`loss.name` is "cyclical_focal", and must be left at its default elsewhere (`OPTIONS`).
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import numpy as np

from cyclical_jax import _checks, augment, losses
from cyclical_jax.data import DATASETS, SUBSETS, TRAIN_ON, parse_subset
from cyclical_jax.models import MODEL_OPTIONS, MODELS
from cyclical_jax.schedules import MOST_CYCLES, SCALES, SHAPES, Scale, Shape
from cyclical_jax.training.durations import Duration, parse_duration

Check = Callable[[str, Any], Any]  # (key, value) -> value as the recipe has it; or ValueError


class Field(NamedTuple):
    """One key of a config."""

    default: Any
    check: Check  # ValueError has a line for each problem
    type: str  # in words, for people
    meaning: str


class Limits(TypedDict, total=False):
    """Of a number; as in `_checks.number`."""

    minimum: float
    maximum: float
    above: float
    below: float


_FLOAT32_TINY, _FLOAT32_MAX = map(float, (np.finfo("f4").tiny, np.finfo("f4").max))
BALANCED = "balanced"  # weights of classes in inverse proportion to their examples
_FACTOR: Limits = {"minimum": 1, "maximum": 1e9}


class Cycle(NamedTuple):
    """A knob as the config gives it; None where the clock of the config decides."""

    easy: float
    hard: float
    factor: float | None = None
    shape: Shape | None = None
    scale: Scale = "linear"


def _one_of(default: str | None, allowed: tuple[str, ...], meaning: str) -> Field:
    def check(key, value):
        _checks.one_of(key, value, allowed)
        return value

    return Field(default, check, " or ".join(allowed), meaning)


def _whole(default: int | None, meaning: str, *, minimum: int, maximum: int = 2**31 - 1) -> Field:
    def check(key, value):
        _check_scalar(key, value)
        _checks.whole_number(key, value, minimum=minimum, maximum=maximum)
        return int(value)

    return Field(default, check, f"whole number, at least {minimum}", meaning)


def _number(default: float, meaning: str, **limits: Unpack[Limits]) -> Field:
    def check(key, value):
        _check_number(key, value, **limits)
        return float(value)

    return Field(default, check, _number_in_words(**limits), meaning)


def _flag(default: bool, meaning: str) -> Field:
    def check(key, value):
        if not isinstance(value, bool):
            raise ValueError(f"{key} must be True or False, got {value!r}.")
        return value

    return Field(default, check, "True or False", meaning)


def _text(default: str | None, meaning: str) -> Field:
    def check(key, value):
        if not isinstance(value, str):
            raise ValueError(f"{key} must be a string, got {value!r}.")
        return value

    return Field(default, check, "string", meaning)


def _sizes(default: tuple[int, ...], meaning: str) -> Field:
    def check(key, value):
        if not isinstance(value, tuple | list):
            raise ValueError(f"{key} must be a tuple of whole numbers, say (64,), got {value!r}.")
        return tuple(_whole(1, "", minimum=1).check(key, size) for size in value)

    return Field(default, check, "tuple of whole numbers, at least 1", meaning)


def _names(allowed: tuple[str, ...], meaning: str) -> Field:
    def check(key, value):
        if not isinstance(value, tuple | list):
            raise ValueError(f"{key} must be a tuple, say ({allowed[0]!r},), got {value!r}.")
        _raise_all(line for name in value for line in _problem(_checks.one_of, key, name, allowed))
        return tuple(value)

    return Field((), check, f"tuple of {', '.join(allowed)}", meaning)


def _class_weights(meaning: str) -> Field:
    def check(key, value):
        if isinstance(value, str) and value == BALANCED:
            return value
        if not isinstance(value, tuple | list) or not value:
            raise ValueError(f"{key} must be 'balanced' or a tuple of numbers, got {value!r}.")
        return tuple(_number(1.0, "", minimum=0).check(key, weight) for weight in value)

    return Field(None, check, "'balanced', or tuple of numbers, at least 0", meaning)


def _subset(meaning: str) -> Field:
    def check(key, value):
        parse_subset(value)
        return value

    words = (
        f"{' or '.join(SUBSETS)}, or 'balanced N', or 'long_tailed N F', or an index file's path"
    )
    return Field(None, check, words, meaning)


def _duration(default: str | None, meaning: str) -> Field:
    def check(key, value) -> Duration:
        try:
            return parse_duration(str(value))
        except ValueError as error:
            raise ValueError(f"{key} {error}.") from error

    return Field(default, check, "number and steps, epochs or examples", meaning)


def _knob(default: Any, meaning: str, **limits: Unpack[Limits]) -> Field:
    """A number that may cycle."""

    def check(key, value) -> Cycle:
        if isinstance(value, str):
            raise ValueError(f"{key} must be a number or cyclical(easy, hard), got {value!r}.")
        if not isinstance(value, Mapping):
            _check_number(key, value, **limits)
            return Cycle(float(value), float(value))
        _raise_all(_problems_of_cycle(key, value, limits))
        own_factor = value.get("factor")
        numbers = {"easy": float(value["easy"]), "hard": float(value["hard"])}
        factor = None if own_factor is None else float(own_factor)
        return Cycle(**{**value, **numbers, "factor": factor})

    words = f"{_number_in_words(**limits)}, or cyclical(easy, hard)"
    return Field(default, check, words, meaning)


def _constant(default: float, meaning: str, **limits: Unpack[Limits]) -> Field:
    """A number that is an argument of the program as a knob is, but does not cycle."""
    number = _number(default, meaning, **limits)

    def check(key, value) -> Cycle:
        return Cycle(*[number.check(key, value)] * 2)

    return number._replace(check=check)


def _whole_knob(default: int, meaning: str, *, minimum: int) -> Field:
    """A knob whose ends are whole numbers."""
    knob, whole = (make(default, meaning, minimum=minimum) for make in (_knob, _whole))

    def check(key, value) -> Cycle:
        if not isinstance(value, Mapping):
            return knob.check(key, whole.check(key, value))
        cycle = knob.check(key, value)
        _raise_all(
            line
            for end in ("easy", "hard")
            for line in _problem(whole.check, f"{key}.{end}", getattr(cycle, end))
        )
        return cycle

    return knob._replace(check=check, type=f"whole {knob.type}")


def _or_none(field: Field) -> Field:
    def check(key, value):
        return None if value is None else field.check(key, value)

    return field._replace(check=check, type=f"{field.type}, or None")


def _problems_of_cycle(key, value, limits):
    """A line for each thing that is wrong with the entries of a `cyclical(...)`."""
    allowed = ", ".join(Cycle._fields)
    for name in sorted(value.keys() - set(Cycle._fields), key=str):
        yield f"{key}.{name} is not a key of a cycle: {allowed}."
    if value.get("scale") == "log":  # no minimum is above 0
        limits = {name: limits[name] for name in limits.keys() - {"minimum"}} | {"above": 0}
    for end, other in (("easy", "hard"), ("hard", "easy")):
        if value.get(end) is None:
            given = f" beside {key}.{other}" if value.get(other) is not None else ""
            yield f"{key}.{end} is missing{given}; a cycle needs easy and hard."
        else:
            yield from _problem(_check_number, f"{key}.{end}", value[end], **limits)
    if value.get("factor") is not None:
        yield from _problem(_check_number, f"{key}.factor", value["factor"], **_FACTOR)
    if value.get("shape") is not None:
        yield from _problem(_checks.one_of, f"{key}.shape", value["shape"], SHAPES)
    yield from _problem(_checks.one_of, f"{key}.scale", value.get("scale", "linear"), SCALES)


def _check_number(key: str, value: Any, **limits: Unpack[Limits]) -> None:
    """Of one number that is itself in float32, in which it will be computed with."""
    _check_scalar(key, value)
    _checks.number(key, value, **limits)
    if value != 0 and not _FLOAT32_TINY <= abs(value) <= _FLOAT32_MAX:
        raise ValueError(
            f"{key} must be 0 or from {_FLOAT32_TINY:.2g} to {_FLOAT32_MAX:.2g} in size, "
            f"got {value}."
        )


def _check_scalar(key: str, value: Any) -> None:
    if not np.isscalar(value):
        raise ValueError(f"{key} must be a number, got {value!r}.")


def _problem(check, key, value, *args, **limits):
    try:
        check(key, value, *args, **limits)
    except ValueError as error:
        yield str(error)


def _raise_all(problems) -> None:
    lines = list(problems)
    if lines:
        raise ValueError("\n".join(lines))


def _number_in_words(**limits: Unpack[Limits]) -> str:
    return f"number {' and '.join(_checks.limits_in_words(**limits))}".strip()


# ---- the options of a choice: {key of the choice: {choice: the keys of its section that it reads}}

LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": losses.softmax_cross_entropy,
    "focal": losses.focal_loss,
    "asymmetric_focal": losses.asymmetric_focal_loss,
    "cyclical_focal": losses.cyclical_focal_loss,
    "asymmetric_multilabel": losses.asymmetric_multilabel_loss,
    "cyclical_multilabel": losses.cyclical_multilabel_loss,
}
MULTILABEL = ("asymmetric_multilabel", "cyclical_multilabel")  # of a sigmoid of each logit
LOSS_KNOBS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(loss).parameters)[2:] for name, loss in LOSSES.items()
}
_LOSS_OPTIONS = {
    name: knobs if name in MULTILABEL else (*knobs, "gradient_norm")
    for name, knobs in LOSS_KNOBS.items()
}
# Attributes of a model that are knobs; the others decide its program.
MODEL_KNOBS = ("dropout", "stochastic_depth")
OPTIMIZER_OPTIONS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum", "nesterov"),
    "adamw": ("b1", "b2", "eps"),
}
CURRICULA: dict[str, tuple[str, ...]] = {
    "earlier_run": ("scorer",),
    "running_average": ("average_decay",),
}
OPTIONS: dict[str, Mapping[str, tuple[str, ...]]] = {
    "model.name": MODEL_OPTIONS,
    "optimizer.name": OPTIMIZER_OPTIONS,
    "loss.name": _LOSS_OPTIONS,
    "curriculum.name": CURRICULA,
}

FIELDS: dict[str, Field] = {
    "dataset": _one_of("digits", DATASETS, "what is learned"),
    "image_size": _or_none(
        _whole(None, "of a side, for imagenet2012, whose images have none", minimum=1, maximum=4096)
    ),
    "data_dir": _or_none(_text(None, "where TFDS keeps its datasets; None is its own default")),
    "train_on": _one_of("train", TRAIN_ON, "with the validation split only when all is chosen"),
    "subset": _or_none(_subset("of what is trained on; see cyclical_jax/data/subsets.py")),
    "seed": _whole(0, "of initial parameters, order of the examples, all randomness", minimum=0),
    "duration": _duration("40 epochs", "length of training; a step is an optimizer update"),
    "batch_size": _whole(64, "examples a micro step, over all devices", minimum=1),
    "accumulate": _whole_knob(
        1, "micro steps whose gradients make one update: a cyclical batch size", minimum=1
    ),
    "accumulate_as": _one_of(
        "micro_steps",
        ("micro_steps", "one_batch"),
        "one_batch computes the micro steps of an update at once, a larger batch; where accumulate "
        "cycles its values are then rounded to powers of 2, each compiled once",
    ),
    "remainder": _one_of(
        "drop", ("drop", "pad"), "the examples of an epoch that do not fill a batch"
    ),
    "log_every": _duration("1 epoch", "how often a row is written"),
    "validate_every": _duration("1 epoch", "how often the row has the validation split's scores"),
    "on_nonfinite": _one_of(
        "stop",
        ("stop", "skip"),
        "what a loss or gradient that is not finite does to the run; a skipped batch makes no "
        "update, so the cycle ends that much short of easy",
    ),
    "loop": _or_none(
        _one_of(
            None,
            ("resident", "stepwise", "streamed"),
            "many steps a call on data that rests on the devices, one step a call on it, or one on "
            "batches sent to them; None: stepwise for convolutions on a CPU, else resident",
        )
    ),
    "ema_decay": _or_none(
        _knob(
            None,
            "of a moving average of the parameters, which is then what is evaluated",
            minimum=0,
            maximum=1,
        )
    ),
    "augment.operations": _names(augment.NAMES, "what is done to an image, in this order"),
    "augment.strength": _or_none(
        _knob(None, "of all of them; see cyclical_jax/augment.py", minimum=0, maximum=1)
    ),
    # The clock of every knob that brings no factor or shape of its own.
    "cycle.factor": _number(2.0, "the peak is at the fraction 1 / factor of training", **_FACTOR),
    "cycle.shape": _one_of("linear", SHAPES, "how the hardness grows and falls"),
    "cycle.num_cycles": _whole(
        1, "how often easy -> hard -> easy is repeated", minimum=1, maximum=MOST_CYCLES
    ),
    "model.name": _one_of("mlp", MODELS, "see cyclical_jax/models"),
    "model.hidden_sizes": _sizes((64,), "widths of the hidden dense layers"),
    "model.patch_size": _whole(8, "side of a patch, in pixels", minimum=1),
    "model.stride": _whole(4, "pixels from one patch to the next", minimum=1),
    "model.channels": _whole(32, "outputs of the layer that all patches share", minimum=1),
    "model.widths": _sizes((32, 64), "channels of the convolutions"),
    "model.batch_norm": _flag(False, "normalise each hidden layer over the whole batch"),
    "model.dropout": _or_none(
        _knob(
            None,
            "rate of zeros among what a dense layer reads, other than pixels",
            minimum=0,
            maximum=1,
        )
    ),
    "model.stochastic_depth": _or_none(
        _knob(
            None,
            "rate at which an image skips the last residual block; that of the others grows to it "
            "in a line",
            minimum=0,
            maximum=1,
        )
    ),
    "model.dtype": _one_of(
        "float32", ("float32", "bfloat16"), "of the computation; parameters are float32"
    ),
    "optimizer.name": _one_of("sgd", tuple(OPTIMIZER_OPTIONS), "what preconditions the gradient"),
    "optimizer.learning_rate": _knob(0.1, "factor of the update", above=0),
    "optimizer.learning_rate_schedule": _or_none(
        _one_of(
            "cosine",
            ("cosine", "one_cycle", "warm_restarts"),
            "times the learning rate, which may cycle too; see "
            "cyclical_jax/training/learning_rate.py",
        )
    ),
    "optimizer.num_restarts": _or_none(
        _whole(
            None, "of warm_restarts, each twice as long as the one before", minimum=1, maximum=20
        )
    ),
    "optimizer.warmup": _or_none(
        _duration(None, "in which the learning rate grows from 0 to what follows")
    ),
    "optimizer.weight_decay": _or_none(
        _knob(1e-3, "times the learning rate; biases and normalisations do not decay", minimum=0)
    ),
    "optimizer.max_norm": _or_none(_knob(None, "clips the norm of the whole gradient", minimum=0)),
    "optimizer.max_delta": _or_none(_knob(None, "clips each entry of the gradient", minimum=0)),
    "optimizer.clipping": _or_none(
        _knob(None, "clips a unit's gradient relative to its parameters", minimum=0)
    ),
    "optimizer.momentum": _knob(0.9, "of sgd", minimum=0, maximum=1),
    "optimizer.nesterov": _flag(True, "Nesterov's momentum, of sgd"),
    # Adam corrects its averages for their start by the decay in force: a cycle would not cancel.
    "optimizer.b1": _constant(
        0.9, "decay of the mean of the gradient, of adamw", minimum=0, below=1
    ),
    "optimizer.b2": _constant(
        0.999, "decay of the mean of its square, of adamw", minimum=0, below=1
    ),
    "optimizer.eps": _knob(1e-8, "keeps adamw from dividing by zero", above=0),
    "loss.name": _one_of("cross_entropy", tuple(LOSS_KNOBS), "see cyclical_jax/losses.py"),
    "loss.temperature": _knob(
        1.0, "divides the logits in the loss of the labels; all else has 1", above=0
    ),
    "loss.label_smoothing": _knob(0.0, "share of the label given to all", minimum=0, maximum=1),
    "loss.gradient_norm": _or_none(
        _one_of(
            None,
            ("cross_entropy",),
            "the gradient keeps its direction and gets the norm of this loss's, at temperature 1 "
            "and the same label smoothing; None: its own, which a cycle of the loss changes as a "
            "cycle of the learning rate would",
        )
    ),
    "loss.class_weights": _or_none(
        _class_weights(
            "of the examples' losses, one a class, not normalised: 2 for all doubles the gradient; "
            "'balanced' is n / (classes n_class)"
        )
    ),
    "loss.gamma": _knob(2.0, "of the focal loss", minimum=0),
    "loss.hardness": _knob(
        {"easy": 0.0, "hard": 1.0}, "mixes the confident and the focal loss", minimum=0, maximum=1
    ),
    "loss.gamma_hc": _knob(3.0, "of the confident loss; up to 3.591 it is monotone", minimum=0),
    "loss.gamma_pos": _knob(2.0, "focal, of the label", minimum=0),
    "loss.gamma_neg": _knob(2.0, "focal, of the other classes", minimum=0),
    "loss.margin": _knob(
        0.05,
        "probability below which a class that is no label costs nothing",
        minimum=0,
        maximum=0.999,
    ),
    "semisupervised.unlabelled_weight": _or_none(
        _knob(None, "of the loss of the examples that subset leaves out", minimum=0)
    ),
    "semisupervised.threshold": _knob(
        0.95, "probability from which a prediction counts as a label", minimum=0, maximum=1
    ),
    "semisupervised.batch_size": _whole(
        128, "unlabelled examples a micro step, over all devices", minimum=1
    ),
    "semisupervised.weak": _names(
        tuple(augment.OPERATIONS), "what is done to the view that is predicted from"
    )._replace(default=("crop", "flip")),
    "semisupervised.strong": _names(
        tuple(augment.OPERATIONS), "what is done to the view that learns the prediction"
    )._replace(default=("crop", "flip", "mix", "erase")),
    "distillation.teacher": _or_none(
        _text(None, "workdir of the run whose soft labels are learned")
    ),
    "distillation.teacher_weight": _knob(
        {"easy": 1.0, "hard": 0.0},
        "of the teacher's loss; that of the labels gets the rest",
        minimum=0,
        maximum=1,
    ),
    "distillation.teacher_temperature": _knob(
        2.0, "divides the logits of both, in the teacher's loss", above=0
    ),
    "curriculum.name": _or_none(
        _one_of(
            None,
            tuple(CURRICULA),
            "whose loss says how difficult an example is: that of a run in scorer, among all "
            "examples; or this run's own, averaged, among those of the batch",
        )
    ),
    "curriculum.scorer": _or_none(
        _text(None, "workdir of the run whose loss says how difficult an example is")
    ),
    "curriculum.average_decay": _knob(
        0.9,
        "of the running average of an example's loss, each time it is seen",
        minimum=0,
        maximum=1,
    ),
    "curriculum.preference": _knob(
        {"easy": 4.0, "hard": 0.0},
        "for easy examples: weights c exp(-c r) / (1 - exp(-c)) of their rank r",
        minimum=-100,
        maximum=100,
    ),
    "finetuning.start": _or_none(_text(None, "workdir of the run whose parameters are the first")),
    "finetuning.new_head": _flag(False, "the last layer's parameters are drawn anew"),
    "finetuning.share": _or_none(
        _knob(
            None,
            "of the layers that learn, from the head down; BatchNorm's statistics move in all",
            minimum=0,
            maximum=1,
        )
    ),
}
# {section: its key that is None where the section is off}; the others are read where it is on.
SWITCHES = {
    "semisupervised": "unlabelled_weight",
    "distillation": "teacher",
    "curriculum": "name",
    "finetuning": "start",
}
SECTIONS = tuple(dict.fromkeys(key.split(".")[0] for key in FIELDS if "." in key))
