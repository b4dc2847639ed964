"""Communicator: what a rank knows of its world, and what it can do there: exchange slices with two others; post a letter and look for one.

Invariant: `exchange` returns when both its messages are done, or raises CommunicationError; it counts what it moved. Messages between two
ranks arrive in the order in which they were sent. May import: errors.
Read next: threads.py, mpi.py, collectives.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
from msgspec import Struct, field

from ..errors import CommunicationError, explain


class Counts(Struct):
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

    def post(self, sent: np.ndarray, to: int) -> None:
        """Send a copy of an array and wait for nobody; the receiver takes it by `collect`."""
        ...

    def collect(self, source: int) -> np.ndarray:
        """The bytes of the next letter of a rank, however many; waits until it is there."""
        ...

    def flush(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait until all that was posted has left: before this rank stops looking after its mail. meanwhile: called again and again."""
        ...

    def arrived(self, sources: Collection[int], seconds: float | None = None) -> int | None:
        """Wait until a message of one of these ranks is there: its rank; None after `seconds` (None: CommunicationError after the
        communicator's own limit). `collect` then takes it without waiting."""
        ...

    def watching(self, source: int, callback: Callable[[], None]) -> AbstractContextManager[None]:
        """Inside the context: call back once, from another thread, when a message of that rank is there (or was before)."""
        ...


@contextmanager
def uncounted(communicator: Communicator) -> Iterator[None]:
    """Inside: messages that belong to no schedule, which the communicator's counts leave out.

    >>> with uncounted(Alone()): pass
    """
    kept, communicator.counts = communicator.counts, Counts()
    try:
        yield
    finally:
        communicator.counts = kept


class Alone:
    """The world of one rank: nothing is ever sent.

    >>> Alone().rank, Alone().size
    (0, 1)
    """

    rank, size = 0, 1

    def __init__(self) -> None:
        self.counts = Counts()

    def exchange(self, sent: np.ndarray | None, to: int, received: np.ndarray | None, source: int) -> None:
        raise self._nobody(to if sent is not None else source)

    def post(self, sent: np.ndarray, to: int) -> None:
        raise self._nobody(to)

    def collect(self, source: int) -> np.ndarray:
        raise self._nobody(source)

    def flush(self, meanwhile: Callable[[], None] | None = None) -> None:
        return None

    def arrived(self, sources: Collection[int], seconds: float | None = None) -> int | None:
        raise self._nobody(*sources)

    def watching(self, source: int, callback: Callable[[], None]) -> AbstractContextManager[None]:
        raise self._nobody(source)

    @staticmethod
    def _nobody(*ranks: int) -> CommunicationError:
        return CommunicationError(explain(f"a world of one rank has no rank {', '.join(map(str, ranks))}.",
                                          remedy="Start more: adjoint launch -n 4 train.py, or mpiexec -n 4 python train.py."))
