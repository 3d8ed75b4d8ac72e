"""The scores of a run at several numbers of bits: does the network survive them?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cyclical_jax.models.quantized import ACTIVATIONS, BITS, WEIGHTS
from cyclical_jax.precision import LEAST_BITS, MOST_BITS
from cyclical_jax.trained import LoadedRun
from cyclical_jax.training.evaluation import Scores
from cyclical_jax.training.fields import RecipeError
from experiments.class_scores import aligned
from experiments.score import Score, in_order, words

AS_IT_IS, FULL = "as it is", "full precision"
_MOST_NAMED = 6  # layers
_LEVELS = {
    "affine": "affine levels (an export to Qwix needs symmetric ones)",
    "symmetric": "symmetric levels",
}


def bits_of(texts: Sequence[str]) -> list[int]:
    """Returns the numbers of bits that an option has.

    Raises:
      RecipeError: One is not a whole number from 2 to 16, or is there twice.
    """
    for text in texts or [""]:
        if not (text.isdecimal() and LEAST_BITS <= int(text) <= MOST_BITS):
            raise RecipeError(
                f"--bits must be whole numbers from {LEAST_BITS} to {MOST_BITS}, such as 3,4,8, "
                f"got {text!r}."
            )
    bits = [int(text) for text in texts]
    if twice := [number for number in bits if bits.count(number) > 1]:
        raise RecipeError(f"--bits has {twice[0]} twice.")
    return bits


def has_activations(run: LoadedRun) -> bool:
    """Returns whether activations can have few bits: whether the run has ranges of them."""
    return ACTIVATIONS in _bits_in_force(run)


def _bits_in_force(run: LoadedRun) -> Mapping[str, Any]:
    return run.model_state[BITS] if BITS in run.model_state else {}


def as_text(run: LoadedRun, scores: Mapping[int | None, Scores]) -> str:
    """Returns which layers have few bits, and a row of scores for each number of bits.

    Args:
      run: The run.
      scores: What `evaluate.scores_by_bits` returns.
    """
    names = in_order(Score.of_recipe(run.recipe).name, next(iter(scores.values())))
    shown = run.recipe.structure.shown
    cells = [["bits", *map(words, names)]]
    for bits, of_bits in scores.items():
        row = AS_IT_IS if bits is None else str(bits)
        cells.append([row, *(shown(name, of_bits[name]) for name in names)])
    return "\n".join([*_described(run), *aligned(cells)])


def _described(run: LoadedRun) -> Iterator[str]:
    few, others = [*run.few_bit_layers()], run.kept_layers()
    levels = run.config.get("precision", {}).get("quantizer") if _bits_in_force(run) else None
    inputs = "weights and inputs" if has_activations(run) else "weights"
    yield f"few bits: {inputs} of {_named(few)}; {_LEVELS[levels or 'symmetric']}"
    if others:
        yield f"full precision, by precision.keep: {_named(others)}"
    if not has_activations(run):
        yield "full precision: the inputs of all layers, since training kept no ranges of them"
    yield f"{AS_IT_IS}: {_in_force(run)}"


def _in_force(run: LoadedRun) -> str:
    bits = _bits_in_force(run)
    some = [
        f"{word} of {int(bits[word])} bits"
        for word in (WEIGHTS, ACTIVATIONS)
        if word in bits and int(bits[word])
    ]
    return " and ".join(some) or FULL


def _named(layers: Sequence[str]) -> str:
    further = len(layers) - _MOST_NAMED
    more = f", and {further} more" if further > 0 else ""
    return ", ".join(layers[:_MOST_NAMED]) + more
