"""Reads the variables, and the identity, of the checkpoints of an earlier run."""

from pathlib import Path

import jax

from cyclical_jax.training.checkpoints import CheckpointError, Checkpoints
from cyclical_jax.training.snapshots import Arrays, kinds_of, misfit, name_of
from cyclical_jax.training.state import JUDGED, Variables

NOTHING = Variables((), ())


def read_variables(
    directory: Path,
    like: Variables,
    *,
    without: Variables = NOTHING,
    best: bool = False,
    cycle_end: int | None = None,
) -> tuple[Variables, int]:
    """Returns the variables to evaluate, from the newest undamaged checkpoint.

    Args:
      directory: Folder of the checkpoints of a run, which may still be training.
      like: Variables of the same structure and shapes.
      without: Names of the parts of parameters and state that are not in `like`.
      best: Whether to read the best checkpoint by validation instead.
      cycle_end: The number of updates of the end of a cycle to read instead.

    Returns:
      The variables, and the number of updates that made them.

    Raises:
      CheckpointError: There is no checkpoint, or it does not fit `like`; a line.
    """
    with Checkpoints(directory, read_only=True) as checkpoints:
        if cycle_end is not None:
            arrays: Arrays | None = checkpoints.arrays_at(cycle_end)
        else:
            arrays = checkpoints.best_arrays() if best else checkpoints.arrays()
    if arrays is None:
        raise CheckpointError(f"there is no checkpoint in {directory}.")
    judged = f"0.memory.{JUDGED}."
    whose = judged if any(name.startswith(judged) for name in arrays) else "0."
    parts = tuple(f"{whose}{part}." for part in Variables._fields)
    out = tuple(
        f"{whose}{part}.{name}." for part, names in without._asdict().items() for name in names
    )
    found = {
        name.removeprefix(whose): array
        for name, array in arrays.items()
        if name.startswith(parts) and not f"{name}.".startswith(out)
    }
    wanted = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    if problem := misfit(kinds_of(wanted), kinds_of(found)):
        raise CheckpointError(f"the checkpoint in {directory} does not fit: {problem}.")
    variables = jax.tree_util.tree_map_with_path(lambda path, _: found[name_of(path)], like)
    return variables, int(arrays["0.step"])


def kept_cycle_ends(directory: Path) -> dict[int, int]:
    """Returns {updates: micro step} of the checkpoints that are kept as ends of cycles, in order.

    Raises:
      CheckpointError: There are no checkpoints, or one of them is damaged; a line.
    """
    with Checkpoints(directory, read_only=True) as checkpoints:
        return checkpoints.cycle_ends()


def identity(directory: Path) -> str:
    """Returns words that identify the newest checkpoint: its micro step and its digest.

    Raises:
      CheckpointError: There is no checkpoint, or it is damaged.
    """
    if not directory.exists():
        raise CheckpointError(f"there is no checkpoint in {directory}.")
    with Checkpoints(directory, read_only=True) as checkpoints:
        newest = checkpoints.newest_about()
    if newest is None:
        raise CheckpointError(f"there is no checkpoint in {directory}.")
    return f"checkpoint {newest[0]}, {newest[1].digest[:16]}"
