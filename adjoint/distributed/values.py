"""Collectives of values: arrays at once, traced values by the rows of the table; and `per_rank`, which types what it traces.

Invariant: no argument is written to; every rank calls the same functions in the same order. May import: L0-L3, collectives, status.
Read next: split.py.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import EVALUATION, Tracer, current
from ..core.primitive import TABLE, Primitive, bind
from ..errors import CollectiveError, ConfigError, ShapeError, explain
from ..primitives.broadcasting import move_axis
from ..primitives.collective import VARYING, WORLDS
from ..transforms import ranks as typing
from . import schedules
from .checks import flag, function_of, whole, world_of
from .collectives import all_reduce_in_place, perform, turns
from .communicator import Communicator
from .status import enter, leave

_numbers = itertools.count()


class Through:
    """A communicator as the rows know it (primitives.collective.Ranks); one for each, see `ranks_of`."""

    def __init__(self, communicator: Communicator):
        self.communicator, self.rank, self.size, self.number = communicator, communicator.rank, communicator.size, next(_numbers)
        self.asks: Callable | None = None       # asks(operation, function, *arguments) has another thread call the function, and waits
        WORLDS[self.number] = self

    def run(self, operation: str, buffer: np.ndarray, peers: tuple[int, int]) -> None:
        """Perform an operation on a contiguous buffer, in place."""
        if self.size == 1 and operation != "send_receive":
            return
        if self.asks is None:
            self._perform(operation, buffer, peers)
        else:
            held = buffer.copy()                # the other thread may still write to it when this one has been interrupted
            self.asks(operation, self._perform, operation, held, peers)
            buffer[...] = held

    def _perform(self, operation: str, buffer: np.ndarray, peers: tuple[int, int]) -> None:
        enter(operation)
        try:
            _PERFORM[operation](buffer.reshape(-1), self.communicator, *peers)
        finally:
            leave()

    def __repr__(self) -> str:
        return f"rank {self.rank} of {self.size} in world {self.number}"


def ranks_of(communicator: Communicator) -> Through:
    """The rows' view of a communicator: made once, and kept with it."""
    known = vars(world_of("a collective", communicator)).get("_ranks")
    if known is None:
        known = vars(communicator)["_ranks"] = Through(communicator)
    return known


def _from(origin: int, schedule: Callable) -> Callable:
    """The operation that performs a schedule in which rank `origin` takes the part of rank 0."""
    def operation(flat: np.ndarray, communicator: Communicator, *_: int) -> None:
        _perform_from(origin, schedule, flat, communicator)
    return operation


def _perform_from(origin: int, schedule: Callable, flat: np.ndarray, communicator: Communicator) -> None:
    n = communicator.size
    there = lambda rank: rank if rank == schedules.NOBODY else (rank + origin) % n
    rounds = turns(schedule, n, flat.size, (communicator.rank - origin) % n)
    perform([t._replace(to=there(t.to), source=there(t.source)) for t in rounds], flat, communicator)


def _send_receive(flat: np.ndarray, communicator: Communicator, to: int, source: int) -> None:
    rank = communicator.rank
    if to == source == rank:
        return
    sent = flat.copy() if to >= 0 else None
    flat[...] = 0
    communicator.exchange(sent, to, flat if source >= 0 else None, source)


# The ring leaves chunk r + 1 with rank r: with rank 1 in the part of rank 0, chunk r is rank r's.
_PERFORM: dict[str, Callable] = {
    "all_reduce": lambda flat, communicator, *_: all_reduce_in_place(flat, communicator),
    "all_gather": _from(1, schedules.ring_all_gather), "reduce_scatter": _from(1, schedules.ring_reduce_scatter),
    "broadcast": lambda flat, communicator, root, _: _perform_from(root, schedules.tree_broadcast, flat, communicator),
    "reduce": lambda flat, communicator, root, _: _perform_from(root, schedules.tree_reduce, flat, communicator),
    "send_receive": _send_receive}


# ------------------------------------------------------------------------------------------------ what the user calls


