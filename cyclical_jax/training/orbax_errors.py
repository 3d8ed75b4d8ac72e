"""Reports an error of Orbax and TensorStore once, in one line."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

LOUD = logging.getLogger("absl"), logging.getLogger("asyncio")
_LIBRARIES = ("orbax", "tensorstore")  # in the paths of their files, and in their texts
_LONGEST_REASON = 200  # characters of what Orbax says


def reason_of(error: Exception) -> str:
    """Returns the first line of an error of Orbax, or the system's reason for it."""
    text = str(error).strip()
    if "Gloo" in text or "coordination" in text:
        return "another process has ended"
    if of_system := re.search(r"os_error_code='(\d+)'", text):
        return os.strerror(int(of_system[1]))
    if isinstance(error, OSError) and error.strerror:
        is_told = os.path.isabs(error.filename or "")  # a name within a folder says nothing
        return f"{error.strerror}: {error.filename}" if is_told else error.strerror
    return text.partition("\n")[0][:_LONGEST_REASON] or type(error).__name__


def hide_repeated() -> None:
    """Hides what Orbax and TensorStore print about errors that they also raise."""
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)
    for logger in LOUD:
        logger.addFilter(is_not_of_orbax)


def show_repeated() -> None:
    """Undoes `hide_repeated`."""
    if isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = sys.unraisablehook.others
    for logger in LOUD:
        logger.removeFilter(is_not_of_orbax)


class _Hook:
    """Hides an error that TensorStore raises beside the real one, in a loop that is closed."""

    def __init__(self, others: Callable[[Any], Any]):
        self.others = others

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.others(unraisable)


def is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Returns False for logged tracebacks of errors that Orbax raises anyway."""
    if not record.exc_info:
        return True
    _, error, trace = record.exc_info
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
    places = [record.pathname, *files, str(error)]  # TensorStore's text says where in its code
    return not any(name in place for place in places for name in _LIBRARIES)
