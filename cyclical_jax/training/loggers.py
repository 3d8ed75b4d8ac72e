"""Further places for the rows of a run besides `metrics.jsonl`, by the names of their packages.

A logger is made with the workdir, the structure of the run and the rows so far. It takes each row
once, even if the run was killed and goes on, and is closed at the end.
"""

import importlib
import operator
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from cyclical_jax import _checks
from cyclical_jax._extras import to_install
from cyclical_jax.training import files
from cyclical_jax.training.files import CONFIG, WANDB, WorkdirError, writing
from cyclical_jax.training.run import Row
from cyclical_jax.training.step import MEASURED
from cyclical_jax.training.structure import Structure

_PROJECT = "cyclical_jax"
_LARGEST_ROW = (
    1000  # numbers: what does not fit in the queue of a writer that has ended waits for ever
)


class Logger(Protocol):
    """A place for the rows of a run."""

    def row(self, row: Row) -> None:
        """Takes a row; raises WorkdirError if it cannot be written."""

    def close(self) -> None:
        """Writes all that is left; raises WorkdirError if it cannot."""


class TensorBoard:
    """Writes the files that TensorBoard reads, into `tensorboard` in the workdir."""

    package = "tensorboardX"

    def __init__(self, workdir: Path, structure: Structure, rows: Sequence[Row]):
        self._path, self._measures = workdir / "tensorboard", structure.measures
        purged = rows[-1]["step"] + 1 if rows else 0
        # The names of its files are times in seconds; one that is there would be overwritten.
        own = {"filename_suffix": f".{time.time_ns()}"}
        options = {"purge_step": purged, "max_queue": _LARGEST_ROW, **own}
        self._writer = _imported("tensorboard").SummaryWriter(self._path, **options)

    def row(self, row: Row) -> None:
        """Writes every number of a row."""
        self._check()
        for tag, value in _tagged(row, self._measures):
            self._writer.add_scalar(tag, value, row["step"])

    def close(self) -> None:
        """Writes all that is left."""
        self._check()
        with writing(self._path):
            self._writer.close()

    def _check(self) -> None:
        """Raises WorkdirError if the writer's thread has ended: a full disk ends it silently."""
        try:
            thread = operator.attrgetter("file_writer.event_writer._worker")(self._writer)
        except AttributeError:  # of a version that has it elsewhere
            return
        if not thread.is_alive():
            raise WorkdirError(f"{self._path} cannot be written: TensorBoard's writer has ended.")


class WandB:
    """Sends rows to Weights & Biases; `wandb.json` in the workdir has the run's id and last step.

    WANDB_PROJECT, WANDB_MODE=offline and the like are read by the package itself.
    """

    package = "wandb"

    def __init__(self, workdir: Path, structure: Structure, rows: Sequence[Row]):
        self._path, self._measures = workdir / WANDB, structure.measures
        new = {"id": uuid.uuid4().hex[:12], "step": -1}
        self._state = files.read(self._path) if files.is_there(self._path) else new
        files.write(self._path, self._state)
        self._run = self._begin(workdir)

    def _begin(self, workdir: Path) -> Any:
        wandb = _imported("wandb")
        project = None if "WANDB_PROJECT" in os.environ else _PROJECT
        config = files.read(workdir / CONFIG)
        about = {"project": project, "name": workdir.resolve().name, "config": config}
        own = {"id": self._state["id"], "resume": "allow", "dir": workdir}
        try:
            run = wandb.init(**about, **own, settings=wandb.Settings(console="off"))
            run.config.update(config, allow_val_change=True)  # of a run that was made longer
            return run
        except Exception as error:  # no key, no network, no such project: the package has its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WorkdirError(f"--logger=wandb cannot start: {reason}") from error

    def row(self, row: Row) -> None:
        """Sends a row, unless it was sent before the run was killed."""
        if row["step"] <= self._state["step"]:
            return
        self._run.log(dict(_tagged(row, self._measures)), step=row["step"])
        self._state["step"] = row["step"]
        files.write(self._path, self._state)

    def close(self) -> None:
        """Sends all that is left."""
        self._run.finish()


LOGGERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WandB}


def require(names: Iterable[str]) -> None:
    """Raises WorkdirError unless all are names of loggers whose packages can be imported."""
    for name in names:
        try:
            _checks.one_of("--logger", name, LOGGERS)
        except ValueError as error:
            raise WorkdirError(str(error).replace("`", "")) from error
        _imported(name)


def _imported(name: str) -> Any:
    package = LOGGERS[name].package
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise WorkdirError(
            f"--logger={name} needs {package} ({error}): {to_install(name)}."
        ) from error


def _tagged(row: Row, measures: Sequence[str]) -> Iterable[tuple[str, Any]]:
    """Yields the numbers of a row by name; the part of a name before its "/" is a group.

    Groups are shown in the order of the alphabet: those of the knobs are last.
    """
    for name, value in row.items():
        if name != "step" and value is not None:
            yield _tag(name, measures), value


def _tag(name: str, measures: Sequence[str]) -> str:
    if name in (*MEASURED, *measures):
        return f"train/{name}"
    if name.startswith("val_"):
        return f"validation/{name.removeprefix('val_')}"
    of_the_run = ("epoch", "images_per_second", "seconds", "skipped")
    return f"run/{name}" if name in of_the_run else f"values/{name}"
