"""What do few bits cost in accuracy, and does it help to cycle their number?

The arms are full precision, constant bits from 8 down to 2, and the ten schedules of Wolfe &
Kyrillidis (arXiv 2403.02243; "CR" is that of Fu et al., arXiv 2101.09868) between 2 and 8 bits.
Weights and activations have these bits and gradients have 8, as published; the last layer is in
full precision. All arms make equally many updates, and all else is the recipe of the dataset's
config: nothing is searched, as in the published experiments.

Their lower end is 3 bits. On these small networks 3 bits lost less than the spread of the seeds in
a first look (10 seeds of digits, 3 of Fashion-MNIST 4K), and 2 bits lost clearly. So it is 2 here.

The cost is counted, not measured: bits times bits of each product, relative to 8 bits everywhere.
Quantization is simulated in floats, which makes each update slower and none cheaper.
"""

from cyclical_jax.precision import PRECISION_SCHEDULES
from cyclical_jax.training.recipe import cyclical
from experiments.arms import Arm, Table
from experiments.tables import _parts as parts

_PUBLISHED_LOW, _LOW = 3, 2


def _cycle(name: str) -> Arm:
    """Returns the arm of a published schedule, with our lower end."""
    cycle = dict(PRECISION_SCHEDULES[name])
    for end in ("easy", "hard"):
        cycle[end] = _LOW if cycle[end] == _PUBLISHED_LOW else cycle[end]
    num_cycles = cycle.pop("num_cycles")
    changes = parts.bits(cyclical(**cycle)) | {"cycle.num_cycles": num_cycles}
    return Arm(changes, control="8 bits")


TABLE = Table(
    about="Compares constant bits of weights and activations with full precision, and ten cycles "
    "between 2 and 8 bits with constant 8 bits; gradients have 8 bits, and nothing is tuned. The "
    "relative cost is counted, not measured: 1 is 8 bits everywhere, and full precision would be "
    "16. On a CPU or GPU the simulated quantization makes no update cheaper.",
    common=parts.ROWS,
    arms={"full": Arm()}
    | {f"{bits} bits": Arm(parts.bits(bits), control="full") for bits in (8, 6, 5, 4, 3, 2)}
    | {name: _cycle(name) for name in PRECISION_SCHEDULES},
    budgets=parts.UNTUNED,
    against="relative_cost",
)
