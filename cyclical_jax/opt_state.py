"""Reads the state of an optimizer: the values in force and the number of updates.

The state may be that of any framework: Optax's own tuples, an `nnx.Optimizer` or its `nnx.State`, a
TrainState, or the plain dicts of a checkpoint, whose keys are the names of the fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from cyclical_jax._dtypes import native

Path = tuple[str, ...]
_Type = TypeVar("_Type", bound=type)

_LOGGED: dict[frozenset[str], str] = {}  # the fields of each marked type -> the one for the log
_HYPERPARAMS = "hyperparams"  # a field of the state of `optax.inject_hyperparams`
_INJECTED = frozenset({"count", _HYPERPARAMS, "inner_state"})
# Fields that tell what the `count` beside them counts. With _TURNS it starts anew at every turn.
# With _SKIPS the state inside may miss updates, so that its counts are of its own.
_TURNS, _SKIPS = {"grad_acc", "plateau_count"}, {"notfinite_count", "step"}
_COUNTS = {"count", "gradient_step"} | _TURNS | _SKIPS


def logged(field: str) -> Callable[[_Type], _Type]:
    """Marks a NamedTuple of state: `current_values` reports this field of it."""

    def mark(state_type):
        state_type.logged_field = field
        _LOGGED[frozenset(state_type._fields)] = field
        return state_type

    return mark


def current_values(opt_state: optax.OptState) -> dict[str, jax.Array]:
    """Returns the numbers that the optimizer used in its last update, for the log.

    These are the numbers of this library's transformations, and all that `optax.inject_hyperparams`
    holds. A number that only Optax knows, such as a schedule inside `optax.adamw`, is not in the
    state and cannot be found.

    Args:
      opt_state: The state of any optimizer: Optax's, an `nnx.Optimizer` or its `opt_state`, what
        `nnx.state` makes of it, a TrainState, or the plain dicts of a checkpoint. It may be traced.

    Returns:
      A dict such as `{"weight_decay": ..., "max_norm": ...}`. The arrays are copies: they stay when
      the state is updated in place or donated. If a name occurs more than once, its path in the
      tree of states takes its place: `"1/max_norm"`. Before the first update, the values are those
      at count 0.

    Raises:
      ValueError: The state holds none of these numbers.
    """
    values = find_values(opt_state)
    if not values:
        raise ValueError(
            "`current_values` found none: neither a transformation of this library nor "
            f"`optax.inject_hyperparams` is in this state of type {type(opt_state).__name__}."
        )
    return values


def find_values(opt_state: optax.OptState, *, injected: bool = True) -> dict[str, jax.Array]:
    """Returns what `current_values` does, or `{}` if there are none.

    Args:
      opt_state: As in `current_values`.
      injected: Whether the numbers that `optax.inject_hyperparams` holds are among them.
    """
    found = list(_values(opt_state, injected=injected))
    repeats = Counter(path[-1] for path, _ in found)
    return {path[-1] if repeats[path[-1]] == 1 else "/".join(path): value for path, value in found}


def num_updates(opt_state: optax.OptState) -> jax.Array:
    """Returns the number of updates so far, the count that every schedule takes.

    Under `accumulate_gradients` or `optax.MultiSteps` it is their `gradient_step`, the number of
    complete updates; a TrainState's or NNX optimizer's `step` counts batches there. Otherwise it is
    the `count` that the transformations keep, or else the `step` beside an `opt_state`.

    Args:
      opt_state: As in `current_values`.

    Returns:
      (), int32; a copy. Several, if the state is that of several members or devices.

    Raises:
      ValueError: The state holds no such count, or several that may differ: in several
        accumulations, or inside and outside of a wrapper such as `optax.apply_if_finite`.

    Examples:
      >>> optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3))
      >>> state = optimizer.init(jnp.ones(3))
      >>> _, state = optimizer.update(jnp.ones(3), state)
      >>> int(num_updates(state))
      1
    """
    leaves = dict(_counts(opt_state))
    inside = {path: leaf for path, leaf in leaves.items() if path[0] == "opt_state"} or leaves
    accumulated = [path for path in inside if path[-1] == "gradient_step"]
    clocks = {_clock_of(path, inside): path for path in inside if _is_count(path, inside)}
    beside = [("step",)] if ("step",) in leaves else []
    found = accumulated or list(clocks.values()) or beside
    if len(found) == 1:
        return _copied(leaves[found[0]])
    if found:
        names = ", ".join(sorted("/".join(path) for path in found))
        raise ValueError(f"`num_updates` found counts that may differ: {names}; pass one's state.")
    raise ValueError(
        "`num_updates` found no count of updates in this state of type "
        f"{type(opt_state).__name__}; pass the object that holds `step` and `opt_state`, if any."
    )


# ---- the values in force


def _values(tree: Any, path: Path = (), *, injected: bool) -> Iterator[tuple[Path, jax.Array]]:
    """Yields the path and the value of each number for the log, in states within states too."""
    for keys, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_reported):
        if _is_reported(node):
            yield from _values_of_state(node, (*path, *map(name_of, keys)), injected)


def _values_of_state(state: Any, path: Path, injected: bool) -> Iterator[tuple[Path, jax.Array]]:
    fields, reported = _fields(state), _reported_field(state)
    inner = [
        found
        for field, child in fields.items()
        if field != reported
        for found in _values(child, (*path, field), injected=injected)
    ]
    numbers: dict[Path, Any] = {(reported,): fields[reported]}
    if reported == _HYPERPARAMS:
        # One that is of the transformation inside too is found there.
        within = {inner_path[-1] for inner_path, _ in inner}
        of_state = fields[reported].items() if injected else ()
        numbers = {
            (reported, str(name)): child for name, child in of_state if str(name) not in within
        }
    for names, number in numbers.items():
        if jax.tree.leaves(number):
            yield (*path, *names), _copied(number)
    yield from inner


def _is_reported(node: Any) -> bool:
    return bool(_reported_field(node))


def _reported_field(node: Any) -> str:
    """Returns the name of the field for the log, "" for any node that is none of these states."""
    if hasattr(type(node), "logged_field"):
        return type(node).logged_field
    if not isinstance(node, Mapping) and not hasattr(node, "_fields"):
        return ""
    names = frozenset(_fields(node))
    if names >= _INJECTED and isinstance(_fields(node)[_HYPERPARAMS], Mapping):
        return _HYPERPARAMS
    # By its names alone a tuple may be somebody else's; a dict has nothing else to go by.
    return _LOGGED.get(names, "") if isinstance(node, Mapping) else ""


def _fields(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, Mapping) else node._asdict()


def _copied(value: Any) -> Any:
    """Returns the array of a leaf, which NNX keeps inside a variable that it writes in place."""
    (leaf,) = jax.tree.leaves(value)
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.array(native(leaf))


# ---- the number of updates


def _counts(tree: Any) -> Iterator[tuple[Path, Any]]:
    """Yields the path and the leaf of each possible count, and of what explains another count."""
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = tuple(map(name_of, keys))
        if path[-1:] == ("value",):  # of a variable of NNX
            path = path[:-1]
        if not _COUNTS.isdisjoint(path):
            yield path, leaf


def _is_count(path: Path, leaves: Mapping[Path, Any]) -> bool:
    """Returns whether a leaf counts all updates; a parameter may be called `count` too."""
    is_whole = jnp.issubdtype(jnp.result_type(native(leaves[path])), jnp.integer)
    return path[-1] == "count" and is_whole and not _beside(path[:-1], leaves) & _TURNS


def _clock_of(path: Path, leaves: Mapping[Path, Any]) -> Path:
    """Returns the innermost state above that may hold updates back, or () if there is none."""
    ends = (end for end in reversed(range(len(path))) if path[end] == "inner_state")
    return next((path[:end] for end in ends if _beside(path[:end], leaves) & _SKIPS), ())


def _beside(path: Path, leaves: Mapping[Path, Any]) -> set[str]:
    """Returns the names of the fields of the state at `path`."""
    end = len(path)
    return {other[end] for other in leaves if other[:end] == path and len(other) > end}


def name_of(key: Any) -> str:
    """Returns the part that a key of a tree adds to a path such as "0/multi_steps/max_norm"."""
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))
