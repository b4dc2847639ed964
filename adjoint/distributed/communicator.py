"""Communicator: what a rank knows of its world, and the one thing it can do there: exchange slices with two others.

Invariant: `exchange` returns when both its messages are done, or raises CommunicationError; it counts what it moved. May import: errors.
Read next: threads.py, mpi.py, collectives.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..errors import CommunicationError, explain


@dataclass
class Counts:
    """What a rank has done: rounds it took part in, payload in bytes, and the ranks it sent to."""

    rounds: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    neighbours: set[int] = field(default_factory=set)

    def note(self, sent: np.ndarray | None, to: int, received: np.ndarray | None) -> None:
        """Count one exchange."""
        self.rounds += 1
        if sent is not None:
            self.bytes_sent += sent.nbytes
            self.neighbours.add(to)
        if received is not None:
            self.bytes_received += received.nbytes


class Communicator(Protocol):
    """A rank among `size`. Arrays are contiguous; what arrives is written into `received`."""

    rank: int
    size: int
    counts: Counts

    def exchange(self, sent: np.ndarray | None, to: int, received: np.ndarray | None, source: int) -> None:
        """Send an array to a rank and receive one from another, at the same time; None: nothing in that direction."""
        ...


class Alone:
    """The world of one rank: nothing is ever sent.

    >>> Alone().rank, Alone().size
    (0, 1)
    """

    rank, size = 0, 1

    def __init__(self) -> None:
        self.counts = Counts()

    def exchange(self, sent: np.ndarray | None, to: int, received: np.ndarray | None, source: int) -> None:
        raise CommunicationError(explain(f"a world of one rank has no rank {to if sent is not None else source}.",
                                         remedy="Start more: adjoint launch -n 4 train.py, or mpiexec -n 4 python train.py."))
