"""Checkpoints of a run: whole or not there, written in the background, verified when read."""

import contextlib
import errno
import functools
import json
import logging
import math
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from cyclical_jax.training.devices import is_first_process, largest_of_all, wait_for_all
from cyclical_jax.training.snapshots import Arrays, Snapshot, arrays_of, digest_of, misfit, rebuilt

_ABOUT = "about"  # the item beside the state: digest, seconds, worth by validation
_WORTH = "worth"  # of a checkpoint, by the task's own score on validation: more is better
_LONGEST_REASON = 200  # characters of what Orbax says
_MACHINE = ("EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "EACCES", "EPERM")
_OF_THE_MACHINE = {getattr(errno, name) for name in _MACHINE}
_OVERHEAD = 1_000_000  # bytes of a checkpoint beside its arrays, at most
_PATIENCE = 5.0  # seconds for what is being written when a run ends by an error

_logger = logging.getLogger(__name__)
_LOUD = logging.getLogger("absl"), logging.getLogger("asyncio")


class CheckpointError(OSError):
    """A checkpoint cannot be written, or none that is there can be read."""


class _Item(NamedTuple):
    """A snapshot on the host, and the entries that are written beside it."""

    micro_step: int
    arrays: Arrays
    about: dict[str, Any]


class Checkpoints:
    """The checkpoints in a directory, each named by its micro step; a context.

    The newest `keep` are kept, and the one that is worth most by validation, the last of equals:
    of all that were saved or held. They are Orbax's: "state" holds every leaf by its path, "about"
    a digest of them.
    With several processes all of them call everything, and share the directory; the first writes.
    Where `read_only`, nothing there is changed: the run that it belongs to may go on.

    Raises:
      CheckpointError: The directory cannot be made, or, to be read, is not there.
    """

    def __init__(self, directory: Path, *, keep: int = 2, read_only: bool = False):
        if read_only and not directory.is_dir():
            raise CheckpointError(f"there is no {directory}.")
        self._directory = directory.resolve()
        self._worths: dict[int, float] = {}
        self._held: _Item | None = None
        self._read_only = read_only
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else _NewestAndBest(keep, self._worth_of),
            cleanup_tmp_directories=not read_only,
            save_root_metadata=False,
            create=not read_only,
            # Otherwise a directory that cannot be made leaves threads that wait for it.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        self._hook = sys.unraisablehook
        sys.unraisablehook = functools.partial(_unless_of_closed_loop, self._hook)
        for logger in _LOUD:
            logger.addFilter(_is_not_of_orbax)
        with self._errors_told():
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, error_type, *_) -> None:
        self._close(error_type)
        if error_type is not None:  # what was under way fails later, and is not to be told either
            return
        sys.unraisablehook = self._hook
        for logger in _LOUD:
            logger.removeFilter(_is_not_of_orbax)

    def _close(self, error_type) -> None:
        if error_type is None:
            with self._errors_told():
                self._manager.close()
            return
        # An error while leaving would hide the one that is on its way; a wait without end, too.
        closing = threading.Thread(target=self._close_silently, daemon=True)
        closing.start()
        closing.join(_PATIENCE)

    def _close_silently(self) -> None:
        with contextlib.suppress(Exception):
            self._manager.close()

    def hold(self, snapshot: Snapshot, worth: float) -> None:
        """Keeps a copy in memory, which the next `save` writes before its own, if it is the best.

        It is, if it is worth more than all that were saved or held. After a crash the run goes on
        from what was saved last, and everything that was best until then was written before: so
        the run finds again what was held since.
        """
        worths = [self._worth_of(step) for step in self._manager.all_steps()]
        worths += [self._held.about[_WORTH]] if self._held else []
        if worth < max(worths, default=-math.inf):
            return
        if int(snapshot.state.micro_step) == self._manager.latest_step():
            self._write(_item(snapshot, worth))
        else:
            self._held = _item(snapshot, worth)

    def save(self, snapshot: Snapshot, worth: float | None = None) -> None:
        """Starts to write, and returns when all is in memory.

        One of that micro step that is there, of a run that was stopped in its validation, stays,
        and is given the worth.

        Raises:
          CheckpointError: This one cannot be written, or the one before it could not.
        """
        item, held = _item(snapshot, worth), self._held
        self._held = None
        if held and held.micro_step < item.micro_step:
            self._write(held)
        self._write(item)

    def _write(self, item: _Item) -> None:
        micro_step, arrays, about = item
        is_there, worth = micro_step == self._manager.latest_step(), about[_WORTH]
        if not is_there or worth is not None:
            self._worths[micro_step] = -math.inf if worth is None else worth
        if is_there:
            self._amend(micro_step, worth)
            return
        self._check_space(arrays)
        about = about | {"digest": digest_of(arrays)}
        with self._errors_told():
            self._manager.save(
                micro_step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)
                ),
            )

    def _amend(self, micro_step: int, worth: float | None) -> None:
        path = self._directory / str(micro_step) / _ABOUT / "metadata"
        about = about_of(self._directory / str(micro_step))
        if worth is not None and about and is_first_process():
            temporary = path.with_name(".metadata.new")
            with self._errors_told():
                temporary.write_text(json.dumps(about | {_WORTH: worth}))
                temporary.replace(path)

    def check(self) -> None:
        """Raises CheckpointError if what was being written could not be."""
        with self._errors_told():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns when all is written; raises CheckpointError if it could not be."""
        with self._errors_told():
            self._manager.wait_until_finished()

    def restore(self, like: Snapshot) -> Snapshot | None:
        """Returns the newest checkpoint that is undamaged; None where there is none at all.

        One that is damaged is named in a warning and set aside, as `damaged-<micro step>`.

        Args:
          like: A snapshot of the same run, at its start say, for structure, shapes and dtypes.

        Raises:
          CheckpointError: All are damaged, or the newest is of another structure than `like`.
        """
        newest = self._newest()
        if newest is None:
            return None
        micro_step, arrays, about = newest
        return self._rebuilt(micro_step, like, arrays, about["seconds"])

    def arrays(self) -> Arrays | None:
        """Returns {path of a leaf: array} of the checkpoint that `restore` reads."""
        newest = self._newest()
        return None if newest is None else newest[1]

    def best_arrays(self) -> Arrays:
        """Returns {path of a leaf: array} of the checkpoint that is worth most by validation.

        Raises:
          CheckpointError: None was saved with one, or that checkpoint is damaged.
        """
        best = _best_of(self._manager.all_steps(), self._worth_of)
        if best is None:
            raise CheckpointError(
                f"no checkpoint in {self._directory} was saved after a validation: take the newest."
            )
        try:
            return self._read(best)[0]
        except Exception as error:  # whatever a damaged file may lead to
            raise CheckpointError(
                f"checkpoint {self._directory / str(best)} is damaged."
            ) from error

    def _newest(self) -> tuple[int, Arrays, dict[str, Any]] | None:
        """Returns the newest that is undamaged: its micro step, arrays and digest."""
        damaged: dict[int, str] = {}
        for micro_step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = micro_step, *self._read(micro_step)
            except Exception as error:  # whatever a damaged file may lead to
                if _may_pass(error):
                    raise CheckpointError(f"{self._directory} cannot be read: {error}.") from error
                found, damaged[micro_step] = None, _reason(error)
            if self._agree(found is not None):
                self._set_aside(damaged)
                return found
            damaged.setdefault(micro_step, "in another process")
        if damaged:  # they stay where they are: what is wrong may pass
            reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
            raise CheckpointError(f"no checkpoint in {self._directory} can be read: {reasons}.")
        return None

    def _agree(self, is_read: bool) -> bool:
        """Returns whether all processes have read it, so that all begin with the same one."""
        (failed,) = largest_of_all([not is_read])
        return not failed

    def _worth_of(self, micro_step: int) -> float:
        """Returns the worth by validation; -inf for a checkpoint without one, or a damaged one."""
        if micro_step not in self._worths:
            worth = about_of(self._directory / str(micro_step)).get(_WORTH)
            known = float(worth) if isinstance(worth, float | int) else -math.inf
            self._worths[micro_step] = known
        return self._worths[micro_step]

    def _check_space(self, arrays: Arrays) -> None:
        """Raises CheckpointError if the disk is too small; Orbax would find out half-way."""
        needed = sum(array.nbytes for array in arrays.values()) + _OVERHEAD
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise CheckpointError(
                f"{self._directory} cannot be written: a checkpoint takes {needed / 1e6:,.1f} MB, "
                f"and {free / 1e6:,.1f} MB of the disk are free."
            )

    def _read(self, micro_step: int) -> tuple[Arrays, dict[str, Any]]:
        parts = self._manager.restore(
            micro_step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(), about=ocp.args.JsonRestore()),
        )
        if digest_of(parts.state) != parts.about["digest"]:
            raise ValueError("its digest is another")
        return parts.state, parts.about

    def _rebuilt(self, micro_step: int, like: Snapshot, arrays: Arrays, seconds: float) -> Snapshot:
        if problem := misfit(arrays_of(like), arrays):
            raise CheckpointError(
                f"checkpoint {self._directory / str(micro_step)} does not fit this run: {problem}; "
                "it was written by other versions of the code or its libraries."
            )
        return rebuilt(like, arrays, seconds)

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        """Renames damaged checkpoints that are newer than one that was read, and warns of each."""
        for micro_step, reason in damaged.items():
            path = self._directory / str(micro_step)
            _logger.warning(
                "checkpoint %s is damaged (%s); the one before it is used", path, reason
            )
        if self._read_only or not damaged:
            return
        wait_for_all("read")
        if is_first_process():
            for micro_step in damaged:
                self._rename(self._directory / str(micro_step))
        wait_for_all("set aside")
        self._manager.reload()

    def _rename(self, path: Path) -> None:
        aside = path.with_name(f"damaged-{path.name}")
        with self._errors_told():
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier time at the same place
            path.rename(aside)

    @contextlib.contextmanager
    def _errors_told(self) -> Iterator[None]:
        """Turns whatever Orbax and TensorStore raise into one CheckpointError with a line."""
        try:
            yield
        except Exception as error:
            if isinstance(error, CheckpointError):
                raise
            done = "read" if self._read_only else "written"
            raise CheckpointError(
                f"{self._directory} cannot be {done}: {_reason(error)}"
            ) from error


class _NewestAndBest:
    """Keeps the newest and the best; Orbax's own policy fails at damaged metrics."""

    def __init__(self, num_newest: int, worth_of: Callable[[int], float]):
        self._num_newest, self._worth_of = num_newest, worth_of

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self._num_newest :], _best_of(steps, self._worth_of)}
        return [step in kept for step in steps]


