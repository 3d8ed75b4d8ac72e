"""A dataset: its three splits, and the facts that are known before it is loaded."""

import importlib
import math
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from cyclical_jax._extras import to_install
from cyclical_jax.data.images import Normalisation
from cyclical_jax.data.npz import Arrays
from cyclical_jax.data.streams import Stream

PathLike = str | os.PathLike[str]
Split = Any  # Arrays or a Stream; the reader of a split knows which

SPLITS = ("train", "validation", "test")
ARRAYS = ("image", "label")  # in every split
UNLABELLED = "unlabelled"  # in a training split, on request: images without labels
RESIDENT_BYTES = 2**30  # own images that take more as bytes are streamed
STREAMED = (
    "The images are too large to rest in memory: they are read as they are needed, and training "
    "sees random crops of them."
)


class Dataset(NamedTuple):
    """A dataset in memory, or one that is read batch by batch.

    Each split is `{"image": [n, height, width, channels], "label": int32 [n]}` or a `Stream`.
    Images are uint8, which models see as x / 127.5 - 1, or floats, which they see as they are; the
    rows of a table are [n, features]. Labels are in 0 .. num_classes - 1, or they are float32
    [n, num_classes] from 0 to 1. For a task of your own they may have more axes, such as [n,
    height, width] or [n, height, width, num_classes], and floats beyond 0 and 1; a task that reads
    no labels takes zeros [n]. The training split may hold more: `"unlabelled"`, any number of
    images, and the entries that techniques add to examples, [n, ...]. A split without examples has
    arrays of length 0.

    Attributes:
      train: The split that is trained on.
      validation: The split that chooses between runs and checkpoints.
      test: The split that is left for the end.
      num_classes: Number of classes.
      class_names: Their names, or nothing.
      normalisation: The statistics that turned raw numbers into the floats of all splits, or None.
      notes: Sentences for the user about how the splits were made.
    """

    train: Split
    validation: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...] = ()
    normalisation: Normalisation | None = None
    notes: tuple[str, ...] = ()


class DatasetNotFoundError(FileNotFoundError):
    """A dataset is missing or cannot be used. The message says what to do."""


class Found(NamedTuple):
    """The facts of a dataset that are known before it is loaded.

    Attributes:
      num_classes: Number of classes.
      sizes: Numbers of examples of train, validation and test.
      read: (image size or None) -> the whole dataset.
      shape: Shape of one example's inputs: [features], or [height, width, channels], where None is
        a number that differs from image to image.
      resident: Whether the examples stay in memory; None if their size decides.
      can_resize: Whether images can be brought to another size.
      known: Returns the labels and, if there are any, the names as bytes of the training examples
        and then of the validation examples; None where only `read` tells the labels.
      identity: Returns words that identify the data, for the user's own data.
    """

    num_classes: int
    sizes: tuple[int, int, int]
    read: Callable[[int | None], Dataset]
    shape: tuple[int | None, ...]
    resident: bool | None = True
    can_resize: bool = False
    known: Callable[[], Arrays] | None = None
    identity: Callable[[], str] | None = None

    def is_resident(self, image_size: int | None) -> bool:
        """Returns whether the examples stay in memory, at that side in pixels or their own."""
        if self.resident is not None:
            return self.resident
        return self.num_bytes(image_size) <= RESIDENT_BYTES

    def num_bytes(self, image_size: int | None) -> float:
        """Returns the size of all images in bytes; infinity if it cannot be known."""
        shape = self.shape if image_size is None else (image_size, image_size, 3)
        pixels = math.prod(math.inf if length is None else length for length in shape)
        return sum(self.sizes) * pixels


def num_examples(split: Split) -> int:
    """Returns the number of examples of a split in memory or of a stream."""
    return len(split) if isinstance(split, Stream) else len(split["label"])


def image_shape(split: Split) -> tuple[int, ...]:
    """Returns the shape of an example's inputs, of a split in memory or of a stream."""
    return split.image_shape if isinstance(split, Stream) else split["image"].shape[1:]


def has_bytes(split: Split) -> bool:
    """Returns whether the images of a split are bytes 0 .. 255, not floats."""
    return isinstance(split, Stream) or split["image"].dtype.kind in "iu"


def import_optional(module: str) -> ModuleType:
    """Imports a module that takes long to import, or that only some users have."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{error}. Install it: {to_install('train')}.") from error
