"""The planner: how long a step of n workers takes, from compute time, message size, latency, bandwidth and the law of stragglers.

Invariant: every figure is a formula below; the simulator, which runs the schedules, is held against them. Times in seconds, sizes in
bytes. May import: errors, simulator, stragglers. Read next: stragglers.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ..errors import ConfigError, explain
from .simulator import Links
from .stragglers import expected_wait


def _log(n: int) -> int:
    return max(0, (n - 1).bit_length())


def _folded(n: int) -> int:
    """Rounds that ranks beyond a power of two cost: one before and one after."""
    return 0 if n & (n - 1) == 0 else 2


COSTS: dict[str, Callable[[int, float, Links], float]] = {
    "ring": lambda n, size, at: 2 * (n - 1) * (at.latency + size / n / at.bandwidth),
    "recursive_doubling": lambda n, size, at: (int(math.log2(n)) + _folded(n)) * (at.latency + size / at.bandwidth),
    "halving_doubling": lambda n, size, at: (2 * int(math.log2(n)) * at.latency + 2 * (1 - 1 / 2 ** int(math.log2(n))) * size / at.bandwidth
                                             + _folded(n) * (at.latency + size / at.bandwidth)),
    "tree": lambda n, size, at: 2 * _log(n) * (at.latency + size / at.bandwidth),
    "parameter_server": lambda n, size, at: 2 * (n - 1) * (at.latency + size / at.bandwidth),
}


class Forecast(NamedTuple):
    """One strategy: seconds of a step, of which computing and waiting for the last worker, and not hidden communication; efficiency is the
    speed of n workers over n times that of one; bytes: sent by the busiest rank."""

    strategy: str
    seconds: float
    computing: float
    communicating: float
    efficiency: float
    bytes: float


def forecast(workers: int, *, compute: float, size: float, links: Links, jitter: float = 0.0, wait_for: int | None = None,
             overlap: float = 0.0) -> list[Forecast]:
    """What a synchronous step costs under each all-reduce, the fastest first.

    compute: seconds of one worker's gradient, of which the share `jitter` is exponentially distributed; size: bytes of the gradient;
    wait_for: how many workers a step waits for (None: all; fewer only through a parameter server, whose late workers abandon their
    work); overlap: the share of the compute during which gradients are already on their way.
    Raises: ConfigError. Source: Thakur et al. (see schedules.py) for the costs, order statistics for the waiting.

    >>> best = forecast(16, compute=0.25, size=102e6, links=Links(50e-6, 117.7e6))[0]
    >>> best.strategy, round(best.efficiency, 2)
    ('halving_doubling', 0.13)
    """
    if workers < 1 or compute <= 0 or not 0 <= jitter <= 1 or not 0 <= overlap <= 1:
        raise ConfigError(explain(f"forecast: {workers} workers, compute {compute} s, jitter {jitter}, overlap {overlap}.",
                                  remedy="At least one worker and some compute; jitter and overlap are shares from 0 to 1."))
    k = workers if wait_for is None else wait_for
    computing = compute * (1.0 - jitter + jitter * expected_wait(workers, k))
    found = []
    for name, cost in COSTS.items():
        if k < workers and name != "parameter_server":
            continue
        wire = cost(workers, size, links) if workers > 1 else 0.0
        left = max(0.0, wire - overlap * compute)
        sent = {"ring": 2 * (workers - 1) / workers, "halving_doubling": 2 * (workers - 1) / workers,
                "parameter_server": workers - 1}.get(name, _log(workers)) * size
        seconds = computing + left
        found.append(Forecast(name, seconds, computing, left, compute * k / (workers * seconds), sent))
    return sorted(found, key=lambda f: f.seconds)
