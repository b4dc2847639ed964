"""Collectives of one rank: a schedule's rounds performed on a buffer through a communicator.

Invariant: every rank calls the same collective with a buffer of the same size and dtype; afterwards all hold the same bits.
May import: errors, checks, schedules, communicator, status. Read next: simulator.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError, DtypeError, ShapeError, explain
from . import schedules
from .checks import world_of
from .communicator import Communicator
from .profile import agreed, chosen
from .schedules import NOBODY, Round
from .status import noted

ALGORITHMS: dict[str, Callable[[int, int], Iterable[Round]]] = {
    "ring": schedules.ring, "recursive_doubling": schedules.recursive_doubling, "halving_doubling": schedules.halving_doubling,
    "tree": schedules.tree, "parameter_server": schedules.parameter_server}
# What an all-reduce may combine with: each algorithm has an order of its own, so it must be associative (up to rounding) and commutative.
COMBINES = (np.add, np.multiply, np.maximum, np.minimum, np.fmax, np.fmin, np.hypot, np.logaddexp, np.logaddexp2, np.gcd, np.lcm,
            np.logical_and, np.logical_or, np.logical_xor, np.bitwise_and, np.bitwise_or, np.bitwise_xor)
_COMBINES = f"One of {', '.join(f'np.{each.__name__}' for each in COMBINES)}."
NATIVELY = {np.add: "iufc", np.multiply: "iufc", np.maximum: "iuf", np.minimum: "iuf"}      # with kinds of dtypes: what every MPI has


class Turn(NamedTuple):
    """A round as one rank sees it."""

    to: int
    source: int
    sent: slice
    received: slice
    combines: bool


def schedule_of(algorithm: str, communicator: Communicator) -> Callable[[int, int], Iterable[Round]]:
    """The rounds of an all-reduce by name; "hierarchical" goes by the hosts of this world, which its ranks agree on once.

    >>> from adjoint.distributed import Alone
    >>> len(list(schedule_of("ring", Alone())(4, 8)))
    6
    """
    return _hierarchical(agreed(communicator).local) if algorithm == "hierarchical" else ALGORITHMS[algorithm]


@functools.cache
def _hierarchical(local: int) -> Callable[[int, int], Iterable[Round]]:
    return functools.partial(schedules.hierarchical, local=local)


@functools.lru_cache(256)
def turns(algorithm: Callable[[int, int], Iterable[Round]], n: int, size: int, rank: int) -> tuple[Turn, ...]:
    """The rounds of a schedule in which a rank takes part.

    >>> [t.to for t in turns(schedules.tree_reduce, 4, 8, 1)]
    [0]
    """
    mine = []
    for each in algorithm(n, size):
        to, source = int(each.to[rank]), int(each.source[rank])
        if to != NOBODY or source != NOBODY:
            mine.append(Turn(to, source, *(slice(int(a[rank]), int(b[rank])) for a, b in (each.sent, each.received)), each.combines))
    return tuple(mine)


def perform(rounds: Iterable[Turn], buffer: np.ndarray, communicator: Communicator, combine: np.ufunc = np.add) -> None:
    """Run a rank's rounds on its buffer, in place. A communicator that can combine what arrives by itself (blocks of it, while the next are
    on their way) does so in the rounds that combine."""
    fused = getattr(communicator, "exchange_combining", None)
    for turn in rounds:
        sent = None if turn.to == NOBODY else buffer[turn.sent]
        target = None if turn.source == NOBODY else buffer[turn.received]
        if not turn.combines:
            communicator.exchange(sent, turn.to, target, turn.source)
        elif fused is not None:
            fused(sent, turn.to, target, turn.source, combine)
        else:
            received = None if target is None else np.empty_like(target)
            communicator.exchange(sent, turn.to, received, turn.source)
            if target is not None:
                combine(target, received, out=target)


def carry_out(schedule: Callable[[int, int], Iterable[Round]], buffer: np.ndarray, communicator: Communicator,
              combine: np.ufunc = np.add) -> None:
    """This rank's rounds of a schedule on a flat buffer, in place; a ring's as one stream of blocks where the communicator can."""
    mine = turns(schedule, communicator.size, buffer.size, communicator.rank)
    if mine and schedule in schedules.RINGS and hasattr(communicator, "pass_on"):
        communicator.pass_on(mine, buffer, combine)
    else:
        perform(mine, buffer, communicator, combine)


def _flat(name: str, buffer: np.ndarray, communicator: Communicator, *, adds: bool) -> np.ndarray:
    """The buffer as one axis; adds: whether the ranks' buffers are added."""
    world_of(name, communicator)
    if not (isinstance(buffer, np.ndarray) and buffer.flags.c_contiguous and buffer.flags.writeable):
        raise ShapeError(explain(f"{name}: the buffer is {type(buffer).__name__}, expected a contiguous array that may be written.",
                                 remedy="Make one: np.ascontiguousarray(x), or x.copy()."))
    if buffer.dtype.kind not in ("iufc" if adds else "iufcb"):
        raise DtypeError(explain(f"{name}: a buffer of {buffer.dtype}, expected numbers.", remedy="Convert it: x.astype(np.float32)."))
    return buffer.reshape(-1)


