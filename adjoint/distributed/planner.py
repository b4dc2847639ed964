"""The planner: how long a step of n workers takes, from compute time, message size, latency, bandwidth and the law of stragglers.

Invariant: every figure is a formula below; the simulator, which runs the schedules, is held against them. Times in seconds, sizes in
bytes. May import: errors, checks, simulator, stragglers. Read next: plan.py, which puts them into words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError, explain
from .checks import RANKS, number, whole
from .simulator import Links, checked_links
from .stragglers import expected_wait

Cost = Callable[[int, float, Links], float]


def _log(n: int) -> int:
    return max(0, (n - 1).bit_length())


def _ring(n: int, size: float, at: Links) -> float:
    return 2 * (n - 1) * (at.latency + size / n / at.bandwidth) + (n - 1) / n * size / at.adding


def _folded(n: int, size: float, at: Links) -> float:
    """What ranks beyond a power of two cost: a round before, whose receivers add up, and one after."""
    return 0.0 if n & (n - 1) == 0 else 2 * (at.latency + size / at.bandwidth) + size / at.adding


def _recursive_doubling(n: int, size: float, at: Links) -> float:
    return int(math.log2(n)) * (at.latency + size / at.bandwidth + size / at.adding) + _folded(n, size, at)


def _halving_doubling(n: int, size: float, at: Links) -> float:
    rounds = int(math.log2(n))
    part = (1 - 0.5 ** rounds) * size
    return 2 * rounds * at.latency + 2 * part / at.bandwidth + part / at.adding + _folded(n, size, at)


def _tree(n: int, size: float, at: Links) -> float:
    return _log(n) * (2 * (at.latency + size / at.bandwidth) + size / at.adding)


def _parameter_server(n: int, size: float, at: Links) -> float:
    return (n - 1) * (2 * (at.latency + size / at.bandwidth) + size / at.adding)


COSTS: dict[str, Cost] = {"ring": _ring, "recursive_doubling": _recursive_doubling, "halving_doubling": _halving_doubling, "tree": _tree,
                          "parameter_server": _parameter_server}


def hierarchical(local: int, inside: Links) -> Cost:
    """The cost with `local` ranks to a host: a tree inside it over the links `inside`, a ring between hosts.

    >>> hierarchical(4, Links(1e-6, 1e10))(8, 4e6, Links(50e-6, 117.7e6)) < COSTS["ring"](8, 4e6, Links(50e-6, 117.7e6))
    True
    """
    whole("hierarchical", "local", local, most=RANKS, remedy="It counts the ranks of one host.")
    checked_links("hierarchical", inside)

    def cost(n: int, size: float, at: Links) -> float:
        number("hierarchical", "size", size)
        checked_links("hierarchical", at)
        if whole("hierarchical", "n", n, most=RANKS) % local:
            raise ConfigError(explain(f"hierarchical: {n} ranks with {local} to a host.", remedy="Start as many ranks on every host."))
        return _tree(local, size, inside) + _ring(n // local, size, at)
    return cost


def checked_work(of: str, *, compute: float, size: float, jitter: float = 0.0, overlap: float = 0.0, moments: int = 0) -> None:
    """Refuse work that is none: no compute, a negative size, shares outside 0 to 1.

    >>> checked_work("forecast", compute=0.25, size=102e6)
    """
    number(of, "compute", compute, above=True, most=1e9, remedy="It is the seconds of one worker's gradient: 0.25, for instance.")
    number(of, "size", size, most=1e18, remedy="It is the bytes of all gradients: 4 for each float32 parameter.")
    for name, share in (("jitter", jitter), ("overlap", overlap)):
        number(of, name, share, most=1.0, remedy="It is a share of the compute, from 0 to 1.")
    whole(of, "moments", moments, least=0, remedy="It counts arrays of the parameters' size: 2 for Adam.")


class Forecast(NamedTuple):
    """One strategy: seconds of a step, of which computing and waiting for the last worker, and not hidden communication; efficiency is the
    speed of n workers over n times that of one; bytes: sent by the busiest rank; memory: bytes on each rank while it trains (twice as many
    for a moment at the start), activations not counted;
    wait_for: of how many workers a step takes the gradient."""

    strategy: str
    seconds: float
    computing: float
    communicating: float
    efficiency: float
    bytes: float
    memory: float
    wait_for: int


def sent_by_the_busiest(strategy: str, workers: int, size: float) -> float:
    """Bytes that the busiest rank sends in an all-reduce of `size` bytes.

    >>> [sent_by_the_busiest(name, 4, 100.0) for name in ("ring", "tree", "parameter_server")]
    [150.0, 200.0, 300.0]
    """
    known = (*COSTS, "hierarchical")
    if not isinstance(strategy, str) or strategy not in known:
        raise ConfigError(explain(f"sent_by_the_busiest: strategy is {strategy!r:.60}.", remedy=f"One of {', '.join(known)}."))
    whole("sent_by_the_busiest", "workers", workers, most=RANKS)
    number("sent_by_the_busiest", "size", size)
    if strategy == "parameter_server":
        return (workers - 1) * size
    if strategy in ("ring", "halving_doubling", "hierarchical"):
        return 2 * (workers - 1) / workers * size
    return _log(workers) * size


def forecast(workers: int, *, compute: float, size: float, links: Links, jitter: float = 0.0, wait_for: int | None = None,
             overlap: float = 0.0, moments: int = 2, costs: dict[str, Cost] = COSTS) -> list[Forecast]:
    """What a synchronous step costs under each all-reduce, the fastest first.

    compute: seconds of one worker's gradient, of which the share `jitter` is exponentially distributed; size: bytes of the gradient;
    wait_for: how many workers a step waits for (None: all; fewer only through a parameter server, whose late workers abandon their
    work); overlap: the share of the compute during which gradients are already on their way; moments: arrays of the parameters' size
    that the optimizer keeps (2: Adam); costs: seconds of an all-reduce by name.
    Raises: ConfigError. Source: Thakur et al. (see schedules.py) for the costs, order statistics for the waiting.

    >>> best = forecast(16, compute=0.25, size=102e6, links=Links(50e-6, 117.7e6))[0]
    >>> best.strategy, round(best.efficiency, 2), best.memory / 102e6
    ('halving_doubling', 0.13, 4.0)
    """
    whole("forecast", "workers", workers, most=RANKS, remedy="It counts workers: 16, for instance.")
    checked_work("forecast", compute=compute, size=size, jitter=jitter, overlap=overlap, moments=moments)
    checked_links("forecast", links)
    if not (isinstance(costs, dict) and all(map(callable, costs.values()))):
        raise ConfigError(explain(f"forecast: costs is {costs!r:.60}.", remedy="Functions by name: planner.COSTS, or profile.costs()."))
    k = workers if wait_for is None else whole("forecast", "wait_for", wait_for, most=workers, remedy="None waits for all workers.")
    computing = compute * (1.0 - jitter + jitter * expected_wait(workers, k))
    found = []
    for name, cost in costs.items():
        if k < workers and name != "parameter_server":
            continue
        wire = cost(workers, size, links) if workers > 1 else 0.0
        left = max(0.0, wire - overlap * compute)
        sent = sent_by_the_busiest(name, workers, size) if workers > 1 else 0.0
        seconds = computing + left
        memory = (2 + moments) * size                       # parameters, gradients and moments; what arrives is added up in blocks
        found.append(Forecast(name, seconds, computing, left, compute * k / (workers * seconds), sent, memory, k))
    return sorted(found, key=lambda f: f.seconds)


def best_wait(workers: int, *, compute: float, jitter: float, communicating: float = 0.0, least: float = 0.75) -> int:
    """The k for which a step that waits for the first k of n workers, whose late ones abandon their work, makes the most gradients a
    second: the largest k / (compute (1 - jitter + jitter (H_n - H_{n-k})) + communicating) with k at least the share `least` of n, since
    the batch shrinks with k.

    >>> best_wait(8, compute=1.0, jitter=1.0), best_wait(8, compute=1.0, jitter=0.1), best_wait(64, compute=1.0, jitter=1.0, least=0.0)
    (6, 8, 1)
    """
    whole("best_wait", "workers", workers, most=RANKS)
    checked_work("best_wait", compute=compute, size=0.0, jitter=jitter)
    number("best_wait", "communicating", communicating)
    number("best_wait", "least", least, most=1.0, remedy="It is the share of the workers that are waited for in any case.")
    waits = np.cumsum(1.0 / np.arange(workers, 0, -1))
    speed = np.arange(1, workers + 1) / (compute * (1.0 - jitter + jitter * waits) + communicating)
    first = max(math.ceil(least * workers), 1) - 1
    return int(np.argmax(speed[first:])) + first + 1


def averaging(workers: int, every: int, *, compute: float, size: float, links: Links) -> float:
    """Efficiency of workers that step alone and average their parameters by a ring every so many steps: H t / (H t + ring).

    >>> round(averaging(8, 500, compute=1.0, size=4e9, links=Links(0.05, 11.77e6)), 2)
    0.46
    """
    whole("averaging", "workers", workers, most=RANKS)
    whole("averaging", "every", every, remedy="It counts the steps from one average to the next.")
    checked_work("averaging", compute=compute, size=size)
    checked_links("averaging", links)
    return every * compute / (every * compute + _ring(workers, size, links))
