"""ParameterServer: training through ranks that hold the model; others compute gradients, and stragglers need not be waited for.

Invariant: with all workers waited for, a step is that of one process. Of k of n, no gradient of an old version is ever applied.
May import: L0-L5, train, server, worker, status, timeline. Read next: server.py, worker.py, shards.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, ShapeError, explain
from ..optim import Optimizer
from ..train.loop import check_parts
from .checks import examples_of, flag, function_of, whole, world_of
from .collectives import all_reduce_in_place
from .communicator import Communicator
from .data_parallel import agree, measured, tell
from .schedules import bounds
from .server import FINAL, Note, Server, receive, send
from .server_steps import ServerStep, WorkerStep
from .shards import Shards
from .status import inside
from .timeline import Timeline, checked_trace, write_of
from .worker import Cancellation, Worker


def damped(behind: int) -> float:
    """1 / (1 + behind): the weight of an update by a gradient of a model that was `behind` versions old.

    >>> damped(0), damped(3)
    (1.0, 0.25)
    """
    return 1.0 / (1.0 + behind)


class ParameterServer:
    """The first ranks hold the model and the optimizer's state, the others compute gradients on shares of every batch.

    In train.fit: parallel=ParameterServer(world()). In a loop of your own, on every rank: `agree` once, the step of `make_step` on a
    `share` of each batch, and at the end `settle`, which lets late workers finish and brings the last model and state to every rank.

    wait_for: gradients that a step waits for; None: of all workers, and then a step is that of one process. With fewer the others are
    backup workers: when the last gradient that counts has come, they are told to abandon theirs (cancel=False: they finish it in vain), and
    go on with the newest model. The compiled backward ends within one kernel; a loss of your own may look at `cancellation` and raise
    errors.Cancelled.
    staleness: None, or asynchronous: batch i goes to worker i mod n whole, and every gradient is an update of its own, times
    weight(versions made since its model was sent), 0 to drop it. A worker may be at most `staleness` gradients ahead of the slowest.
    servers: how many ranks share the model; every trained array has one owner. The optimizer must then treat each array by itself.
    timeline: where `write_timeline` writes what this rank did when, as TIMELINE.rank0.json and so on.
    Sources: Li et al., OSDI 2014 (servers); Chen et al., arXiv 1604.00981 (backup workers; here they are cancelled); Ho et al.,
    NIPS 2013 (bounded staleness); Zhang et al., arXiv 1511.05950 (the default weight).

    Example:
        >>> from adjoint import nn, optim, train
        >>> from adjoint.distributed.threads import run_threads
        >>> x = np.linspace(-1, 1, 8)[:, None]
        >>> def program(world):
        ...     model = nn.Linear(1, 1, rng=np.random.default_rng(world.rank), dtype=np.float64)
        ...     return train.fit(model, (x, 2 * x), optimizer=optim.sgd(0.5), loss=nn.squared_error, epochs=40, batch=8,
        ...                      parallel=ParameterServer(world), compiled=False).model.weight.round(3)
        >>> run_threads(3, program)
        [array([[2.]]), array([[2.]]), array([[2.]])]
    """

    def __init__(self, communicator: Communicator, *, wait_for: int | None = None, staleness: int | None = None, servers: int = 1,
                 cancel: bool = True, weight: Callable[[int], float] = damped, timeline: str | Path | None = None):
        world_of("ParameterServer", communicator)
        flag("ParameterServer", "cancel", cancel)
        function_of("ParameterServer", "weight", weight, remedy="Give a function of the versions behind: weight=lambda k: 0.9 ** k.")
        for name, value, least in (("servers", servers, 1), ("wait_for", wait_for, 1), ("staleness", staleness, 0)):
            if value is not None or name == "servers":
                whole("ParameterServer", name, value, least=least)
        self.communicator, self.servers, self.staleness, self.weight = communicator, servers, staleness, weight
        self.workers = communicator.size - servers
        self.trace, self.timeline = checked_trace("ParameterServer", timeline), Timeline(communicator.rank)
        self._check(wait_for)
        ranks, synchronous = range(servers, communicator.size), staleness is None
        self.all = synchronous and wait_for in (None, self.workers)         # whether a step waits for every worker
        self._optimizer: Optimizer | None = None
        self.shards: Shards | None = None
        self.norms = np.zeros(0)                            # of the gradients, as last heard
        if communicator.rank < servers:
            lead, followers = (None, range(1, servers)) if communicator.rank == 0 or not synchronous else (0, ())
            self.server = Server(communicator, ranks, wait_for=(wait_for or self.workers) if synchronous else 1, staleness=staleness,
                                 cancel=cancel, lead=lead, followers=followers)
        else:
            self.server = None
            self.worker = Worker(communicator, range(servers), cancel=cancel and synchronous and (wait_for or 0) < self.workers,
                                 one_version=synchronous)

    def _check(self, wait_for: int | None) -> None:
        """Refuse what cannot be; the same error on every rank."""
        size = self.communicator.size
        if not 1 <= self.servers < size:
            raise ConfigError(explain(f"ParameterServer: {self.servers} servers in a world of {size} leave no worker.",
                                      remedy="Start at least one rank more than there are servers: adjoint launch -n 5 train.py."))
        if wait_for is not None and not 1 <= wait_for <= self.workers:
            raise ConfigError(explain(f"ParameterServer: wait_for is {wait_for}, but there are {self.workers} workers.",
                                      remedy=f"From 1 to {self.workers}: {size} ranks less {self.servers} servers."))
        if self.staleness is not None and (wait_for is not None or self.staleness < 0):
            raise ConfigError(explain(f"ParameterServer: staleness is {self.staleness}, wait_for is {wait_for}.",
                                      remedy="Choose one: wait_for waits in every step, staleness (0 or more) lets workers run ahead."))

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes logs and checkpoints."""
        return self.communicator.rank == 0

    @property
    def rank(self) -> int:
        """This rank's number."""
        return self.communicator.rank

    @property
    def whole(self) -> bool:
        """Whether model and optimizer are here after every step: workers have no optimizer, servers but rank 0 a part of it."""
        return self.leads

    @property
    def pieces(self) -> int:
        """In how many parts `total` cuts what it sums over: servers measure too, they have nothing else to do then."""
        return self.communicator.size

    @property
    def index(self) -> int:
        """The worker's number, from 0; negative on servers."""
        return self.communicator.rank - self.servers

    @property
    def cancellation(self) -> Cancellation:
        """Of a worker: set when the gradient under way is too late. It has `cancelled`, and `wait(seconds)`."""
        if self.server:
            raise ConfigError(explain(f"ParameterServer: rank {self.rank} is a server, and has no gradient to cancel.",
                                      remedy="Ask on workers only: their index is 0 or more."))
        return self.worker.cancellation

    def make_step(self, loss: Callable, optimizer: Optimizer, *, compiled: bool = True) -> Callable:
        """step(model, state, x, y, key=None) -> (model, state, loss, norms, finite), as train.make_step, over all workers together.

        x, y: this worker's examples (`share`); a server does not look at them. Workers do not hold the optimizer's state: theirs is what
        they were given, until `settle`. Raises CommunicationError on every rank in the first step if models or states are not equal on all
        ranks (`agree`), if a worker has another loss, constants included, or, with several servers, if a rank has another optimizer;
        ConfigError if layers ask other ranks.
        """
        check_parts(loss, optimizer)
        flag("make_step", "compiled", compiled)
        self._optimizer, self.shards = optimizer, None
        return ServerStep(self, optimizer, compiled) if self.server else WorkerStep(self, loss, compiled)

    def share(self, *arrays: Any) -> tuple:
        """This worker's rows of arrays [examples, ...]; all rows on servers, and where every worker takes whole batches in turn.

        >>> from adjoint.distributed.threads import run_threads
        >>> run_threads(3, lambda c: ParameterServer(c).share(np.arange(5))[0])
        [array([0, 1, 2, 3, 4]), array([0, 1]), array([2, 3, 4])]
        """
        examples = examples_of("share", *arrays)
        if self.server or self.staleness is not None:
            return arrays
        if examples < self.workers:
            raise ShapeError(explain(f"a batch of {examples} examples cannot be shared by {self.workers} workers.",
                                     remedy="Give larger batches, or start fewer ranks."))
        limits = bounds(examples, self.workers)
        return tuple(x[limits[self.index]:limits[self.index + 1]] for x in arrays)

    def agree(self, model: Any, state: Any, source: int = 0) -> tuple[Any, Any]:
        """The model and optimizer state of one rank, on every rank. Raises CommunicationError on every rank if one has others."""
        return agree(self.communicator, model, state, source)

    def tell(self, message: bytes, source: int = 0) -> bytes:
        """The message of one rank, on every rank."""
        return tell(self.communicator, message, source)

    def furthest(self, steps: int) -> int:
        """Rank 0, which alone has model and state after every step."""
        return 0

    def largest(self, number: int) -> int:
        """The largest number that any rank has told: it travels with answers and models, so it comes a step later, to all in the same."""
        side = self.server or self.worker
        side.asked = max(side.asked, number)
        if self.server and self.staleness is not None and not self.server.final:        # else workers have their last model, and go on
            side.signal = side.asked
        return side.signal

    def first(self, flag: bool) -> int | None:
        """This rank if its flag is true, else None: not known, since others may stand in other steps."""
        return self.rank if flag else None

    def any(self, flag: bool) -> bool:
        """Whether the flag of any rank is true, after `settle`; the flag of this rank once ranks were asked to end, as all know then."""
        if (self.server or self.worker).signal:
            return flag
        return bool(all_reduce_in_place(np.array([flag], np.int64), self.communicator, algorithm="tree", combine=np.maximum)[0])

    def total(self, measure: Callable[[slice], np.ndarray], examples: int, width: int) -> np.ndarray:
        """The sum over equal slices of range(examples) of the `width` numbers measure(rows), a slice on each rank, the same bits on all.

        It comes after `settle`: no letter is under way then, nobody is late, and all ranks have one model, however many the steps wait for.
        When ranks were asked to end, as all know since `settle`, whoever comes here measures all rows: late ones have left the loop in an
        earlier step, and would be waited for in vain.

        >>> from adjoint.distributed.threads import run_threads
        >>> run_threads(3, lambda c: ParameterServer(c).total(lambda rows: np.array([rows.stop - rows.start]), 5, 1))[0]
        array([5.])
        """
        if (self.server or self.worker).signal:
            return measure(slice(0, examples))
        return all_reduce_in_place(measured(self.communicator, self.pieces, measure, examples, width), self.communicator).sum(axis=0)

    def settle(self, model: Any, state: Any, loss: float = 0.0) -> tuple[Any, Any, float]:
        """(model, state, loss): the newest model and state and rank 0's number, on every rank, once all workers have come here."""
        if self._optimizer is None:
            raise ConfigError(explain("ParameterServer: settle before make_step.", remedy="Make the step first, then settle at the end."))
        with inside("parameter_server", "the end of all"):
            return self._settled(model, state, loss)

    def _settled(self, model: Any, state: Any, loss: float) -> tuple[Any, Any, float]:
        shards = self.shards_of(model)
        if self.server is None:
            answers = self.worker.settle()
            for number, (_, message) in enumerate(answers):
                model, state = shards.placed(number, message, model, self.norms, state)
            return model, state, answers[0].note.loss if answers else loss
        others = [] if self.server.final else [number for number in range(self.servers) if number != self.rank]
        message = shards.packed(self.rank, model, self.norms, state)
        self.server.settle(message, loss=loss)
        for number in others:
            send(self.communicator, number, Note(FINAL, signal=self.server.signal, loss=loss), message)
        for number in others:
            while (answer := self.server.last.pop(number, None) or receive(self.communicator, number)).note.kind != FINAL:
                pass                                # a model that rank 0 had no need of
            self.server.signal = max(self.server.signal, answer.note.signal)        # as workers do
            model, state = shards.placed(number, answer.message, model, self.norms, state)
            loss = answer.note.loss if number == 0 else loss
        self.communicator.flush()
        return model, state, loss

    def write_timeline(self) -> Path | None:
        """Write what this rank did when, so far, to TIMELINE.rankR.json (see Timeline); the path, or None without `timeline`."""
        return write_of(self.timeline, self.trace)

    def shards_of(self, model: Any) -> Shards:
        """How the model is dealt to the servers."""
        if self.shards is None:
            self.shards = Shards(model, self._optimizer, self.servers)
            self.norms = np.zeros(len(self.shards.trained))
        return self.shards
