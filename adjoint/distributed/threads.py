"""A world of threads in one process: the same programs as under MPI, for tests and for learning.

Invariant: a rank that raises ends the world; nobody waits longer than `seconds`. May import: errors, communicator. Read next: mpi.py.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import CommunicationError, explain
from .communicator import Communicator, Counts

LOOK = 0.05             # seconds between looks at whether another rank has failed


class _World:
    """Mailboxes between all pairs, and whether somebody has failed."""

    def __init__(self, size: int, seconds: float):
        self.size, self.seconds = size, seconds
        self.boxes: dict[tuple[int, int], queue.SimpleQueue] = {(a, b): queue.SimpleQueue() for a in range(size) for b in range(size)}
        self.failed = threading.Event()
        self.errors: list[tuple[int, BaseException]] = []


class ThreadCommunicator:
    """One thread's communicator; messages are copies."""

    def __init__(self, world: _World, rank: int):
        self._world, self.rank, self.size, self.counts = world, rank, world.size, Counts()

    def exchange(self, sent: np.ndarray | None, to: int, received: np.ndarray | None, source: int) -> None:
        """Send a copy, then wait for the message of `source`."""
        if sent is not None:
            self._world.boxes[self.rank, to].put(sent.copy())
        if received is not None:
            received[...] = self._arrived(source, received)
        self.counts.note(sent, to, received)

    def _arrived(self, source: int, expected: np.ndarray) -> np.ndarray:
        deadline = time.monotonic() + self._world.seconds
        while not self._world.failed.is_set():
            try:
                found = self._world.boxes[source, self.rank].get(timeout=LOOK)
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise CommunicationError(explain(
                        f"rank {self.rank} has waited {self._world.seconds:g} s for rank {source} (its exchange {self.counts.rounds}).",
                        remedy="Let every rank call the same collectives in the same order.")) from None
                continue
            if (found.shape, found.dtype) != (expected.shape, expected.dtype):
                raise CommunicationError(explain(
                    f"rank {self.rank} expected {expected.dtype}{list(expected.shape)} from rank {source}, "
                    f"found {found.dtype}{list(found.shape)}.", remedy="Give the same model and the same sizes to every rank."))
            return found
        raise CommunicationError(explain(f"rank {self.rank} stops: another rank has failed.", where=""))


def run_threads(size: int, function: Callable[[Communicator], Any], *, seconds: float = 60.0) -> list[Any]:
    """function(communicator) on `size` threads, each a rank of one world: the results by rank.

    seconds: how long a rank waits for a message. Raises: CommunicationError naming the first rank that failed, from its error.

    >>> run_threads(3, lambda c: c.rank)
    [0, 1, 2]
    """
    world, results = _World(size, seconds), [None] * size

    def work(rank: int) -> None:
        try:
            results[rank] = function(ThreadCommunicator(world, rank))
        except BaseException as error:                          # of any kind: the others must not wait for this rank
            world.errors.append((rank, error))
            world.failed.set()
    threads = [threading.Thread(target=work, args=(rank,), daemon=True, name=f"rank {rank}") for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if world.errors:
        rank, error = world.errors[0]
        raise CommunicationError(explain(f"rank {rank} of {size} failed: {type(error).__name__}: {error}", where="")) from error
    return results
