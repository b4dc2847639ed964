"""How many threads a compiled call uses, and the workers that it shares.

Workers are made at the first call that wants them and live until the process ends; each is one foreign call, so it
never holds the GIL. Invariant: the number of threads changes no bit of any result. May import: errors, settings,
control, runtime, capi. Read next: runtime.py (what a worker does).
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import ctypes
import math
import os
import time
from functools import cache
from pathlib import Path

import numpy as np

from .. import settings
from ..errors import ConfigError, explain
from . import control as at
from .capi import held_lock
from .runtime import runtime

_chosen: list[int] = []         # what the user asked for, if anything


class _Restore:
    """What `threads` returns: used in a `with` statement, it puts the earlier number back."""

    def __init__(self, earlier: list[int]):
        self._earlier = earlier

    def __enter__(self) -> None:
        return None

    def __exit__(self, *raised: object) -> None:
        _chosen[:] = self._earlier
        _publish()


def threads(count: int) -> _Restore:
    """Let compiled calls of this process use `count` threads from now on, or within a `with` statement.

    Results have the same bits for every count. Raises: ConfigError unless 1 <= count <= 256.

    >>> from adjoint import compile
    >>> with threads(1):
    ...     compile(np.exp)(np.zeros(3))
    array([1., 1., 1.])
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= at.MAX_THREADS:
        raise ConfigError(explain(f"threads: found {count!r}, expected an integer from 1 to {at.MAX_THREADS}.",
                                  remedy="Give the number of cores that compiled calls may use."))
    restore = _Restore(list(_chosen))
    _chosen[:] = [count]
    _publish()
    return restore


def thread_count() -> int:
    """The number of threads that a compiled call may use."""
    return _chosen[0] if _chosen else default_count()


def share_cores(processes: int) -> None:
    """Let this process use its part of the cores that so many like it share: ranks of one machine. What was chosen stays.

    >>> before = thread_count()
    >>> share_cores(1)
    >>> thread_count() == before
    True
    """
    pinned = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)     # to its own part already
    if processes > 1 and not (_chosen or pinned or settings.text(settings.THREADS)):
        threads(max(1, default_count() // processes))


@cache
def default_count() -> int:
    """ADJOINT_THREADS, or the cores that affinity and the container's quota leave to this process."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:      # not offered by this system
        cores = os.cpu_count() or 1
    default = max(1, math.ceil(min(cores, _quota(), at.MAX_THREADS)))
    return min(settings.integer(settings.THREADS, default, least=1), at.MAX_THREADS)


def _quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Processor time per time that the control groups of this process allow; infinity where they say nothing."""
    limits = [math.inf]
    with contextlib.suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            first = root if not controllers else root / controllers
            if controllers and "cpu" not in controllers.split(","):
                continue
            folder = first / path.lstrip("/")
            for group in (folder, *folder.parents):
                limits.append(_group_quota(group))
                if group == first:
                    break
    return min(limits)


def _group_quota(group: Path) -> float:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return math.inf if quota <= 0 else quota / int((group / "cpu.cfs_period_us").read_text())
    return math.inf


class _Pool:
    """The memory of the workers, and how many of them have been started.

    Never freed: a worker may outlive every name.
    """

    def __init__(self):
        memory = np.zeros(at.POOL_BYTES + at.LINE, np.uint8)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))
        self.address = memory.ctypes.data + -memory.ctypes.data % at.LINE
        self.process = os.getpid()

    def word(self, offset: int) -> ctypes.c_int64:
        return ctypes.c_int64.from_address(self.address + offset)

    def grow(self, workers: int) -> None:
        """Start workers until there are `workers` of them; stops early where the system gives no more threads."""
        for index in range(self.word(at.POOL_STARTED).value + 1, workers + 1):
            try:
                self.word(at.WORKER * index + at.WORKER_LOCK).value = held_lock()
                # The thread's function is the foreign function itself: no Python frame, so no trace hook can stop it.
                _thread.start_new_thread(runtime().worker, (self.address, index))
            except (RuntimeError, MemoryError):
                return
            self.word(at.POOL_STARTED).value = index

    def stop(self) -> None:
        """Let the workers return, and wait a moment for it."""
        started = self.word(at.POOL_STARTED).value
        self.word(at.POOL_STOP).value = 1
        sequence = self.word(at.POOL_SEQUENCE).value + 1
        runtime().wake(self.address, sequence, started + 1)
        limit = time.monotonic() + 1.0
        while self.word(at.POOL_LEFT).value < started and time.monotonic() < limit:
            time.sleep(1e-4)


_pool: list[_Pool] = []
_growing = _thread.allocate_lock()
_ended: list[bool] = []


def _start() -> None:
    """Called by native code, under the GIL, when a call wants more workers than there are. Never raises."""
    if _ended or not _growing.acquire(blocking=False):
        return
    try:
        if not _pool:
            _pool.append(_Pool())
        _pool[0].grow(thread_count() - 1)
        runtime().put(at.POOL, _pool[0].address)
    finally:
        _growing.release()


def _publish() -> None:
    """Tell the runtime the number of threads, if it is there already."""
    if _enabled.cache_info().currsize:
        runtime().put(at.COUNT, thread_count())


def enable() -> None:
    """Let calls use several threads: before the first program that is worth them."""
    _enabled()
    _publish()


@cache
def _enabled() -> None:
    runtime().put(at.START, id(_start))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_start))
    atexit.register(_end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def _end() -> None:
    """The interpreter ends: later calls run alone, workers return."""
    _ended.append(True)
    runtime().put(at.COUNT, 1)
    if _pool:
        _pool[0].stop()


def _after_fork() -> None:
    """In the child no worker lives: forget the pool, and every mark that a thread of the parent left."""
    global _growing
    _growing = _thread.allocate_lock()
    _pool.clear()
    runtime().put(at.POOL, 0)
