"""The world this process belongs to: a rank under mpiexec, srun or the like, or alone.

Invariant: an MPI binding is imported only where a launcher has left its mark in the environment, and only here and in mpi.py.
May import: errors, communicator. Read next: mpi.py.
"""

from __future__ import annotations

import importlib
import os
import sys

from .communicator import Alone, Communicator

MARKS = ("PMI_RANK", "PMI_SIZE", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE")       # what MPI launchers set for every rank


def launched() -> bool:
    """Whether an MPI launcher has started this process.

    >>> launched()
    False
    """
    return any(os.environ.get(name) for name in MARKS)


def world() -> Communicator:
    """The communicator of all ranks: MPI's under mpiexec, else that of a process alone.

    >>> world().size
    1
    """
    if not launched():
        return Alone()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):      # whole lines, since a launcher collects what all ranks write
            stream.reconfigure(line_buffering=True, write_through=False)
    return importlib.import_module(f"{__package__}.mpi").MpiCommunicator()
