"""Is a constant softmax temperature better than none, and a cyclical one better than that?

A temperature T scales the gradient by 1 / T, so its cycle also acts like a cycle of the learning
rate. The last arm keeps the direction of the cyclical loss's gradient and gives it the norm of the
plain loss's gradient.
"""

from experiments.arms import Arm, Table
from experiments.tables import _parts as parts

TABLE = Table(
    about="Compares a constant softmax temperature with T = 1, a cyclical one with a constant one, "
    "and the cyclical one with its gradient's scale equalised.",
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
