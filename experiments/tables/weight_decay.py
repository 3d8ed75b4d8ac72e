"""Is cyclical weight decay better than a constant one, and under which learning rate?

As we understand the paper, whose full text we did not have, it compares a cycle under a constant
rate with a constant decay under a falling rate. That changes two things at once, so this table has
all four combinations.
"""

from experiments.arms import Arm, Range, Table
from experiments.tables import _parts as parts

_CONSTANT_RATE = {"optimizer.learning_rate_schedule": None}
_LOWER_RATE = {"optimizer.learning_rate": Range(0.005, 0.2)}

TABLE = Table(
    about="Compares cyclical with constant weight decay, under a cosine and under a constant "
    "learning rate.",
    common=parts.ROWS,
    arms={
        "constant": Arm(search=parts.BOTH),
        "cyclical": Arm(search=parts.RATE | parts.CYCLICAL_DECAY, control="constant"),
        "constant, constant rate": Arm(
            _CONSTANT_RATE, search=_LOWER_RATE | parts.DECAY, control="constant"
        ),
        "cyclical, constant rate": Arm(
            _CONSTANT_RATE,
            search=_LOWER_RATE | parts.CYCLICAL_DECAY,
            control="constant, constant rate",
        ),
    },
    budgets=parts.SMALL | parts.LARGE,
)
