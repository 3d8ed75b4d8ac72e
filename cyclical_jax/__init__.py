"""Cyclical training for JAX: hyperparameters go easy -> hard -> easy on one schedule."""

import importlib
from typing import TYPE_CHECKING, Any

from cyclical_jax import _extras
from cyclical_jax.accumulation import updates_of
from cyclical_jax.losses import (
    asymmetric_focal_loss,
    asymmetric_multilabel_loss,
    cyclical_focal_loss,
    cyclical_multilabel_loss,
    focal_loss,
    softmax_cross_entropy,
    weighted_mean,
)
from cyclical_jax.opt_state import current_values, num_updates
from cyclical_jax.restarts import cycle_ends, warm_restart_schedule
from cyclical_jax.schedules import (
    as_integer,
    between,
    cyclical_schedule,
    hardness_schedule,
    per_epoch,
)
from cyclical_jax.transforms import (
    accumulate_gradients,
    adaptive_grad_clip,
    add_decayed_weights,
    clip,
    clip_by_global_norm,
)

if TYPE_CHECKING:  # what `__getattr__` imports at its first use
    from cyclical_jax import (
        augment,
        averaging,
        curriculum,
        distillation,
        finetuning,
        precision,
        semisupervised,
    )
    from cyclical_jax.trained import load_run as load_run

__version__ = "0.1.0"  # pyproject.toml reads it here

__all__ = [
    "accumulate_gradients",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "as_integer",
    "asymmetric_focal_loss",
    "asymmetric_multilabel_loss",
    "augment",
    "averaging",
    "between",
    "clip",
    "clip_by_global_norm",
    "current_values",
    "curriculum",
    "cycle_ends",
    "cyclical_focal_loss",
    "cyclical_multilabel_loss",
    "cyclical_schedule",
    "distillation",
    "finetuning",
    "focal_loss",
    "hardness_schedule",
    "num_updates",
    "per_epoch",
    "precision",
    "semisupervised",
    "softmax_cross_entropy",
    "updates_of",
    "warm_restart_schedule",
    "weighted_mean",
]

_MODULES = {
    *("augment", "averaging", "curriculum", "distillation", "finetuning"),
    *("precision", "semisupervised"),
}
# Names that need more than jax and optax: {name: the module of this package that has it}. They are
# not in `__all__`, so that `import *` needs no more either.
_LAZY = {"load_run": "trained"}


if not TYPE_CHECKING:  # a type checker would take any name for one of its results

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name in _LAZY:
            return getattr(_of_the_trainer(_LAZY[name], name), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _of_the_trainer(module: str, name: str) -> Any:
    """Imports a module that needs the extra `train`, and says so where that is not installed."""
    try:
        return importlib.import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        message = (
            f"{__name__}.{name} needs more than jax and optax; {error.name} is not installed. "
            f"Install it: {_extras.to_install('train')}."
        )
        raise ModuleNotFoundError(message, name=error.name) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_LAZY})
