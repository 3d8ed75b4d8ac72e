"""What a run leaves behind and shows: metrics.jsonl, TensorBoard's files, a bar or lines."""

import importlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.loop import Row

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class WorkdirError(OSError):
    """The working directory cannot take a run, or not in the way that was asked for."""


class RunLog:
    """Takes the rows of a run; a context, which closes its files.

    Every row goes to `metrics.jsonl` in the workdir, to TensorBoard's files there if `tensorboard`,
    and is printed as a line; on a terminal below the lines a bar shows what is still to come.
    """

    def __init__(
        self, workdir: Path, timetable: Timetable, batch_size: int, *, tensorboard: bool = False
    ):
        self._writer = _tensorboard().SummaryWriter(workdir / TENSORBOARD) if tensorboard else None
        self._metrics = (workdir / METRICS).open("a", buffering=1)
        self._num_epochs = timetable.epoch(timetable.micro_steps)
        self._bar = _bar(Console(), batch_size)
        self._task = self._bar.add_task("training", total=timetable.micro_steps)

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *error):
        self._bar.stop()
        self._metrics.close()
        if self._writer:
            self._writer.close()

    def progress(self, micro_step: int) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=micro_step)

    def row(self, row: Row) -> None:
        """Writes and prints a row."""
        self._metrics.write(json.dumps(row, allow_nan=False) + "\n")
        if self._writer:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._writer.add_scalar(_tag(name), value, row["step"])
        line = _line(row, self._num_epochs)
        if self._bar.disable:
            print(line, flush=True)
        else:
            self._bar.console.print(line, highlight=False, soft_wrap=True)


def require_tensorboard() -> None:
    """Raises WorkdirError where TensorBoard's files cannot be written."""
    _tensorboard()


def start_workdir(workdir: Path, config: dict[str, Any]) -> None:
    """Makes `workdir` and writes `config.json` into it.

    Raises:
      WorkdirError: It holds a run already, which would be mixed up with this one, or it cannot be
        written to.
    """
    # A config file may hold NumPy's numbers.
    text = json.dumps(config, indent=2, default=lambda number: number.item())
    try:
        metrics = workdir / METRICS
        is_taken = metrics.exists() and metrics.stat().st_size > 0
        workdir.mkdir(parents=True, exist_ok=True)
        if not is_taken:
            (workdir / "config.json").write_text(text + "\n")
    except OSError as error:
        raise WorkdirError(f"--workdir {workdir} cannot be written: {error.strerror}.") from error
    if is_taken:
        raise WorkdirError(f"{workdir} holds a run already; choose another --workdir.")


def write_result(workdir: Path, result: dict[str, Any]) -> None:
    """Writes `result.json`, what is known when training has ended."""
    (workdir / "result.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


class _ImagesPerSecond(ProgressColumn):
    def __init__(self, batch_size: int):
        super().__init__()
        self._batch_size = batch_size

    def render(self, task):
        return Text(f"{(task.speed or 0) * self._batch_size:,.0f} images/s")


def _bar(console: Console, batch_size: int) -> Progress:
    """A bar with what is left of the time; disabled where there is no terminal to draw it on."""
    return Progress(
        TextColumn("{task.percentage:>3.0f} %"),
        BarColumn(),
        _ImagesPerSecond(batch_size),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def _tensorboard() -> Any:
    try:
        return importlib.import_module("tensorboardX")
    except ImportError as error:
        raise WorkdirError(
            f"TensorBoard's files need tensorboardX ({error}): "
            "pip install 'cyclical-jax[tensorboard]'."
        ) from error


def _tag(name: str) -> str:
    """TensorBoard shows what stands before the "/" as one group."""
    if name in ("loss", "accuracy", "grad_norm"):
        return f"train/{name}"
    if name.startswith("val_"):
        return f"validation/{name.removeprefix('val_')}"
    of_the_run = ("epoch", "images_per_second", "seconds", "skipped")
    return f"run/{name}" if name in of_the_run else f"knobs/{name}"


def _line(row: Row, num_epochs: float) -> str:
    parts = [f"epoch {row['epoch']:>5.4g}/{num_epochs:.4g}", f"step {row['step']:>6,}"]
    if row["loss"] is not None:
        loss = f"{row['loss']:.4f}" if abs(row["loss"]) < 1e4 else f"{row['loss']:.3g}"
        parts += [f"loss {loss}", f"train {row['accuracy']:.2%}"]
    if "val_accuracy" in row:
        parts.append(f"val {row['val_accuracy']:.2%}")
    if row.get("skipped"):
        parts.append(f"skipped {row['skipped']:,}")
    if row["images_per_second"] is not None:
        parts.append(f"{row['images_per_second']:,.0f} images/s")
    return "  ".join(parts)
