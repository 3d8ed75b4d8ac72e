"""Checkpoints of a run: complete or absent, written in the background, verified when read."""

import contextlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orbax.checkpoint as ocp

from cyclical_jax._files import DamagedError, sealed, sync
from cyclical_jax.training import about as abouts
from cyclical_jax.training import orbax_errors
from cyclical_jax.training.about import About, read_about, steps_of
from cyclical_jax.training.devices import is_first_process, largest_of_all, wait_for_all
from cyclical_jax.training.orbax_errors import reason_of
from cyclical_jax.training.retention import Retention, best_of
from cyclical_jax.training.snapshots import (
    Arrays,
    HostCopy,
    Snapshot,
    arrays_of,
    digest_of,
    host_copy,
    kinds_of,
    misfit,
    rebuilt,
)
from cyclical_jax.training.stored import may_pass, read_arrays
from cyclical_jax.training.synced import SyncedPath

_STATE = "state"
_UNFINISHED = "*.orbax-checkpoint-tmp*"  # what Orbax calls a checkpoint that is being written
_ELSEWHERE = "in another process"  # a checkpoint is damaged
_LOOKS = 20  # at a directory that changes while it is read
_PATIENCE = 2.0  # seconds in which one that is being removed, file by file, is gone
_OVERHEAD = 1_000_000  # bytes of a checkpoint beside its arrays, at most
_LONGEST_CLOSE = 5.0  # seconds for what is being written when a run ends by an error

_logger = logging.getLogger(__name__)
_Found = TypeVar("_Found")


class CheckpointError(OSError):
    """A checkpoint cannot be written, or none can be read."""


class _OthersError(Exception):
    """Checkpoints came or went while they were read."""


