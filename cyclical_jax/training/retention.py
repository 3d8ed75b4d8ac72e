"""The rule for which checkpoints of a run are kept."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cyclical_jax.training.about import About


class Retention:
    """Keeps the newest checkpoints, the best, and all that were saved as the end of a cycle.

    Orbax's own policy fails at damaged metrics.

    Args:
      num_newest: Number of newest checkpoints to keep.
      about_of: Micro step -> the entries beside the arrays; None if they are damaged.
    """

    def __init__(self, num_newest: int, about_of: Callable[[int], About | None]):
        self._num_newest, self._about_of = num_newest, about_of

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns for each checkpoint whether it is kept, as Orbax asks."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        known = {step: about for step in steps if (about := self._about_of(step))}
        best, _ = best_of({step: about.worth for step, about in known.items()})
        ends = {step for step, about in known.items() if about.cycle_end is not None}
        kept = {*sorted(steps)[-self._num_newest :], best, *ends}
        return [step in kept for step in steps]


def best_of(worths: Mapping[int, float | None]) -> tuple[int | None, float]:
    """Returns the last of the best checkpoints, and its worth; None if none has a worth.

    A small validation split has many ties, and of equals the last has been trained the longest.
    """
    pairs = ((worth, step) for step, worth in worths.items() if worth is not None)
    most, step = max(pairs, default=(-math.inf, None))
    return step, most
