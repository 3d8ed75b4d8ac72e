"""The record of a trade-off: what its JSON file must hold, and the one reader of it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cyclical_jax import _files
from cyclical_jax._files import NUMBER, DamagedError, Pattern
from cyclical_jax._words import counted
from cyclical_jax.training import files
from experiments.score import Score
from experiments.tradeoff_statistics import with_statistics

Record = Mapping[str, Any]

_ARM: Pattern = {
    "control": (str, None),
    "changes": {},
    "tuning": ({"trials": [{"values": {}}], "chosen": int}, None),
    "step": [int],
    "epoch": [float],
    "one_run": [[NUMBER]],
    "separate": ([[NUMBER]], None),
    "seconds": {"one_run": [float], "separate": ([float], None)},
}
_DATASET: Pattern = {
    "num_train": int,
    "num_validation": int,
    "judged_by": {"name": str, "best": str},
    "percent": [str],
    "seeds": [int],
    "arms": {...: _ARM},
}
RECORD: Pattern = {
    **dict.fromkeys(("tradeoff", "about", "command", "version", "hardware", "first_cycle"), str),
    "num_cycles": int,
    "datasets": {...: _DATASET},
}
_REMEDY = "The command that made it writes it anew."


def with_all_statistics(record: Record) -> dict[str, Any]:
    """Returns a copy of a record with the statistics of each dataset."""
    datasets = {name: with_statistics(one) for name, one in record["datasets"].items()}
    return dict(record) | {"datasets": datasets}


def as_json(record: Record) -> dict[str, Any]:
    """Returns a record as `read` gives it back: lists for tuples."""
    return json.loads(json.dumps(record, allow_nan=False))


def read(path: Path) -> dict[str, Any]:
    """Returns the record in a file, with its statistics computed anew.

    Raises:
      WorkdirError: It cannot be read, is damaged, or is no record of a trade-off; a line.
    """
    with files.reading(path, _REMEDY):
        record = _files.read_json(path, RECORD)
        for problem in _problems(record):
            raise DamagedError(f"{path} is damaged: {problem}.")
    return as_json(with_all_statistics(record))


def _problems(record: Record) -> Iterator[str]:
    """Yields a line for each thing that does not fit together."""
    for name, dataset in record["datasets"].items():
        if Score.of_record(dataset).best not in ("max", "min"):
            yield f"'best' of {name!r} is {dataset['judged_by']['best'][:40]!r}, not 'max' or 'min'"
        for arm_name, arm in dataset["arms"].items():
            where = f"in arm {arm_name!r} of {name!r}"
            if arm["control"] is not None and arm["control"] not in dataset["arms"]:
                yield f"'control' is {arm['control'][:40]!r}, which is not an arm, {where}"
            if arm["tuning"] and not 0 <= arm["tuning"]["chosen"] < len(arm["tuning"]["trials"]):
                yield f"'chosen' is {arm['tuning']['chosen']}, which is no trial, {where}"
            for key, values, length in _lists(arm, record["num_cycles"], len(dataset["seeds"])):
                if len(values) != length:
                    had = counted(len(values), "entry", "entries")
                    yield f"{key!r} has {had}, not {length}, {where}"


def _lists(arm: Mapping[str, Any], num_cycles: int, num_seeds: int) -> Iterator[tuple]:
    """Yields (name, list, the length that it must have)."""
    for key in ("step", "epoch", "one_run", "separate"):
        if arm[key] is not None:
            yield key, arm[key], num_cycles
    for key in ("one_run", "separate"):
        yield from ((key, scores, num_seeds) for scores in arm[key] or ())
        if arm["seconds"][key] is not None:
            yield f"seconds of {key}", arm["seconds"][key], num_cycles
