"""Checks by tracing, before anything is compiled, that a model suits its task."""

import functools
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cyclical_jax.models import Model
from cyclical_jax.training.assembly import assemble_model, example_of, model_knobs
from cyclical_jax.training.fields import RecipeError
from cyclical_jax.training.structure import Structure
from cyclical_jax.training.technique import Spec

_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
_NOT_THEIRS = (str(Path(__file__).parents[1]), *_LIBRARIES, "<")
_OF_TRACING = jax.errors.ConcretizationTypeError, jax.errors.TracerBoolConversionError
_BATCH = 3  # one example would fit a model that drops the axis of the batch


@functools.lru_cache(maxsize=32)
def model_problems(structure: Structure, spec: Spec) -> tuple[str, ...]:
    """Returns a line for each reason why the model does not suit its task."""
    name = "model"
    try:
        model = assemble_model(structure, spec)
        name = model.name
        return tuple(f"{name}: {line}" for line in _misfits(model, structure, spec))
    except Exception as error:  # whatever somebody's model may raise
        return (f"{name}: {as_line(error)}",)


def as_line(error: Exception) -> str:
    """Returns an error of a user's model in one line, with the place in their code."""
    message = str(error).strip().partition("\n")[0].replace("`", "")
    if isinstance(error, _OF_TRACING):
        message = f"{message} A number that cycles is traced: Python cannot compare it.".strip()
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    if not theirs and isinstance(error, ValueError):  # one of our networks, which says it all
        return message
    place = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
    return f"{type(error).__name__}: {message}{place}"


def _misfits(model: Model, structure: Structure, spec: Spec) -> Iterator[str]:
    key, example, found = jax.eval_shape(lambda: _start(model, structure, spec))
    made = _pair("init must return params", found)
    words = [knob.rpartition(".")[2] for knob in model_knobs(structure, model)]
    yield from _same_words(model_knobs(structure, model))

    def train(variables, inputs, key, knobs):
        return model.apply(*variables, inputs, train=True, key=key, **knobs)

    def judge(variables, inputs):
        return model.apply(*variables, inputs, train=False)

    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((_BATCH, *x.shape[1:]), x.dtype), example)
    knobs = dict.fromkeys(words, jax.ShapeDtypeStruct((), jnp.float32))
    what = "apply must return outputs"
    outputs, model_state = _pair(what, jax.eval_shape(train, made, inputs, key, knobs))
    judged, _ = _pair(what, jax.eval_shape(judge, made, inputs))
    yield from _wrong_outputs([outputs, judged], structure, spec)
    if (new := _shapes(model_state)) != (old := _shapes(made[1])):
        yield f"apply must return a model_state like that of init, {old}, got {new}."


def _same_words(knobs: Sequence[str]) -> Iterator[str]:
    """Yields a line for each two knobs that the model would get by the same word."""
    of_word: dict[str, str] = {}
    for key in knobs:
        word = key.rpartition(".")[2]
        if (other := of_word.setdefault(word, key)) != key:
            yield f"{other} and {key} cannot both be on: the model gets both as {word!r}."


def _start(model: Model, structure: Structure, spec: Spec) -> tuple[Any, Any, Any]:
    """Returns a random key, inputs of one example, and what the model's init makes of them."""
    key, example = jax.random.key(0), example_of(structure, spec)
    return key, example, model.init(key, example)


def _pair(what: str, found: Any) -> tuple[Any, Any]:
    if not (isinstance(found, tuple) and len(found) == 2):
        raise RecipeError(f"{what} and model_state, got {type(found).__name__}.")
    return found


def _wrong_outputs(found: list[Any], structure: Structure, spec: Spec) -> Iterator[str]:
    """Yields a line if the outputs, in training or in an evaluation, are not what a task needs."""
    task, own = structure.task
    shape = task.outputs(dict(own), spec)
    if shape is None:
        return
    for outputs in found:
        is_array = hasattr(outputs, "dtype") and jnp.issubdtype(outputs.dtype, jnp.floating)
        if not is_array or outputs.shape != (_BATCH, *shape):
            yield (
                f"its outputs for {_BATCH} inputs must be floats of shape {[_BATCH, *shape]}, got "
                f"{_shapes(outputs)}."
            )
            return


def _shapes(tree: Any) -> Any:
    """Returns a tree with the dtype and shape of each leaf in words."""
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)
