"""What a run leaves behind: a row an epoch in metrics.jsonl, a line on the terminal."""

import json
from pathlib import Path
from typing import Any

from cyclical_jax.training.loop import Row

METRICS = "metrics.jsonl"


class WorkdirError(OSError):
    """The working directory cannot take a run."""


class RunLog:
    """Writes rows to `metrics.jsonl` in the workdir and prints them."""

    def __init__(self, workdir: Path, num_epochs: int):
        self._metrics = workdir / METRICS
        self._num_epochs = num_epochs

    def __call__(self, row: Row) -> None:
        with self._metrics.open("a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        print(_line(row, self._num_epochs), flush=True)


def start_workdir(workdir: Path, config: dict[str, Any]) -> None:
    """Makes `workdir` and writes `config.json` into it.

    Raises:
      WorkdirError: It holds a run already, which would be mixed up with this one, or it cannot be
        written to.
    """
    if (workdir / METRICS).exists():
        raise WorkdirError(f"{workdir} holds a run already; choose another --workdir.")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise WorkdirError(f"--workdir {workdir} cannot be written: {error.strerror}.") from error


def write_result(workdir: Path, result: dict[str, Any]) -> None:
    """Writes `result.json`, what is known when training has ended."""
    (workdir / "result.json").write_text(json.dumps(result, indent=2) + "\n")


def _line(row: Row, num_epochs: int) -> str:
    return (
        f"epoch {row['epoch']:>4}/{num_epochs}  loss {row['loss']:.4f}  "
        f"train {row['accuracy']:.2%}  validation {row['val_accuracy']:.2%}  "
        f"{row['images_per_second']:,.0f} images/s"
    )
