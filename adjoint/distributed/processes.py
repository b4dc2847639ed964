"""The processes of a world on this machine: which is which rank, which ended first, and an end to all of them.

Invariant: a process is ended only if its environment names this launch: a number alone may be another program's by now. Seen by Linux's
/proc; where there is none, nothing is seen. May import: settings. Read next: watch.py.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import time
from pathlib import Path

from ..settings import LAUNCH

RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")        # what launchers tell every rank
PATIENCE = 5.0          # seconds that processes which were killed may take to be gone
ALONE = 1.0             # seconds that ranks may outlive what has started them, as when it has just killed them
PAUSE = 0.002           # seconds between looks at them


def environment(process: int) -> dict[str, str]:
    """What a process was started with; nothing if it has ended or is another user's.

    >>> environment(os.getpid()).get("PATH") == os.environ.get("PATH"), environment(-1)
    (True, {})
    """
    try:
        words = Path(f"/proc/{process}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def children(process: int) -> list[int]:
    """The processes that a process has started and that have not been waited for.

    >>> children(-1)
    []
    """
    found: list[int] = []
    with contextlib.suppress(OSError):                      # it ends while its folder is read
        for path in Path(f"/proc/{process}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, path.read_text().split())
    return found


def belongs(process: int, folder: Path) -> bool:
    """Whether a process was started by the launch that has this folder, and still runs.

    >>> belongs(os.getpid(), Path("/nowhere"))
    False
    """
    return environment(process).get(LAUNCH) == str(folder)


def end_all(folder: Path) -> None:
    """Kill whatever a launch has started here, ranks that have not joined and programs of ranks too, and wait until it is gone.

    >>> end_all(Path("/nowhere"))
    """
    deadline = time.monotonic() + PATIENCE
    while left := [int(path.name) for path in Path("/proc").glob("[0-9]*") if belongs(int(path.name), folder)]:
        for process in left:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > deadline:
            return
        time.sleep(PAUSE)


class Family:
    """What an mpiexec has started here. ended: for each look that saw a rank end, (rank, process) of all that had or were about to."""

    def __init__(self, world: subprocess.Popen, size: int):
        self.world, self.size, self._alone = world, size, math.inf
        self.ended: list[list[tuple[int, int]]] = []
        self.ranks: dict[int, int] = {}                 # process: rank
        self._above: dict[int, int] = {}                # process: what has started it
        self._poll = select.poll() if hasattr(select, "poll") else None
        self._handles: dict[int, int] = {}              # handle: process
        self._follow(world.pid)

    @property
    def is_whole(self) -> bool:
        """Whether every rank was seen here."""
        return len(self.ranks) == self.size

    @property
    def orphaned(self) -> bool:
        """Whether ranks go on although a process between them and mpiexec has ended, so that mpiexec would not see how they end."""
        return time.monotonic() - self._alone > ALONE and not self.ranks.keys().isdisjoint(self._handles.values())

    def _follow(self, process: int) -> None:
        with contextlib.suppress(OSError, AttributeError):          # it has ended; not Linux
            handle = os.pidfd_open(process)
            self._handles[handle] = process
            self._poll.register(handle, select.POLLIN)

    def _find(self, process: int) -> None:
        """Follow all below a process; below a rank are its own affairs."""
        for child in children(process):
            if child not in self._above:
                self._above[child] = process
                self._follow(child)
            number = next((n for n in map(environment(child).get, RANKS) if n), "") if child not in self.ranks else ""
            if number.isdecimal():                      # not yet, between fork and exec
                self.ranks[child] = int(number)
            if child not in self.ranks:
                self._find(child)

    def look(self, seconds: float) -> None:
        """Sleep so long, or until mpiexec or a process that it has started ends."""
        self._find(self.world.pid)
        seconds = seconds if self.is_whole else seconds / 10
        if self.world.pid not in self._handles.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.world.wait(seconds)
            return
        gone = [self._handles.pop(handle) for handle in self._ready(seconds)]
        if not self.ranks.keys().isdisjoint(gone):
            # One that was killed closes its files, on which the others are killed, before it has ended: then it has no environment left.
            self.ended.append(sorted((rank, process) for process, rank in self.ranks.items() if not environment(process)))
        left = {self._above[process] for process in self.ranks if process in self._handles.values()} - {self.world.pid}
        if not left.isdisjoint(gone):
            self._alone = min(self._alone, time.monotonic())

    def _ready(self, seconds: float) -> list[int]:
        handles = [handle for handle, _ in self._poll.poll(1000 * seconds)]
        for handle in handles:
            self._poll.unregister(handle)
            os.close(handle)
        return handles

    def close(self) -> None:
        """Follow nothing any more."""
        for handle in self._handles:
            os.close(handle)
        self._handles.clear()
