"""What the text of a lowered program says about it."""

import functools
import re
from collections import Counter
from typing import Any
from unittest import mock

import jax

PLATFORMS = ("tpu", "cuda")
LARGEST_CONSTANT = 1_000_000  # bytes


def for_accelerators(lower, *args, **options) -> jax.stages.Lowered:
    """Returns what `lower` does, for PLATFORMS at once. No device of theirs is needed.

    What `jax.pmap` makes has no such option, and `jax.export` of it would lose its donation.
    """
    for_all = functools.partialmethod(jax.stages.Traced.lower, lowering_platforms=PLATFORMS)
    with mock.patch.object(jax.stages.Traced, "lower", for_all):
        return lower(*args, **options)


def types_of(tree: Any) -> Counter[str]:
    """Counts arrays by type, in the words of the text."""
    return Counter(map(_type_of, jax.tree.leaves(tree)))


def _type_of(array) -> str:
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        keys = jax.ShapeDtypeStruct(array.shape, array.dtype)
        array = jax.eval_shape(jax.random.key_data, keys)
    words = {"float32": "f32", "int32": "i32", "uint32": "ui32", "bool": "i1"}
    return "x".join([*map(str, array.shape), words[array.dtype.name]])


def donated(text: str) -> Counter[str]:
    """Counts the arguments whose memory results take over, by type."""
    (arguments,) = re.findall(r"func\.func public @main\((.*)\) -> ", text)
    found = re.findall(r"%arg\d+: tensor<([^>]*)>([^%]*)", arguments)
    marks = ("tf.aliasing_output", "jax.buffer_donor")
    return Counter(kind for kind, notes in found if any(mark in notes for mark in marks))


def all_reduced(text: str) -> Counter[str]:
    """Counts what is summed over devices, by type."""
    sums = r'"stablehlo\.all_reduce"(?:.*\n){4}\s*\}\) : \(tensor<([^>]*)>'
    found = re.findall(sums, text)
    assert len(found) == text.count('"stablehlo.all_reduce"')
    return Counter(found)


def operands(text: str, name: str) -> list[tuple[str, str]]:
    """Returns the types of what each operation of that name multiplies."""
    lines = re.findall(rf"stablehlo\.{name}\b.*", text)
    return [re.findall(r": \(tensor<([^>]*)>, tensor<([^>]*)>\)", line)[0] for line in lines]


def faults(text: str) -> list[str]:
    """Returns what no program for an accelerator should have."""
    values = re.sub(r"<\{.*?\}>", "", text)  # the options of an operation are 64-bit integers
    wide = set(re.findall(r"<[\dx]*(f64|i64)>", values))
    found = [f"{kind} values" for kind in sorted(wide)]
    found += re.findall(r"custom_call @(\w*callback\w*)", text)
    found += re.findall(r"stablehlo\.(send|recv|infeed|outfeed)\b", text)
    sizes = [len(digits) // 2 for digits in re.findall(r'"0x([0-9A-Fa-f]+)', text)]
    return found + [f"a constant of {size} bytes" for size in sizes if size > LARGEST_CONSTANT]
