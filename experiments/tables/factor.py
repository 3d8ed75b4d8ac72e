"""Where should the peak be? Moves the peak of all four techniques to 1 / f of training.

The arm `constant` holds the middle of each cycle, which is its mean over the updates for every f.
The effect depends on more than that mean. Decay is multiplied by the learning rate, which falls
along a cosine, so a late peak decays less: in all 0.68, 1.00, 1.17 and 1.25 times the constant arm
for f = 1, 2, 4 and 8. A temperature acts as 1 / T. Only the learning rate is searched.
"""

from cyclical_jax.training.recipe import cyclical
from experiments.arms import Arm, Table
from experiments.tables import _parts as parts

# In the ranges of the published commands; the decay's is scaled to these small datasets.
_CYCLES = {
    "optimizer.weight_decay": (2.5e-4, 2e-3),
    "optimizer.max_norm": (0.5, 2.0),
    "loss.temperature": (0.5, 2.0),
    "loss.hardness": (0.0, 1.0),
}
_FOCAL = parts.SMOOTHED | parts.CYCLICAL_FOCAL
_MIDDLE = {key: (easy + hard) / 2 for key, (easy, hard) in _CYCLES.items()}


def _peak_at(factor: float) -> Arm:
    cycles = {key: cyclical(*ends, factor=factor) for key, ends in _CYCLES.items()}
    return Arm(_FOCAL | cycles, search=parts.RATE, control="constant")


TABLE = Table(
    about="Moves the peak of all four techniques to the fraction 1 / f of training; the constant "
    "arm holds the middle of each cycle.",
    common=parts.ROWS,
    arms={"constant": Arm(_FOCAL | _MIDDLE, search=parts.RATE)}
    | {f"f = {factor}": _peak_at(factor) for factor in (1, 2, 4, 8)},
    budgets=parts.SMALL | parts.LARGE,
)
