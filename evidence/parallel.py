"""Runs side by side: seeds are independent, so as many as there are threads go on at once, each in a process with one thread.

A compiled function has the same bits for any number of threads, so this changes no result of ours; it only takes less time than one run
after the other with all threads.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

from adjoint.compiler.threads import thread_count, threads

HOW = "one thread each, as many runs side by side as there are threads"


def say(text: str) -> None:
    """Progress, at once."""
    print(f"  {text}", flush=True)


def side_by_side(calls: Sequence[tuple[Callable, ...]]) -> list[Any]:
    """[function(*arguments) for function, *arguments in calls]; the longest first take the least time."""
    workers = min(thread_count(), len(calls))
    if workers <= 1:
        return [function(*arguments) for function, *arguments in calls]
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_alone) as pool:
        return [future.result() for future in [pool.submit(*call) for call in calls]]


def _alone() -> None:
    threads(1)