def _best_of(steps: Sequence[int], worth_of: Callable[[int], float]) -> int | None:
    """Returns the last of those that are worth most; None where none was validated.

    A small validation split has many ties, and of equals the last has been trained the longest.
    """
    validated = [step for step in sorted(steps, reverse=True) if worth_of(step) > -math.inf]
    return max(validated, key=worth_of, default=None)


def about_of(checkpoint: Path) -> dict[str, Any]:
    """Returns the item beside the state; {} where it is damaged."""
    try:
        about = json.loads((checkpoint / _ABOUT / "metadata").read_text())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _may_pass(error: Exception) -> bool:
    """Returns whether an error comes from the machine rather than from a file's content."""
    of_machine = isinstance(error, OSError) and error.errno in _OF_THE_MACHINE
    return of_machine or isinstance(error, MemoryError)


def _reason(error: Exception) -> str:
    """Returns the first line of an error of Orbax, or the system's reason for it."""
    text = str(error).strip()
    if "Gloo" in text or "coordination" in text:
        return "another process has ended"
    if of_system := re.search(r"os_error_code='(\d+)'", text):
        return os.strerror(int(of_system[1]))
    if isinstance(error, OSError) and error.strerror:
        is_told = os.path.isabs(error.filename or "")  # a name within a folder says nothing
        return f"{error.strerror}: {error.filename}" if is_told else error.strerror
    return text.partition("\n")[0][:_LONGEST_REASON]


def _unless_of_closed_loop(hook: Callable[[Any], Any], unraisable: Any) -> None:
    """Hides an error that TensorStore raises beside the real one, in a loop that is closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Returns False for the tracebacks that Orbax logs of what it raises anyway."""
    return not (record.exc_info and ("orbax" in record.pathname or record.name == "asyncio"))


def _item(snapshot: Snapshot, worth: float | None) -> _Item:
    about = {"seconds": snapshot.seconds, _WORTH: worth}
    return _Item(int(snapshot.state.micro_step), arrays_of(snapshot), about)
