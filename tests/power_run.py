"""A short run that is stopped, killed and resumed, for tests of what a power failure leaves of it.

    python -m tests.power_run <folder>

The workdir is `<folder>/disk/new/run`. As soon as something is complete, a line of
`<folder>/disk/marks` says so: "saved:<micro step>" of a checkpoint, "best:<micro step>" of one that
is worth more than all before it, "wrote:<name>" of a file. `<folder>/<micro step>.npz` has the
arrays that the checkpoint was to hold.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp

from configs import digits
from cyclical_jax.catalogue import parse
from cyclical_jax.training import files
from cyclical_jax.training.keeper import StoppedError
from tests import power

WORKDIR = Path("new", "run")


def recipe_and_config():
    """Returns them; a row every half epoch, and a validation at the end of each."""
    config = digits.get_config("all")
    config.duration, config.log_every, config.model.hidden_sizes = "4 epochs", "9 steps", (8,)
    return parse(config, num_devices=jax.device_count()), config


def main(folder: Path):
    disk = folder / "disk"
    with marked(disk / power.MARKS, folder):
        train_until(disk / WORKDIR, asks=3)  # in a validation: its worth is written later
        train_until(disk / WORKDIR, asks=5)
        with (disk / WORKDIR / files.METRICS).open("a") as file:  # as a killed process leaves it
            file.write("{}\n{}\n{")
        train_until(disk / WORKDIR, asks=1000)


def train_until(workdir: Path, asks: int):
    """Trains until it has been asked that many times whether it is to stop, or to the end."""
    from experiments import train  # whose flags would be those of each process that imports this

    recipe, config = recipe_and_config()
    asked = itertools.count(1)
    with contextlib.suppress(StoppedError):
        options = {"save_every": 0.0, "keep": 1, "is_stopping": lambda: next(asked) >= asks}
        train.run(config, recipe, workdir, **options)


@contextlib.contextmanager
def marked(path: Path, arrays: Path) -> Iterator[None]:
    """Within it a line goes to the file whenever something is complete."""
    write, save = files.write, ocp.CheckpointManager.save
    wait = ocp.CheckpointManager.wait_until_finished
    begun: list[str] = []
    worths = [-1.0]

    def mark(lines: Iterable[str]):
        os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())

    def written(path, content):
        write(path, content)
        mark([f"wrote:{path.name}"])

    def saved(manager, step, *, args):
        np.savez(arrays / f"{step}.npz", **args.state.item)
        save(manager, step, args=args)  # it waits for those before it
        mark(begun)
        worth = args.about.item["worth"]
        is_best = worth is not None and worth >= max(worths)
        worths.append(worth or 0.0)
        begun[:] = [f"saved:{step}", *[f"best:{step}"] * is_best]

    def waited(manager):
        wait(manager)
        mark(begun)
        begun.clear()

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with (
        mock.patch.object(files, "write", written),
        mock.patch.object(ocp.CheckpointManager, "save", saved),
        mock.patch.object(ocp.CheckpointManager, "wait_until_finished", waited),
    ):
        yield
    os.close(descriptor)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
