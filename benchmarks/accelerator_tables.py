"""Tables, in Markdown, of what `benchmarks.one_program` prints."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import techniques
from benchmarks.hlo import LARGE

Row = Mapping[str, Any]

GIB = 2**30
# Memory of a device, as jax counts devices, in bytes: published data sheets.
MEMORY = {
    name: size * GIB
    for name, size in {
        "v2": 8,
        "v3": 16,
        "v4": 32,
        "v5e": 16,
        "v5p": 95,
        "v6e": 32,
        "a100": 80,
        "h100": 80,
        "h200": 141,
    }.items()
}
# Cycles a second that the published peak needs: v5e 197e12 = 4 units * 128 * 128 * 2 * clock.
CLOCK = {"v4": 1.05e9, "v5e": 1.5e9}
# (what it is, recipe, recipe that it is divided by)
PAIRS = (
    ("cyclical / plain, ResNet-50", "resnet50", "resnet50 plain"),
    ("ours, cyclical / Flax's, ResNet-50", "resnet50", "flax resnet50"),
    ("ours, plain / Flax's, ResNet-50", "resnet50 plain", "flax resnet50"),
    *((f"population of {n} / of 1", f"population of {n}", "population of 1") for n in (16, 32, 64)),
    *((f"{name} / plain, MLP", name, "plain") for name in techniques.TECHNIQUES),
)


def programs(rows: Sequence[Row]) -> str:
    """Returns a line for each program: what one device does and needs in a step."""
    columns = {
        "program": lambda row: row["recipe"],
        "devices": lambda row: row["topology"],
        "GFLOP": lambda row: _number(row["flops"], 1e9, 4),
        "GB accessed": lambda row: _number(row["bytes"], 1e9),
        "peak memory": _memory,
        "ms, by cycles": lambda row: _number(_by_cycles(row), 1e-3),
        "ms, optimal": lambda row: _number(row["optimal_seconds"], 1e-3),
        "code": lambda row: (row.get("code") or "")[:7],
    }
    return _table(columns, rows)


def contents(rows: Sequence[Row]) -> str:
    """Returns a line for each program that was compiled: what it is made of."""
    columns = {
        "program": lambda row: row["recipe"],
        "devices": lambda row: row["topology"],
        "collectives": _collectives,
        "copies of 1 MB and more": _copies,
        "in bf16": lambda row: f"{row['bf16_convolutions']} of {row['convolutions']}",
    }
    return _table(columns, [row for row in rows if "error" not in row])


def ratios(rows: Sequence[Row]) -> str:
    """Returns a line for each pair of programs of a topology that are both there."""
    found = {(row["topology"], row["recipe"]): row for row in rows if "error" not in row}
    pairs = [
        {"what": what, "topology": topology, "rows": (own, found[topology, other])}
        for (topology, recipe), own in found.items()
        for what, numerator, other in PAIRS
        if recipe == numerator and (topology, other) in found
    ]
    columns: dict[str, Callable[[Row], str]] = {
        "ratio": lambda pair: pair["what"],
        "devices": lambda pair: pair["topology"],
        "flops": lambda pair: _ratio(pair, lambda row: row["flops"]),
        "bytes": lambda pair: _ratio(pair, lambda row: row["bytes"]),
        "peak memory": lambda pair: _ratio(pair, lambda row: row["peak_bytes"]),
        "cycles": lambda pair: _ratio(pair, lambda row: row["cycles"]),
        "optimal": lambda pair: _ratio(pair, lambda row: row["optimal_seconds"]),
    }
    if any("seconds" in row for pair in pairs for row in pair["rows"]):
        columns["measured"] = lambda pair: _ratio(pair, lambda row: row.get("seconds"))
    return _table(columns, pairs)


def measurements(rows: Sequence[Row]) -> str:
    """Returns a line for each program that ran: real times beside the estimates."""
    columns = {
        "program": lambda row: row["recipe"],
        "devices": lambda row: f"{row['num_devices']} x {row['device']}",
        "examples a second": lambda row: f"{row['examples_a_second']:.0f}",
        "ms a step": lambda row: _number(row["seconds"], 1e-3),
        "from ... to": lambda row: " ... ".join(
            _number(end, 1e-3) for end in row["range_of_seconds"]
        ),
        "ms, optimal": lambda row: _number(row["optimal_seconds"], 1e-3),
        "memory in use, GiB": lambda row: _number(row["peak_bytes_in_use"], GIB),
        "of the estimate": lambda row: _number(row["peak_bytes_in_use"], row["peak_bytes"]),
    }
    return _table(columns, [row for row in rows if "seconds" in row])


def _table(columns: Mapping[str, Callable[[Row], str]], rows: Sequence[Row]) -> str:
    """Returns a table; without rows, nothing."""
    if not rows:
        return ""
    lines = [list(columns), ["---"] * len(columns)]
    for row in rows:
        if "error" in row:
            said = [row["recipe"], row["topology"], row["error"].replace("|", "/")]
            lines.append(said + [""] * (len(columns) - len(said)))
        else:
            lines.append([cell(row) for cell in columns.values()])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None, unit: float = 1, digits: int = 3) -> str:
    """Returns the value in the unit; - where the platform has none."""
    return "-" if value is None else f"{value / unit:#.{digits}g}".rstrip(".")


def _ratio(pair: Row, of: Callable[[Row], float | None]) -> str:
    values = [of(row) for row in pair["rows"]]
    return "-" if None in values or not values[1] else f"{values[0] / values[1]:.3f}"


def _memory(row: Row) -> str:
    own = MEMORY.get(_chip(row))
    share = f" of {own // GIB}" if own else ""
    return f"{row['peak_bytes'] / GIB:.3f}{share} GiB"


def _by_cycles(row: Row) -> float | None:
    clock = CLOCK.get(_chip(row))
    return row["cycles"] / clock if clock and row["cycles"] else None


def _chip(row: Row) -> str:
    return row["topology"].partition(":")[0]


def _collectives(row: Row) -> str:
    sizes = [size for own in row["collectives"].values() for size in own]
    return f"{len(sizes)}, {sum(sizes) / 1e6:.2f} MB" if sizes else "none"


def _copies(row: Row) -> str:
    sizes = [size for _, size in row["copies"] if size >= LARGE]
    return f"{len(sizes)}, {sum(sizes) / 1e6:.1f} MB" if sizes else "none"