def per_rank(function: Callable, communicator: Communicator, *, varying: Any = True) -> Callable:
    """The function as each rank runs it, on arguments of its own: inside, every value is typed varying or replicated.

    varying: for each positional argument True (every rank has another), False (all have the same), or a list of these by leaf; one bool
    speaks for all arguments. Arrays from outside are replicated. An operation on values of both types gives a varying one, and what was
    replicated then collects the sum of its cotangents over the ranks: gradients of replicated parameters are right by themselves, and equal
    on all ranks. The gradient of a varying number is that of its sum over the ranks. grad and the others may stand inside or outside;
    compile stands outside.
    Raises: CollectiveError for a collective of a value of the other type. Source: the varying types of JAX's shard_map.

    >>> from adjoint.distributed.threads import run_threads
    >>> from adjoint.transforms.reverse import grad
    >>> def loss(w, x, world):
    ...     return all_reduce((w * x).sum(), world)
    >>> def program(world):
    ...     gradient = per_rank(grad(lambda w, x: loss(w, x, world)), world, varying=(False, True))
    ...     return gradient(np.float64(2.0), np.array([1.0, world.rank]))
    >>> run_threads(3, program)
    [np.float64(6.0), np.float64(6.0), np.float64(6.0)]
    """
    function_of("per_rank", "function", function, remedy="Give the function that every rank runs: per_rank(lambda x: ..., world).")
    for each in varying if isinstance(varying, tuple) else (varying,):
        if not isinstance(each, bool) and not (isinstance(each, (list, tuple)) and all(isinstance(flag, bool) for flag in each)):
            raise ConfigError(explain(f"per_rank: varying is {varying!r:.60}.",
                                      remedy="Give True, False or a list by leaf for each argument: varying=(False, True)."))
    return typing.per_rank(function, ranks_of(communicator), varying)


def is_varying(x: Any, communicator: Communicator) -> bool:
    """Whether a value inside of per_rank varies over the ranks.

    >>> from adjoint.distributed.communicator import Alone
    >>> world = Alone()
    >>> per_rank(lambda x: print(is_varying(x, world), is_varying(all_reduce(x, world), world)), world)(np.ones(2))
    True False
    """
    types = typing.typing_of(ranks_of(communicator))
    return types is not None and types.varies(x)


def all_reduce(x: Any, communicator: Communicator) -> Any:
    """The sum of x over the ranks: varying to replicated. Its transpose is `replicate_to_varying`.

    x has the same shape and dtype on every rank. A new array; `all_reduce_in_place` sums buffers, and takes an algorithm.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(3, lambda c: all_reduce(np.array([1.0, c.rank]), c))[2]
    array([3., 3.])
    """
    return _perform("all_reduce", x, communicator)


def replicate_to_varying(x: Any, communicator: Communicator) -> Any:
    """x itself, each rank's copy standing for itself from here on: replicated to varying. Its transpose is `all_reduce`.

    >>> from adjoint.distributed.communicator import Alone
    >>> replicate_to_varying(np.ones(2), Alone())
    array([1., 1.])
    """
    return _perform("replicate_to_varying", x, communicator)


def all_gather(x: Any, communicator: Communicator, *, axis: int = 0, varying: bool = False) -> Any:
    """The x of all ranks joined along an axis, on every rank: varying to replicated, or to varying where `varying` is true.

    Its transpose takes the rank's own chunk of the cotangent (replicated), or is `reduce_scatter` (varying: each rank uses the result in
    its own way, so cotangents are summed over the ranks).

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: all_gather(np.full((1, 2), 1.0 + c.rank), c, axis=1))[0]
    array([[1., 1., 2., 2.]])
    """
    axis = _axis("all_gather", x, axis)
    flag("all_gather", "varying", varying)
    y = _perform("all_gather" if varying else "all_gather_replicated", x, communicator)
    shape = aval_of(x).shape
    return _reshape(move_axis(y, 0, axis), (*shape[:axis], communicator.size * shape[axis], *shape[axis + 1:]))


def reduce_scatter(x: Any, communicator: Communicator, *, axis: int = 0) -> Any:
    """The rank's own chunk, along an axis, of the sum of x over the ranks: varying to varying. Its transpose is `all_gather`.

    Raises: ShapeError if the axis has not equal chunks for all ranks.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: reduce_scatter(np.array([1.0, 2.0, 3.0, 4.0]), c))
    [array([2., 4.]), array([6., 8.])]
    """
    return _perform("reduce_scatter", _chunks("reduce_scatter", x, communicator, axis), communicator)


def own_chunk(x: Any, communicator: Communicator, *, axis: int = 0) -> Any:
    """The rank's own chunk of x along an axis: replicated to varying; nothing is sent. Its transpose is `all_gather`.

    Raises: ShapeError if the axis has not equal chunks for all ranks.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: own_chunk(np.arange(4.0), c))
    [array([0., 1.]), array([2., 3.])]
    """
    return _perform("own_entry", _chunks("own_chunk", x, communicator, axis), communicator)


