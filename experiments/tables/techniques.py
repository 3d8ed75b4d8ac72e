"""Do the four techniques help, one by one and together? A part of `combined`, more networks."""

from experiments.arms import Table
from experiments.tables import _parts as parts
from experiments.tables.combined import PLAIN, SEARCHED, arm_of

TABLE = Table(
    about="Tries each of the four cyclical techniques by itself, and all at once.",
    common=parts.ROWS,
    arms={PLAIN: arm_of(())}
    | {name: arm_of((name,)) for name in SEARCHED}
    | {"all four": arm_of(tuple(SEARCHED))},
    budgets=parts.SMALL | parts.CNN | parts.LARGE,
)
