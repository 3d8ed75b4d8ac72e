"""The record of a table: what its JSON file must hold, its one reader, and the files of a record.

Reports, front pages and pictures trust what is read here, and check nothing themselves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclical_jax import _files
from cyclical_jax._files import NUMBER, DamagedError, Maybe, Pattern
from cyclical_jax._words import counted
from cyclical_jax.training import files
from experiments import statistics
from experiments.score import Score

_TRIAL: Pattern = {"values": {}, ...: [NUMBER]}
_CURVE: Pattern = {"mean": [NUMBER], "std": [NUMBER]}
_ARM: Pattern = {
    "control": (str, None),
    "changes": {},
    "tuning": ({"seeds": [int], "trials": [_TRIAL], "chosen": int}, None),
    "seeds": [int],
    "test": {...: [NUMBER]},
    "curves": {"step": [int], "epoch": [float], ...: _CURVE},
    "knobs": {...: [NUMBER]},
    Maybe("summary"): {...: NUMBER},
}
_DATASET: Pattern = {
    "num_train": int,
    "num_validation": int,
    "num_test": int,
    Maybe("judged_by"): {"name": str, "best": str},  # records of earlier versions lack these two
    Maybe("percent"): [str],
    "arms": {...: _ARM},
}
RECORD: Pattern = {
    **dict.fromkeys(("table", "about", "command", "version", "hardware"), str),
    Maybe("against"): str,
    "datasets": {...: _DATASET},
}
_REMEDY = "Give the JSON file of a table; the table's command writes it anew."


def read(path: Path) -> dict[str, Any]:
    """Returns the record in a file, with its comparisons computed anew.

    Raises:
      WorkdirError: It cannot be read, is damaged, or is no record of a table; a line.
    """
    with files.reading(path, _REMEDY):
        if "tradeoff" in _files.read_json(path, {}):
            raise DamagedError(f"{path} is the record of a trade-off, not of a table.")
        record = _files.read_json(path, RECORD)
        for problem in _problems(record):
            raise DamagedError(f"{path} is damaged: {problem}.")
    return statistics.with_comparisons(record)


def _problems(record: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for each thing that does not fit together."""
    for name, dataset in record["datasets"].items():
        score = Score.of_record(dataset)
        if score.best not in ("max", "min"):
            yield f"'best' of {name!r} is {score.best[:40]!r}, not 'max' or 'min'"
        for arm_name, arm in dataset["arms"].items():
            for problem in _problems_of_arm(arm, score.name, dataset["arms"]):
                yield f"{problem} in arm {arm_name!r} of {name!r}"


def _problems_of_arm(arm: Mapping[str, Any], judged: str, arms: Mapping[str, Any]) -> Iterator[str]:
    if arm["control"] is not None and arm["control"] not in arms:
        yield f"'control' is {arm['control'][:40]!r}, which is not an arm,"
    if judged not in arm["test"]:
        yield f"'test' has no {judged[:40]!r}"
    for name, values, length in _lists(arm):
        if len(values) != length:
            yield f"{name[:40]!r} has {counted(len(values), 'entry', 'entries')}, not {length},"


def _lists(arm: Mapping[str, Any]) -> Iterator[tuple[str, list, int]]:
    """Yields (name, list, the length that it must have: the number of seeds or of rows)."""
    curves, num_seeds, num_rows = arm["curves"], len(arm["seeds"]), len(arm["curves"]["epoch"])
    yield from ((name, scores, num_seeds) for name, scores in arm["test"].items())
    yield "step", curves["step"], num_rows
    for name in curves.keys() - {"step", "epoch"}:
        yield from ((f"{part} of {name}", curves[name][part], num_rows) for part in _CURVE)
    yield from ((name, values, num_rows) for name, values in arm["knobs"].items())


def write(
    record: Mapping[str, Any],
    paths: Sequence[Path],
    *,
    markdown: Callable[[Mapping[str, Any]], str],
    picture: Callable[[Mapping[str, Any], Path], None],
) -> None:
    """Writes a record as JSON, Markdown and PNG, each to its one of the three `paths`.

    Args:
      record: The record of a table, or of a trade-off.
      paths: Where the files go, in that order.
      markdown: The record -> its text.
      picture: Draws the record in a file.
    """
    of_json, of_markdown, of_picture = paths
    files.write(of_json, record)
    with files.whole(of_markdown) as temporary:
        temporary.write_text(markdown(record), "utf-8")
    with files.whole(of_picture) as temporary:
        picture(record, temporary)
