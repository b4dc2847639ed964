"""What a collective costs inside compiled code: microseconds of a call on 8 numbers, least of 50 rounds (`python -m benchmarks.call_back`).

The wire is silent (rank 0 of 2, whose messages take no time), so what is left is the way there and back. The contestants alternate.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import adjoint as ad
from adjoint.distributed import all_reduce, all_reduce_in_place, per_rank

CALLS, ROUNDS = 200, 50


class Silent:
    """Rank 0 of 2; what arrives is zero."""

    rank, size, counts = 0, 2, None

    def exchange(self, sent: np.ndarray | None, to: int, received: np.ndarray | None, source: int) -> None:
        if received is not None:
            received[...] = 0.0


def seconds(function: Callable, x: np.ndarray) -> float:
    """Of one call."""
    start = time.perf_counter()
    for _ in range(CALLS):
        function(x)
    return (time.perf_counter() - start) / CALLS


def main() -> None:
    """Print one line for each way to add up over the ranks."""
    world, x = Silent(), np.ones(8)
    traced = per_rank(lambda x: all_reduce(x, world), world)
    ways = {"compiled, no collective": ad.compile(lambda x: x + x), "all_reduce_in_place": lambda x: all_reduce_in_place(x.copy(), world),
            "compiled": ad.compile(traced), "traced by per_rank": traced}
    for way in ways.values():
        way(x)
    best = dict.fromkeys(ways, np.inf)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            best[name] = min(best[name], seconds(way, x))
    for name, least in best.items():
        print(f"{name:25} {1e6 * least:6.1f} us")


if __name__ == "__main__":
    main()
