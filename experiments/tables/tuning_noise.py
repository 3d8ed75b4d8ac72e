"""How much do arms differ by the luck of tuning alone? Tunes one arm again and again.

Each arm is the control of `techniques`, searched at other points. These arms differ only by the
luck of tuning, which the intervals over the seeds of a table do not include. A difference of that
size between other arms means nothing.
"""

from dataclasses import replace

from experiments.arms import Table
from experiments.tables import _parts as parts
from experiments.tables.combined import PLAIN, arm_of

TABLE = Table(
    about="Tunes the plain arm of `techniques` five times, each time with other trials.",
    common=parts.ROWS,
    arms={PLAIN: arm_of(())}
    | {
        f"tuned again, {points}": replace(arm_of(()), control=PLAIN, points=points)
        for points in range(1, 5)
    },
    budgets=parts.SMALL | parts.CNN | parts.LARGE,
)
