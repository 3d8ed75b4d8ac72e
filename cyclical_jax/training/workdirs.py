"""The workdir of a run, which only one process at a time can open, to begin a run or to go on."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cyclical_jax import _files
from cyclical_jax._files import NUMBER
from cyclical_jax.data import Normalisation
from cyclical_jax.training import files
from cyclical_jax.training.devices import is_first_process, text_of_first
from cyclical_jax.training.files import (
    CHECKPOINTS,
    CONFIG,
    DATASET,
    INPUTS,
    LOCK,
    METRICS,
    RESULT,
    WorkdirError,
    plain,
    writing,
)
from cyclical_jax.training.keys import DURATION
from cyclical_jax.training.structure import Catalogue

_NOT_COMPARED = ("data_dir", *Normalisation._fields)
_OTHER = {
    CONFIG: "of another config",
    INPUTS: "whose inputs have changed since",
    DATASET: "of other data",
}


class Folder:
    """A folder that must stay where it is, recognised by its place on the disk."""

    def __init__(self, path: Path):
        self.path, self._identity = path, _identity(path)

    def check(self) -> None:
        """Raises WorkdirError, a line, if the folder was moved, deleted or replaced."""
        if self._identity is None or _identity(self.path) != self._identity:
            raise WorkdirError(
                f"{self.path} was moved or deleted while the run trained in it. If it was moved, "
                "give its new place as --workdir: the run goes on from its last checkpoint."
            )

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Raises the error of `check` instead of an OSError of the body, if that is the reason."""
        try:
            yield
        except OSError:
            self.check()
            raise


def _identity(path: Path) -> tuple[int, int] | None:
    """Returns what identifies a folder; None if there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


@contextlib.contextmanager
def opened_workdir(
    workdir: Path,
    config: dict[str, Any],
    catalogue: Catalogue,
    inputs: dict[str, str] | None = None,
    facts: dict[str, Any] | None = None,
    *,
    advice: Mapping[str, str] | None = None,
    why_not_longer: Callable[[Any], str | None] | None = None,
) -> Iterator[Folder]:
    """Makes `workdir`, with `config.json` in it, or checks that the run there has this config.

    It does the same with the `inputs` that `inputs.identities` returns, in `inputs.json`, and with
    the `facts` of `Facts.as_json`, in `dataset.json`. As long as the context lasts, no other
    process can open the workdir, and nothing is read in it before. If several processes train
    together, the first one opens it, and the others compare their arguments with it. If a key of
    `advice` differs, its text ends the message.

    The duration alone may differ, if `why_not_longer` returns None for the one in the workdir: the
    run there becomes longer, and has no result any more. Else it returns a sentence that says why.

    Raises:
      WorkdirError: The workdir holds a run of another config, other inputs or other data, or a run
        without checkpoints; or another process writes to it; or it cannot be written.
    """
    folder: Folder
    given = {CONFIG: plain(config), INPUTS: inputs or {}, DATASET: facts or {}}

    def check() -> bool:
        """Returns whether the run there becomes longer."""
        told = as_defaults(catalogue), advice or {}, why_not_longer
        is_longer = _is_longer(workdir / CONFIG, given[CONFIG], *told)
        for name in (INPUTS, DATASET):
            _check_same(workdir / name, given[name])
        return is_longer

    def open_it():
        nonlocal folder
        folder = stack.enter_context(_locked(workdir))
        _remove_unfinished(workdir)
        is_taken = _is_taken(workdir)
        if is_taken and check():
            _make_longer(workdir, given[CONFIG])
        _write_given(workdir, given, is_taken)

    with contextlib.ExitStack() as stack:
        _in_the_first(open_it)
        if not is_first_process():
            check()
            folder = Folder(workdir)
        folder.check()
        yield folder


def _in_the_first(function: Callable[[], None]) -> None:
    """Calls a function in the first process while the others wait; all raise its WorkdirError."""
    error = None
    if is_first_process():
        try:
            function()
        except WorkdirError as caught:
            error = caught
    if told := text_of_first(str(error or " ")).strip():
        raise error or WorkdirError(told)


def _write_given(workdir: Path, given: Mapping[str, dict[str, Any]], is_taken: bool) -> None:
    """Writes the files with which a run begins, or those that an earlier version did not write."""
    for name, content in given.items():
        path = workdir / name
        if is_taken and files.is_there(path):
            continue
        if content or name == CONFIG:
            files.write(path, content)
        else:
            with writing(path):
                path.unlink(missing_ok=True)  # of a run that never began


def as_defaults(catalogue: Catalogue) -> dict[str, Any]:
    """Returns {key: default} of all keys, as in JSON."""
    return plain({key: field.default for key, field in catalogue.keys.items()})


def config_differences(
    old: dict[str, Any], new: dict[str, Any], defaults: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Returns a line for each difference of two configs.

    The place of the data is no difference, and neither are its statistics, which depend on the
    machine's rounding. A key that is missing in `old`, of an earlier version, has its default.
    """
    lines = []
    for name in sorted(old.keys() | new.keys()):
        there, here = (config.get(name, defaults.get(f"{prefix}{name}")) for config in (old, new))
        there = {} if there is None and isinstance(here, dict) else there
        if isinstance(there, dict) and isinstance(here, dict):
            lines += config_differences(there, here, defaults, f"{prefix}{name}.")
        elif there != here and name not in _NOT_COMPARED:
            lines.append(f"{prefix}{name}: {there!r} there, {here!r} here")
    return lines


