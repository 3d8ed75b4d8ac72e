"""Holds a function at each of its moments, while something else happens, as another process may."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType


def at_each(
    modules: list[ModuleType], function: Callable[[], object], meanwhile: Callable[[], object]
) -> Iterator[int]:
    """Calls `function` once for each line of the modules that it runs, and yields after each call.

    In the n-th call `meanwhile` is called before the n-th line. Both are called for a state that
    the caller makes anew for each call, and keep what they raise.
    """
    number = 0
    while _is_reached(number, {module.__file__ for module in modules}, function, meanwhile):
        yield number
        number += 1


def _is_reached(number, files, function, meanwhile) -> bool:
    left = number + 1

    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                meanwhile()  # untraced, as all that a trace function calls
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return left <= 0
