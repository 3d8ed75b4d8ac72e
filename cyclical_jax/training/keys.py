"""The engine's own keys: the data, the lengths, the clock. A technique or a task brings its own."""

from cyclical_jax.data import DATASETS, SUBSETS, TRAIN_ON, check_name, parse_subset
from cyclical_jax.schedules import MOST_CYCLES, SHAPES
from cyclical_jax.training.fields import (
    FACTOR,
    Field,
    duration,
    number,
    one_of,
    or_none,
    path,
    whole,
    whole_knob,
)

TASK = "task.name"


def _dataset(meaning: str) -> Field:
    def check(key, value):
        check_name(value)
        return value

    words = f"{' or '.join(DATASETS)}, or npz:FILE, csv:FILE, folder:DIR or tfds:NAME"
    return Field("digits", check, words, meaning)


def _subset(meaning: str) -> Field:
    def check(key, value):
        parse_subset(value)
        return value

    words = (
        f"{' or '.join(SUBSETS)}, or 'balanced N', or 'long_tailed N F', or an index file's path"
    )
    return Field(None, check, words, meaning)


KEYS: dict[str, Field] = {
    "dataset": _dataset("the data to learn from; docs/data.md describes each kind"),
    "image_size": or_none(
        whole(
            None,
            "side in pixels to which images that differ in size are brought: those of "
            "imagenet2012, of a folder or of tfds:NAME",
            minimum=1,
            maximum=4096,
        )
    ),
    "data_dir": path("folder of the prepared datasets; None is the default of TFDS"),
    "train_on": one_of(
        "train",
        TRAIN_ON,
        "the splits to train on; add the validation split once all hyperparameters are chosen",
    ),
    "subset": or_none(
        _subset("the examples to train on; cyclical_jax/data/subsets.py describes each subset")
    ),
    "seed": whole(
        0,
        "seed of all randomness: initial parameters, order of the examples, all that is drawn",
        minimum=0,
    ),
    "duration": duration("40 epochs", "length of training; a step is an optimizer update"),
    "batch_size": whole(64, "examples per micro step, summed over all devices", minimum=1),
    "accumulate": whole_knob(
        1,
        "micro steps per update, whose gradients are averaged; a cycle is a cyclical batch size",
        minimum=1,
    ),
    "accumulate_as": one_of(
        "micro_steps",
        ("micro_steps", "one_batch"),
        "way to compute an update: its micro steps one after the other, or all at once as one "
        "larger batch; one_batch rounds a cycle of accumulate to powers of 2, and compiles each "
        "size once",
    ),
    "remainder": one_of(
        "drop",
        ("drop", "pad"),
        "treatment of the last examples of an epoch, where they do not fill a batch",
    ),
    "log_every": duration("1 epoch", "interval between two rows of the log"),
    "validate_every": duration("1 epoch", "interval between two validations"),
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
            "way to call the program: resident takes many steps per call, on data kept on the "
            "devices; stepwise one step per call, on such data; streamed one step per call, on "
            "batches sent to the devices; None is stepwise for convolutions on a CPU, else "
            "resident where the data fits",
        )
    ),
    # The clock of every knob that brings no factor or shape of its own.
    "cycle.factor": number(2.0, "place of the peak: the fraction 1 / factor of training", **FACTOR),
    "cycle.shape": one_of("linear", SHAPES, "shape of the rise and fall of the hardness"),
    "cycle.num_cycles": whole(
        1, "number of cycles easy -> hard -> easy in a run", minimum=1, maximum=MOST_CYCLES
    ),
}
