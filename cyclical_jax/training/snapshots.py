"""A snapshot of a run, and the named arrays that it becomes on the disk."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cyclical_jax.training.state import TrainState
from cyclical_jax.training.totals import Totals

Arrays = dict[str, np.ndarray]  # path of the leaf -> its value


class Snapshot(NamedTuple):
    """All that a run needs to go on. The order of its data follows from the state."""

    state: TrainState
    totals: Totals  # of the row of the log that is not complete yet
    seconds: float  # of training so far


class HostCopy(NamedTuple):
    """The arrays of a snapshot on the host, and the entries beside them."""

    micro_step: int
    arrays: Arrays
    seconds: float
    worth: float | None  # by the task's own score on validation: more is better
    cycle_end: int | None  # updates so far, if it is to be kept as the end of a cycle


def host_copy(snapshot: Snapshot, worth: float | None, *, is_cycle_end: bool = False) -> HostCopy:
    """Returns a copy that no later step can change; a worth that is not finite is None."""
    worth = None if worth is None or not math.isfinite(worth) else worth
    micro_step = int(snapshot.state.micro_step)
    cycle_end = int(snapshot.state.step) if is_cycle_end else None
    return HostCopy(micro_step, arrays_of(snapshot), snapshot.seconds, worth, cycle_end)


def arrays_of(snapshot: Snapshot) -> Arrays:
    """Returns copies on the host, which no later step can change."""
    leaves = jax.tree_util.tree_leaves_with_path((snapshot.state, snapshot.totals))
    return {name_of(path): np.array(_data(leaf)) for path, leaf in leaves}


def rebuilt(like: Snapshot, arrays: Arrays, seconds: float) -> Snapshot:
    """Returns the snapshot that `arrays_of` turned into arrays; `like` has its structure."""
    state, totals = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _as_leaf(arrays[name_of(path)], leaf), (like.state, like.totals)
    )
    return Snapshot(state, totals, seconds)


def name_of(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _as_leaf(array: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    return array


def digest_of(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def kinds_of(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Returns {name: type and shape} of arrays, such as {"0.step": "int32[]"}."""
    return {name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()}


def misfit(wanted: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """Returns a line for the first array whose type or shape differs, or that is missing."""
    for name in sorted(wanted.keys() | found.keys()):
        there, here = (kinds.get(name, "absent") for kinds in (found, wanted))
        if there != here:
            return f"{name} is {there} there, {here} here"
    return None
