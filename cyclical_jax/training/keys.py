"""The engine's own keys: the data, the lengths, the clock. A technique or a task brings its own."""

from cyclical_jax.data import DATASETS, SUBSETS, TRAIN_ON, parse_subset
from cyclical_jax.schedules import MOST_CYCLES, SHAPES
from cyclical_jax.training.fields import (
    FACTOR,
    Field,
    duration,
    number,
    one_of,
    or_none,
    text,
    whole,
    whole_knob,
)

TASK = "task.name"


def _subset(meaning: str) -> Field:
    def check(key, value):
        parse_subset(value)
        return value

    words = (
        f"{' or '.join(SUBSETS)}, or 'balanced N', or 'long_tailed N F', or an index file's path"
    )
    return Field(None, check, words, meaning)


KEYS: dict[str, Field] = {
    "dataset": one_of("digits", DATASETS, "the data to learn from"),
    "image_size": or_none(
        whole(
            None,
            "side of an image in pixels, for imagenet2012, whose images differ in size",
            minimum=1,
            maximum=4096,
        )
    ),
    "data_dir": or_none(text(None, "folder of TFDS's datasets; None is TFDS's own default")),
    "train_on": one_of(
        "train",
        TRAIN_ON,
        "the splits to train on; add the validation split once all hyperparameters are chosen",
    ),
    "subset": or_none(
        _subset("the examples to train on; cyclical_jax/data/subsets.py describes each subset")
    ),
    "seed": whole(
        0, "seed of the initial parameters, the order of the examples, all randomness", minimum=0
    ),
    "duration": duration("40 epochs", "length of training; a step is an optimizer update"),
    "batch_size": whole(64, "examples a micro step, over all devices", minimum=1),
    "accumulate": whole_knob(
        1, "micro steps whose gradients make one update: a cyclical batch size", minimum=1
    ),
    "accumulate_as": one_of(
        "micro_steps",
        ("micro_steps", "one_batch"),
        "one_batch computes the micro steps of an update at once, as a larger batch; where "
        "accumulate cycles, its values are then rounded to powers of 2, each compiled once",
    ),
    "remainder": one_of(
        "drop",
        ("drop", "pad"),
        "treatment of the examples of an epoch that do not fill a batch",
    ),
    "log_every": duration("1 epoch", "interval between two rows of the log"),
    "validate_every": duration("1 epoch", "interval between two validations"),
    "on_nonfinite": one_of(
        "stop",
        ("stop", "skip"),
        "reaction to a loss or gradient that is not finite; a skipped batch makes no update, so "
        "the cycle ends that much short of easy",
    ),
    "loop": or_none(
        one_of(
            None,
            ("resident", "stepwise", "streamed"),
            "resident: many steps a call, on data that rests on the devices; stepwise: one step a "
            "call on it; streamed: one step a call on batches that are sent to the devices; None: "
            "stepwise for convolutions on a CPU, else resident where the data fits",
        )
    ),
    # The clock of every knob that brings no factor or shape of its own.
    "cycle.factor": number(2.0, "the peak is at the fraction 1 / factor of training", **FACTOR),
    "cycle.shape": one_of("linear", SHAPES, "shape of the hardness as it grows and falls"),
    "cycle.num_cycles": whole(
        1, "number of times that easy -> hard -> easy is repeated", minimum=1, maximum=MOST_CYCLES
    ),
}
