"""A parameter server's side of the conversation: gradients come in, the newest model goes out; whom to wait for is its policy.

A worker answers every model that it was sent once: by a gradient, by saying that it abandoned it, or by saying that it has ended. It is
sent another model only after that, so one message each way is under way. Invariant: an answer counts once, however often it comes.
May import: errors, communicator. Read next: worker.py, parameter_server.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import CommunicationError, explain
from .communicator import Communicator

MODEL, FINAL, LATE, GRADIENT, ABANDONED, ENDED, CHOSEN = range(1, 8)       # kinds of messages


class Note(NamedTuple):
    """What every message begins with. kind; step: the number of this answer among its worker's; version: of the model that is sent or
    answered; signal: of a rank that was asked to end, or 0; loss: sum over examples; finite: 0 or 1."""

    kind: int
    step: int = 0
    version: int = 0
    signal: int = 0
    loss: float = 0.0
    examples: float = 0.0
    finite: float = 1.0


HEAD = 8 * len(Note._fields)


class Answer(NamedTuple):
    """A worker's note and what followed it."""

    note: Note
    message: np.ndarray


def send(communicator: Communicator, to: int, note: Note, message: np.ndarray | None = None) -> None:
    """Post a note, and what follows it."""
    head = np.array(note, np.float64).view(np.uint8)
    communicator.post(head if message is None else np.concatenate((head, message)), to)


def receive(communicator: Communicator, source: int) -> Answer:
    """The next message of a rank."""
    letter = communicator.collect(source)
    head = letter[:HEAD].view(np.float64)
    return Answer(Note(*map(int, head[:4]), *map(float, head[4:])), letter[HEAD:])


