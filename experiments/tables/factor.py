"""Where should the peak be? All four techniques with their peak at 1 / f of training.

`constant` has the middle of each cycle all the time, its mean over the updates whatever f is. What
counts is not that mean alone: decay acts times the learning rate, which falls along a cosine, so
that a late peak decays less (0.68, 1.00, 1.17 and 1.25 times the constant in all, for f = 1, 2, 4
and 8), and a temperature acts as 1 / T. The learning rate alone is searched.
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
    about="The fraction of training at which the peak lies, 1 / f, with all four techniques "
    "cycling; the constants are the middles of the cycles.",
    common=parts.ROWS,
    arms={"constant": Arm(_FOCAL | _MIDDLE, search=parts.RATE)}
    | {f"f = {factor}": _peak_at(factor) for factor in (1, 2, 4, 8)},
    budgets=parts.SMALL | parts.LARGE,
)
