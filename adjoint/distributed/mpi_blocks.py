"""Sums under MPI: blocks that arrive are added up while the next are on their way, rings are streams, and the library's own all-reduce.

Invariant: what a message is cut into depends on its size alone, so both ends cut alike; waiting has a deadline, as in an exchange.
May import: errors, communicator, mpi_stream. Read next: mpi.py, which has these methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, explain
from .communicator import Counts
from .mpi_stream import DEPTH, Stream, dtype_number, tag_of, whole_tag

BLOCK = 1 << 20         # bytes that are combined while the next arrive: few enough to stay in the cache


class Blocks:
    """The part of a communicator that adds up what it receives."""

    rank: int
    size: int
    counts: Counts
    exchange: Callable[..., None]
    _comm: Any
    _all_done: Callable[[list], bool]
    _wait: Callable[[list, Sequence[int | str]], None]
    _statuses: list[Any]
    _other_size: Callable[[str], Exception]

    def _prepare_blocks(self, mpi: Any) -> None:
        name, version = mpi.get_vendor()
        self.kind = f"{name} {'.'.join(map(str, version))}"
        self._in_place, self._own = mpi.IN_PLACE, {np.add: mpi.SUM, np.maximum: mpi.MAX, np.minimum: mpi.MIN, np.multiply: mpi.PROD}
        self._arriving = np.empty((DEPTH, BLOCK), np.uint8)

    def exchange_combining(self, sent: np.ndarray | None, to: int, target: np.ndarray | None, source: int, combine: np.ufunc) -> None:
        """An exchange whose arriving array is combined into `target`, block by block; both ends of a message call this, not `exchange`.

        sent may be target itself (a block is combined only when it has left) or apart from it; one message to the counts.
        """
        if max(0 if x is None else x.nbytes for x in (sent, target)) < BLOCK:           # less than a block is one message: as an exchange
            place = None if target is None else self._arriving[0, :target.nbytes].view(target.dtype)
            self.exchange(sent, to, place, source)
            if target is not None:
                combine(target, place, out=target)
            return
        size = BLOCK // (target if sent is None else sent).itemsize
        parts = [None if x is None else [x[k:k + size] for k in range(0, x.size, size)] or [x] for x in (sent, target)]
        total = max(len(each) for each in parts if each is not None)
        ahead = min(DEPTH, total) - 1
        waiting: list[tuple[list, list[int], np.ndarray | None, np.ndarray | None]] = []
        for k in range(total + ahead):
            if k < total:
                waiting.append(self._begin(k, parts, to, source, _tag(sent)))
            if k >= ahead:
                requests, others, place, part = waiting[k - ahead]
                self._wait(requests, others)
                if part is not None:
                    self._check(part.nbytes, _tag(target), source)
                    combine(part, place, out=part)
        self.counts.note(sent, to, target)

    def _check(self, size: int, tag: int, source: int) -> None:
        """Refuse the block that has come last, the first of the requests waited for, if it is none of such a size and of such an array."""
        found = self._statuses[0]
        if found.Get_count() != size:
            raise self._other_size(f"{size} bytes from rank {source}, found {found.Get_count()}")
        if found.Get_tag() != tag:
            raise self._other_size(f"a block of an array as large as its own from rank {source}, found one of another array")

    def _begin(self, k: int, parts: list, to: int, source: int, tag: int) -> tuple[list, list[int], np.ndarray | None, np.ndarray | None]:
        """Start the k-th block in both directions: its requests, whom they wait for, where it arrives, and what that is combined into."""
        sent, target = (None if each is None or k >= len(each) else each[k] for each in parts)
        requests, place = [], None
        others = [rank for rank, each in ((source, target), (to, sent)) if each is not None]
        if target is not None:
            place = self._arriving[k % DEPTH].view(target.dtype)[:target.size]
            requests.append(self._comm.Irecv(place.view(np.uint8), source))
        if sent is not None:
            requests.append(self._comm.Isend(sent.view(np.uint8), to, tag))
        return requests, others, place, target

    def pass_on(self, turns: Sequence[Any], buffer: np.ndarray, combine: np.ufunc) -> None:
        """Rounds that each send what the one before it brought, as one stream of blocks; every rank of the ring calls this."""
        Stream(self._comm, turns, buffer, self._arriving, self._all_done, self._wait, self._check).run(combine)
        for turn in turns:
            self.counts.note(buffer[turn.sent], turn.to, buffer[turn.received])

    def all_reduce_natively(self, buffer: np.ndarray, combine: np.ufunc) -> None:
        """The library's own all-reduce, in place; polled, so that its waiting ends too.

        Raises: ConfigError for another combine than np.add, np.maximum, np.minimum and np.multiply.
        """
        if combine not in self._own:
            raise ConfigError(explain(f"all_reduce by MPI: combine is {combine}.", remedy="Choose another algorithm, for instance 'ring'."))
        code = (buffer.nbytes * 32 + dtype_number(buffer.dtype)) * len(self._own) + list(self._own).index(combine)
        limits = np.array([code, -code])                        # MPI does not see that another rank sums something else
        alike = self._comm.Iallreduce(self._in_place, limits, self._own[np.maximum])
        self._under_way = limits, buffer, self._comm.Iallreduce(self._in_place, buffer, self._own[combine])
        others = ", ".join(str(rank) for rank in range(self.size) if rank != self.rank)
        self._wait([alike], [others])                           # MPI does not say who of them is late
        if limits[0] != -limits[1]:
            raise self._other_size(f"all ranks to combine {buffer.nbytes} bytes of {buffer.dtype} by {combine.__name__}")
        self._wait([self._under_way[2]], [others])
        self._under_way = ()                                    # until here MPI may write to the buffer, whatever was raised
        self.counts.rounds += 1


def _tag(message: np.ndarray | None) -> int:
    """The tag of a message's blocks; that of an exchange if there is but one, since the other end may take it for that."""
    if message is None:
        return 0
    return whole_tag(message.dtype) if message.nbytes < BLOCK else tag_of(message)
