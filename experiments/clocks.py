"""The places in a run at which its knobs reach their hard ends."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cyclical_jax.schedules import hardness_schedule
from cyclical_jax.training.durations import Timetable
from cyclical_jax.training.structure import Recipe

_MOST_PEAKS = 4  # that are listed
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
        Clock(tuple(names), _peaks(factor, structure.num_cycles, timetable.total_steps))
        for factor, names in of_factor.items()
    ]


def _peaks(factor: float, num_cycles: int, total_steps: int) -> tuple[int, ...]:
    """Returns the hardest update of each cycle, next to where its peak lies between two."""
    last = total_steps - 1
    hardness = hardness_schedule(total_steps, factor=factor, num_cycles=num_cycles)
    before = np.floor(last / num_cycles * (np.arange(num_cycles) + 1 / factor)).astype(np.int64)
    after = np.minimum(before + 1, last)
    is_after = hardness(after) >= (1 - _ROUNDING) * hardness(before)
    return tuple(np.where(is_after, after, before).tolist())


def told(recipe: Recipe, timetable: Timetable) -> list[str]:
    """Returns a line for each clock: "peak (hard) at update 2,250 of 9,001, epoch 10.0 of 40"."""
    found = clocks(recipe, timetable)
    return [_line(clock, timetable, is_only=len(found) == 1) for clock in found]


def _line(clock: Clock, timetable: Timetable, *, is_only: bool) -> str:
    epochs = [timetable.epoch(micro) for micro in _micro_steps(clock.peaks, timetable)]
    knobs = "" if is_only else f" of {', '.join(clock.knobs)}"
    peak, update, epoch = (
        ("peaks", "updates", "epochs") if epochs[1:] else ("peak", "update", "epoch")
    )
    updates = _listed([f"{count:,}" for count in clock.peaks])
    whole = timetable.epoch(timetable.micro_steps)
    return (
        f"{peak} (hard){knobs} at {update} {updates} of {timetable.total_steps:,}, "
        f"{epoch} {_listed([f'{at:.1f}' for at in epochs])} of {whole:g}"
    )


def _micro_steps(updates: Sequence[int], timetable: Timetable) -> Iterator[int]:
    """Yields the micro steps before each update."""
    for update in updates:
        micro, left = 0, update
        for count, size in timetable.windows:
            taken = min(left, count)
            micro, left = micro + taken * size, left - taken
        yield micro


def _listed(words: Sequence[str]) -> str:
    shown, more = words[:_MOST_PEAKS], len(words) - _MOST_PEAKS
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
