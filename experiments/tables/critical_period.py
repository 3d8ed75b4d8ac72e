"""When does training with few bits do harm? Few bits for a while, and 8 bits else.

The first arms have 2 bits for the first 1/8, 1/4 or 1/2 of training, the others for a quarter that
begins later. All make equally many updates, so a longer deficit leaves fewer updates with 8 bits.
(Published experiments, on larger networks, train as long as ever after the deficit.) Gradients have
8 bits throughout. A model is tested with the bits of its last update: "last 1/4" with 2, the other
deficits with 8. All else is the recipe of the dataset's config: nothing is searched.

2 bits are the lower end of the table `precision`, for the reason that is given there.
"""

from experiments.arms import Arm, Table
from experiments.tables import _parts as parts

_FEW, _MANY = 2, 8
_SPANS = {
    "first 1/8": (0, 1 / 8),
    "first 1/4": (0, 1 / 4),
    "first 1/2": (0, 1 / 2),
    "second 1/4": (1 / 4, 1 / 2),
    "third 1/4": (1 / 2, 3 / 4),
    "last 1/4": (3 / 4, 1),
}


def _deficit(span: tuple[float, float]) -> Arm:
    deficit = {"precision.deficit": span, "precision.deficit_bits": _FEW}
    return Arm(parts.bits(_MANY) | deficit, control="8 bits")


TABLE = Table(
    about="Compares training with 2 bits for a part of the updates with 8 bits throughout; "
    "gradients have 8 bits, and nothing is tuned. A model is tested with the bits of its last "
    "update: `last 1/4` with 2, the other deficits with 8. The relative cost is counted, not "
    "measured.",
    common=parts.ROWS,
    arms={"8 bits": Arm(parts.bits(_MANY))}
    | {name: _deficit(span) for name, span in _SPANS.items()}
    | {"2 bits": Arm(parts.bits(_FEW), control="8 bits")},
    budgets=parts.UNTUNED,
)
