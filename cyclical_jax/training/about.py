"""The entries beside the arrays of a checkpoint: which one it is, its worth, and its arrays."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from cyclical_jax import _files
from cyclical_jax._files import NUMBER, DamagedError
from cyclical_jax.training.technique import worth

ITEM = "about"
_FILE = Path(ITEM, "metadata")  # where Orbax's handler of JSON writes an item
_ASIDE = "damaged-"
_PATTERN = {
    "seconds": float,
    "worth": NUMBER,
    "digest": str,
    "micro_step": (int, None),
    "arrays": ({...: str}, None),
    "cycle_end": (int, None),
}


class About(NamedTuple):
    """The entries beside the arrays; None where an earlier version did not write one."""

    seconds: float  # of training so far
    digest: str  # of the arrays
    worth: float | None = None  # by the task's own score on validation: more is better
    micro_step: int | None = None
    arrays: dict[str, str] | None = None  # name -> type and shape, such as "float32[2, 3]"
    cycle_end: int | None = None  # updates so far, if it is kept as the end of a cycle

    def entries(self, judged_by: tuple[str, str] | None) -> dict[str, Any]:
        """Returns the entries to write, without checksum.

        With the `judged_by` of a task, the score is an entry too, such as "val_accuracy", for
        people who read the file; no program reads it.
        """
        if judged_by is None or self.worth is None:
            return self._asdict()
        name, best = judged_by
        return self._asdict() | {f"val_{name}": worth(self.worth, best)}


def problem_of(directory: Path, *, is_read: bool) -> str | None:
    """Returns a line that says why a path cannot be a directory of checkpoints, or None.

    Unless it `is_read`, it need not exist.
    """
    try:
        if directory.is_symlink() and not directory.exists():
            return f"{directory} is a link to {directory.readlink()}, which does not exist."
        if directory.exists() and not directory.is_dir():
            return f"{directory} is not a directory."
        return f"there is no {directory}." if is_read and not directory.exists() else None
    except OSError as error:
        return f"{directory} cannot be read: {error.strerror}."


def steps_of(directory: Path) -> list[int]:
    """Returns the micro steps of the checkpoints in a directory, in order; [] if it is missing."""
    paths = directory.iterdir() if directory.is_dir() else ()
    names = (path.name for path in paths)
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def read_about(checkpoint: Path) -> About:
    """Returns the entries beside the arrays of a checkpoint.

    Raises:
      DamagedError: The file is damaged, or belongs to another checkpoint; a line.
      OSError: It cannot be read.
    """
    path = checkpoint / _FILE
    try:
        found = _files.read_json(path, {})
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"{_FILE} is missing") from None
    except DamagedError as error:
        reason = str(error).removeprefix(f"{path} is damaged: ").rstrip(".")
        raise DamagedError(f"{_FILE}: {reason}") from error
    known = {name: found.get(name) for name in About._fields}
    if problem := _files.misfit(known, _PATTERN):
        raise DamagedError(f"{_FILE}: {problem}")
    about = About(**known)
    if about.micro_step not in (None, _micro_step_of(checkpoint)):
        raise DamagedError(f"{_FILE} belongs to micro step {about.micro_step}")
    return about


def write_entries(checkpoint: Path, entries: dict[str, Any]) -> None:
    """Replaces the entries of a checkpoint; raises OSError if it cannot."""
    _files.write_json(checkpoint / _FILE, entries)


def set_aside(checkpoint: Path) -> None:
    """Renames a damaged checkpoint; raises OSError if it cannot."""
    aside = checkpoint.with_name(f"{_ASIDE}{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)  # one that was set aside earlier
    checkpoint.rename(aside)


def lost_in(directory: Path) -> list[tuple[Path, About | None]]:
    """Returns the damaged checkpoints that were renamed, with their entries; None is unknown.

    A checkpoint that the run has saved again since is left out.
    """
    there = {None, *steps_of(directory)}
    steps = {path: _micro_step_of(path) for path in sorted(directory.glob(f"{_ASIDE}*"))}
    return [(path, about_if_whole(path)) for path, step in steps.items() if step not in there]


def about_if_whole(checkpoint: Path) -> About | None:
    """Returns the entries beside the arrays of a checkpoint; None if they cannot be read."""
    try:
        return read_about(checkpoint)
    except (DamagedError, OSError):
        return None


def _micro_step_of(checkpoint: Path) -> int | None:
    name = checkpoint.name.removeprefix(_ASIDE)
    return int(name) if name.isascii() and name.isdecimal() else None
