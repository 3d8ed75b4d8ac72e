"""Ends a command within seconds after an error, whatever its threads wait for."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

import jax

import experiments

PATIENCE = 5.0  # seconds for threads to end, and for what is registered with `atexit`


@contextlib.contextmanager
def ending_in_time() -> Iterator[None]:
    """Ends the process with its exit code, at most `PATIENCE` after an error leaves the body.

    At its end Python waits for every thread, and a thread of a library may wait for what has
    failed. Only a process that runs a command and nothing else is ended: a program, a test or a
    notebook that calls a script goes on. Several processes end together, each once JAX has heard of
    the others.
    """
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if code and experiments.IS_COMMAND and not jax.distributed.is_initialized():
            experiments.failed_with = code if isinstance(code, int) else 1
            _end_later(experiments.failed_with)
        raise


def _end_later(code: int) -> None:
    timer = threading.Timer(PATIENCE, os._exit, [code])
    timer.daemon = True
    timer.start()
    signal.signal(signal.SIGINT, lambda *_: os._exit(code))  # a second Ctrl-C ends it
    with contextlib.suppress(OSError, ValueError):  # its reader may have gone
        sys.stdout.flush()  # `os._exit` does not
