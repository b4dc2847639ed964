"""Data parallelism: the same model on every rank, different examples; gradients are summed over ranks before one common update.

Invariant: after every step all ranks hold the same model and state, bit for bit. With `exact_reduce` these bits do not depend on the
number of ranks. May import: L0-L5, train, collectives. Read next: data_step.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CommunicationError, ConfigError, ShapeError, explain
from ..optim import Optimizer
from ..train.loop import check_parts
from ..tree import Structure, flatten, unflatten
from .checks import MOST, examples_of, flag, number, whole, world_of
from .collectives import all_reduce_in_place, broadcast_in_place
from .communicator import Communicator
from .data_step import DataStep, check_models, digest_of
from .engine import Engine
from .schedules import bounds
from .timeline import checked_trace, write_of

SHARDS = 12             # virtual shards of an exact step: dealt evenly to 1, 2, 3, 4, 6 and 12 ranks
BUCKET = 25 * 2 ** 20   # bytes of gradients that are summed together


def agree(communicator: Communicator, model: Any, state: Any, source: int = 0) -> tuple[Any, Any]:
    """The model and optimizer state of one rank, on every rank (copies). Raises CommunicationError on every rank if one has others.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: agree(c, {"w": np.full(2, float(c.rank))}, ())[0]["w"])[1]
    array([0., 0.])
    """
    _check_source("agree", source, communicator)
    leaves, structure = flatten((model, state))
    arrays = [np.array(x) for x in leaves]
    own = np.array([hash_of(structure, arrays), hash_of(flatten(None)[1], arrays)])
    most, least = all_reduce_in_place(np.stack([own, -own]), communicator, algorithm="tree", combine=np.maximum)
    if (most != -least).any():
        what = "arrays of other shapes or dtypes" if most[1] != -least[1] else "the same arrays, in other layers, functions or options"
        raise CommunicationError(explain(
            f"the ranks have different models or optimizers: rank {communicator.rank} of {communicator.size} has {len(arrays)} arrays, "
            f"{sum(a.size for a in arrays)} elements; the ranks have {what}.",
            remedy="Build the same model and the same optimizer on every rank."))
    for array in arrays:
        broadcast_in_place(_to_rank_0(array, communicator, source), communicator)
    return unflatten(structure, arrays)


def tell(communicator: Communicator, message: bytes, source: int = 0) -> bytes:
    """The message of one rank, on every rank; the others' do not count.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: tell(c, [b"yes", b"no"][c.rank], source=1))
    [b'no', b'no']
    """
    _check_source("tell", source, communicator)
    if not isinstance(message, bytes):
        raise ConfigError(explain(f"tell: found {type(message).__name__}, expected bytes.", remedy="Encode it: text.encode()."))
    size = broadcast_in_place(_to_rank_0(np.array([len(message)]), communicator, source), communicator)
    text = np.zeros(size[0], np.uint8)
    if communicator.rank == source:
        text[:] = np.frombuffer(message, np.uint8)
    return broadcast_in_place(_to_rank_0(text, communicator, source), communicator).tobytes()


def measured(communicator: Communicator, pieces: int, measure: Callable[[slice], np.ndarray], examples: int, width: int) -> np.ndarray:
    """What measure(rows) says of each of `pieces` slices of range(examples), [pieces, width]; zero but for the slices of this rank.

    Every row is zero but on one rank: a sum over ranks rounds nothing, and the next, over the pieces, has one order.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: measured(c, 2, lambda rows: np.array([rows.stop - rows.start]), 5, 1))[1]
    array([[0.],
           [3.]])
    """
    limits, mine = bounds(examples, pieces), pieces // communicator.size
    found = np.zeros((pieces, width))
    for piece in range(communicator.rank * mine, (communicator.rank + 1) * mine):
        if limits[piece] < limits[piece + 1]:
            found[piece] = measure(slice(limits[piece], limits[piece + 1]))
    return found


def _check_source(of: str, source: int, communicator: Communicator) -> None:
    size = world_of(of, communicator).size
    whole(of, "source", source, least=0, most=size - 1, remedy=f"It is one of {size} ranks, which count from 0.")


def _to_rank_0(array: np.ndarray, communicator: Communicator, source: int) -> np.ndarray:
    """The array; rank 0's is overwritten with that of `source`."""
    if source and communicator.rank in (0, source):
        sends = communicator.rank == source
        communicator.exchange(array if sends else None, 0, None if sends else array, source)
    return array


