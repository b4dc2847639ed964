"""Ranks under MPI: an exchange is a nonblocking send and receive, polled with a deadline; only buffer calls, never pickled objects.

Invariant: messages are cut below 2^31 bytes; waiting spins shortly, then sleeps between looks. May import: errors, communicator, mpi4py.
Read next: collectives.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import CommunicationError, explain
from .communicator import Counts
from .mpi_blocks import Blocks
from .mpi_mail import Mail, pause
from .mpi_mail import pieces as _pieces
from .mpi_stream import dtype_of, whole_tag

SPINS = 2000            # looks without a pause
SPINS_ALONE = 20        # of these, looks before the core is offered to others between two: there may be more ranks than cores
_give_way = getattr(os, "sched_yield", lambda: time.sleep(0.0))
SECONDS = 600.0         # deadline of an exchange


def _binding() -> Any:
    """mpi4py's MPI, initialized for calls from any thread: importing it joins the world, so it happens here and not before."""
    try:
        import mpi4py
        mpi4py.rc.thread_level = "multiple"
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:        # RuntimeError: the binding is there, the MPI library is not
        raise CommunicationError(explain(
            f"this process was started as a rank of an MPI world, but MPI cannot be loaded: {error}.", where="",
            remedy="Install it: pip install 'adjoint[mpi]'. (On Windows that is impi-rt: the package mpich is empty there.)")) from error
    return MPI


class MpiCommunicator(Mail, Blocks):
    """This process's rank in MPI's world. seconds: how long an exchange may take before CommunicationError names who was waited for."""

    def __init__(self, *, seconds: float = SECONDS) -> None:
        mpi = _binding()
        self._comm, self._test, self._failure = mpi.COMM_WORLD, mpi.Request.Testall, mpi.Exception
        self._statuses: list[Any] = []                      # of the requests that were done last; mpi4py makes as many as it needs
        self._too_long = lambda status: mpi.Get_error_class(status.Get_error()) == mpi.ERR_TRUNCATE
        self.rank, self.size, self.counts, self.seconds = self._comm.Get_rank(), self._comm.Get_size(), Counts(), seconds
        self.spins = SPINS
        self._prepare_mail(mpi)
        self._prepare_blocks(mpi)

    def exchange(self, sent: np.ndarray | None, to: int, received: np.ndarray | None, source: int) -> None:
        """Both directions at once."""
        requests, others, expected = [], [], [] if received is None else _pieces(received)
        if received is not None:
            requests += [self._comm.Irecv(piece, source) for piece in expected]
            others += [source] * len(requests)
        if sent is not None:
            requests += [self._comm.Isend(piece, to, whole_tag(sent.dtype)) for piece in _pieces(sent)]
            others += [to] * (len(requests) - len(others))
        self._wait(requests, others)
        for piece, status in zip(expected, self._statuses, strict=False):
            if status.Get_count() != piece.nbytes:
                raise self._other_size(f"{piece.nbytes} bytes from rank {source}, found {status.Get_count()}")
            if status.Get_tag() != whole_tag(received.dtype):
                raise self._other_size(f"{received.dtype} from rank {source}, found {dtype_of(status.Get_tag())}")
        self.counts.note(sent, to, received)

    def abort(self, status: int) -> None:
        """End every rank of the world now."""
        self._comm.Abort(status)

    def leaving(self) -> Callable[[float], bool]:
        """A collective, for the start: gives together(seconds), which says whether every rank calls it within so many seconds."""
        apart = self._comm.Dup()            # a world in which nothing else is sent: what others wait for there is not mixed up with this

        def together(seconds: float) -> bool:
            everybody, deadline = apart.Ibarrier(), time.monotonic() + seconds
            while not everybody.Test():
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
            return True
        return together

    def _all_done(self, requests: list) -> bool:
        try:
            return self._test(requests, self._statuses)
        except self._failure as error:                      # MPI's own say nothing that helps
            if any(map(self._too_long, self._statuses[:len(requests)])):
                raise self._other_size("a shorter message than was sent") from None
            raise CommunicationError(explain(
                f"rank {self.rank} of {self.size} has lost a rank, in exchange {self.counts.rounds} ({' '.join(str(error).split())[:60]}).",
                remedy="See why that rank has ended: its own message says so, or a signal killed it.")) from None

    def _other_size(self, what: str) -> CommunicationError:
        return CommunicationError(explain(f"rank {self.rank} of {self.size} expected {what}, in exchange {self.counts.rounds}.",
                                          remedy="Give the same model and the same sizes to every rank."))

    def _wait(self, requests: list, others: Sequence[int | str]) -> None:
        """Until all requests are done; others: the rank, or ranks, at the other end of each."""
        for look in range(self.spins):
            if self._all_done(requests):
                return
            if look >= SPINS_ALONE:
                _give_way()
        began = time.monotonic()
        while not self._all_done(requests):
            waited = time.monotonic() - began
            if waited > self.seconds:
                late = sorted({other for request, other in zip(requests, others, strict=True) if not request.Get_status()})
                if not late:
                    continue
                raise CommunicationError(explain(
                    f"rank {self.rank} of {self.size} has waited {self.seconds:g} s for rank {', '.join(map(str, late))}, in exchange "
                    f"{self.counts.rounds}.", remedy="See what that rank is doing: it has not entered this exchange, or it has died."))
            time.sleep(pause(waited))
