"""Lengths of training in steps, epochs or examples, converted once to micro steps.

A micro step is one batch; one or several of them make a step, which is an optimizer update.
"""

import bisect
import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from cyclical_jax.accumulation import Windows

UNITS = ("steps", "epochs", "examples")
_DURATION = re.compile(r"\s*(?P<amount>[-+.\w]+)\s+(?P<unit>[a-z]+?)s?\s*")


class Units(NamedTuple):
    """The sizes of a batch and an epoch."""

    batch_size: int
    micro_steps_per_epoch: int


class Duration(NamedTuple):
    """A length of training, as a person says it."""

    amount: float
    unit: str  # one of UNITS

    def __str__(self) -> str:
        whole = int(self.amount) if self.amount.is_integer() else self.amount
        return f"{whole} {self.unit}"

    def in_micro_steps(self, units: Units, micro_steps_a_step: float) -> int:
        """Returns the nearest whole number of micro steps, at least 1; examples are rounded up."""
        if self.unit == "examples":
            return math.ceil(self.amount / units.batch_size)
        scale = micro_steps_a_step if self.unit == "steps" else units.micro_steps_per_epoch
        return max(1, round(self.amount * scale))


class Timetable(NamedTuple):
    """The times at which a run logs, validates and ends, in micro steps.

    Each is the end of an update: the first at which an interval is reached.
    """

    windows: Windows  # the micro steps of each update
    micro_steps_per_epoch: int
    log_every: int
    validate_every: int | None  # None: at the end of each cycle
    as_one_batch: bool = False  # whether the micro steps of an update are computed as one
    own: tuple[tuple[str, int], ...] = ()  # (key, updates) of the techniques' own durations
    cycle_ends: tuple[int, ...] = ()  # of a run that restarts; each is the end of an update

    @property
    def micro_steps(self) -> int:
        """Number of micro steps of the run."""
        return sum(count * size for count, size in self.windows)

    @property
    def total_steps(self) -> int:
        """Number of optimizer updates of the run."""
        return sum(count for count, _ in self.windows)

    @property
    def longest_interval(self) -> int:
        """An upper bound on the micro steps between two rows of the log."""
        cycles = (end - start for start, end in itertools.pairwise((0, *self.cycle_ends)))
        validate_every = self.validate_every or max(cycles, default=self.micro_steps)
        return self.longest_call(min(self.log_every, validate_every))

    @property
    def accumulates(self) -> bool:
        """True if an update takes the gradients of several batches, one after the other."""
        return not self.as_one_batch and self._largest > 1

    @property
    def _largest(self) -> int:
        return max(size for _, size in self.windows)

    @property
    def lengths(self) -> "Timetable":
        """The part on which the compiled program depends: all but the times of rows."""
        return self._replace(log_every=1, validate_every=1)

    def next_row(self, micro_step: int) -> int:
        """Returns the first micro step after `micro_step` at which a row is written."""
        log = _next_multiple(self.log_every, micro_step)
        return self.next_stop(min(log, self._next_validation(micro_step), self.micro_steps))

    def _next_validation(self, micro_step: int) -> int:
        """Returns where the next validation is due, which may be after the end of the run."""
        if self.validate_every is not None:
            return _next_multiple(self.validate_every, micro_step)
        later = bisect.bisect_right(self.cycle_ends, micro_step)
        return [*self.cycle_ends, self.micro_steps][later]

    def next_epoch(self, micro_step: int) -> int:
        """Returns the first micro step after `micro_step` at which an epoch or the run ends."""
        epoch = _next_multiple(self.micro_steps_per_epoch, micro_step)
        return self.next_stop(min(epoch, self.micro_steps))

    def is_row(self, micro_step: int) -> bool:
        """Returns whether a row is written there, at the end of a call."""
        return self.next_row(self._before(micro_step)) == micro_step

    def is_epoch(self, micro_step: int) -> bool:
        """Returns whether an epoch or the run has ended in what was trained last."""
        return self.next_epoch(self._before(micro_step)) == micro_step

    def next_stop(self, micro_step: int) -> int:
        """Returns where a call can end: there, or at the end of the update that is under way.

        A run that is stopped and goes on thus accumulates what a run without a stop does.
        """
        start, size = self._window_of(micro_step)
        return start + size

    def longest_call(self, micro_steps: int) -> int:
        """Returns the most micro steps of a call that is to have `micro_steps`, to `next_stop`."""
        return min(micro_steps + self._largest - 1, self.micro_steps)

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yields (batches in a row, micro steps of each) from `start` to `stop`."""
        if not self.as_one_batch:
            yield stop - start, 1
            return
        end = 0
        for count, size in self.windows:
            first, end = end, end + count * size
            within = min(end, stop) - max(first, start)
            if within > 0:
                yield within // size, size

    def _before(self, micro_step: int) -> int:
        """Returns where the update that ends at `micro_step` began."""
        return self._window_of(micro_step)[0]

    def _window_of(self, micro_step: int) -> tuple[int, int]:
        """Returns start and size of the update that ends at `micro_step` or around it."""
        end = 0
        for count, size in self.windows:
            first, end = end, end + count * size
            if micro_step <= end:
                break
        return first + (micro_step - first - 1) // size * size, size

    def num_rows(self, micro_step: int) -> int:
        """Returns how many rows are written up to `micro_step`, and at it."""
        if self._largest > 1:
            return self._count_rows(micro_step)
        log, validate = self.log_every, self.validate_every
        if validate is None:
            further = [end for end in self.cycle_ends if end <= micro_step and end % log]
            is_validated, extra = micro_step in self.cycle_ends, len(further)
        else:
            is_validated = micro_step % validate == 0
            extra = micro_step // validate - micro_step // math.lcm(log, validate)
        is_last = micro_step == self.micro_steps and micro_step % log > 0 and not is_validated
        return micro_step // log + extra + is_last

    def _count_rows(self, micro_step: int) -> int:
        row = count = 0
        while row < micro_step and (row := self.next_row(row)) <= micro_step:
            count += 1
        return count

    def validates_at(self, micro_step: int) -> bool:
        """Returns whether the row at `micro_step` has the validation split's scores."""
        due = self._next_validation(self._before(micro_step))
        return due <= micro_step or micro_step == self.micro_steps

    def updates(self, micro_step: int) -> int:
        """Returns how many updates end at `micro_step` or before it."""
        updates = end = 0
        for count, size in self.windows:
            first, end = end, end + count * size
            updates += (min(end, max(first, micro_step)) - first) // size
        return updates

    def epoch(self, micro_step: int) -> float:
        """Returns the epochs that have passed; a whole number where they are whole."""
        epochs, rest = divmod(micro_step, self.micro_steps_per_epoch)
        return epochs if rest == 0 else round(micro_step / self.micro_steps_per_epoch, 6)


def _next_multiple(interval: int, micro_step: int) -> int:
    return (micro_step // interval + 1) * interval


def parse_duration(text: str) -> Duration:
    """Returns the duration that a text says.

    Raises:
      ValueError: `text` is not a number above 0 and a unit, or a fraction of steps or examples.

    Examples:
      >>> parse_duration("1.5 epochs")
      Duration(amount=1.5, unit='epochs')
      >>> parse_duration("1 step")
      Duration(amount=1.0, unit='steps')
    """
    match = _DURATION.fullmatch(text)
    unit = f"{match['unit']}s" if match else None
    try:
        amount = float(match["amount"]) if match else math.nan
    except ValueError:
        amount = math.nan
    is_right = 0 < amount < 1e15 and (unit == "epochs" or amount.is_integer())
    if unit not in UNITS or not is_right:
        raise ValueError(
            f"must be a number above 0 and a unit, such as '1.5 epochs' or '9 steps', got {text!r}"
        )
    return Duration(amount, unit)
