"""Is a cyclical clipping threshold better than none, or than a constant one tuned as carefully?

There is no arm with the gradient's scale equalised: clipping by the global norm changes nothing but
that scale, so it would be the control.
"""

from experiments.arms import Arm, Table
from experiments.tables import _parts as parts

TABLE = Table(
    about="Cyclical clipping of the gradient's norm against none and a constant threshold.",
    common=parts.ROWS,
    arms={
        "none": Arm(search=parts.BOTH),
        "constant": Arm(search=parts.BOTH | parts.NORM, control="none"),
        "cyclical": Arm(search=parts.BOTH | parts.CYCLICAL_NORM, control="none"),
    },
    budgets=parts.SMALL | parts.LARGE,
)
