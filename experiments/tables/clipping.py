"""Is clipping at a constant threshold better than none, and at a cyclical one better than that?

No arm has the gradient's scale equalised: clipping by the global norm changes only that scale, so
such an arm would be the same as the control.
"""

from experiments.arms import Arm, Table
from experiments.tables import _parts as parts

TABLE = Table(
    about="Compares clipping of the gradient's norm at a constant threshold with none, and at a "
    "cyclical threshold with a constant one.",
    common=parts.ROWS,
    arms={
        "none": Arm(search=parts.BOTH),
        "constant": Arm(search=parts.BOTH | parts.NORM, control="none"),
        "cyclical": Arm(search=parts.BOTH | parts.CYCLICAL_NORM, control="constant"),
    },
    budgets=parts.SMALL | parts.LARGE,
)
