"""A worker's side of the conversation with parameter servers: it answers every model once, and takes the newest.

Invariant: while it computes, a message of the first server means that the gradient is too late. May import: L0-L4, server. Read next:
parameter_server.py.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ..compiler.signals import Signals
from .communicator import Communicator
from .server import ABANDONED, ENDED, FINAL, GRADIENT, LATE, Answer, Note, receive, send


class Cancellation(Signals):
    """Signals of a compiled call on which other code may wait as well.

    >>> cancellation = Cancellation()
    >>> cancellation.wait(0.0), cancellation.cancel(), cancellation.wait(60.0), cancellation.cancelled
    (False, None, True, True)
    """

    def __init__(self) -> None:
        super().__init__()
        self._event = threading.Event()

    def cancel(self) -> None:
        """End the computation."""
        super().cancel()
        self._event.set()

    def reset(self) -> None:
        """Before the next computation."""
        super().reset()
        self._event.clear()

    def wait(self, seconds: float) -> bool:
        """Sleep so long, or until `cancel`; whether that came."""
        return self._event.wait(seconds)


class Worker:
    """One worker. version: of the model that it holds; found: the servers' last messages, in their order.

    one_version: refuse models put together from different versions (a server may be ahead of another by one update).
    """

    def __init__(self, communicator: Communicator, servers: Sequence[int], *, cancel: bool = True, one_version: bool = True):
        self.communicator, self.servers, self.cancel, self.one_version = communicator, tuple(servers), cancel, one_version
        self.version, self.step, self.signal, self.asked = 0, 0, 0, 0
        self.cancellation = Cancellation()
        self.found: dict[int, Answer] = {}
        self.final: set[int] = set()                # servers that have sent their last model
        self.unread = False                         # whether `settle` has still to return it
        self.answers: int | None = None             # given since the last `settle`; None: there was no step since

    @contextlib.contextmanager
    def computing(self) -> Iterator[Cancellation]:
        """The context of a computation: its Cancellation is set when the servers go on without it."""
        self.cancellation.reset()
        if not self.cancel:
            yield self.cancellation
            return
        with self.communicator.watching(self.servers[0], self.cancellation.cancel):
            yield self.cancellation

    def give(self, messages: Sequence[np.ndarray], *, loss: float, examples: float, finite: bool = True) -> None:
        """Answer by a gradient: a message for each server."""
        self._answer(Note(GRADIENT, loss=loss, examples=examples, finite=float(finite)), self.servers, messages)

    def abandon(self) -> None:
        """Answer that there will be no gradient for this version."""
        self._answer(Note(ABANDONED), self.servers)

    def _answer(self, note: Note, servers: Collection[int], messages: Sequence[np.ndarray] | None = None) -> None:
        """Send a note to some servers, each with the version that it sent."""
        self.step += 1
        self.answers = (self.answers or 0) + 1
        self.final.difference_update(servers)
        for server, message in zip(servers, messages or [None] * len(servers), strict=True):
            version = self.found[server].note.version if server in self.found else 0
            send(self.communicator, server, note._replace(step=self.step, version=version, signal=self.asked), message)

    def sit_out(self) -> None:
        """A step in which this worker has nothing to do."""
        self.answers = self.answers or 0

    def take(self) -> list[Answer]:
        """The newest model: the message of each server. Waits until there is one."""
        self._receive(set(self.servers))
        while behind := self._behind():
            self._answer(Note(ABANDONED), sorted(behind))
            self._receive(behind)
        self._hold()
        return [self.found[server] for server in self.servers]

    def _behind(self) -> set[int]:
        """Servers that may send a newer model than the one they sent."""
        return {s for s, (note, _) in self.found.items() if note.version < self.newest} - self.final if self.one_version else set()

    @property
    def newest(self) -> int:
        """The newest version among what was found."""
        return max(note.version for note, _ in self.found.values())

    def _receive(self, waiting: set[int]) -> None:
        while waiting:
            source = self.communicator.arrived(sorted(waiting))
            answer = receive(self.communicator, source)
            if answer.note.kind != LATE:
                self.found[source] = answer
                waiting = waiting - {source}
                if answer.note.kind == FINAL:
                    self.final.add(source)
                    self.unread = True

    def _hold(self) -> None:
        """This is the model from now on."""
        self.version = self.newest
        self.signal = max(self.signal, *(note.signal for note, _ in self.found.values()))
        self.asked = max(self.asked, self.signal)

    def settle(self) -> list[Answer]:
        """Say that this worker has ended, and take the last model, which late workers were sent already; a second time: nothing."""
        running = [server for server in self.servers if server not in self.final or self.answers == 0]
        if running:
            self._answer(Note(ENDED), running)
            self._receive(set(running))
            self._hold()
        self.communicator.flush()
        self.answers, fresh, self.unread = None, self.unread, False
        return [self.found[server] for server in self.servers] if fresh else []
