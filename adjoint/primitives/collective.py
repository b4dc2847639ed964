"""Collectives: rows whose result depends on the values of other ranks; each rank runs the same program on values of its own.

Every value is *varying* (another one on each rank) or *replicated* (the same one on all). The inner product that transposes refer to sums
over the ranks for varying values, and counts replicated ones once. A row says which type it `takes` and which it `gives`; who checks this
is transforms/ranks.py. Invariant: every rank performs the same rows in the same order. May import: L0, core, kinds.
Read next: transforms/ranks.py, then distributed/values.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import Primitive, bind
from ..errors import DtypeError, ShapeError, explain
from .broadcasting import move_axis
from .kinds import General, Strided, linear
from .samples import samples_of, unary_samples

VARYING, REPLICATED = "varying", "replicated"
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce", "send_receive")
COMMUNICATION = frozenset({"communication"})        # such nodes are neither dropped nor merged nor moved out of loops


class Ranks(Protocol):
    """The communicator as rows see it: a rank among `size`, and the one thing it does, an operation on a buffer in place.

    operation, with `peers` its two numbers (-1 where there is none): "all_reduce"; "all_gather", of buffer[rank] for every rank;
    "reduce_scatter", whose sum lies in buffer[rank]; "broadcast" and "reduce" from and to rank peers[0]; "send_receive", to rank peers[0]
    from rank peers[1]. Its text holds its number in this process, by which compiled code finds it in WORLDS.
    """

    number: int
    rank: int
    size: int

    def run(self, operation: str, buffer: np.ndarray, peers: tuple[int, int]) -> None: ...


class Solitary:
    """A world of one rank, on which the rows are tested like any other."""

    number, rank, size = -1, 0, 1

    def run(self, operation: str, buffer: np.ndarray, peers: tuple[int, int]) -> None:
        """Nothing to do."""

    def __repr__(self) -> str:
        return "rank 0 of 1"


SOLITARY = Solitary()
WORLDS: weakref.WeakValueDictionary[int, Ranks] = weakref.WeakValueDictionary()
NO_PEERS = (-1, -1)


def collective(*, takes: str, gives: str, shape: Callable, transpose: Callable, lowering: Any, samples: Callable, batch: Callable,
               silent: bool = False) -> Callable[[Callable], Primitive]:
    """A linear row of one argument with the parameter `ranks`; transpose(y_bar, **params). silent: it sends nothing."""
    def decorate(body: Callable) -> Primitive:
        row = linear(shape=shape, transposes=(lambda y_bar, x, **params: transpose(y_bar, **params),), batch=batch, lowering=lowering,
                     samples=samples, takes=takes, gives=gives)(body)
        row.effects = frozenset() if silent else COMMUNICATION
        return row
    return decorate


def _number(name: str, x: Aval) -> Aval:
    """The aval of a value that ranks may add."""
    if x.dtype.kind == "b":
        raise DtypeError(explain(f"{name}: {x} cannot be added over ranks.", remedy="Convert it first: x.astype(np.int32)."))
    return x.strong()


def _same(x: Aval, **params: Any) -> Aval:
    return x.strong()


def _front(row: Any, args: tuple, axes: tuple, **params: Any) -> tuple:
    """The batching rule of a row that keeps the shape."""
    return bind(row, *args, **params), axes[0]


def _added(x: Aval, *, ranks: Ranks) -> Aval:
    return Aval((ranks.size, *x.shape), x.dtype)


def _removed(name: str) -> Callable:
    def shape(x: Aval, *, ranks: Ranks) -> Aval:
        if x.ndim == 0 or x.shape[0] != ranks.size:
            raise ShapeError(explain(f"{name}: {x} has not one entry on axis 0 for each of {ranks.size} ranks.",
                                     remedy=f"Reshape it to ({ranks.size}, ...): axis 0 is cut into one piece for each rank."))
        return (_number(name, x) if name == "reduce_scatter" else x.strong())._replace(shape=x.shape[1:])
    return shape


def _adding(row: Any, args: tuple, axes: tuple, **params: Any) -> tuple:
    return bind(row, *args, **params), axes[0] + 1


def _removing(row: Any, args: tuple, axes: tuple, **params: Any) -> tuple:
    return bind(row, move_axis(args[0], axes[0], 1), **params), 0


def _filled(x: Any) -> np.ndarray:
    """A contiguous copy, an array even if x is a scalar."""
    return np.array(x, order="C")


def _samples(**params: Any) -> Callable:
    return samples_of(*[unary_samples(size, ranks=SOLITARY, **params) for size in ((2, 3), (), (0, 2))])


_entries = samples_of(*[unary_samples(size, ranks=SOLITARY) for size in ((1, 2, 3), (1,), (1, 0, 2))])


# ------------------------------------------------------------------------------------------------ native code


def _in_place(operation: str, peers: Callable = lambda ranks, **params: NO_PEERS) -> General:
    """y := x, then the operation on y."""
    def lower(e: Any, inputs: tuple, outputs: tuple, *, ranks: Ranks, **params: Any) -> None:
        e.copy(inputs[0], outputs[0])
        e.communicate(operation, outputs[0], ranks, peers(ranks, **params))
    return General(lower)


def _lower_gather(e: Any, inputs: tuple, outputs: tuple, *, ranks: Ranks) -> None:
    y, = outputs
    e.copy(inputs[0], _entry(y, ranks.rank))
    e.communicate("all_gather", y, ranks, NO_PEERS)


def _lower_scatter(e: Any, inputs: tuple, outputs: tuple, *, ranks: Ranks) -> None:
    x, = inputs
    whole = e.temporary(x.dtype, x.shape)
    e.copy(x, whole)
    e.communicate("reduce_scatter", whole, ranks, NO_PEERS)
    e.copy(_entry(whole, ranks.rank), outputs[0])


def _lower_keep(e: Any, inputs: tuple, outputs: tuple, *, ranks: Ranks, root: int) -> None:
    if ranks.rank == root:
        e.copy(inputs[0], outputs[0])
    else:
        e.fill(outputs[0], 0)


def _lower_reduce(e: Any, inputs: tuple, outputs: tuple, *, ranks: Ranks, root: int) -> None:
    whole = e.temporary(inputs[0].dtype, inputs[0].shape)
    e.copy(inputs[0], whole)
    e.communicate("reduce", whole, ranks, (root, -1))
    _lower_keep(e, (whole,), outputs, ranks=ranks, root=root)


def _entry(y: Any, k: int) -> Any:
    """y[k] of a reference to memory."""
    return y.sliced(((k, k + 1, 1), *((0, n, 1) for n in y.shape[1:]))).reshaped(y.shape[1:])


_SAME_PLACE = Strided(lambda offset, shape, strides, **params: (offset, shape, strides))


# ------------------------------------------------------------------------------------------------ sums over ranks


@collective(takes=VARYING, gives=REPLICATED, shape=lambda x, ranks: _number("all_reduce", x), batch=_front, samples=_samples(),
            transpose=lambda y_bar, ranks: bind(replicate_to_varying, y_bar, ranks=ranks), lowering=_in_place("all_reduce"))
def all_reduce(x, *, ranks):
    """y = sum of x over the ranks, known to all of them."""
    y = _filled(x)
    ranks.run("all_reduce", y, NO_PEERS)
    return y[()]


@collective(takes=REPLICATED, gives=VARYING, shape=_same, batch=_front, samples=_samples(), silent=True,
            transpose=lambda y_bar, ranks: bind(all_reduce, y_bar, ranks=ranks), lowering=_SAME_PLACE)
def replicate_to_varying(x, *, ranks):
    """y = x: from here on each rank uses its copy by itself, so its cotangents are summed over the ranks."""
    return x


@collective(takes=VARYING, gives=VARYING, shape=_added, batch=_adding, samples=_samples(),
            transpose=lambda y_bar, ranks: bind(reduce_scatter, y_bar, ranks=ranks), lowering=General(_lower_gather))
def all_gather(x, *, ranks):
    """y[r] = x of rank r; a rank's use of y is its own, so its transpose sums over the ranks."""
    return _gathered(x, ranks)


