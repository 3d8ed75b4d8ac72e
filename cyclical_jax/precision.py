"""Training with few bits, whose number may cycle."""

from __future__ import annotations

from typing import Any

_REPEATED = {"easy": 3, "hard": 8, "factor": 1, "num_cycles": 8}
_TRIANGULAR = {"easy": 8, "hard": 3, "factor": 2, "num_cycles": 4}
_EXPONENTIAL = ("published_exponential", "late_published_exponential")

# The ten schedules of Wolfe & Kyrillidis (arXiv 2403.02243), as keyword arguments of
# `cyclical_schedule`: bits = as_integer(cyclical_schedule(**PRECISION_SCHEDULES["CR"],
# total_steps=...)). A name says the growth (C cosine, L linear, E exponential, R rex) and what
# follows it. R repeats the rise from 3 to 8 bits eight times; "CR" is that of CPT (arXiv
# 2101.09868). T goes 8 -> 3 -> 8 bits four times, so that 8 bits are easy and 3 are hard; V: the
# second way is the first one upside down; H: it is the first one mirrored in time. Where the growth
# is symmetric, both are the same.
PRECISION_SCHEDULES: dict[str, dict[str, Any]] = {
    "CR": _REPEATED | {"shape": "cosine"},
    "LR": _REPEATED | {"shape": "linear"},
    "ER": _REPEATED | {"shape": "published_exponential"},
    "RR": _REPEATED | {"shape": "rex"},
    "CT": _TRIANGULAR | {"shape": "cosine"},
    "LT": _TRIANGULAR | {"shape": "linear"},
    "ETV": _TRIANGULAR | {"shape": _EXPONENTIAL},
    "ETH": _TRIANGULAR | {"shape": "late_published_exponential"},
    "RTV": _TRIANGULAR | {"shape": ("rex", "early_rex")},
    "RTH": _TRIANGULAR | {"shape": "early_rex"},
}