def broadcast(x: Any, communicator: Communicator, *, root: int = 0, varying: bool = False) -> Any:
    """The x of rank `root`, on every rank: varying to replicated, or to varying where `varying` is true.

    Its transpose keeps the cotangent on rank `root` (replicated), or sums it to there (varying); the other ranks' x get zero.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(3, lambda c: broadcast(np.full(2, float(c.rank)), c, root=1))[2]
    array([1., 1.])
    """
    size = world_of("broadcast", communicator).size
    flag("broadcast", "varying", varying)
    whole("broadcast", "root", root, least=0, most=size - 1, remedy=f"It is one of {size} ranks, which count from 0.")
    return _perform("broadcast_from_root" if varying else "broadcast_replicated", x, communicator, root=root)


def send_receive(x: Any, communicator: Communicator, pairs: Sequence[tuple[int, int]]) -> Any:
    """x of the rank that sends to this one, 0 where none does: varying to varying. Its transpose sends cotangents the other way.

    pairs: (sender, receiver), the same on every rank; all ranks call it, also those in no pair. Nobody sends or receives twice.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(3, lambda c: send_receive(np.float64(1 + c.rank), c, [(0, 1), (1, 2)]))
    [np.float64(0.0), np.float64(1.0), np.float64(2.0)]
    """
    pairs = _checked_pairs(pairs, world_of("send_receive", communicator).size)
    return _perform("send_receive", x, communicator, pairs=pairs)


def _checked_pairs(pairs: Any, size: int) -> tuple[tuple[int, int], ...]:
    try:
        found = tuple((operator.index(a), operator.index(b)) for a, b in pairs)
    except (TypeError, ValueError):
        found = ((-1, -1),)
    for ranks in zip(*found, strict=True):
        if len(set(ranks)) < len(ranks) or not all(0 <= rank < size for rank in ranks):
            raise ConfigError(explain(f"send_receive: pairs {pairs!r:.60} among {size} ranks.",
                                      remedy="(sender, receiver) for each message; a rank sends at most once and receives at most once."))
    return found


def _perform(name: str, x: Any, communicator: Communicator, **params: Any) -> Any:
    """The row's operation, its argument of the type that it takes."""
    row, ranks = TABLE[name], ranks_of(communicator)
    if current() is not EVALUATION or isinstance(x, Tracer):
        _check_type(row, x, ranks)
    elif not isinstance(x, np.ndarray):
        x = np.asarray(x)
        aval_of(x)                                              # a number beyond int64 would be an object
        x = x[()]
    row.out_avals(aval_of(x), ranks=ranks, **params)            # at the ground level nobody else asks the shape rule
    return bind(row, x, ranks=ranks, **params)


def _check_type(row: Primitive, x: Any, ranks: Through) -> None:
    types, wanted = typing.typing_of(ranks), row.traits["takes"]
    if types is None:
        raise CollectiveError(explain(f"{row.name}: {aval_of(x)} is traced outside of per_rank, so it is not known whether it varies.",
                                      remedy="Trace the whole function by per_rank(function, world, varying=(...))."))
    if types.varies(x) != (wanted == VARYING):
        raise typing.wrong_type(row.name, aval_of(x), wanted)


def _axis(name: str, x: Any, axis: int) -> int:
    ndim = aval_of(x).ndim
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or not -ndim <= axis < ndim:
        raise ShapeError(explain(f"{name}: {aval_of(x)} has no axis {axis!r:.60}.", remedy="Name an axis of the array."))
    return axis % ndim


def _reshape(x: Any, shape: tuple) -> Any:
    return bind(TABLE["reshape"], x, shape=shape)


def _chunks(name: str, x: Any, communicator: Communicator, axis: int) -> Any:
    """x with its chunks for the ranks along a new axis 0."""
    axis, n, shape = _axis(name, x, axis), world_of(name, communicator).size, aval_of(x).shape
    if shape[axis] % n:
        raise ShapeError(explain(f"{name}: axis {axis} of {aval_of(x)} cannot be cut into {n} equal chunks.",
                                 remedy=f"Let its size be a multiple of {n}."))
    return move_axis(_reshape(x, (*shape[:axis], n, shape[axis] // n, *shape[axis + 1:])), axis, 0)
