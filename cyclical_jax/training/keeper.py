"""The times at which a run is saved, and its end when it is asked to stop."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax

from cyclical_jax._words import counted
from cyclical_jax.training.checkpoints import CheckpointError, Checkpoints
from cyclical_jax.training.devices import largest_of_all
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.files import WorkdirError
from cyclical_jax.training.snapshots import Snapshot

_logger = logging.getLogger(__name__)


class StoppedError(Exception):
    """A run was asked to stop. It was saved, and stopped."""


class Keeper:
    """Saves a run at the first end of an epoch that is `every` seconds after the last save.

    It also saves the state with the best validation so far, even from between two saves; and, if
    it `keeps_cycle_ends`, the state at the end of each cycle of a run that restarts, for good.

    Args:
      checkpoints: The place to save to; None saves nothing.
      every: Seconds between two saves, at least 0; 0 saves every epoch.
      keeps_cycle_ends: Whether the state at the end of each cycle is kept.
      before_save: Called before each save, for example by a log that puts its rows on the disk.
      is_stopping: Called after each call of the compiled program, from the first on. When it first
        returns True in any process, the run is saved and ends.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None = None,
        *,
        every: float = 30.0,
        keeps_cycle_ends: bool = False,
        before_save: Callable[[], None] = lambda: None,
        is_stopping: Callable[[], bool] = lambda: False,
    ):
        self._checkpoints, self._every, self._ask = checkpoints, every, is_stopping
        self._before_save, self._keeps_ends = before_save, keeps_cycle_ends
        self._saved_at, self._since, self._is_stopping = time.monotonic(), 0.0, False

    def agree(self, seconds: float) -> float:
        """Returns the seconds of the slowest process's call; all processes must call this."""
        own = seconds, time.monotonic() - self._saved_at, self._ask()
        seconds, self._since, is_stopping = largest_of_all(own)
        self._is_stopping |= bool(is_stopping)
        return seconds

    def is_asked(self) -> bool:
        """Returns whether any process was asked to stop; all processes must call this."""
        self.agree(0.0)
        return self._is_stopping

    def next_stop(self, timetable: Timetable, done: int) -> int:
        """Returns the latest micro step at which the next call may end, to be saved in time."""
        due = timetable.next_epoch(done) if self._is_due() else timetable.micro_steps
        ends = timetable.cycle_ends if self._keeps_ends else ()
        return min(due, next((end for end in ends if end > done), due))

    def keep(self, snapshot: Snapshot, timetable: Timetable, done: int, worth=None) -> None:
        """Saves if it is time; called after each call of the program.

        Raises:
          StoppedError: The run was asked to stop; it is saved.
          CheckpointError: It cannot be saved.
        """
        if self._checkpoints is None:
            return
        self._checkpoints.check()
        is_end = self._keeps_ends and done in timetable.cycle_ends
        if self._is_stopping:
            self._stop(self._checkpoints, snapshot, worth, is_cycle_end=is_end)
        if is_end or (self._is_due() and timetable.is_epoch(done)):
            self._before_save()
            self._checkpoints.save(snapshot, worth, is_cycle_end=is_end)
            self._saved_at, self._since = time.monotonic(), 0.0
        elif worth is not None:
            self._checkpoints.hold(snapshot, worth)

    def pause(self, snapshot: Snapshot) -> None:
        """Saves and stops, if asked to; called within work that takes long, such as a validation.

        Raises:
          StoppedError: The run was asked to stop; it is saved.
          CheckpointError: It cannot be saved.
        """
        if self._checkpoints is not None and self.is_asked():
            self._stop(self._checkpoints, snapshot, None)

    @contextlib.contextmanager
    def saving_the_best(self) -> Iterator[None]:
        """Saves the best state so far, if it is not saved yet, when the body raises an error.

        Otherwise it would be lost with the run. If a file cannot be written, it is not saved, but
        the same command goes on and finds it again. All processes must take part in a save. They do
        if a number is not finite, because all have the same numbers; other errors may occur in one
        process only.
        """
        try:
            yield
        except (CheckpointError, StoppedError, WorkdirError):
            raise
        except Exception as error:
            if self._checkpoints and (_is_alone() or isinstance(error, FloatingPointError)):
                self._save_held(self._checkpoints)
            raise

    def _save_held(self, checkpoints: Checkpoints) -> None:
        try:
            self._before_save()
            checkpoints.save_held()
            checkpoints.wait()
        except OSError as error:  # the body's own error is the one to raise
            _logger.warning("the best checkpoint so far could not be saved: %s", error)

    def finish(self, snapshot: Snapshot, worth: float | None) -> None:
        """Saves the end of the run, and returns when it is written."""
        if self._checkpoints is not None:
            self._before_save()
            self._checkpoints.save(snapshot, worth)
            self._checkpoints.wait()

    def _stop(
        self, checkpoints: Checkpoints, snapshot: Snapshot, worth, *, is_cycle_end: bool = False
    ) -> NoReturn:
        self._before_save()
        checkpoints.save(snapshot, worth, is_cycle_end=is_cycle_end)
        checkpoints.wait()
        updates = counted(int(snapshot.state.step), "update")
        raise StoppedError(f"stopped after {updates}, and saved")

    def _is_due(self) -> bool:
        return self._checkpoints is not None and self._since >= self._every


def _is_alone() -> bool:
    return jax.process_count() == 1
