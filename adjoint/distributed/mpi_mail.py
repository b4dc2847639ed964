"""Letters under MPI: a send that nobody waits for, and the look whether one has arrived (MPI_Iprobe); buffer calls only.

Invariant: a letter's copy lives until MPI has sent it. Looks are spaced by sleeping, longer the longer one has waited: the ranks of a test
share few cores. May import: errors, communicator. Read next: server.py.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import CommunicationError, explain
from .communicator import Counts

PIECE = 1 << 30                     # bytes of one message
LOOKS = 50                          # looks without a pause
SHORTEST, LONGEST = 50e-6, 300e-6   # seconds between later looks
WATCH = 1e-3                        # seconds between the looks of a watcher beside a computation
SHARE = 0.02                        # of the time already waited: what the next pause may be


class Mail:
    """The part of MpiCommunicator that posts and looks; `_comm`: MPI's communicator, `_all_done`: MPI's Testall."""

    _comm: Any
    _all_done: Callable[[list], bool]
    _wait: Callable[[list, Sequence[int | str]], None]
    rank: int
    size: int
    seconds: float
    counts: Counts

    def _prepare_mail(self, mpi: Any) -> None:
        """Before the first letter: none is under way. (requests, copy) of each that is; where MPI says how long one is that arrives."""
        self._letters: list[tuple[list, np.ndarray]] = []
        self._envelope = mpi.Status()

    def post(self, sent: np.ndarray, to: int) -> None:
        """Begin to send a copy."""
        copy = np.array(sent)
        parts = pieces(copy)
        parts += [parts[-1][:0]] if parts[-1].size == PIECE else []         # a piece that is not full is the last
        self._letters.append(([self._comm.Isend(piece, to) for piece in parts], copy))
        self._progress()
        self.counts.note(sent, to, None)

    def collect(self, source: int) -> np.ndarray:
        """Ask for the size of each piece, then receive it."""
        parts: list[np.ndarray] = []
        while not parts or parts[-1].size == PIECE:
            if not self._comm.Iprobe(source, status=self._envelope):
                self.arrived((source,))
                continue
            parts.append(np.empty(self._envelope.Get_count(), np.uint8))
            self._wait([self._comm.Irecv(parts[-1], source)], [source])
        message = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self.counts.note(None, source, message)
        return message

    def flush(self) -> None:
        """Wait until every letter has left."""
        deadline = time.monotonic() + self.seconds
        while self._progress():
            if time.monotonic() > deadline:
                raise CommunicationError(explain(f"rank {self.rank} has waited {self.seconds:g} s for its letters to be taken.",
                                                 remedy="See what the other ranks are doing: one has ended, or died."))
            time.sleep(SHORTEST)

    def arrived(self, sources: Collection[int], seconds: float | None = None) -> int | None:
        """Look, then sleep between looks."""
        began = time.monotonic()
        limit, looks = self.seconds if seconds is None else seconds, 0
        while True:
            for source in sources:
                if self._comm.Iprobe(source):
                    return source
            self._progress()
            waited, looks = time.monotonic() - began, looks + 1
            if waited >= limit:
                break
            if looks > LOOKS:
                time.sleep(min(max(SHORTEST, SHARE * waited), LONGEST))
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
            while not self._comm.Iprobe(source):
                if ended.wait(WATCH):
                    return
            callback()
        watcher = threading.Thread(target=look, daemon=True, name=f"watcher of rank {source}")
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def _progress(self) -> bool:
        """Forget letters that have left; whether there are others."""
        self._letters = [letter for letter in self._letters if not self._all_done(letter[0])]
        return bool(self._letters)


def pieces(array: np.ndarray) -> list[np.ndarray]:
    """The bytes of a contiguous array, cut below MPI's largest message; an empty array is one empty message.

    >>> [len(piece) for piece in pieces(np.ones(3))]
    [24]
    """
    flat = array.reshape(-1).view(np.uint8)
    return [flat[start:start + PIECE] for start in range(0, flat.size, PIECE)] or [flat]
