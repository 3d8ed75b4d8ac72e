"""Which methods help at which length of training? The arms of the question about trade-off curves.

    python -m experiments.tradeoff --table=methods --datasets=digits --num_cycles=5 --check

Nothing is tuned: each method has one usual value. The question is not whether a method helps, but
whether one run with restarts ranks the methods as separate runs of every length do.
"""

from experiments.arms import Arm, Budget, Table
from experiments.tables import _parts as parts

TABLE = Table(
    about="Compares label smoothing, mixup, dropout and the cyclical focal loss with plain "
    "training; nothing is tuned.",
    common=parts.ROWS,
    arms={
        "plain": Arm(),
        "label smoothing": Arm(parts.SMOOTHED, control="plain"),
        "mixup": Arm({"augment.operations": ("mixup",), "augment.strength": 1.0}, control="plain"),
        "dropout": Arm({"model.dropout": 0.2}, control="plain"),
        "cyclical focal": Arm(parts.CYCLICAL_FOCAL, control="plain"),
    },
    budgets={"digits": Budget(num_seeds=40), "fashion_mnist_4k": Budget(num_seeds=10)},
)
