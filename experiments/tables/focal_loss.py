"""Is the cyclical focal loss better than cross entropy, smoothed or focal?

The published focal losses smooth their labels by 0.1, so smoothed cross entropy is the control of
all of them. The cyclical loss also makes the scale of the gradient cycle; the last arm removes this
by scaling each gradient to the norm of plain cross entropy's.
"""

from experiments.arms import Arm, Choice, Range, Table
from experiments.tables import _parts as parts

_POSITIVE = {"loss.gamma_pos": Choice((1.0, 2.0))}

TABLE = Table(
    about="Compares the cyclical focal loss with plain and smoothed cross entropy and two focal "
    "losses; the last arm equalises the gradient's scale and is compared with the cyclical loss.",
    common=parts.ROWS,
    arms={
        "cross entropy": Arm(search=parts.BOTH, control="smoothed"),
        "smoothed": Arm(parts.SMOOTHED, search=parts.BOTH),
        "focal": Arm(
            parts.SMOOTHED | {"loss.name": "focal"},
            search=parts.BOTH | {"loss.gamma": Range(0.5, 4.0)},
            control="smoothed",
        ),
        "asymmetric": Arm(
            parts.SMOOTHED | {"loss.name": "asymmetric_focal"},
            search=parts.BOTH | _POSITIVE,
            control="smoothed",
        ),
        "cyclical": Arm(
            parts.SMOOTHED | parts.CYCLICAL_FOCAL,
            search=parts.BOTH | parts.FOCAL_GAMMAS,
            control="smoothed",
        ),
        "cyclical, equalised": Arm(
            parts.SMOOTHED | parts.CYCLICAL_FOCAL | parts.EQUALISED,
            search=parts.BOTH | parts.FOCAL_GAMMAS,
            control="cyclical",
        ),
    },
    budgets=parts.SMALL | parts.LARGE,
)
