"""Stochastic depth on a ResNet-20, as its variant of configs/fashion_mnist.py has it; nothing is
tuned. It has a table of its own because on a CPU a run takes minutes.
"""

from configs.fashion_mnist import RESNET, VARIANTS
from experiments.arms import Arm, Budget, Table

_CYCLICAL = VARIANTS["stochastic_depth"]

TABLE = Table(
    about="A ResNet-20 on 4,000 images, with stochastic depth held at the mean of its cycle, and "
    "cyclical; nothing is tuned.",
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
