"""What earlier runs give to a run: its first parameters, a teacher, the difficulty of examples."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax.curriculum import difficulty_ranks
from cyclical_jax.data import UNLABELLED, Dataset, Stream, image_shape
from cyclical_jax.data import num_classes as num_classes_of
from cyclical_jax.distillation import teacher_logits
from cyclical_jax.losses import softmax_cross_entropy
from cyclical_jax.training.checkpoints import CHECKPOINTS, CONFIG, CheckpointError, read_variables
from cyclical_jax.training.fields import BALANCED
from cyclical_jax.training.images import as_batch
from cyclical_jax.training.networks import assemble_model, layers
from cyclical_jax.training.recipe import Recipe, RecipeError, Structure, default_config, parse, put
from cyclical_jax.training.state import Variables

TEACHER, RANK, WEIGHT = "teacher", "rank", "weight"  # what is added to examples


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trained:
    """A network and its variables; a pytree of them."""

    structure: Structure = dataclasses.field(metadata={"static": True})
    num_classes: int = dataclasses.field(metadata={"static": True})
    variables: Variables
    step: int = dataclasses.field(default=0, metadata={"static": True})  # updates before

    def logits(self, images: jax.Array) -> jax.Array:
        """[batch, classes], of images as the step sees them."""
        model = assemble_model(self.structure, self.num_classes, axis_name=None)
        return model.apply(*self.variables, images, train=False)[0]


class Earlier(NamedTuple):
    """What a run has of earlier ones beside what they added to its examples."""

    start: Variables | None = None  # its first ones, but for those of a new head
    teacher: Trained | None = None  # asked at every step, where the images change


def prepare(recipe: Recipe, dataset: Dataset) -> tuple[Dataset, Earlier]:
    """Reads the runs that the recipe names, and adds what follows from them to the examples.

    These are, each where the recipe asks for it: "teacher", the teacher's logits, unless images
    change in training; "rank", the place of an example's loss among all; "weight", its class's.

    Raises:
      RecipeError: There is no such run, or it does not fit; a line that names the key.
    """
    added, earlier = {}, Earlier()
    if recipe.start is not None:
        earlier = earlier._replace(start=_read_start(recipe, dataset))
    if recipe.teacher is not None:
        teacher = read_trained("distillation.teacher", recipe.teacher, dataset)
        if recipe.structure.augmentation or isinstance(dataset.train, Stream):
            earlier = earlier._replace(teacher=teacher)
        else:
            added[TEACHER] = _logits(teacher, dataset)
    if recipe.scorer is not None:
        scorer = read_trained("curriculum.scorer", recipe.scorer, dataset)
        logits = jnp.asarray(_logits(scorer, dataset))
        losses = softmax_cross_entropy(logits, jnp.asarray(dataset.train["label"]))
        added[RANK] = np.asarray(difficulty_ranks(losses))
    if recipe.class_weights is not None:
        added[WEIGHT] = _weights(recipe.class_weights, dataset)
    return dataset._replace(train={**dataset.train, **added}) if added else dataset, earlier


def check_prepared(recipe: Recipe, dataset: Dataset, earlier: Earlier) -> None:
    """Raises RecipeError where something is missing that `prepare` gives."""
    there = set() if isinstance(dataset.train, Stream) else set(dataset.train)
    missing = [key for key, is_missing in _missing(recipe, there, earlier) if is_missing]
    if missing:
        raise RecipeError(
            f"{' and '.join(missing)} need dataset, earlier = pretrained.prepare(recipe, dataset) "
            "before training."
        )


def _missing(recipe: Recipe, there: set[str], earlier: Earlier) -> Iterator[tuple[str, bool]]:
    has_teacher = TEACHER in there or earlier.teacher is not None
    yield "finetuning.start", recipe.start is not None and earlier.start is None
    yield "distillation.teacher", recipe.teacher is not None and not has_teacher
    yield "curriculum.scorer", recipe.scorer is not None and RANK not in there
    yield "loss.class_weights", recipe.class_weights is not None and WEIGHT not in there
    unlabelled = recipe.structure.unlabelled_batch_size > 0
    yield "semisupervised.unlabelled_weight", unlabelled and UNLABELLED not in there


def _read_start(recipe: Recipe, dataset: Dataset) -> Variables:
    """The variables to begin with, without those of a head that is drawn anew."""
    structure, shape = recipe.structure, (1, *image_shape(dataset.train))
    head, like = layers(structure, shape)[0], _like(structure, dataset.num_classes, shape)
    read = functools.partial(_read, "finetuning.start", Path(recipe.start or ""), like)
    if structure.new_head:
        return read(without=head)[0]
    try:
        return read()[0]
    except RecipeError as error:
        with contextlib.suppress(RecipeError):
            read(without=head)
            hint = "All but its last layer does; finetuning.new_head=True draws that one anew."
            error = RecipeError(f"{error} {hint}")
        raise error from None


def read_trained(key: str, workdir: str, dataset: Dataset, *, best: bool = False) -> Trained:
    """What the run in `workdir` has learned, to be used on `dataset`.

    Args:
      key: What the user has named it by, for errors.
      workdir: Of `experiments.train`.
      dataset: With images of the same size, and as many classes.
      best: Whether it is the checkpoint with the best validation accuracy, not the newest.

    Raises:
      RecipeError: There is no such run, or it does not fit; a line.
    """
    path = Path(workdir)
    earlier = read_recipe(key, path)
    number = num_classes_of(earlier.dataset)
    if number != dataset.num_classes:
        raise RecipeError(
            f"{key} must tell {dataset.num_classes} classes apart, as the dataset has them; "
            f"{workdir} tells {number}."
        )
    like = _like(earlier.structure, number, (1, *image_shape(dataset.train)), key=key)
    return Trained(earlier.structure, number, *_read(key, path, like, best=best))


def read_recipe(key: str, workdir: Path) -> Recipe:
    """That of the run in `workdir`; `key` and errors as in `read_trained`."""
    config = default_config()  # which has what a config of an earlier version lacks
    try:
        for name, value in json.loads((workdir / CONFIG).read_text()).items():
            is_section = isinstance(config.get(name), type(config)) and isinstance(value, dict)
            entries = value.items() if is_section else [(None, value)]
            for entry, one in entries:
                put(config, name if entry is None else f"{name}.{entry}", one)
        return parse(config)
    except (OSError, ValueError, AttributeError) as error:
        first = str(error).partition("\n")[0]
        raise RecipeError(f"{key}: {workdir} has no run that can be used: {first}") from error


def _like(
    structure: Structure, num_classes: int, shape: tuple[int, ...], *, key: str | None = None
) -> Variables:
    """The shapes of a network's variables."""
    model = assemble_model(structure, num_classes, axis_name=None)
    try:
        init = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape)))
    except ValueError as error:
        raise RecipeError(f"{key}: {str(error).replace('`', '')}") from error
    return Variables(*init)


def _read(
    key: str,
    workdir: Path,
    like: Variables,
    *,
    without: tuple[str, ...] = (),
    best: bool = False,
) -> tuple[Variables, int]:
    kept = {name: part for name, part in like.params.items() if name not in without}
    like = like._replace(params=kept)
    try:
        return read_variables(workdir / CHECKPOINTS, like, without=without, best=best)
    except CheckpointError as error:
        raise RecipeError(f"{key}: {error}") from error


def _logits(trained: Trained, dataset: Dataset) -> np.ndarray:
    """[n, classes] of the examples to train on."""

    def apply(trained: Trained, images: Any) -> jax.Array:
        return trained.logits(as_batch({"image": images})["image"])

    return teacher_logits(apply, trained, dataset.train["image"])


def _weights(class_weights: str | tuple[float, ...], dataset: Dataset) -> np.ndarray:
    """[n], of the examples to train on."""
    labels = dataset.train["label"]
    if class_weights == BALANCED:
        counts = np.bincount(labels, minlength=dataset.num_classes)
        of_class = len(labels) / (dataset.num_classes * np.maximum(counts, 1))
    else:
        of_class = np.array(class_weights)
    return of_class.astype(np.float32)[labels]
