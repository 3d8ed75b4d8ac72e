"""Is cyclical stochastic depth better than a constant one? A ResNet-20, with nothing tuned.

The numbers are those of the variant stochastic_depth of configs/fashion_mnist.py. It has a table of
its own because a run takes minutes on a CPU.
"""

from configs.fashion_mnist import RESNET, VARIANTS
from experiments.arms import Arm, Budget, Table

_CYCLICAL = VARIANTS["stochastic_depth"]

TABLE = Table(
    about="Compares cyclical stochastic depth with a constant rate, the mean of the cycle, in a "
    "ResNet-20 on 4,000 images; nothing is tuned.",
    common={"log_every": "1 epoch", "validate_every": "5 epochs"},
    arms={
        "resnet": Arm(RESNET),
        "stochastic depth, constant": Arm(
            _CYCLICAL | {"model.stochastic_depth": 0.1}, control="resnet"
        ),
        "stochastic_depth": Arm(_CYCLICAL, control="stochastic depth, constant"),
    },
    budgets={"fashion_mnist": Budget(num_seeds=3)},
)
