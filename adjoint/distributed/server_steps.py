"""The two halves of a training step through a parameter server: gradients on a worker, one update on a server.

Invariant: a cancelled gradient leaves the worker's model as it was; a gradient counts in the update of one version or in none.
May import: L0-L5, train, server, server_check, worker, shards, status, timeline. Read next: server.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from ..compiler.compile import compile
from ..errors import Cancelled
from ..nn.modes import absorb
from ..optim import Optimizer, apply_updates
from ..train.loop import choose, objective
from ..tree import flatten, unflatten
from .checks import number
from .server import FINAL, MODEL, Answer, Note, Server, receive, send
from .server_check import check_first, check_layers, programs
from .shards import Shards, joined, taken
from .status import inside
from .timeline import Timeline
from .worker import Worker


class Place(Protocol):
    """What the steps see of their ParameterServer."""

    communicator: Any
    servers: int
    workers: int
    all: bool
    index: int
    rank: int
    staleness: int | None
    weight: Callable[[int], float]
    norms: np.ndarray
    timeline: Timeline
    server: Server
    worker: Worker

    def shards_of(self, model: Any) -> Shards:
        """How the model is dealt."""
        ...


def waits(place: Place, what: str) -> AbstractContextManager[None]:
    """What a launcher is told of a rank in a step: it counts where all workers are waited for, so that all ranks wait as often."""
    return inside("parameter_server", what, counts=place.all)


class WorkerStep:
    """step(model, state, x, y, key) on a worker: the gradient of its examples, given to the servers or abandoned; the newest model."""

    def __init__(self, place: Place, loss: Callable, compiled: bool):
        self.place, self.loss, self.compiled, self.calls = place, loss, compiled, 0
        self.before = place.worker.version                  # made by the steps of a training before this one
        signals = place.worker.cancellation if place.worker.cancel else None
        self._local = compile(self._gradients, signals=signals) if compiled else self._gradients
        self._last = np.float64(0.0), np.True_

    def __call__(self, model: Any, state: Any, x: Any, y: Any, key: Any = None) -> tuple:
        place, number = self.place, self.calls
        self.calls += 1
        if number == 0:
            check_layers(model)
            shards = place.shards_of(model)                 # before they are asked for in a trace
            digests = programs(self.loss, self._gradients if self.compiled else None, model, x, y, key)
            check_first(place.communicator, shards, model, state, digests)
        if self._passes(number):
            place.worker.sit_out()
            return model, state, self._last[0], tuple(place.norms), self._last[1]
        if key is not None and place.workers > 1 and place.staleness is None:           # other random numbers on every worker
            key = np.array([key[0], key[1] * place.workers + place.index])
        begin = time.perf_counter_ns()
        try:
            with place.worker.computing():
                found = self._local(model, x, y, key)
        except Cancelled:
            place.timeline.add("abandon", begin, time.perf_counter_ns(), step=self.calls)
            place.worker.abandon()
        else:
            place.timeline.add("compute", begin, time.perf_counter_ns(), step=self.calls)
            self._give(*found, np.shape(x)[0])
        with place.timeline.span("wait for the model", step=self.calls), waits(place, f"step {self.calls}: the model"):
            return self._newest(model, state)

    def _passes(self, number: int) -> bool:
        """Whether this batch is not for this worker: it is another's turn, or the others have made that step while this one was late."""
        if self.place.staleness is not None:
            return number % self.place.workers != self.place.index
        return self.place.worker.version - self.before > number

    def _gradients(self, model: Any, x: Any, y: Any, key: Any) -> tuple:
        """(examples * loss, examples * gradients, examples * buffers after this batch in float64, whether all is finite)."""
        (value, gradients), taps = objective(self.loss, model, x, y, key)
        leaves, moved = flatten(gradients)[0], flatten(absorb(model, taps))[0]
        count = float(np.shape(x)[0])
        finite = np.isfinite(sum([np.sqrt(np.sum(g * g)) for g in leaves], value))
        buffers = [moved[i].astype(np.float64) * count for i in self.place.shards_of(model).buffers]
        return value * count, tuple(count * g for g in leaves), tuple(buffers), finite

    def _give(self, loss: Any, gradients: tuple, buffers: tuple, finite: Any, examples: int) -> None:
        shards = self.place.shards
        of = dict(zip(shards.trained, gradients, strict=True))
        messages = [joined([*(of[i] for i in owned), *(buffers if server == 0 else ())]) for server, owned in enumerate(shards.owned)]
        self.place.worker.give(messages, loss=float(loss), examples=float(examples), finite=bool(finite))

    def _newest(self, model: Any, state: Any) -> tuple:
        """Take what the servers send, and return as a step does."""
        place, answers = self.place, self.place.worker.take()
        shards = place.shards
        for server, (note, message) in enumerate(answers):
            if note.kind == FINAL:
                model, state = shards.placed(server, message, model, place.norms, state)
            else:
                model, _ = shards.placed(server, message, model, place.norms)
        if answers[0].note.kind != FINAL:           # that one carries another number
            self._last = np.float64(answers[0].note.loss), np.bool_(all(note.finite for note, _ in answers))
        return model, state, self._last[0], tuple(place.norms), self._last[1]


