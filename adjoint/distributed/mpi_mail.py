"""Letters under MPI: a send that nobody waits for, and the look whether one has arrived (MPI_Iprobe); buffer calls only.

Invariant: a letter's copy lives until MPI has sent it. Who waits sleeps between looks: until a bell rings where all that it waits for are
on this machine, else longer the longer it has waited. May import: errors, bell, communicator. Read next: bell.py, server.py.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np

from ..errors import CommunicationError, explain
from .bell import Bell
from .communicator import Counts

PIECE = 1 << 30                     # bytes of one message
LOOKS = 50                          # looks without a pause, where no bell rings
SHORTEST, LONGEST = 50e-6, 300e-6   # seconds between later looks
SHARE = 0.02                        # of the time already waited: what the next pause may be
WATCH = 1e-3                        # seconds between the looks of a watcher beside a computation
TAKEN = 4                           # messages that MPI takes in, at least, before a rank believes that there is no letter
RUNG = 20e-3                        # seconds between looks where a bell rings for every letter


class Mail:
    """The part of MpiCommunicator that posts and looks; `_comm`: MPI's communicator, `_all_done`: MPI's Testall."""

    _comm: Any
    _all_done: Callable[[list], bool]
    _wait: Callable[[list, Sequence[int | str]], None]
    rank: int
    size: int
    seconds: float
    counts: Counts
    _bells: ClassVar[tuple[Bell, list[int]] | None] = None          # of this process, and the ports of all ranks

    def _prepare_mail(self, mpi: Any) -> None:
        """Before the first letter: none is under way. (requests, copy) of each that is; where MPI says how long one is that arrives."""
        self._letters: list[tuple[list, np.ndarray]] = []
        self._envelope = mpi.Status()
        self._watcher = ThreadPoolExecutor(1, f"watcher of rank {self.rank}")
        Mail._bells = Mail._bells or self._meet()
        self._bell, self._ports = Mail._bells

    def _meet(self) -> tuple[Bell, list[int]]:
        """This process's bell and the ports of those that it can ring, 0 for other ranks; a collective, once."""
        bell = Bell()
        own = bell.address()
        found = np.empty((self.size, own.size), own.dtype)
        self._wait([self._comm.Iallgather(own, found)], ["the others"])
        return bell, [int(port) if port and place == own[0] and own[1] else 0 for place, port in found]

    def post(self, sent: np.ndarray, to: int) -> None:
        """Begin to send a copy."""
        copy = np.array(sent)
        parts = pieces(copy)
        parts += [parts[-1][:0]] if parts[-1].size == PIECE else []         # a piece that is not full is the last
        self._letters.append(([self._comm.Isend(piece, to) for piece in parts], copy))
        self._progress()
        if self._ports[to]:
            self._bell.ring(self._ports[to])
        self.counts.note(sent, to, None)

    def collect(self, source: int) -> np.ndarray:
        """Ask for the size of each piece, then receive it."""
        parts: list[np.ndarray] = []
        while not parts or parts[-1].size == PIECE:
            if self._here((source,)) is None:
                self.arrived((source,))
                continue
            parts.append(np.empty(self._envelope.Get_count(), np.uint8))
            self._wait([self._comm.Irecv(parts[-1], source)], [source])
        message = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self.counts.note(None, source, message)
        return message

    def _here(self, sources: Collection[int]) -> int | None:
        """Whose letter has arrived, if any; its envelope is read. A look lets MPI take in one message, and tells of those before."""
        for _ in range(TAKEN):
            for source in sources:
                if self._comm.Iprobe(source, status=self._envelope):
                    return source
        return None

    def flush(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait until every letter has left."""
        deadline = time.monotonic() + self.seconds
        while self._progress():
            if time.monotonic() > deadline:
                raise CommunicationError(explain(f"rank {self.rank} has waited {self.seconds:g} s for its letters to be taken.",
                                                 remedy="See what the other ranks are doing: one has ended, or died."))
            self._bell.wait(SHORTEST)
            if meanwhile is not None:
                meanwhile()

    def arrived(self, sources: Collection[int], seconds: float | None = None) -> int | None:
        """Look, then sleep between looks."""
        began = time.monotonic()
        limit, looks = self.seconds if seconds is None else seconds, 0
        rung = all(self._ports[source] for source in sources)
        while True:
            if (source := self._here(sources)) is not None:
                return source
            unsent = self._progress()
            waited, looks = time.monotonic() - began, looks + 1
            if waited >= limit:
                break
            if rung and not unsent:
                self._bell.wait(min(RUNG, limit - waited))
            elif looks > LOOKS:
                self._bell.wait(pause(waited))
        if seconds is not None:
            return None
        raise CommunicationError(explain(
            f"rank {self.rank} of {self.size} has waited {self.seconds:g} s for rank {', '.join(map(str, sources))}.",
            remedy="See what that rank is doing: it has not come here, or it has died."))

    @contextlib.contextmanager
    def watching(self, source: int, callback: Callable[[], None]) -> Iterator[None]:
        """A thread that looks beside the computation."""
        ended = threading.Event()

        def look() -> None:
            while self._here((source,)) is None:
                if ended.is_set():
                    return
                self._bell.wait(RUNG if self._ports[source] else WATCH)
            callback()
        watcher = self._watcher.submit(look)
        try:
            yield
        finally:
            ended.set()
            self._bell.ring(self._bell.port)
            watcher.result()

    def _progress(self) -> bool:
        """Forget letters that have left; whether there are others."""
        self._letters = [letter for letter in self._letters if not self._all_done(letter[0])]
        return bool(self._letters)


def pause(waited: float) -> float:
    """Seconds until the next look of a rank that has waited so long.

    >>> pause(0.0), pause(0.01), pause(60.0)
    (5e-05, 0.0002, 0.0003)
    """
    return min(max(SHORTEST, SHARE * waited), LONGEST)


def pieces(array: np.ndarray) -> list[np.ndarray]:
    """The bytes of a contiguous array, cut below MPI's largest message; an empty array is one empty message.

    >>> [len(piece) for piece in pieces(np.ones(3))]
    [24]
    """
    flat = array.reshape(-1).view(np.uint8)
    return [flat[start:start + PIECE] for start in range(0, flat.size, PIECE)] or [flat]
