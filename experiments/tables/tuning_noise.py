"""How much do arms differ that do not differ? The control, tuned again and again.

Each arm is the control of `techniques`, searched at other points. What these arms differ by is the
luck of tuning, which no interval over the seeds of a table holds: differences of that size between
other arms mean nothing.
"""

from dataclasses import replace

from experiments.arms import Table
from experiments.tables import _parts as parts
from experiments.tables.combined import PLAIN, arm_of

TABLE = Table(
    about="The plain arm of `techniques`, tuned five times, each time with other trials.",
    common=parts.ROWS,
    arms={PLAIN: arm_of(())}
    | {
        f"tuned again, {points}": replace(arm_of(()), control=PLAIN, points=points)
        for points in range(1, 5)
    },
    budgets=parts.SMALL | parts.CNN | parts.LARGE,
)