def read_result(workdir: Path, score: str) -> dict[str, Any] | None:
    """Returns what `write_result` wrote; None if the run has not ended.

    Args:
      workdir: An opened workdir.
      score: The score that the task judges by; the result must have it, and None is not finite.

    Raises:
      WorkdirError: It is damaged, or has no such score; a line.
    """
    path = workdir / RESULT
    return files.read(path, **{f"test_{score}": NUMBER}) if files.is_there(path) else None


def write_result(workdir: Path, result: dict[str, Any]) -> None:
    """Writes `result.json` when training has ended, in the first process."""
    if is_first_process():
        files.write(workdir / RESULT, result)


def _is_taken(workdir: Path) -> bool:
    """Returns whether the workdir has a run to go on with."""
    checkpoints, metrics = workdir / CHECKPOINTS, workdir / METRICS
    with writing(checkpoints):
        if checkpoints.exists() and any(checkpoints.iterdir()):
            return True
    with writing(metrics):
        has_rows = metrics.exists() and metrics.stat().st_size
    if has_rows or files.is_there(workdir / RESULT):  # which would be taken for that of this run
        raise WorkdirError(f"{workdir} holds a run without checkpoints; choose another --workdir.")
    return False


def _is_longer(
    path: Path,
    now: dict[str, Any],
    defaults: Mapping[str, Any],
    advice: Mapping[str, str],
    why_not_longer: Callable[[Any], str | None] | None,
) -> bool:
    """Returns False for the same config, True for one whose run is the beginning of this run.

    Raises:
      WorkdirError: It is of another run; a line for each difference, then the reasons.
    """
    there = files.read(path)
    lines = config_differences(there, now, defaults)
    keys = [line.partition(":")[0] for line in lines]
    reasons = [advice[key] for key in keys if key in advice]
    if keys == [DURATION] and why_not_longer is not None:
        reason = why_not_longer(there.get(DURATION, defaults.get(DURATION)))
        if reason is None:
            return True
        reasons = [reason, *reasons]
    elif DURATION in keys and why_not_longer is not None:
        keep = f"To make the run there longer, change only {DURATION}: give its other keys again."
        reasons = [keep, *reasons]
    if lines:
        raise _of_another(path, [*lines, *reasons])
    return False


def _make_longer(workdir: Path, config: dict[str, Any]) -> None:
    """Replaces the config of a run by that of the longer run.

    The result goes first, and from the disk too: it would be taken for the longer run's.
    """
    files.remove(workdir / RESULT)
    files.write(workdir / CONFIG, config)


def _check_same(path: Path, now: dict[str, Any]) -> None:
    """Raises WorkdirError, with the differences, unless the run began with the content `now`."""
    # Earlier versions wrote no file of the dataset, and a caller may have no facts to compare.
    if path.name == DATASET and not (now and files.is_there(path)):
        return
    # A run without inputs has no file of them.
    there = files.read(path) if files.is_there(path) or path.name != INPUTS else {}
    if lines := config_differences(there, now, {}):
        raise _of_another(path, lines)


def _of_another(path: Path, lines: list[str]) -> WorkdirError:
    listed = "\n  ".join(lines)
    return WorkdirError(
        f"{path.parent} holds a run {_OTHER[path.name]}; choose another --workdir:\n  {listed}"
    )


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[Folder]:
    """Makes the folder, and lets no other process open it."""
    with writing(workdir):
        _files.make_folder(workdir)
    folder = Folder(workdir)
    path = workdir / LOCK
    with writing(path):
        # Otherwise a pipe would wait for a reader.
        file = open(path, "a", opener=lambda name, how: os.open(name, how | os.O_NONBLOCK, 0o666))
    with file:
        files.lock(file, workdir, f"another process trains in {workdir}; wait for it.")
        if not _files.is_at(file, path):
            raise WorkdirError(f"{workdir} was moved or deleted just now; give the command again.")
        yield folder


def _remove_unfinished(workdir: Path) -> None:
    """Deletes the unfinished files of killed writers; only the owner of the lock writes them."""
    for name in files.KINDS:
        for path in workdir.glob(f".{name}.*new"):
            with writing(path):
                path.unlink(missing_ok=True)
