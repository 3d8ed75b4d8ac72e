"""Reads the text of a compiled program: kernels, collectives, copies, convolutions, estimates.

The text is that of `jax.stages.Compiled.as_text`, from XLA for any platform. A *kernel* is an
operation outside of fused computations: what a device starts on its own. The kernels of a loop's
body are counted once, however often it runs.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

LARGE = 2**20  # bytes of what is worth a line of its own
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
)
_NO_WORK = {"parameter", "bitcast", "constant", "tuple", "get-tuple-element"}
_MOVES = {"copy", "copy-start", "transpose", "pad", "reshape"}
_OF_LIBRARIES = re.compile(r'custom_call_target="__(?:cudnn\$conv|cublas\$)')
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ALIAS = re.compile(r"\{[0-9, ]*\}: \((\d+), \{[0-9, ]*\}, (?:may|must)-alias\)")


class Operation(NamedTuple):
    name: str
    shape: str  # of the result, with layout
    kind: str  # the name of the operation, such as "all-reduce"
    operands: tuple[str, ...]  # names
    text: str  # the line


Computations = Mapping[str, list[Operation]]


def computations(text: str) -> Computations:
    """Returns the operations of each computation of a program, in order."""
    found: dict[str, list[Operation]] = {}
    own: list[Operation] = []
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            own = found.setdefault(line.removeprefix("ENTRY ").lstrip("%").split(" ")[0], [])
        elif match := _OPERATION.match(line):
            name, shape, kind, rest = match.groups()
            operands = re.split(r"\)(?:, \w+=|$)", rest, maxsplit=1)[0]
            own.append(Operation(name, shape, kind, _names(operands), line))
    return found


def kernels(program: Computations) -> list[Operation]:
    """Returns what is started on its own, in the entry and in the bodies of loops."""
    inside = {
        name
        for own in program.values()
        for operation in own
        if operation.kind != "while"
        for name in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", operation.text)
        if operation.kind in ("fusion", "call") or "to_apply" in operation.text
    }
    outside = (own for name, own in program.items() if name not in inside)
    return [operation for own in outside for operation in own if operation.kind not in _NO_WORK]


def collectives(program: Computations) -> dict[str, list[int]]:
    """Returns {kind: the bytes that a device gives to each of them}.

    An asynchronous pair is one.
    """
    found: dict[str, list[int]] = {}
    for own in program.values():
        shapes = {operation.name: operation.shape for operation in own}
        for operation in own:
            kind = operation.kind.removesuffix("-start")
            if kind in _COLLECTIVES:
                given = sum(num_bytes(shapes.get(name, "")) for name in operation.operands)
                found.setdefault(kind, []).append(given)
    return found


def copies(program: Computations, *, least: int = LARGE) -> list[tuple[str, int]]:
    """Returns (shape, bytes) of each result that is its operand again in another layout or size.

    These are copies, transposes, paddings, and fusions of nothing else. What is fetched into or out
    of a faster memory, as TPUs do ahead of use, is none.
    """
    moved = [each for each in kernels(program) if _is_move(program, each)]
    sizes = ((_result(each), num_bytes(_result(each))) for each in moved)
    return [(shape, size) for shape, size in sizes if size >= least]


def convolutions(program: Computations) -> tuple[int, int]:
    """Returns how many convolutions and matrix products there are, and how many of bf16 alone."""
    number = of_bf16 = 0
    for own in program.values():
        shapes = {operation.name: operation.shape for operation in own}
        for operation in own:
            if operation.kind in ("convolution", "dot") or _OF_LIBRARIES.search(operation.text):
                number += 1
                factors = [shapes.get(name, "") for name in operation.operands[:2]]
                of_bf16 += all(shape.startswith("bf16[") for shape in factors)
    return number, of_bf16


def estimated_cycles(program: Computations) -> int:
    """Returns the sum of the kernels' estimated cycles; collectives and gathers have none."""
    lines = (kernel.text for kernel in kernels(program))
    return sum(int(match[1]) for line in lines if (match := _CYCLES.search(line)))


def optimal_seconds(program: Computations, reported: float) -> float:
    """Returns `cost_analysis()["optimal_seconds"]`, corrected.

    XLA for TPUs counts each custom call ConcatBitcast as -1 s.
    """
    lines = (operation.text for own in program.values() for operation in own)
    return reported + sum('custom_call_target="ConcatBitcast"' in line for line in lines)


def donated(text: str) -> set[int]:
    """Returns the numbers of the arguments whose memory a result takes."""
    return {int(number) for number in _ALIAS.findall(text.split("\n", 1)[0])}


def num_bytes(shape: str) -> int:
    """Returns the bytes of an array, or of all arrays of a tuple, without the layout's padding."""
    return sum(
        math.prod(int(size) for size in sizes.split(",") if size) * _num_bits(dtype) // 8
        for dtype, sizes in _ARRAY.findall(shape)
    )


def _num_bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 0  # a token has none


def _names(operands: str) -> tuple[str, ...]:
    return tuple(re.findall(r"%([\w.\-]+)", operands))


def _result(operation: Operation) -> str:
    """Returns the shape of what `copy-start` copies to, else of the result."""
    if operation.kind != "copy-start":
        return operation.shape
    match = re.match(r"\(?(\w+\[[0-9,]*\](?:\{[^}]*\})?)", operation.shape)
    return match[1] if match else operation.shape


def _is_move(program: Computations, kernel: Operation) -> bool:
    if re.search(r"S\([1-9]\)", kernel.shape):
        return False
    if kernel.kind in _MOVES:
        return True
    return kernel.kind == "fusion" and _only_moves(program, kernel)


def _only_moves(program: Computations, fusion: Operation) -> bool:
    called = re.search(r"calls=%?([\w.\-]+)", fusion.text)
    kinds: Iterator[str] = (each.kind for each in program[called[1]]) if called else iter(())
    working = {kind for kind in kinds if kind not in _NO_WORK}
    return bool(working) and working <= _MOVES
