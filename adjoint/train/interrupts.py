"""Ctrl-C that waits for a step to end: the first one is noted, the second raises KeyboardInterrupt at once.

Invariant: the handler that was installed before is installed again after. May import: nothing of the package. Read next: fit.py.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], int]]:
    """In the main thread, note SIGINT and SIGTERM instead of raising: yields a function that gives its number, or 0."""
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
