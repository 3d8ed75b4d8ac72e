"""The rule for which checkpoints of a run are kept."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class NewestAndBest:
    """Keeps the newest checkpoints and the best; Orbax's own policy fails at damaged metrics.

    Args:
      num_newest: Number of newest checkpoints to keep.
      worth_of: Micro step -> worth by validation; None if it was not validated.
    """

    def __init__(self, num_newest: int, worth_of: Callable[[int], float | None]):
        self._num_newest, self._worth_of = num_newest, worth_of

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns for each checkpoint whether it is kept, as Orbax asks."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        best, _ = best_of({step: self._worth_of(step) for step in steps})
        kept = {*sorted(steps)[-self._num_newest :], best}
        return [step in kept for step in steps]


def best_of(worths: Mapping[int, float | None]) -> tuple[int | None, float]:
    """Returns the last of the best checkpoints, and its worth; None if none has a worth.

    A small validation split has many ties, and of equals the last has been trained the longest.
    """
    pairs = ((worth, step) for step, worth in worths.items() if worth is not None)
    most, step = max(pairs, default=(-math.inf, None))
    return step, most
