"""What a rank did when: spans of time, written as one file in Chrome's trace event format (chrome://tracing, ui.perfetto.dev).

Invariant: a span costs about a microsecond, and a file is whole or not there. May import: errors, train.files. Read next: engine.py.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, explain
from ..train.files import write_whole

MOST_SPANS = 200_000            # of a run; later ones are only counted


class Timeline:
    """Spans of one rank; those of different threads are drawn on different lines. Ranks of one machine share a clock.

    >>> timeline = Timeline(rank=0)
    >>> with timeline.span("compute", step=1):
    ...     pass
    >>> [event["name"] for event in timeline.events()]
    ['process_name', 'thread_name', 'compute']
    """

    def __init__(self, rank: int):
        self.rank, self.left_out = rank, 0
        self.spans: list[tuple[str, int, int, int, dict]] = []          # name, thread, begin and end in nanoseconds, facts
        self._threads: dict[int, str] = {}
        self._offset = time.time_ns() - time.perf_counter_ns()

    @contextlib.contextmanager
    def span(self, name: str, **facts: Any) -> Iterator[None]:
        """A span from here to the end of the `with` statement; facts: whatever JSON can say."""
        begin = time.perf_counter_ns()
        try:
            yield
        finally:
            self.add(name, begin, time.perf_counter_ns(), **facts)

    def add(self, name: str, begin: int, end: int, **facts: Any) -> None:
        """A span of this thread, by time.perf_counter_ns()."""
        thread = threading.get_ident()
        self._threads.setdefault(thread, threading.current_thread().name)
        if len(self.spans) < MOST_SPANS:
            self.spans.append((name, thread, begin, end, facts))
        else:
            self.left_out += 1

    def events(self) -> list[dict[str, Any]]:
        """Trace events: names of the process and of its threads, then one complete event ("X", in microseconds) for each span."""
        lines = {thread: line for line, thread in enumerate(self._threads)}
        found = [{"name": "process_name", "ph": "M", "pid": self.rank, "tid": 0, "args": {"name": f"rank {self.rank}"}}]
        found += [{"name": "thread_name", "ph": "M", "pid": self.rank, "tid": lines[thread], "args": {"name": name}}
                  for thread, name in self._threads.items()]
        return found + [{"name": name, "cat": name.split()[0], "ph": "X", "pid": self.rank, "tid": lines[thread],
                         "ts": (begin + self._offset) / 1e3, "dur": (end - begin) / 1e3, "args": facts}
                        for name, thread, begin, end, facts in self.spans]

    def write(self, path: str | Path) -> None:
        """Write the file, whole. Raises OSError."""
        content = {"traceEvents": self.events(), "displayTimeUnit": "ms", "otherData": {"rank": self.rank, "left_out": self.left_out}}
        write_whole(path, json.dumps(content).encode())


def checked_trace(of: str, trace: str | Path | None) -> str | Path | None:
    """What timelines are called, if it is a path or None. Raises ConfigError.

    >>> checked_trace("DataParallel", "trace")
    'trace'
    """
    if not isinstance(trace, str | Path | None):
        raise ConfigError(explain(f"{of}: timeline is {trace!r:.60}, expected a path.", remedy='As in timeline="trace".'))
    return trace


def write_of(timeline: Timeline, trace: str | Path | None) -> Path | None:
    """Write a rank's timeline to TRACE.rankR.json; the path, or None without a trace. Raises OSError.

    >>> write_of(Timeline(rank=2), "trace").name
    'trace.rank2.json'
    """
    if trace is None:
        return None
    path = Path(f"{trace}.rank{timeline.rank}.json")
    timeline.write(path)
    return path
