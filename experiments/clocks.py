"""The places in a run at which its knobs reach their hard ends, and its cycles end."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cyclical_jax.schedules import hardness_schedule
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.keys import RESTART
from cyclical_jax.training.structure import Recipe

_MOST_PEAKS, _MOST_ENDS = 4, 12  # that are listed
_ROUNDING = 1e-6  # of a hardness; of two updates that are as hard, the later one is told


class Clock(NamedTuple):
    """The knobs that turn at the same updates."""

    knobs: tuple[str, ...]  # their names in the log
    peaks: tuple[int, ...]  # the updates at or next to their hard ends, counted from 0


def clocks(recipe: Recipe, timetable: Timetable) -> list[Clock]:
    """Returns the clocks of a run; a run without a cycle has none."""
    structure, of_factor = recipe.structure, dict[float, list[str]]()
    for key, (easy, hard, factor) in recipe.numbers.items():
        if easy != hard:
            of_factor.setdefault(factor, []).append(structure.columns[key])
    if not structure.accumulate.is_constant:
        of_factor.setdefault(structure.accumulate.knob.factor, []).append("accumulate")
    return [
        Clock(tuple(names), tuple(_peaks_of(recipe, timetable, factor)))
        for factor, names in of_factor.items()
    ]


def _peaks_of(recipe: Recipe, timetable: Timetable, factor: float) -> Iterator[int]:
    """Yields the hardest updates of a run, in each time in which hardness turns."""
    ends: Iterable[int] = (timetable.total_steps,)
    if recipe.structure.span == RESTART:
        ends = map(timetable.updates, timetable.cycle_ends)
    for start, end in itertools.pairwise((0, *ends)):
        for peak in _peaks(factor, recipe.structure.num_cycles, end - start):
            yield start + peak


def _peaks(factor: float, num_cycles: int, total_steps: int) -> tuple[int, ...]:
    """Returns the hardest update of each cycle, next to where its peak lies between two."""
    last = total_steps - 1
    hardness = hardness_schedule(total_steps, factor=factor, num_cycles=num_cycles)
    before = np.floor(last / num_cycles * (np.arange(num_cycles) + 1 / factor)).astype(np.int64)
    after = np.minimum(before + 1, last)
    is_after = hardness(after) >= (1 - _ROUNDING) * hardness(before)
    return tuple(np.where(is_after, after, before).tolist())


def told(recipe: Recipe, timetable: Timetable) -> list[str]:
    """Returns a line for each clock: "peak (hard) at update 2,250 of 9,001, epoch 10.0 of 40".

    If the run restarts, a line with the ends of its cycles comes first.
    """
    found = clocks(recipe, timetable)
    lines = [_line(clock, timetable, is_only=len(found) == 1) for clock in found]
    return [*_ends(timetable), *lines]


def _ends(timetable: Timetable) -> Iterator[str]:
    """Yields the line of the ends of the cycles of a run that restarts."""
    ends = timetable.cycle_ends
    if ends:
        place = _place([*map(timetable.updates, ends)], ends, timetable, _MOST_ENDS)
        yield f"{'cycles end' if ends[1:] else 'cycle ends'} (learning rate 0) after {place}"


def _line(clock: Clock, timetable: Timetable, *, is_only: bool) -> str:
    micro_steps = [*_micro_steps(clock.peaks, timetable)]
    knobs = "" if is_only else f" of {', '.join(clock.knobs)}"
    place = _place(clock.peaks, micro_steps, timetable, _MOST_PEAKS)
    return f"{'peaks' if clock.peaks[1:] else 'peak'} (hard){knobs} at {place}"


def _place(
    updates: Sequence[int], micro_steps: Sequence[int], timetable: Timetable, most: int
) -> str:
    """Returns where in a run something is: "update 2,250 of 9,001, epoch 10.0 of 40"."""
    counts = _listed([f"{count:,}" for count in updates], most)
    epochs = _listed([f"{timetable.epoch(micro):.1f}" for micro in micro_steps], most)
    update, epoch = ("updates", "epochs") if updates[1:] else ("update", "epoch")
    whole = timetable.epoch(timetable.micro_steps)
    return f"{update} {counts} of {timetable.total_steps:,}, {epoch} {epochs} of {whole:g}"


def _micro_steps(updates: Sequence[int], timetable: Timetable) -> Iterator[int]:
    """Yields the micro steps before each update."""
    for update in updates:
        micro, left = 0, update
        for count, size in timetable.windows:
            taken = min(left, count)
            micro, left = micro + taken * size, left - taken
        yield micro


def _listed(words: Sequence[str], most: int) -> str:
    shown, more = words[:most], len(words) - most
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
