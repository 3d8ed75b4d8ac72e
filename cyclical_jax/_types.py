"""Names of the types in public signatures, so that `help()` prints each signature in a line.

Modules that use them say `from __future__ import annotations`: the signature then shows the name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.typing import ArrayLike

Array: TypeAlias = jax.Array | np.ndarray[Any, Any]
Number: TypeAlias = Array | np.number[Any] | float  # one number, or an array of them
Schedule: TypeAlias = Callable[[Any], ArrayLike]  # count of updates -> value; any that Optax takes
NumberOrSchedule: TypeAlias = Number | Schedule
ArraySchedule: TypeAlias = Callable[[ArrayLike], jax.Array]  # what this library's schedules are