@collective(takes=VARYING, gives=VARYING, shape=_removed("reduce_scatter"), batch=_removing, samples=_entries,
            transpose=lambda y_bar, ranks: bind(all_gather, y_bar, ranks=ranks), lowering=General(_lower_scatter))
def reduce_scatter(x, *, ranks):
    """y = sum over the ranks of their x[r], on rank r."""
    y = _filled(x)
    ranks.run("reduce_scatter", y, NO_PEERS)
    return y[ranks.rank].copy()[()]


@collective(takes=VARYING, gives=REPLICATED, shape=_added, batch=_adding, samples=_samples(),
            transpose=lambda y_bar, ranks: bind(own_entry, y_bar, ranks=ranks), lowering=General(_lower_gather))
def all_gather_replicated(x, *, ranks):
    """y[r] = x of rank r, used by all ranks alike: its transpose takes y_bar[r] on rank r, and sends nothing."""
    return _gathered(x, ranks)


@collective(takes=REPLICATED, gives=VARYING, shape=_removed("own_entry"), batch=_removing, samples=_entries, silent=True,
            transpose=lambda y_bar, ranks: bind(all_gather_replicated, y_bar, ranks=ranks),
            lowering=Strided(lambda offset, shape, strides, ranks: (offset + ranks.rank * strides[0], shape[1:], strides[1:])))