class ServerStep:
    """step(model, state, x, y, key) on a server: one update of its part of the model, from the gradients of workers."""

    def __init__(self, place: Place, optimizer: Optimizer, compiled: bool):
        self.place, self.optimizer = place, optimizer
        self._apply = compile(self._update, donate=(0, 1)) if compiled else self._update
        self._last, self.calls = np.float64(0.0), 0

    def __call__(self, model: Any, state: Any, x: Any, y: Any, key: Any = None) -> tuple:
        place, server, finite = self.place, self.place.server, np.True_
        if self.calls == 0:
            check_layers(model)
            check_first(place.communicator, place.shards_of(model), model, state)
        shards = place.shards
        self.calls += 1
        with place.timeline.span("wait for gradients", step=self.calls), waits(place, f"step {self.calls}: gradients"):
            answers = server.gradients()
        if not answers:                                     # somebody was asked to end
            return model, state, self._last, tuple(place.norms), finite
        with place.timeline.span("update", step=self.calls):
            sums, totals = self._collected(answers, model, shards)
            self._last = totals[0] / totals[1]
            if totals[3]:
                model, state, norms, finite = self._apply(model, state, sums, totals)
                place.norms[shards.places(place.rank)] = norms
        with inside("parameter_server", f"step {self.calls}: sending the model", counts=False):
            with place.timeline.span("publish", step=self.calls):
                message = shards.packed(place.rank, model, place.norms)
                server.publish(message, list(answers), loss=float(self._last), finite=bool(finite))
            if place.servers > 1:
                model, state, finite = self._told(model, state, finite)
        return model, state, self._last, tuple(place.norms), finite

    def _collected(self, answers: dict[int, Answer], model: Any, shards: Shards) -> tuple[tuple, np.ndarray]:
        """(sums over the answers in the order of the ranks; loss, examples, whether all was finite, weight of the update)."""
        place, like = self.place, shards.answered(self.place.rank, model)
        parts = [taken(message, like) for _, message in answers.values()]
        notes = [note for note, _ in answers.values()]
        sums = tuple(sum(column[1:], column[0]) for column in zip(*parts, strict=True))
        weight = 1.0 if place.staleness is None else number("ParameterServer", "what weight returns",
                                                            place.weight(place.server.version - notes[0].version))
        return sums, np.array([sum(n.loss for n in notes), sum(n.examples for n in notes), min(n.finite for n in notes), weight])

    def _update(self, model: Any, state: Any, sums: tuple, totals: Any) -> tuple:
        """(model, state, norms, finite) after one update from the totals."""
        shards, rank = self.place.shards_of(model), self.place.rank
        owned = shards.owned[rank]
        gradients = [x / totals[1].astype(x.dtype) for x in sums[:len(owned)]]
        norms = [np.sqrt(np.sum(g * g)) for g in gradients]
        finite = np.isfinite(sum(norms, totals[0])) & (totals[2] > 0.0)
        updates, new_state = self.optimizer.update(shards.tree(dict(zip(owned, gradients, strict=True))), state, model)
        leaves, structure = flatten(updates)
        moved = apply_updates(model, unflatten(structure, [u * totals[3].astype(u.dtype) for u in leaves]))
        moved = self._buffered(moved, sums[len(owned):], totals, shards)
        return choose(finite, moved, model), choose(finite, new_state, state), tuple(norms), finite

    def _buffered(self, model: Any, sums: tuple, totals: Any, shards: Shards) -> Any:
        """The model with its buffers moved towards the workers' average, by the weight of the update; whole numbers take the average."""
        leaves = flatten(model)[0]
        for i, x in zip(shards.buffers, sums, strict=False):
            mean, old = x / totals[1], leaves[i]
            leaves[i] = ((1.0 - totals[3]) * old + totals[3] * mean if old.dtype.kind == "f" else mean).astype(old.dtype)
        return unflatten(shards.structure, leaves)

    def _told(self, model: Any, state: Any, finite: Any) -> tuple[Any, Any, Any]:
        """Rank 0 learns every server's part, so that it may write checkpoints: of this version; asynchronously, the newest there is."""
        place, waits = self.place, self.place.staleness is None
        if place.rank:
            note = Note(MODEL, signal=place.server.asked, finite=float(finite))
            send(place.communicator, 0, note, place.shards.packed(place.rank, model, place.norms, state))
            if waits:
                place.communicator.flush()
            return model, state, finite
        for other in range(1, place.servers):
            while waits or place.communicator.arrived([other], 0.0) is not None:
                note, message = answer = receive(place.communicator, other)
                if note.kind == FINAL:                      # it has settled while this rank is in its last step
                    place.server.last[other] = answer
                    break
                place.server.asked = max(place.server.asked, note.signal)
                finite = finite & bool(note.finite)
                model, state = place.shards.placed(other, message, model, place.norms, state)
                if waits:
                    break
        return model, state, finite
