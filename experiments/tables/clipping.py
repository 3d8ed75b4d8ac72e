"""Is clipping at a constant threshold better than none, and at a cyclical one better than that?

There is no arm with the gradient's scale equalised: clipping by the global norm changes nothing but
that scale, so it would be the control.
"""

from experiments.arms import Arm, Table
from experiments.tables import _parts as parts

TABLE = Table(
    about="Clipping of the gradient's norm at a constant threshold against none, and at a cyclical "
    "one against the constant.",
    common=parts.ROWS,
    arms={
        "none": Arm(search=parts.BOTH),
        "constant": Arm(search=parts.BOTH | parts.NORM, control="none"),
        "cyclical": Arm(search=parts.BOTH | parts.CYCLICAL_NORM, control="constant"),
    },
    budgets=parts.SMALL | parts.LARGE,
)
