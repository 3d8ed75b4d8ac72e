"""Every key at its default: the other configs start from this one and change some keys.

python -m experiments.train --config=configs/default.py --print_config

lists all keys with their values and meanings. The keys of the engine are defined in
`cyclical_jax/training/keys.py`, the others in the file of their task or technique. A value that may
cycle is a number or `cyclical(easy, hard)`; None means off.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cyclical_jax.catalogue import default_config
from cyclical_jax.training.recipe import cyclical, put

get_config = default_config

# The changes that make the loss the cyclical focal loss of the published commands; its hardness
# goes 0 -> 1 -> 0 by default.
CYCLICAL_FOCAL: dict[str, Any] = {"loss.name": "cyclical_focal", "loss.label_smoothing": 0.1}

# Few bits at the peak. Gradients keep 8 bits, as published.
FEW_BITS: dict[str, Any] = {
    "precision.weights": cyclical(easy=8, hard=3),
    "precision.activations": cyclical(easy=8, hard=3),
    "precision.gradients": 8,
}


def variants(weight_decay: ConfigDict) -> dict[str, Mapping[str, Any]]:
    """Returns {variant: its changes}: "plain", one variant for each of four techniques, and "all".

    Args:
      weight_decay: The cycle of the weight decay. The other cycles are the same for all datasets.
    """
    four: dict[str, Mapping[str, Any]] = {
        "weight_decay": {"optimizer.weight_decay": weight_decay},
        "clipping": {"optimizer.max_norm": cyclical(easy=0.5, hard=2.0)},
        "temperature": {"loss.temperature": cyclical(easy=0.5, hard=2.0)},
        "focal": CYCLICAL_FOCAL,
    }
    everything = {key: value for changes in four.values() for key, value in changes.items()}
    return {"plain": {}, **four, "all": everything}


def vary(config: ConfigDict, variants: Mapping[str, Mapping[str, Any]], variant: str) -> ConfigDict:
    """Makes the changes of a variant, {"section.key": value}, and returns the config."""
    if variant not in variants:
        raise ValueError(
            f"{variant!r} is not a variant of this config; it has {', '.join(variants)}."
        )
    for key, value in variants[variant].items():
        put(config, key, value)
    return config
