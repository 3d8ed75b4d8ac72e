"""Which of the four techniques go well together? Tries every subset of them.

All arms smooth their labels by 0.1, as the published focal losses do. Otherwise an arm with the
focal loss would differ from its control in two things.
"""

import itertools

from experiments.arms import Arm, Table
from experiments.tables import _parts as parts

PLAIN = "plain"
SEARCHED = {
    "weight decay": parts.CYCLICAL_DECAY,
    "temperature": parts.CYCLICAL_TEMPERATURE,
    "clipping": parts.CYCLICAL_NORM,
    "focal": parts.FOCAL_GAMMAS,
}


def arm_of(names: tuple[str, ...]) -> Arm:
    """Returns the arm in which these techniques cycle; the others are constant or off."""
    search = dict(parts.BOTH)
    for name in names:
        search |= SEARCHED[name]
    changes = parts.SMOOTHED | (parts.CYCLICAL_FOCAL if "focal" in names else {})
    return Arm(changes, search, control=PLAIN if names else None)


def _subsets():
    for size in range(len(SEARCHED) + 1):
        yield from itertools.combinations(SEARCHED, size)


TABLE = Table(
    about="Tries every subset of cyclical weight decay, temperature, clipping and focal loss.",
    common=parts.ROWS,
    arms={" + ".join(names) or PLAIN: arm_of(names) for names in _subsets()},
    budgets=parts.SMALL | parts.LARGE,
)
