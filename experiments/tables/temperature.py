"""Is a constant softmax temperature better than none, and a cyclical one better than that?

A temperature T scales the gradient by 1 / T, so that its cycle is one of the learning rate too. The
last arm keeps the direction of the cyclical loss's gradient and gives it the norm of the plain one.
"""

from experiments.arms import Arm, Table
from experiments.tables import _parts as parts

TABLE = Table(
    about="A constant softmax temperature against none, a cyclical one against the constant, and "
    "with the gradient's scale equalised against the cyclical.",
    common=parts.ROWS,
    arms={
        "T = 1": Arm(search=parts.BOTH),
        "constant": Arm(search=parts.BOTH | parts.TEMPERATURE, control="T = 1"),
        "cyclical": Arm(search=parts.BOTH | parts.CYCLICAL_TEMPERATURE, control="constant"),
        "cyclical, equalised": Arm(
            parts.EQUALISED, search=parts.BOTH | parts.CYCLICAL_TEMPERATURE, control="cyclical"
        ),
    },
    budgets=parts.SMALL | parts.LARGE,
)