class Checkpoints:
    """The checkpoints in a directory, each named by its micro step; a context.

    It keeps the newest `keep`, the one with the best validation score of all that were saved or
    held (the last of equals), and for good each that was saved as the end of a cycle. The format is
    Orbax's: "state" holds every leaf by its path, "about" is an `About`. With several processes,
    all of them make all calls and share the directory; only the first one writes.

    Args:
      directory: The folder of the checkpoints.
      keep: Number of newest checkpoints to keep.
      judged_by: `judged_by` of the task, if "about" is to show the score by its name.
      read_only: Whether to change nothing there, because the run may still go on.

    Raises:
      CheckpointError: The directory cannot be made or read, or, if it is only read, is missing.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 2,
        judged_by: tuple[str, str] | None = None,
        read_only: bool = False,
    ):
        if problem := abouts.problem_of(directory, is_read=read_only):
            raise CheckpointError(problem)
        self._directory = directory.resolve()
        self._abouts: dict[int, About] = {}
        self._held: HostCopy | None = None
        self._judged_by, self._read_only = judged_by, read_only
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else Retention(keep, self._about_of),
            lightweight_initialize=True,  # what it would read may be damaged
            save_root_metadata=False,
            create=not read_only,
            # Otherwise a directory that cannot be made leaves threads that wait for it.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            temporary_path_class=SyncedPath,
        )
        with self._errors_told():
            if not read_only:
                self._remove_unfinished()
            self._manager = ocp.CheckpointManager(self._directory, options=self._options)
            if not read_only:
                sync(self._directory.parent)
        orbax_errors.hide_repeated()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, error_type, *_) -> None:
        self._close(error_type)
        if error_type is None:  # else what fails later of a save would be told beside the error
            orbax_errors.show_repeated()

    def _close(self, error_type) -> None:
        if error_type is None:
            with self._errors_told():
                self._manager.close()
            return
        # An error while leaving would hide the one that is on its way; a wait without end, too.
        closing = threading.Thread(target=self._close_silently, daemon=True)
        closing.start()
        closing.join(_LONGEST_CLOSE)

    def _close_silently(self) -> None:
        with contextlib.suppress(Exception):
            self._manager.close()

    def hold(self, snapshot: Snapshot, worth: float) -> None:
        """Keeps a copy in memory if it is the best so far; the next `save` writes it first.

        The best is worth at least as much as all that were saved or held. After a crash the run
        goes on from the checkpoint that was saved last. All that was best until then was written
        before, so the run finds again what was held since.
        """
        if not math.isfinite(worth):
            return
        worths = [self._worth_of(step) for step in self._manager.all_steps()]
        worths += [self._held.worth] if self._held else []
        if worth < max((known for known in worths if known is not None), default=-math.inf):
            return
        if int(snapshot.state.micro_step) == self._manager.latest_step():
            self._write(host_copy(snapshot, worth))
        else:
            self._held = host_copy(snapshot, worth)

    def save(
        self, snapshot: Snapshot, worth: float | None = None, *, is_cycle_end: bool = False
    ) -> None:
        """Starts to write, and returns when all is copied in memory.

        If there is a checkpoint of that micro step, from a run that was stopped in its validation
        or kept no ends of cycles, it stays and gets the worth and the mark.

        Raises:
          CheckpointError: This checkpoint cannot be written, or the one before could not.
        """
        item = host_copy(snapshot, worth, is_cycle_end=is_cycle_end)
        if self._held and self._held.micro_step < item.micro_step:
            self.save_held()
        self._held = None
        self._write(item)

    def save_held(self) -> None:
        """Starts to write the copy that is held, if there is one; raises as `save` does."""
        held, self._held = self._held, None
        if held:
            self._write(held)

    def _write(self, item: HostCopy) -> None:
        micro_step, arrays, seconds, worth, cycle_end = item
        if micro_step == self._manager.latest_step():
            self._amend(micro_step, worth, cycle_end)
            return
        of_arrays = digest_of(arrays), worth, micro_step, kinds_of(arrays)
        about = About(seconds, *of_arrays, cycle_end=cycle_end)
        self._abouts[micro_step] = about
        self._check_space(arrays)
        entries = sealed(about.entries(self._judged_by))
        items = {_STATE: ocp.args.StandardSave(arrays), abouts.ITEM: ocp.args.JsonSave(entries)}
        with self._errors_told():
            self._manager.save(micro_step, args=ocp.args.Composite(**items))

    def _amend(self, micro_step: int, worth: float | None, cycle_end: int | None) -> None:
        """Adds worth and mark to a checkpoint that was, or is being, written without them."""
        both = {"worth": worth, "cycle_end": cycle_end}
        given: dict[str, Any] = {name: one for name, one in both.items() if one is not None}
        known = self._about_of(micro_step)
        if known and known == known._replace(**given):
            return
        self.wait()
        if known:
            self._abouts[micro_step] = known._replace(**given)
        if is_first_process():
            checkpoint = self._path(micro_step)
            with self._errors_told():
                about = read_about(checkpoint)._replace(**given)
                abouts.write_entries(checkpoint, about.entries(self._judged_by))

    def check(self) -> None:
        """Raises CheckpointError if a write in the background has failed."""
        with self._errors_told():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns when all is written; raises CheckpointError if it could not be."""
        with self._errors_told():
            self._manager.wait_until_finished()

    def restore(self, like: Snapshot) -> Snapshot | None:
        """Returns the newest undamaged checkpoint; None if there is no checkpoint.

        A damaged one is named in a warning and renamed to `damaged-<micro step>`. The entries
        beside the arrays of all earlier ones are checked.

        Args:
          like: A snapshot of the same run, such as its start, for structure, shapes and dtypes.

        Raises:
          CheckpointError: All are damaged, or the newest is of another structure than `like`.
        """
        newest = self._looked_at(self._newest)
        if newest is None:
            return None
        micro_step, arrays, about = newest
        return self._rebuilt(micro_step, like, arrays, about.seconds)

    def arrays(self) -> Arrays | None:
        """Returns {path of a leaf: array} of the checkpoint that `restore` reads."""
        newest = self._looked_at(self._newest)
        return None if newest is None else newest[1]

    def best_arrays(self) -> Arrays:
        """Returns {path of a leaf: array} of the checkpoint that is worth most by validation.

        Raises:
          CheckpointError: None was saved after a validation, or that checkpoint is damaged, or
            the worth of another one is unknown.
        """
        return self._looked_at(self._best)

    def cycle_ends(self) -> dict[int, int]:
        """Returns {updates: micro step} of the checkpoints that are kept as ends of cycles.

        Raises:
          CheckpointError: A checkpoint is damaged, which may be one of them.
        """
        return self._looked_at(self._cycle_ends)

    def arrays_at(self, cycle_end: int) -> Arrays:
        """Returns {path of a leaf: array} of the end of a cycle, by its number of updates.

        Raises:
          CheckpointError: It is not kept, or it is damaged.
        """
        return self._looked_at(lambda steps: self._at(cycle_end, steps))

    def newest_about(self) -> tuple[int, About] | None:
        """Returns the newest micro step and the entries beside its arrays; None if there is none.

        Raises:
          CheckpointError: It is damaged.
        """
        return self._looked_at(
            lambda steps: (steps[-1], self._sound(read_about, steps[-1], steps)) if steps else None
        )

    def _looked_at(self, look: Callable[[list[int]], _Found]) -> _Found:
        """Returns what `look` reads of the checkpoints; reads again if they change in between.

        A run that goes on removes checkpoints that are no longer the newest or the best, and a
        checkpoint that is being removed looks like a damaged one.
        """
        for _ in range(_LOOKS):
            with contextlib.suppress(_OthersError):
                return look(self._steps())
        raise CheckpointError(f"{self._directory} cannot be read: it keeps changing.")

    def _steps(self) -> list[int]:
        try:
            return steps_of(self._directory)
        except OSError as error:
            raise self._unreadable(error) from error

    def _are_others(self, steps: list[int]) -> bool:
        """Returns whether a run that goes on has changed the checkpoints from `steps`."""
        until = time.monotonic() + _PATIENCE
        while self._read_only and self._steps() == steps:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return self._read_only

    def _best(self, steps: list[int]) -> Arrays:
        remedy = ", and may be the best: use the newest, with --checkpoint=newest."
        worths = {step: self._sound(read_about, step, steps, remedy).worth for step in steps}
        best, most = best_of(worths)
        if best is None:
            raise CheckpointError(
                f"no checkpoint in {self._directory} was saved after a validation: use the newest."
            )
        for path, about in abouts.lost_in(self._directory):
            if about is None or about.worth is None or about.worth >= most:
                _logger.warning(
                    "checkpoint %s was renamed as damaged, and may have been the best", path
                )
        remedy = ": use the newest, with --checkpoint=newest."
        return self._sound(lambda _: self._read(best)[0], best, steps, remedy)

    def _cycle_ends(self, steps: list[int]) -> dict[int, int]:
        remedy = ", and may be the end of a cycle: delete it to go without it."
        found = {step: self._sound(read_about, step, steps, remedy).cycle_end for step in steps}
        for path, about in abouts.lost_in(self._directory):
            if about is None or about.cycle_end is not None:
                _logger.warning(
                    "checkpoint %s was renamed as damaged, and may be the end of a cycle", path
                )
        return {updates: step for step, updates in found.items() if updates is not None}

    def _at(self, cycle_end: int, steps: list[int]) -> Arrays:
        kept = self._cycle_ends(steps)
        if cycle_end not in kept:
            there = f"there are {', '.join(map(str, kept))}" if kept else "it keeps none"
            raise CheckpointError(
                f"{self._directory} keeps no end of a cycle after {cycle_end} updates; {there}."
            )
        remedy = ": delete it to go without it."
        return self._sound(lambda _: self._read(kept[cycle_end])[0], kept[cycle_end], steps, remedy)

    def _sound(
        self, read: Callable[[Path], _Found], step: int, steps: list[int], remedy: str = "."
    ) -> _Found:
        """Returns what `read` returns for a checkpoint; raises CheckpointError if it is damaged."""
        try:
            return read(self._path(step))
        except Exception as error:  # whatever a damaged file may lead to
            if self._are_others(steps):
                raise _OthersError from error
            if may_pass(error):
                raise self._unreadable(error) from error
            problem = f"checkpoint {self._path(step)} is damaged ({reason_of(error)})"
            raise CheckpointError(f"{problem}{remedy}") from error

    def _newest(self, steps: list[int]) -> tuple[int, Arrays, About] | None:
        """Returns micro step, arrays and entries of the newest undamaged checkpoint."""
        damaged: dict[int, str] = {}
        for micro_step in reversed(steps):
            try:
                found = micro_step, *self._read(micro_step)
            except Exception as error:  # whatever a damaged file may lead to
                if may_pass(error):
                    raise self._unreadable(error) from error
                found, damaged[micro_step] = None, reason_of(error)
            if self._agree(found is not None, steps):
                damaged |= self._damaged_before(micro_step, steps)
                self._set_aside(damaged, micro_step)
                return found
            damaged.setdefault(micro_step, _ELSEWHERE)
        if damaged:  # they stay where they are: what is wrong may pass
            reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
            raise CheckpointError(f"no checkpoint in {self._directory} can be read: {reasons}.")
        return None

    def _damaged_before(self, micro_step: int, steps: list[int]) -> dict[int, str]:
        """Returns what is wrong with older checkpoints, whose best would be lost in silence."""
        older = [] if self._read_only else [step for step in steps if step < micro_step]
        reasons = [self._problem_beside(step) for step in older]
        are_damaged = largest_of_all([reason is not None for reason in reasons]) if older else ()
        found = zip(older, reasons, are_damaged, strict=True)
        return {step: reason or _ELSEWHERE for step, reason, is_damaged in found if is_damaged}

    def _problem_beside(self, micro_step: int) -> str | None:
        """Returns what is wrong with the entries beside the arrays of a checkpoint."""
        try:
            read_about(self._path(micro_step))
        except Exception as error:
            if may_pass(error):
                raise self._unreadable(error) from error
            return reason_of(error)
        return None

    def _agree(self, is_read: bool, steps: list[int]) -> bool:
        """Returns whether all processes have read a checkpoint, so that all begin with the same."""
        are_others = not is_read and self._are_others(steps)
        failed, changed = largest_of_all([not is_read, are_others])
        if changed:
            raise _OthersError
        return not failed

    def _worth_of(self, micro_step: int) -> float | None:
        """Returns the worth by validation; None for a checkpoint without one, or a damaged one."""
        about = self._about_of(micro_step)
        return about.worth if about else None

    def _about_of(self, micro_step: int) -> About | None:
        """Returns the entries beside the arrays; None if they are damaged."""
        if micro_step not in self._abouts:
            about = abouts.about_if_whole(self._path(micro_step))
            if about is None:
                return None
            self._abouts[micro_step] = about
        return self._abouts[micro_step]

    def _check_space(self, arrays: Arrays) -> None:
        """Raises CheckpointError if the disk is too small; Orbax would find out half-way."""
        needed = sum(array.nbytes for array in arrays.values()) + _OVERHEAD
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise CheckpointError(
                f"{self._directory} cannot be written: a checkpoint takes {needed / 1e6:,.1f} MB, "
                f"but only {free / 1e6:,.1f} MB of the disk is free."
            )

    def _read(self, micro_step: int) -> tuple[Arrays, About]:
        checkpoint = self._path(micro_step)
        about = read_about(checkpoint)
        arrays = read_arrays(checkpoint / _STATE, about.arrays)
        if digest_of(arrays) != about.digest:
            raise DamagedError("its digest does not match")
        return arrays, about

    def _rebuilt(self, micro_step: int, like: Snapshot, arrays: Arrays, seconds: float) -> Snapshot:
        if problem := misfit(kinds_of(arrays_of(like)), kinds_of(arrays)):
            raise CheckpointError(
                f"checkpoint {self._directory / str(micro_step)} does not fit this run: {problem}; "
                "it was written by other versions of the code or its libraries."
            )
        return rebuilt(like, arrays, seconds)

    def _set_aside(self, damaged: Mapping[int, str], newest: int) -> None:
        """Renames damaged checkpoints and warns of each; `newest` is the one that was read."""
        for micro_step, reason in damaged.items():
            instead = "the one before it is used" if micro_step > newest else "it may be the best"
            path = self._path(micro_step)
            _logger.warning("checkpoint %s is damaged (%s); %s", path, reason, instead)
        if self._read_only or not damaged:
            return
        wait_for_all("read")
        with self._errors_told():
            if is_first_process():
                for micro_step in damaged:
                    abouts.set_aside(self._path(micro_step))
            wait_for_all("set aside")
            self._manager.close()  # its `reload` would read what may be damaged
            self._manager = ocp.CheckpointManager(self._directory, options=self._options)

    def _remove_unfinished(self) -> None:
        """Removes unfinished checkpoints before any is read: Orbax does it in the background."""
        if is_first_process():
            for path in self._directory.glob(_UNFINISHED):
                shutil.rmtree(path)

    def _path(self, micro_step: int) -> Path:
        return self._directory / str(micro_step)

    def _unreadable(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"{self._directory} cannot be read: {error}.")

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
                f"{self._directory} cannot be {done}: {reason_of(error)}"
            ) from error
