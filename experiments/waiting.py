"""Prints on stderr what takes long, so that no command is silent at its start."""

import sys
import threading
import time

PATIENCE = 2.0  # seconds before the first word; each pause after it is twice as long


class Waiting:
    """A context for something that may take long, such as "loading digits"; `end` ends it too.

    After `PATIENCE`, it prints what the user waits for and for how long, again from time to time,
    and once at the end. It prints nothing about what ends before.
    """

    def __init__(self, what: str):
        self._what, self._is_told = what, False
        self._ended, self._thread = threading.Event(), threading.Thread(target=self._tell)
        self._thread.daemon = True

    def start(self) -> "Waiting":
        """Begins to wait."""
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def end(self) -> None:
        """Ends the wait; a wait that has ended, or never began, stays as it is."""
        if self._stop() and self._is_told:
            seconds = time.perf_counter() - self._began
            print(f"{self._what}: {seconds:.1f} s", file=sys.stderr, flush=True)

    def __enter__(self) -> "Waiting":
        return self.start()

    def __exit__(self, error_type, *error) -> None:
        self._stop() if error_type else self.end()

    def _stop(self) -> bool:
        """Returns whether it was waiting until now."""
        if self._ended.is_set() or not self._thread.is_alive():
            return False
        self._ended.set()
        self._thread.join()
        return True

    def _tell(self) -> None:
        pause = PATIENCE
        while not self._ended.wait(pause):
            self._is_told, pause = True, 2 * pause
            seconds = time.perf_counter() - self._began
            print(f"{self._what} ... {seconds:.0f} s", file=sys.stderr, flush=True)


for_imports = Waiting("importing JAX and the other libraries")  # until a command parses its flags
