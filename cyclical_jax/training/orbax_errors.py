"""What Orbax and TensorStore say of an error, in a line and once."""

import logging
import os
import re
from collections.abc import Callable
from typing import Any

LOUD = logging.getLogger("absl"), logging.getLogger("asyncio")
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


def unless_of_closed_loop(hook: Callable[[Any], Any], unraisable: Any) -> None:
    """Hides an error that TensorStore raises beside the real one, in a loop that is closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)


def is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Returns False for the tracebacks that Orbax logs of what it raises anyway."""
    return not (record.exc_info and ("orbax" in record.pathname or record.name == "asyncio"))
