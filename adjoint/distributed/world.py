"""The world this process belongs to: a rank under mpiexec, srun or the like, or alone.

Invariant: an MPI binding is imported only where a launcher has left its mark in the environment, and only here and in mpi.py; a rank that
raises, or exits with another status than 0, ends the whole world. May import: errors, compiler, communicator, status. Read next: mpi.py.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any

from ..compiler.threads import share_cores
from ..errors import CommunicationError, explain
from . import status
from .communicator import Alone, Communicator
from .status import LEAVE

MARKS = ("PMI_RANK", "PMI_SIZE", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE")       # what MPI launchers set for every rank
LOCAL = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")                   # how many of its processes are on this machine
SPEAK = 0.3             # seconds in which other ranks with the same error say so, before all are ended
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")        # how many processes a launcher has started


def launched() -> bool:
    """Whether an MPI launcher has started this process.

    >>> launched()
    False
    """
    return any(os.environ.get(name) for name in MARKS)


def world() -> Communicator:
    """The communicator of all ranks: MPI's under mpiexec, else that of a process alone.

    From here on an exception that nothing catches ends all ranks, after its traceback, and compiled calls use this rank's part of the
    machine's cores, unless ADJOINT_THREADS or adjoint.threads say otherwise. Raises CommunicationError where the launcher has
    started more processes than MPI has ranks: each would train by itself and believe to be rank 0.

    >>> world().size
    1
    """
    if not launched():
        _check_size(1)
        return Alone()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):      # whole lines, since a launcher collects what all ranks write
            stream.reconfigure(line_buffering=True, write_through=False)
    communicator = importlib.import_module(f"{__package__}.mpi").MpiCommunicator()
    _check_size(communicator.size)
    _end_together(communicator)
    status.join(communicator.rank)
    share_cores(max([int(os.environ[name]) for name in LOCAL if os.environ.get(name, "").isdecimal()], default=1))
    return communicator


def _check_size(size: int) -> None:
    """Refuse n times "rank 0 of 1"."""
    for name in SIZES:
        started = os.environ.get(name, "")
        if size == 1 and started.isdecimal() and int(started) > 1:
            raise CommunicationError(explain(
                f"the launcher has started {started} processes ({name}), but MPI's world has 1 rank: it is not of this launcher.", where="",
                remedy="Start with the mpiexec of the MPI that is installed beside Python, or: srun --mpi=pmi2 (see srun --mpi=list)."))


def _end_together(communicator: Any) -> None:
    """Let an uncaught exception end every rank: the others would wait for this one for ever."""
    before = sys.excepthook
    if getattr(before, "ends_the_world", False):
        return
    _end_at_exit(communicator)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        code = 130 if issubclass(kind, KeyboardInterrupt) else 1
        status.leave_with(code)
        time.sleep(SPEAK)
        communicator.abort(code)
    hook.ends_the_world = True
    sys.excepthook = hook


def _end_at_exit(communicator: Any) -> None:
    """Let sys.exit("no data") or sys.exit(3) of one rank end every rank too, unless all leave so: no excepthook is told of it.

    What was caught before the program's end does not count: a rank that has exchanged messages since has gone on.
    """
    leave, asked, together = sys.exit, [0, 0], communicator.leaving()

    def exit(code: Any = None, /) -> None:
        if threading.current_thread() is threading.main_thread():
            asked[:] = (code & 0xFF if isinstance(code, int) else int(code is not None)), communicator.counts.rounds
        leave(code)

    def end() -> None:
        code, rounds = asked
        if code and rounds == communicator.counts.rounds:
            status.leave_with(code)
            if not together(LEAVE):
                communicator.abort(code)
    sys.exit = exit
    atexit.register(end)