class Server:
    """One server, and what it knows of its workers. version: updates made; pending: answers whose workers wait for a model, by worker, in
    the order of their arrival.

    wait_for: gradients of the present version that an update takes; late ones never count, and with `cancel` their workers are told to
    abandon them. staleness: None, or how many steps a worker may be ahead of the slowest when every gradient is an update of its own.
    lead: the server that decides which workers count; None: this one.
    """

    def __init__(self, communicator: Communicator, workers: Sequence[int], *, wait_for: int, staleness: int | None = None,
                 cancel: bool = True, lead: int | None = None, followers: Sequence[int] = ()):
        self.communicator, self.workers, self.wait_for, self.staleness = communicator, tuple(workers), wait_for, staleness
        self.cancel, self.lead, self.followers = cancel and staleness is None and lead is None, lead, tuple(followers)
        self.version, self.signal, self.asked, self.final = 0, 0, 0, False
        self.pending: dict[int, Answer] = {}
        self.seen = dict.fromkeys(self.workers, 0)          # the last step that each worker has answered
        self.clocks = dict.fromkeys(self.workers, 0)        # gradients of each that were applied
        self.used: set[int] = set()                         # workers whose pending gradient was applied
        self.warned: set[int] = set()
        self.told: set[int] | None = None                   # the workers that the lead has chosen
        self.last: dict[int, Answer] = {}                   # what other servers have sent last, if that was read already
        self._model: tuple[Note, np.ndarray] = Note(MODEL), np.empty(0, np.uint8)

    # -- gradients ----------------------------------------------------------------------------------------------------

    def gradients(self) -> dict[int, Answer]:
        """The answers of which the next update is made, by worker, as many as the policy wants; without any, workers were asked to end."""
        self.final = False
        while not (chosen := self._chosen()):
            if self.staleness is not None and self.asked:
                return {}
            self._can_still_come()
            self._take(self.workers if self.lead is None else (self.lead, *self.workers))
            self._release()
        if self.lead is None:                       # everybody learns of it with this version
            self.signal = max(self.signal, self.asked)
        if self.staleness is None:
            for follower in self.followers:
                send(self.communicator, follower, Note(CHOSEN, signal=self.signal), np.array(chosen, np.int64).view(np.uint8))
            self._warn()
        self.told = None
        return {worker: self.pending[worker] for worker in sorted(chosen)}

    def _chosen(self) -> list[int]:
        """The workers whose gradients make the next update; none: not yet."""
        fresh = self._fresh()
        if self.staleness is not None:
            return fresh[:1]
        if self.lead is not None:
            return sorted(self.told) if self.told is not None and self.told <= set(fresh) else []
        return fresh[:self.wait_for] if len(fresh) >= self.wait_for else []

    def _fresh(self) -> list[int]:
        """The workers whose gradient may still count."""
        return [worker for worker, (note, _) in self.pending.items() if note.kind == GRADIENT and worker not in self.used
                and (self.staleness is not None or note.version == self.version)]

    def _can_still_come(self) -> None:
        """Raise CommunicationError if too many workers have ended."""
        left = sum(worker not in self.pending or self.pending[worker].note.kind != ENDED for worker in self.workers)
        if left < self.wait_for:
            said = {0: "all have ended", 1: "only 1 has not ended"}.get(left, f"only {left} have not ended")
            raise CommunicationError(explain(
                f"the server waits for {self.wait_for} of {len(self.workers)} workers to make version {self.version + 1}, "
                f"but {said}.", remedy="Let every rank, servers too, take the same number of steps."))

    def _take(self, sources: Sequence[int]) -> None:
        """Wait for a message, and keep it; a repeated one changes nothing."""
        source = self.communicator.arrived(sources)
        note, message = receive(self.communicator, source)
        if note.kind == CHOSEN:
            self.told, self.signal = set(map(int, message.view(np.int64))), note.signal
        elif note.step > self.seen[source]:
            self.seen[source] = note.step
            self.pending[source] = Answer(note, message)
            self.asked = max(self.asked, note.signal)
            self.warned.discard(source)

    def _warn(self) -> None:
        """Tell the workers that have not answered that their gradient is too late."""
        if self.cancel:
            for worker in self.workers:
                if worker not in self.pending and worker not in self.warned:
                    self.warned.add(worker)
                    send(self.communicator, worker, Note(LATE, version=self.version))

    # -- models -------------------------------------------------------------------------------------------------------

    def publish(self, message: np.ndarray, used: Sequence[int], *, loss: float, finite: bool) -> None:
        """A new version: send it to every worker that waits and may go on. message: what workers get; used: whose gradients are in it."""
        self.version += 1
        self._model = Note(MODEL, 0, self.version, self.signal, loss, 1.0, float(finite)), message
        for worker in used:
            self.used.add(worker)
            self.clocks[worker] += 1
        self._release()
        if self.staleness is None:
            self.communicator.flush(self._answer_late)      # they wait for it, so this ends; then the step may be this rank's last

    def _answer_late(self) -> None:
        """Let a worker that has just abandoned its gradient have the model too."""
        if self.communicator.arrived(self.workers, 0.0) is not None:
            self._take(self.workers)
            self._release()

    def _release(self) -> None:
        """Send the newest model to the workers that may have it."""
        for worker in [w for w, (note, _) in self.pending.items() if self._may_go(w, note)]:
            del self.pending[worker]
            self.used.discard(worker)
            send(self.communicator, worker, *self._model)

    def _may_go(self, worker: int, note: Note) -> bool:
        if note.kind == ENDED:
            return False
        if self.staleness is None:
            return note.version < self.version
        running = [self.clocks[w] for w in self.workers if w not in self.pending or self.pending[w].note.kind != ENDED]
        return worker in self.used and self.clocks[worker] - min(running) <= self.staleness

    def settle(self, message: np.ndarray, *, loss: float) -> None:
        """Wait for the answer of every worker, then send all of them this last message; a second time: nothing."""
        if self.final:
            return
        self._warn()
        while len(self.pending) < len(self.workers):
            self._take(self.workers)
        if (late := self._fresh()) and not max(self.signal, self.asked):
            raise CommunicationError(explain(
                f"rank {late[0]} has a gradient for step {self.version + 1}, but the server has ended after {self.version}.",
                remedy="Let every rank, servers too, take the same number of steps."))
        note = self._model[0]._replace(kind=FINAL, signal=self.signal, loss=loss)
        for worker in self.workers:
            send(self.communicator, worker, note, message)
        self.communicator.flush()
        self.pending.clear()
        self.used.clear()
        self.clocks, self.final = dict.fromkeys(self.workers, 0), True
