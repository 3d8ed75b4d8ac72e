"""The facts about a run's dataset that a trained model needs, kept in the run's workdir."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cyclical_jax import data
from cyclical_jax.data import LIMITS, Dataset, Normalisation, Stream, image_shape, num_examples
from cyclical_jax.data.dataset import SPLITS
from cyclical_jax.training import files
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import DATASET, WorkdirError
from cyclical_jax.training.structure import Recipe
from cyclical_jax.training.technique import Spec


class Facts(NamedTuple):
    """The facts about a dataset.

    Attributes:
      source: The dataset as the config names it.
      num_classes: Number of classes.
      class_names: Their names; empty where they have none.
      shape: Shape of one image, or of the features of one example.
      dtype: "uint8", or the dtype of floats.
      normalisation: What turns raw numbers into inputs; None if they are used as they are.
      num_examples: {split: number of examples}.
    """

    source: str
    num_classes: int
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    normalisation: Normalisation | None
    num_examples: Mapping[str, int]

    @property
    def spec(self) -> Spec:
        """Returns the spec, as `technique.spec_of` returns it for the dataset itself."""
        limits = LIMITS if self.has_bytes else None
        return Spec(self.num_examples["train"], self.num_classes, self.shape, limits)

    @property
    def has_bytes(self) -> bool:
        """True if the images are bytes 0 .. 255."""
        return np.dtype(self.dtype).kind in "iu"

    def is_seen_like(self, other: "Facts") -> bool:
        """Returns whether the same raw numbers give a model the same inputs, up to rounding."""
        one, two = self.normalisation, other.normalisation
        if one is None or two is None:
            return one is two and self.has_bytes == other.has_bytes
        pairs = zip(one, two, strict=True)
        return all(np.shape(a) == np.shape(b) and np.allclose(a, b, 1e-6, 0) for a, b in pairs)

    def as_json(self) -> dict[str, Any]:
        """Returns the content of `dataset.json`."""
        entries = self._asdict() | {
            "class_names": list(self.class_names),
            "shape": list(self.shape),
            "inputs": self._inputs(),
        }
        if self.normalisation is not None:
            pairs = self.normalisation._asdict().items()
            entries["normalisation"] = {name: np.asarray(array).tolist() for name, array in pairs}
        return entries

    def _inputs(self) -> str:
        if self.has_bytes:
            return "x / 127.5 - 1 of each byte x"
        if self.normalisation is None:
            return "the floats as they are"
        return "(x - mean) / std, with the statistics of the training split"


def facts_of(source: str, dataset: Dataset) -> Facts:
    """Returns the facts about a dataset, which the config names `source`."""
    train = dataset.train
    return Facts(
        source=source,
        num_classes=dataset.num_classes,
        class_names=tuple(dataset.class_names),
        shape=tuple(map(int, image_shape(train))),
        dtype="uint8" if isinstance(train, Stream) else str(train["image"].dtype),
        normalisation=dataset.normalisation,
        num_examples={name: num_examples(getattr(dataset, name)) for name in SPLITS},
    )


def read_facts(key: str, workdir: Path, recipe: Recipe) -> Facts:
    """Returns the facts about the dataset of the run in `workdir`.

    Args:
      key: The name that the user knows the workdir by, for errors.
      workdir: The workdir of the run.
      recipe: The recipe of the run, whose version may have written no such file.

    Raises:
      RecipeError: They cannot be read, or are missing and do not follow from the recipe; a line.
    """
    path = workdir / DATASET
    if not files.is_there(path):
        return _of_name(key, workdir, recipe)
    try:
        return _parsed(files.read(path))
    except WorkdirError as error:
        raise RecipeError(f"{key}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{key}: {path} cannot be read: {error!r}.") from error


def _parsed(entries: dict[str, Any]) -> Facts:
    found = {name: entries[name] for name in Facts._fields}
    if np.dtype(found["dtype"]).kind not in "uif":
        raise ValueError(f"dtype {found['dtype']!r} is not a number type")
    found["class_names"], found["shape"] = tuple(found["class_names"]), tuple(found["shape"])
    if (statistics := found["normalisation"]) is not None:
        arrays = (np.asarray(statistics[name], np.float64) for name in Normalisation._fields)
        found["normalisation"] = Normalisation(*arrays)
    return Facts(**found)


def _of_name(key: str, workdir: Path, recipe: Recipe) -> Facts:
    """Returns the facts that follow from the name of a dataset, for runs of earlier versions."""
    name = recipe.dataset
    if name not in data.DATASETS:
        raise RecipeError(f"{key}: {workdir} has no {DATASET}, which describes {name}.")
    train = data.num_train(name, train_on=recipe.train_on, subset=recipe.subset)
    found = data.find(name)
    shape = tuple(recipe.image_size or 0 if side is None else side for side in found.shape)
    return Facts(name, found.num_classes, (), shape, "uint8", None, {"train": train})
