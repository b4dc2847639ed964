"""Ranks under MPI: an exchange is a nonblocking send and receive, polled with a deadline; only buffer calls, never pickled objects.

Invariant: messages are cut below 2^31 bytes; waiting spins shortly, then sleeps between looks. May import: errors, communicator, mpi4py.
Read next: collectives.py.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from ..errors import CommunicationError, explain
from .communicator import Counts
from .mpi_blocks import Blocks
from .mpi_mail import Mail
from .mpi_mail import pieces as _pieces

SPINS = 2000            # looks without a pause
SPINS_ALONE = 20        # of these, looks before the core is offered to others between two: there may be more ranks than cores
PAUSE = 50e-6           # seconds between later looks
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
        self._comm, self._all_done = mpi.COMM_WORLD, mpi.Request.Testall
        self.rank, self.size, self.counts, self.seconds = self._comm.Get_rank(), self._comm.Get_size(), Counts(), seconds
        self.spins = SPINS
        self._prepare_mail(mpi)
        self._prepare_blocks(mpi)

    def exchange(self, sent: np.ndarray | None, to: int, received: np.ndarray | None, source: int) -> None:
        """Both directions at once."""
        requests = []
        if received is not None:
            requests += [self._comm.Irecv(piece, source) for piece in _pieces(received)]
        if sent is not None:
            requests += [self._comm.Isend(piece, to) for piece in _pieces(sent)]
        self._wait(requests, to if sent is not None else source)
        self.counts.note(sent, to, received)

    def abort(self, status: int) -> None:
        """End every rank of the world now."""
        self._comm.Abort(status)

    def _wait(self, requests: list, other: int) -> None:
        for look in range(self.spins):
            if self._all_done(requests):
                return
            if look >= SPINS_ALONE:
                _give_way()
        deadline = time.monotonic() + self.seconds
        while not self._all_done(requests):
            if time.monotonic() > deadline:
                raise CommunicationError(explain(
                    f"rank {self.rank} of {self.size} has waited {self.seconds:g} s for rank {other}, in exchange {self.counts.rounds}.",
                    remedy="See what that rank is doing: it has not entered this exchange, or it has died."))
            time.sleep(PAUSE)
