"""The parts that several tables share: budgets, and the values searched for each technique.

If a published command gives a range for a value, these tables keep the ratio of its ends, 8 for
weight decay and 4 for clipping, and search where the range lies. Temperatures from 0.5 to 2 are
among the cycles to choose from.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cyclical_jax.training.recipe import cyclical
from experiments.arms import Budget, Choice, Range

ROWS = {"log_every": "2 epochs", "validate_every": "2 epochs"}

DIGITS = {"digits": Budget(num_seeds=20, num_trials=32, seeds_a_trial=4)}
SMALL = DIGITS | {
    "fashion_mnist_4k": Budget(num_seeds=10, num_trials=8),
    "fashion_mnist_4k:imbalanced": Budget(num_seeds=10, num_trials=8),
}
CNN = {"fashion_mnist_4k:cnn": Budget(num_seeds=5, num_trials=6)}
# Where the data is present; on a CPU the last three take days.
LARGE = {
    name: Budget(num_seeds=5, num_trials=6)
    for name in ("fashion_mnist", "cifar10_4k", "cifar10", "cifar100")
}
# Of tables that search nothing.
UNTUNED = {
    "digits": Budget(num_seeds=20),
    "fashion_mnist_4k": Budget(num_seeds=5),
    "fashion_mnist_4k:short_cnn": Budget(num_seeds=3),
}

RATE = {"optimizer.learning_rate": Range(0.02, 0.5)}
DECAY = {"optimizer.weight_decay": Range(5e-5, 2e-2)}
BOTH = RATE | DECAY


def _cycles(lows, ratio) -> Choice:
    """Returns cycles from each of `lows` to `ratio` times as much, to three digits."""
    ends = [(float(f"{low:.3g}"), float(f"{low * ratio:.3g}")) for low in lows]
    return Choice(tuple(cyclical(easy, hard) for easy, hard in ends))


CYCLICAL_DECAY = {"optimizer.weight_decay": _cycles(np.geomspace(1e-5, 4e-3, 8), 8)}
NORM = {"optimizer.max_norm": Range(0.1, 10.0)}
CYCLICAL_NORM = {"optimizer.max_norm": _cycles(np.geomspace(0.05, 5, 8), 4)}
TEMPERATURE = {"loss.temperature": Range(0.25, 4.0)}
CYCLICAL_TEMPERATURE = {
    "loss.temperature": Choice(
        tuple(
            cyclical(easy, hard)
            for easy, hard in (
                (0.5, 1.0),
                (0.5, 2.0),
                (0.5, 4.0),
                (1.0, 2.0),
                (1.0, 4.0),
                (0.7, 1.4),
            )
        )
    )
}
CYCLICAL_FOCAL = {"loss.name": "cyclical_focal"}
FOCAL_GAMMAS = {"loss.gamma_hc": Choice((1.0, 2.0, 3.0)), "loss.gamma_pos": Choice((1.0, 2.0))}
EQUALISED = {"loss.gradient_norm": "cross_entropy"}
SMOOTHED = {"loss.label_smoothing": 0.1}


def bits(of_both: int | ConfigDict) -> dict[str, Any]:
    """Returns the changes for a number of bits, or a cycle of it, of weights and activations."""
    both = dict.fromkeys(("precision.weights", "precision.activations"), of_both)
    return both | {"precision.gradients": 8}
