"""Loads the model that a run of `experiments.train` has trained, for use without its dataset."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from cyclical_jax import _checks
from cyclical_jax._extras import to_install
from cyclical_jax._types import Array
from cyclical_jax._words import counted
from cyclical_jax.catalogue import with_plugins
from cyclical_jax.models import quantized
from cyclical_jax.precision import LEAST_BITS, MOST_BITS
from cyclical_jax.techniques import precision
from cyclical_jax.training import files
from cyclical_jax.training.assembly import assemble_model, example_of
from cyclical_jax.training.earlier import TrainedModel, one_run, read_checkpoint, read_recipe
from cyclical_jax.training.facts import Facts, read_facts
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.files import CONFIG
from cyclical_jax.training.state import Variables
from cyclical_jax.training.structure import Catalogue, Recipe, Structure

CHECKPOINTS = ("best", "newest")
PLATFORMS = ("cpu", "cuda", "tpu")
_LARGEST_PART = 256  # bounds the memory of the activations


def load_run(
    workdir: str | Path,
    checkpoint: str | SupportsIndex = "best",
    *,
    plugins: Sequence[str | Path] = (),
) -> LoadedRun:
    """Returns the trained model of a run; needs neither its dataset nor the end of the run.

    Args:
      workdir: A workdir of `experiments.train`, on this machine.
      checkpoint: "best", by the run's validation, or "newest"; or the number of updates after
        which a cycle ended, of a run that was given --keep_cycle_ends. A moving average of the
        parameters takes their place, where the run kept one.
      plugins: The files that the run was given by --plugin.

    Returns:
      A `LoadedRun`, whose `predict` maps images to the probabilities of classes.

    Raises:
      ValueError: There is no such run or checkpoint, or a plugin is missing; a line.
    """
    path = _checks.local_path("workdir", workdir)
    return read_run("workdir", path, with_plugins(plugins), checkpoint=checkpoint)


def read_run(
    key: str, workdir: Path, catalogue: Catalogue, *, checkpoint: str | SupportsIndex
) -> LoadedRun:
    """Returns what `load_run` returns, with the tasks and techniques of a catalogue.

    Args:
      key: The name that the user knows the workdir by, for errors.
      workdir, catalogue: The run, and all tasks and techniques.
      checkpoint: "best", "newest", or the number of updates of an end of a cycle.

    Raises:
      RecipeError: As `load_run` raises ValueError.
    """
    end = _checks.as_int(checkpoint)
    if end is None and not (isinstance(checkpoint, str) and checkpoint in CHECKPOINTS):
        raise RecipeError(
            "checkpoint must be 'best', 'newest' or the updates of an end of a cycle, got "
            f"{checkpoint!r}."
        )
    which: dict[str, Any] = {"best": checkpoint == "best"} if end is None else {"cycle_end": end}
    with one_run(key, workdir):
        recipe = read_recipe(key, workdir, catalogue)
        facts = read_facts(key, workdir, recipe)
        trained = read_checkpoint(key, workdir, recipe.structure, facts.spec, **which)
        config = files.read(workdir / CONFIG)
    return LoadedRun(jax.device_put(trained), facts, recipe, config)


@dataclass(frozen=True, eq=False, repr=False)
class LoadedRun:
    """The model that a run has trained.

    Images are [n, height, width, channels], or features [n, features], as in the dataset: bytes if
    it has bytes, floats of the same scale if it has floats. They are turned into the model's inputs
    as they were in the run.

    Attributes:
      trained: The model and its variables.
      facts: Source, classes, shape, dtype and normalisation of the dataset.
      recipe: The recipe of the run, checked.
      config: The config of the run, as its `config.json` has it.
    """

    trained: TrainedModel
    facts: Facts
    recipe: Recipe
    config: dict[str, Any]

    def __repr__(self) -> str:
        number = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        of_one = f"{self.facts.dtype}{list(self.facts.shape)}"
        return (
            f"LoadedRun({self.facts.source}: {of_one} -> {self.facts.num_classes} classes, "
            f"{number:,} parameters after {counted(self.step, 'update')})"
        )

    @property
    def params(self) -> Any:
        """The parameters, a tree of arrays."""
        return self.trained.variables.params

    @property
    def model_state(self) -> Any:
        """The state that the model keeps beside parameters, such as BatchNorm's statistics."""
        return self.trained.variables.model_state

    @property
    def step(self) -> int:
        """Number of optimizer updates before the checkpoint."""
        return self.trained.step

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the columns of `predict`; empty if unknown."""
        return self.facts.class_names

    def with_bits(self, bits: SupportsIndex) -> LoadedRun:
        """Returns the same run with few bits, as it would be served.

        The weights have a range for each output channel. A run that was trained with few bits has
        the quantizer and `precision.keep` of its training; if its activations had few bits, these
        have as many, within their running ranges. Any other run has symmetric levels, as
        `cyclical_jax.interop.qwix` exports them, and its last layer and its activations are in
        full precision.

        Args:
          bits: 2 to 16, of any integer type; 0 is full precision. No number makes another compiled
            program.

        Raises:
          ValueError: `bits` is no such number, or the network has no layer to quantize; a line.
        """
        number = _checks.as_int(bits)
        if number != 0:
            number = _checks.integer("bits", bits, minimum=LEAST_BITS, maximum=MOST_BITS)
        self.few_bit_layers()
        trained, structure = self.trained, _with_precision(self.trained.structure)
        params, state = trained.variables
        if structure is not trained.structure:
            state = {**state, quantized.BITS: {quantized.WEIGHTS: jnp.int32(0)}}
        variables = Variables(params, quantized.with_bits(state, number))
        trained = dataclasses.replace(trained, structure=structure, variables=variables)
        return dataclasses.replace(self, trained=trained)

    def few_bit_layers(self) -> dict[str, tuple[int, ...]]:
        """Returns the layers to which `with_bits` gives few bits, and the axes of their ranges.

        Returns:
          {path of a layer: axes of its kernel over which the range of an output is taken}, as
          `cyclical_jax.interop.qwix.export` has it for `layers`.

        Raises:
          ValueError: There is none to give few bits to; a line.
        """
        return self._layers()[0]

    def kept_layers(self) -> list[str]:
        """Returns the paths of the layers left in full precision; raises as above."""
        return self._layers()[1]

    def _layers(self) -> tuple[dict[str, tuple[int, ...]], list[str]]:
        structure, spec = _with_precision(self.trained.structure), self.trained.spec
        others, own = _without_precision(structure)
        model, example = assemble_model(others, spec), example_of(others, spec)
        try:
            few = quantized.quantized_layers(model, example, precision.how_of(own))
        except ValueError as error:
            raise RecipeError(str(error)) from error
        whole = [path for path in quantized.layers_of(model, example) if path not in few]
        return {"/".join(path): axes for path, axes in few.items()}, ["/".join(p) for p in whole]

    def predict(self, images: Array) -> np.ndarray:
        """Returns the probability of each class.

        Args:
          images: [n, ...], of NumPy or JAX. They are predicted in parts, so any number fits.

        Returns:
          float32 [n, classes]. Each row sums to 1, unless an image may have several classes.

        Raises:
          ValueError: Shape or dtype differ from the dataset's, or a number is not finite; a line.
        """
        return self._in_parts(images, as_probabilities=True)

    def logits(self, images: Array) -> np.ndarray:
        """Returns the logits, float32 [n, classes]; arguments and errors as in `predict`."""
        return self._in_parts(images, as_probabilities=False)

    def apply(self, params: Any, model_state: Any, images: Array) -> jax.Array:
        """Returns the logits; it is a pure function, for `jax.jit`, `jax.grad` and the like.

        It computes in float32 where `predict` normalises in float64, and checks no values.

        Args:
          params, model_state: The run's own, or others of the same structure.
          images: [n, ...], as in `predict`; they may be traced.

        Returns:
          float32 [n, classes].

        Raises:
          ValueError: Shape or dtype differ from the dataset's.
        """
        self._check_classes()
        images = jnp.asarray(images)
        _check_kind(images, self.facts)
        if self.facts.normalisation is not None:
            mean, std = (jnp.float32(array)[None] for array in self.facts.normalisation)
            images = (images.astype(jnp.float32) - mean) / std
        variables = Variables(params, model_state)
        return dataclasses.replace(self.trained, variables=variables).outputs_of(images)

    def export(self, *, platforms: Sequence[str] = PLATFORMS) -> bytes:
        """Returns `predict` as a program that runs without this package, parameters included.

        `jax.export.deserialize(content).call(images)` runs it on any number of images. They are
        uint8 there, or float32 where the dataset has no bytes; no values are checked.

        Args:
          platforms: Platforms that it can run on, such as "cpu", "cuda", "rocm", "tpu".

        Returns:
          The content of a file, of jax.export's own format.

        Raises:
          ValueError: There is no such platform, or the model cannot be exported; a line.
          ImportError: flatbuffers is not installed.
        """
        self._check_classes()
        for platform in platforms:
            _checks.one_of("platform", platform, ("cpu", "cuda", "rocm", "tpu"))
        dtype = jnp.uint8 if self.facts.has_bytes else jnp.float32
        like = jax.ShapeDtypeStruct((*jax_export.symbolic_shape("n"), *self.facts.shape), dtype)

        def predict_one(image):  # the model sees a batch of 1: many ask for the number by `len`
            logits = self.apply(*self.trained.variables, image[None])
            return _as_probabilities(self.trained, logits)[0]

        predict = jax.jit(jax.vmap(predict_one))
        try:
            return _serialised(jax_export.export(predict, platforms=tuple(platforms))(like))
        except (TypeError, ValueError) as error:
            line = str(error).strip().partition("\n")[0]
            raise RecipeError(f"the model cannot be exported: {line}") from error

    def _check_classes(self) -> None:
        if self.recipe.task.probabilities is None:
            raise RecipeError(f"the outputs of the task {self.recipe.task} are of no classes.")

    def _in_parts(self, images: Array, *, as_probabilities: bool) -> np.ndarray:
        self._check_classes()
        checked = _checked(images, self.facts)
        parts = [
            self._of_part(checked[start : start + _LARGEST_PART], as_probabilities)
            for start in range(0, max(1, len(checked)), _LARGEST_PART)
        ]
        return np.concatenate(parts)

    def _of_part(self, images: np.ndarray, as_probabilities: bool) -> np.ndarray:
        """Fills a part up to a power of two, so that few programs are compiled."""
        normalisation, number = self.facts.normalisation, len(images)
        inputs = images if normalisation is None else normalisation(images)
        size = 2 ** math.ceil(math.log2(max(1, number)))
        filled = np.zeros((size, *inputs.shape[1:]), inputs.dtype)
        filled[:number] = inputs
        found = _outputs(self.trained, filled, as_probabilities=as_probabilities)
        return np.asarray(found)[:number]


def _with_precision(structure: Structure) -> Structure:
    """Returns a structure whose model can have few bits, in its weights if in nothing else."""
    if any(entry is precision.TECHNIQUE for entry, _ in structure.techniques):
        return structure
    # The run's recipe has no such technique, and no catalogue is asked: this entry wraps the model,
    # and an evaluation reads nothing else of it.
    weights = precision.TECHNIQUE, tuple(precision.own_of_weights().items())
    return dataclasses.replace(structure, techniques=(*structure.techniques, weights))


def _without_precision(structure: Structure) -> tuple[Structure, dict[str, Any]]:
    """Returns the structure with a whole model, and the own values of what was taken from it."""
    of = {entry is precision.TECHNIQUE: own for entry, own in structure.techniques}
    others = tuple(pair for pair in structure.techniques if pair[0] is not precision.TECHNIQUE)
    return dataclasses.replace(structure, techniques=others), dict(of[True])


@functools.partial(jax.jit, static_argnames="as_probabilities")
def _outputs(trained: TrainedModel, images: jax.Array, *, as_probabilities: bool) -> jax.Array:
    outputs = trained.outputs_of(images)
    return _as_probabilities(trained, outputs) if as_probabilities else outputs


def _as_probabilities(trained: TrainedModel, outputs: jax.Array) -> jax.Array:
    probabilities = trained.structure.task[0].probabilities
    assert probabilities is not None  # or the run is refused
    return probabilities(outputs)


def _serialised(exported: jax_export.Exported) -> bytes:
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise ImportError(f"{error} Install it: {to_install('train')}.") from error


# ---- images as they come


def _checked(images: Array, facts: Facts) -> np.ndarray:
    """Returns images on the host: as bytes, as float32, or as numbers that are yet to normalise."""
    if isinstance(images, jax.core.Tracer):
        raise ValueError("images must have values here; within jit and the like, use `apply`.")
    found = np.asarray(images)
    _check_kind(found, facts)
    if facts.has_bytes:
        return _as_bytes(found)
    if facts.normalisation is None:
        with np.errstate(over="ignore"):
            found = found.astype(np.float32)
    _check_finite(found)
    return found


def _check_kind(images: Array, facts: Facts) -> None:
    """Raises ValueError unless shape and dtype are those of the dataset's images."""
    if images.shape[1:] != facts.shape or not images.shape:
        raise ValueError(_of_shape(images.shape, facts))
    is_integer, is_float = (
        jnp.issubdtype(images.dtype, kind) for kind in (jnp.integer, jnp.floating)
    )
    if facts.has_bytes and not is_integer:
        raise ValueError(f"images must be uint8, 0 to 255, as the dataset's, got {images.dtype}.")
    if not (is_float or is_integer):
        raise ValueError(f"images must be numbers, got {images.dtype}.")
    if is_integer and not facts.has_bytes and facts.normalisation is None:
        raise ValueError(f"images must be floats, as the dataset's are, got {images.dtype}.")


def _of_shape(shape: tuple[int, ...], facts: Facts) -> str:
    wanted, hint = f"[n, {', '.join(map(str, facts.shape))}]", ""
    if shape == facts.shape:
        hint = "; a single one is images[None]"
    elif shape[1:] == facts.shape[:-1] and facts.shape[-1] == 1:
        hint = "; images[..., None] has the axis of channels"
    return f"images must have the shape {wanted}, as the dataset's, got {list(shape)}{hint}."


def _as_bytes(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8 and images.size and (images.min() < 0 or images.max() > 255):
        raise ValueError(f"images must be 0 to 255, got {images.min()} to {images.max()}.")
    return images.astype(np.uint8)


def _check_finite(images: np.ndarray) -> None:
    is_finite = np.isfinite(images).reshape(len(images), -1).all(-1)
    if not is_finite.all():
        raise ValueError(
            f"images must be finite, got NaN or infinity in image {is_finite.argmin()}."
        )