def own_entry(x, *, ranks):
    """y = x[r] on rank r."""
    return x[ranks.rank]


def _gathered(x: Any, ranks: Ranks) -> np.ndarray:
    aval = aval_of(x)
    y = np.empty((ranks.size, *aval.shape), aval.dtype)
    y[ranks.rank] = x
    ranks.run("all_gather", y, NO_PEERS)
    return y


# ------------------------------------------------------------------------------------------------ one rank and the others


@collective(takes=VARYING, gives=REPLICATED, shape=_same, batch=_front, samples=_samples(root=0),
            transpose=lambda y_bar, ranks, root: bind(keep_at_root, y_bar, ranks=ranks, root=root),
            lowering=_in_place("broadcast", lambda ranks, root: (root, -1)))
def broadcast_replicated(x, *, ranks, root):
    """y = x of rank `root`, used by all ranks alike."""
    return _broadcast(x, ranks, root)


@collective(takes=REPLICATED, gives=VARYING, shape=_same, batch=_front, samples=_samples(root=0), silent=True,
            transpose=lambda y_bar, ranks, root: bind(broadcast_replicated, y_bar, ranks=ranks, root=root),
            lowering=General(_lower_keep))
def keep_at_root(x, *, ranks, root):
    """y = x on rank `root`, 0 on the others."""
    return _filled(x)[()] if ranks.rank == root else np.zeros_like(x)[()]


@collective(takes=VARYING, gives=VARYING, shape=_same, batch=_front, samples=_samples(root=0),
            transpose=lambda y_bar, ranks, root: bind(reduce_to_root, y_bar, ranks=ranks, root=root),
            lowering=_in_place("broadcast", lambda ranks, root: (root, -1)))
def broadcast_from_root(x, *, ranks, root):
    """y = x of rank `root`; a rank's use of y is its own, so its transpose sums over the ranks."""
    return _broadcast(x, ranks, root)


@collective(takes=VARYING, gives=VARYING, shape=lambda x, ranks, root: _number("reduce_to_root", x), batch=_front, samples=_samples(root=0),
            transpose=lambda y_bar, ranks, root: bind(broadcast_from_root, y_bar, ranks=ranks, root=root), lowering=General(_lower_reduce))
def reduce_to_root(x, *, ranks, root):
    """y = sum of x over the ranks on rank `root`, 0 on the others."""
    y = _filled(x)
    ranks.run("reduce", y, (root, -1))
    return y[()] if ranks.rank == root else np.zeros_like(y)[()]


def _broadcast(x: Any, ranks: Ranks, root: int) -> Any:
    y = _filled(x)
    ranks.run("broadcast", y, (root, -1))
    return y[()]


# ------------------------------------------------------------------------------------------------ pairs


def peers_of(ranks: Ranks, pairs: tuple) -> tuple[int, int]:
    """(to whom, from whom) of this rank among pairs (sender, receiver); -1: nobody."""
    to = [receiver for sender, receiver in pairs if sender == ranks.rank]
    source = [sender for sender, receiver in pairs if receiver == ranks.rank]
    return (to or [-1])[0], (source or [-1])[0]


@collective(takes=VARYING, gives=VARYING, shape=_same, batch=_front, samples=_samples(pairs=((0, 0),)),
            transpose=lambda y_bar, ranks, pairs: bind(send_receive, y_bar, ranks=ranks, pairs=tuple((b, a) for a, b in pairs)),
            lowering=_in_place("send_receive", peers_of))
def send_receive(x, *, ranks, pairs):
    """y = x of the rank that sends to this one among pairs (sender, receiver), 0 if none does; its transpose sends back."""
    y = _filled(x)
    ranks.run("send_receive", y, peers_of(ranks, pairs))
    return y[()]
