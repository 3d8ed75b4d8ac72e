"""A small MLP on the digits of scikit-learn: 8x8 pixels, 1,197 training images.

python -m experiments.train --config=configs/digits.py --workdir=runs/digits

On 2 CPU cores training takes about 0.1 s, after some seconds of loading and compilation. Expect
about 98 % of the test images right.

A variant may follow after a colon, as in configs/digits.py:all:
  weight_decay, clipping, temperature, focal   one cyclical technique each
  all                                          these four at once
  precision                                    few bits at the peak
"""

from configs import default
from cyclical_jax.training.recipe import cyclical

FOUR = default.variants(cyclical(easy=1e-4, hard=2e-3))
VARIANTS = FOUR | {"precision": default.FEW_BITS}


def get_config(variant: str = "plain"):
    return default.vary(default.get_config(), VARIANTS, variant)
