"""Counts what JAX compiles. It needs JAX alone, so that the tests of the core can use it."""

import contextlib
import functools
from collections.abc import Iterator

import jax

_lists: list[list[str]] = []


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Lists the programs that are compiled within it."""
    _listen()
    compiled: list[str] = []
    _lists.append(compiled)
    try:
        yield compiled
    finally:
        _lists[:] = (other for other in _lists if other is not compiled)


@functools.cache
def _listen() -> None:
    """Listens from its first call on: an old JAX cannot unregister a listener."""

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            for compiled in _lists:
                compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