def hash_of(structure: Structure, arrays: list[np.ndarray]) -> int:
    """63 bits that tell two programs apart by names, shapes and dtypes; the same in every process.

    >>> hash_of(flatten([1.0])[1], [np.ones(2)]) == hash_of(flatten([1.0])[1], [np.ones(3)])
    False
    """
    text = repr((structure, [(a.dtype.str, a.shape) for a in arrays]))
    return digest_of(re.sub(r" at 0x[0-9a-fA-F]+", "", text))       # functions lie elsewhere in every process


class DataParallel:
    """Workers that hold the same model and share each batch: gradients are added over all of them before one common update.

    In train.fit: parallel=DataParallel(world()). In a loop of your own: `agree` once, then the step of `make_step` on a `share` of each
    batch.
    exact_reduce: each batch is cut into `shards` equal shards, of which every rank computes as many, and their gradients are added in fixed
    point: the same bits for every number of ranks that divides `shards`, at twice the bytes on the wire and one pass over the gradients a
    shard. Source: Goyal et al., arXiv 1706.02677 (averages over all examples).
    Of a validation set each rank measures its share (loss must be a mean over examples); with exact_reduce the set is cut into `shards`
    pieces, each measured by itself, and their results are added in one order: the same bits for every number of ranks here too.
    accumulate: every rank computes its part of a batch in so many micro-batches, and adds up their gradients before ranks speak.
    timeout: seconds after which a rank that waits for another raises CommunicationError, naming the bucket and whom it waits for.
    timeline: where `write_timeline` writes what this rank did when, as TIMELINE.rank0.json and so on.
    A thread of its own adds up each bucket of gradients while the rest of the backward pass is still being computed.

    Example:
        >>> from adjoint import nn, optim, train
        >>> from adjoint.distributed.threads import run_threads
        >>> x = np.linspace(-1, 1, 8)[:, None]
        >>> def program(world):
        ...     model = nn.Linear(1, 1, rng=np.random.default_rng(world.rank), dtype=np.float64)
        ...     return train.fit(model, (x, 2 * x), optimizer=optim.sgd(0.5), loss=nn.squared_error, epochs=40, batch=8,
        ...                      parallel=DataParallel(world), compiled=False).model.weight.round(3)
        >>> run_threads(2, program)
        [array([[2.]]), array([[2.]])]
    """

    def __init__(self, communicator: Communicator, *, exact_reduce: bool = False, shards: int = SHARDS, bucket_bytes: int = BUCKET,
                 accumulate: int = 1, timeout: float | None = None, timeline: str | Path | None = None):
        world_of("DataParallel", communicator)
        flag("DataParallel", "exact_reduce", exact_reduce)
        for name, value in (("shards", shards), ("bucket_bytes", bucket_bytes), ("accumulate", accumulate)):
            whole("DataParallel", name, value)
        if timeout is not None:
            number("DataParallel", "timeout", timeout, above=True, remedy="Give seconds, or leave it out.")
        if exact_reduce and shards % communicator.size:
            raise ConfigError(explain(f"exact_reduce: {shards} shards cannot be dealt evenly to {communicator.size} ranks.",
                                      remedy=f"Choose shards={communicator.size * max(1, shards // communicator.size)}, on every run."))
        if exact_reduce and accumulate > 1:
            raise ConfigError(explain(f"DataParallel: accumulate is {accumulate} with exact_reduce, which has shards of its own.",
                                      remedy="Leave accumulate out, or exact_reduce."))
        self.communicator, self.shards, self.bucket_bytes = communicator, shards if exact_reduce else 0, bucket_bytes
        self.accumulate, self.timeline = accumulate, checked_trace("DataParallel", timeline)
        self.engine = Engine(communicator, timeout=timeout)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes logs and checkpoints."""
        return self.rank == 0

    whole = True                                            # every rank has model and optimizer after every step

    @property
    def rank(self) -> int:
        """This worker's number."""
        return self.communicator.rank

    @property
    def pieces(self) -> int:
        """In how many parts `total` cuts what it sums over."""
        return self.shards or self.communicator.size

    def make_step(self, loss: Callable, optimizer: Optimizer, *, compiled: bool = True) -> Callable:
        """step(model, state, x, y, key=None) -> (model, state, loss, norms, finite), as train.make_step, over all ranks together.

        x, y: this rank's examples; the ranks' batches may differ in size: gradients and loss are averages over all examples. loss must be
        a mean over examples, as those of nn are: ranks weigh by how many examples they have, so with a loss that is a sum n ranks make
        steps n times too small, and one over valid tokens counts every example alike, however many tokens it has.
        model and state must be equal on all ranks (`agree`), and so must the loss, constants included. Raises CommunicationError on every
        rank in the first step if they are not; constants are compared where the ranks' first batches have equal sizes, and with
        compiled=False only those that the loss itself has (data_step.numbers_of).
        """
        check_parts(loss, optimizer)
        flag("make_step", "compiled", compiled)
        return DataStep(loss, optimizer, self.engine, shards=self.shards, accumulate=self.accumulate, bucket_bytes=self.bucket_bytes,
                        compiled=compiled)

    def share(self, *arrays: Any) -> tuple:
        """This rank's rows of arrays [examples, ...]; the ranks' shares differ by one row at most.

        >>> from adjoint.distributed.threads import run_threads
        >>> run_threads(2, lambda c: DataParallel(c).share(np.arange(5))[0])
        [array([0, 1]), array([2, 3, 4])]
        """
        limits = bounds(examples_of("share", *arrays), self.communicator.size)
        if limits[-1] < self.communicator.size:
            raise ShapeError(explain(f"a batch of {len(arrays[0])} examples cannot be shared by {self.communicator.size} ranks.",
                                     remedy="Give larger batches, or start fewer ranks."))
        return tuple(x[limits[self.communicator.rank]:limits[self.communicator.rank + 1]] for x in arrays)

    def agree(self, model: Any, state: Any, source: int = 0) -> tuple[Any, Any]:
        """The model and optimizer state of one rank, on every rank."""
        return self._call("agreeing on the model", agree, self.communicator, model, state, source)

    def tell(self, message: bytes, source: int = 0) -> bytes:
        """The message of one rank, on every rank."""
        return self._call("telling all ranks", tell, self.communicator, message, source)

    def furthest(self, steps: int) -> int:
        """The rank that has done the most steps, the lowest of several.

        >>> from adjoint.distributed.threads import run_threads
        >>> run_threads(3, lambda c: DataParallel(c).furthest([3, 5, 5][c.rank]))
        [1, 1, 1]
        """
        return -self.largest(whole("furthest", "steps", steps, least=0) * self.communicator.size - self.rank) % self.communicator.size

    def largest(self, number: int) -> int:
        """The largest of every rank's number."""
        whole("largest", "number", number, least=-MOST)
        maximum = lambda: all_reduce_in_place(np.array([number]), self.communicator, combine=np.maximum)
        return int(self._call("comparing a number with all ranks", maximum)[0])

    def first(self, flag: bool) -> int | None:
        """The lowest rank whose flag is true, -1 if none is.

        >>> from adjoint.distributed.threads import run_threads
        >>> run_threads(3, lambda c: (DataParallel(c).first(c.rank > 0), DataParallel(c).first(False)))[0]
        (1, -1)
        """
        found = -self.largest(-self.rank if flag else -self.communicator.size)
        return -1 if found == self.communicator.size else found

    def any(self, flag: bool) -> bool:
        """Whether the flag of any rank is true."""
        return bool(self.largest(int(flag)))

    def total(self, measure: Callable[[slice], np.ndarray], examples: int, width: int) -> np.ndarray:
        """The sum over `pieces` slices of range(examples) of the `width` numbers measure(rows), each slice measured by one rank.

        Slices differ in size by one at most; empty ones are not measured. The same bits on every rank, and for the same `pieces`.

        >>> from adjoint.distributed.threads import run_threads
        >>> run_threads(2, lambda c: DataParallel(c).total(lambda rows: np.array([rows.stop - rows.start, c.rank]), 5, 2))[0]
        array([5., 1.])
        """
        found = measured(self.communicator, self.pieces, measure, examples, width)
        return self._call("adding up what ranks measured", all_reduce_in_place, found, self.communicator).sum(axis=0)

    def settle(self, model: Any, state: Any, loss: float = 0.0) -> tuple[Any, Any, float]:
        """What was given, once it is seen that all ranks hold the same: fit calls it after every epoch.

        Raises CommunicationError on every rank if the size of an array differs by more than APART, or is finite on some ranks only: after
        every step they are the same, so an optimizer is not the one of the other ranks, or a rank has changed its model by itself.

        >>> from adjoint.distributed.threads import run_threads
        >>> run_threads(2, lambda c: DataParallel(c).settle(np.ones(2), (), 0.5))[1]
        (array([1., 1.]), (), 0.5)
        """
        if self.communicator.size > 1:
            self._call("comparing the models of all ranks", check_models, self.communicator, model, state,
                       "Give every rank the same optimizer, rates too, and change a model only by steps that all ranks take.")
        return model, state, loss

    def _call(self, what: str, function: Callable, *arguments: Any) -> Any:
        """function(*arguments) on the communication thread."""
        return self.engine.call(f"rank {self.rank} of {self.communicator.size}, {what}", function, *arguments)

    def write_timeline(self) -> Path | None:
        """Write what this rank did when, so far, to TIMELINE.rankR.json (see Timeline); the path, or None without `timeline`."""
        return write_of(self.engine.timeline, self.timeline)