@noted
def all_reduce_in_place(buffer: np.ndarray, communicator: Communicator, *, algorithm: str = "auto",
                        combine: np.ufunc = np.add) -> np.ndarray:
    """The sum of every rank's buffer, on every rank, in place; the buffer.

    algorithm: one of ALGORITHMS, "hierarchical" (by hosts) or "mpi" (the library's own); "auto": the fastest by this world's profile
    (`adjoint probe`), without one recursive doubling up to profile.SMALL bytes, halving-doubling up to MIDDLE, a ring beyond.
    combine: np.add, np.maximum, ..., one of COMBINES; with one that MPI's library has not for this dtype "auto" takes the fastest of ours.
    All ranks end with the same bits; these depend on the algorithm and on the number of ranks.
    Raises: ConfigError for another algorithm or combine; ShapeError, DtypeError for a buffer that cannot be combined in place.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(3, lambda c: all_reduce_in_place(np.array([1.0, c.rank]), c))[2]
    array([3., 3.])
    """
    flat = _flat("all_reduce_in_place", buffer, communicator, adds=combine is np.add)
    _check_combine(combine, flat)
    native = hasattr(communicator, "all_reduce_natively")
    natively = native and flat.dtype.kind in NATIVELY.get(combine, "")
    algorithm = algorithm if isinstance(algorithm, str) else repr(algorithm)
    if algorithm == "auto":
        algorithm = chosen(flat.nbytes, communicator, natively=natively)
    if algorithm == "mpi" and natively:
        communicator.all_reduce_natively(flat, combine)
    elif algorithm in (*ALGORITHMS, "hierarchical"):
        carry_out(schedule_of(algorithm, communicator), flat, communicator, combine)
    else:
        cannot = f", which has no {combine} of {flat.dtype}" if native and algorithm == "mpi" else ""
        raise ConfigError(explain(f"all_reduce_in_place: algorithm is {algorithm!r:.60}{cannot}.",
                                  remedy=f"Choose another algorithm: {', '.join(('auto', *ALGORITHMS))}."))
    return buffer


def _check_combine(combine: np.ufunc, flat: np.ndarray) -> None:
    """Refuse what would give another value by another algorithm, or none of this dtype."""
    if not (isinstance(combine, np.ufunc) and combine.nin == 2 and combine.nout == 1):
        raise ConfigError(explain(f"all_reduce_in_place: combine is {combine!r:.60}, expected a ufunc of two arrays.",
                                  remedy=_COMBINES))
    if combine not in COMBINES:
        raise ConfigError(explain(f"all_reduce_in_place: combine is {combine}; ranks are combined in any order, so it must be associative "
                                  "and commutative.", remedy=_COMBINES))
    try:
        combine(flat[:0], flat[:0], out=flat[:0])
    except TypeError:
        raise DtypeError(explain(f"all_reduce_in_place: {combine} of {flat.dtype} gives no {flat.dtype}.",
                                 remedy="Convert the buffer, for instance x.astype(np.float64), or combine with another ufunc.")) from None


@noted
def reduce_scatter_in_place(buffer: np.ndarray, communicator: Communicator) -> np.ndarray:
    """This rank's chunk of the sum, chunk number (rank + 1) mod size of `bounds(buffer.size, size)`: a view of the buffer.

    The rest of the buffer is overwritten with partial sums.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: reduce_scatter_in_place(np.array([1.0, 2.0, 3.0, 4.0]), c))
    [array([6., 8.]), array([2., 4.])]
    """
    flat = _flat("reduce_scatter_in_place", buffer, communicator, adds=True)
    carry_out(schedules.ring_reduce_scatter, flat, communicator)
    chunk, limits = (communicator.rank + 1) % communicator.size, schedules.bounds(flat.size, communicator.size)
    return flat[limits[chunk]:limits[chunk + 1]]


@noted
def all_gather_in_place(buffer: np.ndarray, communicator: Communicator) -> np.ndarray:
    """Every rank's chunk (as reduce_scatter leaves them), on every rank, in place; the buffer.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: all_gather_in_place(np.array([[0.0, 5.0], [7.0, 0.0]][c.rank]), c))[0]
    array([7., 5.])
    """
    flat = _flat("all_gather_in_place", buffer, communicator, adds=False)
    carry_out(schedules.ring_all_gather, flat, communicator)
    return buffer


@noted
def broadcast_in_place(buffer: np.ndarray, communicator: Communicator) -> np.ndarray:
    """Rank 0's buffer, on every rank, in place; the buffer.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(3, lambda c: broadcast_in_place(np.full(2, float(c.rank)), c))[2]
    array([0., 0.])
    """
    flat = _flat("broadcast_in_place", buffer, communicator, adds=False)
    carry_out(schedules.tree_broadcast, flat, communicator)
    return buffer
