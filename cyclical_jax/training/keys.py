"""The engine's own keys: data, lengths, cycle. Each technique and each task brings its own."""

from collections.abc import Mapping
from typing import NamedTuple

from cyclical_jax.data import DATASETS, SUBSETS, TRAIN_ON, check_name, parse_subset
from cyclical_jax.schedules import MOST_CYCLES
from cyclical_jax.training.fields import (
    FACTOR,
    Field,
    any_of,
    duration,
    number,
    one_of,
    or_none,
    or_word,
    path,
    shape,
    whole,
    whole_knob,
)

TASK = "task.name"
DURATION = "duration"
SPAN, RESTART = "cycle.span", "restart"
CYCLE = "cycle"  # a value of `validate_every`


def _dataset(meaning: str) -> Field:
    def check(key, value):
        check_name(value)
        return value

    words = any_of(*DATASETS, "npz:FILE", "csv:FILE", "folder:DIR", "tfds:NAME")
    return Field("digits", check, words, meaning)


def _subset(meaning: str) -> Field:
    def check(key, value):
        parse_subset(value)
        return value

    words = any_of(*SUBSETS, "'balanced N'", "'long_tailed N F'", "the path of an index file")
    return Field(None, check, words, meaning)


_DATA: dict[str, Field] = {
    "dataset": _dataset("data to learn from; docs/data.md describes each kind"),
    "image_size": or_none(
        whole(
            None,
            "side, in pixels, of the square that each image is cropped and scaled to; only for "
            "imagenet2012, folder:DIR and tfds:NAME; needed where images differ in size",
            minimum=1,
            maximum=4096,
        )
    ),
    "data_dir": path("folder of the prepared datasets; None is the default folder of TFDS"),
    "train_on": one_of(
        "train",
        TRAIN_ON,
        "splits to train on; add the validation split once all hyperparameters are chosen",
    ),
    "subset": or_none(
        _subset(
            "part of the examples to train on; None is all; cyclical_jax/data/subsets.py describes "
            "each subset"
        )
    ),
}
_LENGTHS: dict[str, Field] = {
    "seed": whole(
        0,
        "seed of all random numbers: first parameters, order of the examples, and all other draws",
        minimum=0,
    ),
    DURATION: duration("40 epochs", "length of training; a step is one optimizer update"),
    "batch_size": whole(64, "examples per micro step, summed over all devices", minimum=1),
    "accumulate": whole_knob(
        1,
        "micro steps per update, whose gradients are averaged; a cycle makes the batch size cycle",
        minimum=1,
    )._replace(high_is_easy=True),
    "accumulate_as": one_of(
        "micro_steps",
        ("micro_steps", "one_batch"),
        "way to compute an update: one micro step after the other, or all of them at once as one "
        "larger batch; one_batch rounds a cycle of accumulate to powers of 2 and compiles each "
        "size once",
    ),
    "remainder": one_of(
        "drop",
        ("drop", "pad"),
        "treatment of the last examples of an epoch that do not fill a batch",
    ),
    "log_every": duration("1 epoch", "interval between two rows of the log"),
    "validate_every": or_word(
        CYCLE,
        duration(
            "1 epoch",
            "interval between two validations; 'cycle' is the end of each cycle of a run whose "
            "learning rate restarts",
        ),
    ),
    "on_nonfinite": one_of(
        "stop",
        ("stop", "skip"),
        "reaction to a loss or gradient that is not finite; a skipped batch makes no update, so "
        "the cycle ends before it is back at easy",
    ),
    "loop": or_none(
        one_of(
            None,
            ("resident", "stepwise", "streamed"),
            "way to call the program: resident keeps the data on the devices and takes many steps "
            "per call; stepwise keeps it there too and takes one step per call; streamed sends "
            "each batch to the devices; None is stepwise for convolutions on a CPU, otherwise "
            "resident if the data fits and streamed if it does not",
        )
    ),
}
_CYCLE: dict[str, Field] = {
    "cycle.factor": number(
        2.0, "place of the peak: hardness is 1 at the fraction 1 / factor of training", **FACTOR
    ),
    "cycle.shape": shape("linear", "shape of the rise and fall of the hardness"),
    "cycle.num_cycles": whole(
        1, "number of times that a run goes easy -> hard -> easy", minimum=1, maximum=MOST_CYCLES
    ),
    SPAN: one_of(
        "run",
        ("run", RESTART),
        "time in which hardness goes easy -> hard -> easy as often as num_cycles says: the whole "
        "run, or each cycle of a run whose learning rate restarts",
    ),
}


class Section(NamedTuple):
    """Keys that are listed together."""

    name: str
    about: str  # one sentence
    keys: Mapping[str, Field]


SECTIONS = (
    Section("data", "Chooses the examples to learn from.", _DATA),
    Section("training", "Sets the length of training, its batches and its log.", _LENGTHS),
    Section(
        "cycle",
        "Shapes every cyclical(easy, hard) that has no factor or shape of its own.",
        _CYCLE,
    ),
)
KEYS: dict[str, Field] = {key: field for _, _, keys in SECTIONS for key, field in keys.items()}
