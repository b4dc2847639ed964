"""Ranks of one machine as if a link lay between them: messages take latency + bytes / bandwidth, and cost no processor time.

Invariant: what arrives is what the inner communicator brings; only the time differs. May import: communicator, simulator.
Read next: engine.py.
"""

from __future__ import annotations

import time

import numpy as np

from .checks import world_of
from .communicator import Communicator, Counts
from .simulator import Links, checked_links


class Linked:
    """A communicator over links, full duplex: an exchange ends latency + bytes / bandwidth after both its ranks have begun it.

    >>> from adjoint.distributed import all_reduce_in_place, run_threads
    >>> def program(world):
    ...     begin = time.perf_counter()
    ...     all_reduce_in_place(np.ones(1000), Linked(world, Links(0.0, 80_000.0)), algorithm="ring")
    ...     return time.perf_counter() - begin
    >>> all(0.1 <= seconds < 1.0 for seconds in run_threads(2, program))        # 2 rounds of 4000 bytes
    True
    """

    def __init__(self, inner: Communicator, links: Links):
        self.inner, self.links = world_of("Linked", inner), checked_links("Linked", links)
        self.rank, self.size = inner.rank, inner.size

    @property
    def counts(self) -> Counts:
        """What was exchanged."""
        return self.inner.counts

    @counts.setter
    def counts(self, counts: Counts) -> None:
        self.inner.counts = counts

    def exchange(self, sent: np.ndarray | None, to: int, received: np.ndarray | None, source: int) -> None:
        """Exchange, then sleep as long as the larger message would have been under way."""
        self.inner.exchange(sent, to, received, source)
        largest = max(x.nbytes for x in (sent, received) if x is not None)
        time.sleep(self.links.latency + largest / self.links.bandwidth)
