"""The end of a command after an error: within seconds, whatever its threads wait for."""

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
    """Ends the process with its exit code `PATIENCE` after an error leaves the body, at the latest.

    At its end Python waits for every thread, and a library's may wait for what has failed. Only a
    process that runs a command and nothing else is ended: whoever calls a script from a program of
    their own, a test or a notebook, goes on with it. Several processes end together, each when
    JAX has heard of the others.
    """
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if code and experiments.IS_COMMAND and not jax.distributed.is_initialized():
            _end_later(code if isinstance(code, int) else 1)
        raise


def _end_later(code: int) -> None:
    timer = threading.Timer(PATIENCE, os._exit, [code])
    timer.daemon = True
    timer.start()
    signal.signal(signal.SIGINT, lambda *_: os._exit(code))  # a second Ctrl-C ends it
    with contextlib.suppress(OSError, ValueError):  # its reader may have gone
        sys.stdout.flush()  # `os._exit` does not
