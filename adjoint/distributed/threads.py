"""A world of threads in one process: the same programs as under MPI, for tests and for learning.

Invariant: a rank that raises ends the world; nobody waits longer than `seconds`. May import: errors, checks, communicator.
Read next: mpi.py.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from ..errors import CommunicationError, ConfigError, explain
from .checks import function_of, number, whole
from .communicator import Communicator, Counts

MOST = 1024             # threads of a world: there is a mailbox for each pair
LOOK = 0.05             # seconds between looks at whether another rank has failed


class _World:
    """Mailboxes between all pairs, and whether somebody has failed."""

    def __init__(self, size: int, seconds: float):
        self.size, self.seconds = size, seconds
        self.boxes: dict[tuple[int, int], queue.SimpleQueue] = {(a, b): queue.SimpleQueue() for a in range(size) for b in range(size)}
        self.bells = [threading.Condition() for _ in range(size)]
        self.watched: list[tuple[int, Callable[[], None]] | None] = [None] * size
        self.failed = threading.Event()
        self.errors: list[tuple[int, BaseException]] = []

    def box(self, source: int, to: int) -> queue.SimpleQueue:
        """Where messages of one rank to another lie."""
        found = self.boxes.get((source, to))
        if found is None:
            raise ConfigError(explain(f"a message from rank {source} to rank {to} in a world of {self.size}.",
                                      remedy=f"Ranks count from 0 to {self.size - 1}."))
        return found

    def deliver(self, source: int, to: int, message: np.ndarray) -> None:
        """Put a message into its box, ring, and call back who watches for it."""
        self.box(source, to).put(message)
        with self.bells[to]:                                    # a callback ends before its watcher leaves
            self.bells[to].notify_all()
            watched = self.watched[to]
            if watched is not None and watched[0] == source:
                self.watched[to] = None
                watched[1]()


class ThreadCommunicator:
    """One thread's communicator; messages are copies."""

    kind = "threads"

    def __init__(self, world: _World, rank: int):
        self._world, self.rank, self.size, self.counts, self.seconds = world, rank, world.size, Counts(), world.seconds

    def exchange(self, sent: np.ndarray | None, to: int, received: np.ndarray | None, source: int) -> None:
        """Send a copy, then wait for the message of `source`."""
        if sent is not None:
            self._world.deliver(self.rank, to, sent.copy())
        if received is not None:
            received[...] = self._arrived(source, received)
        self.counts.note(sent, to, received)

    def post(self, sent: np.ndarray, to: int) -> None:
        """Send a copy."""
        self._world.deliver(self.rank, to, sent.copy())
        self.counts.note(sent, to, None)

    def collect(self, source: int) -> np.ndarray:
        """The copy that was sent."""
        self.arrived((source,))
        message = self._world.box(source, self.rank).get().reshape(-1).view(np.uint8)
        self.counts.note(None, source, message)
        return message

    def flush(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Nothing: what is sent is there at once."""

    def arrived(self, sources: Collection[int], seconds: float | None = None) -> int | None:
        """Sleep until the bell rings for one of these sources."""
        bell, deadline = self._world.bells[self.rank], time.monotonic() + (self.seconds if seconds is None else seconds)
        with bell:
            while not self._world.failed.is_set():
                for source in sources:
                    if not self._world.box(source, self.rank).empty():
                        return source
                left = deadline - time.monotonic()
                if left <= 0.0:
                    if seconds is not None:
                        return None
                    raise self._waited(", ".join(map(str, sources)))
                bell.wait(min(left, LOOK))
        raise self._stopped()

    @contextlib.contextmanager
    def watching(self, source: int, callback: Callable[[], None]) -> Iterator[None]:
        """The thread that sends calls back."""
        with self._world.bells[self.rank]:
            if self._world.box(source, self.rank).empty():
                self._world.watched[self.rank] = source, callback
            else:
                callback()
        try:
            yield
        finally:
            with self._world.bells[self.rank]:
                self._world.watched[self.rank] = None

    def _waited(self, sources: str) -> CommunicationError:
        return CommunicationError(explain(
            f"rank {self.rank} has waited {self.seconds:g} s for rank {sources} (its exchange {self.counts.rounds}).",
            remedy="Let every rank call the same collectives in the same order."))

    def _stopped(self) -> CommunicationError:
        rank, error = self._world.errors[0]
        return CommunicationError(explain(f"rank {self.rank} stops: rank {rank} has failed: {type(error).__name__}: {error}", where=""))

    def _arrived(self, source: int, expected: np.ndarray) -> np.ndarray:
        deadline = time.monotonic() + self.seconds
        while not self._world.failed.is_set():
            try:
                found = self._world.box(source, self.rank).get(timeout=LOOK)
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise self._waited(str(source)) from None
                continue
            if (found.shape, found.dtype) != (expected.shape, expected.dtype):
                raise CommunicationError(explain(
                    f"rank {self.rank} expected {expected.dtype}{list(expected.shape)} from rank {source}, "
                    f"found {found.dtype}{list(found.shape)}.", remedy="Give the same model and the same sizes to every rank."))
            return found
        raise self._stopped()


def run_threads(size: int, function: Callable[[Communicator], Any], *, seconds: float = 60.0) -> list[Any]:
    """function(communicator) on `size` threads, each a rank of one world: the results by rank.

    seconds: how long a rank waits for a message. Raises: CommunicationError naming the first rank that failed, from its error.

    >>> run_threads(3, lambda c: c.rank)
    [0, 1, 2]
    """
    whole("run_threads", "size", size, most=MOST, remedy="It counts the ranks of the world, each a thread.")
    function_of("run_threads", "function", function, remedy="Give a function of the world: run_threads(2, lambda world: world.rank).")
    number("run_threads", "seconds", seconds, above=True, remedy="It is how long a rank waits for a message.")
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
