"""Distributed optimization: communicators, the collectives written above them, and the laws of waiting for many workers.

Invariant: algorithms are schedules of rounds, written once; a communicator only moves bytes and counts them. Nothing here imports an MPI
binding by itself. May import: L0-L5, data, train. Read next: schedules.py.
"""

from . import stragglers
from .collectives import ALGORITHMS, all_gather, all_reduce, broadcast, reduce_scatter
from .communicator import Alone, Communicator, Counts
from .data_parallel import DataParallel, agree
from .fixed_point import exact_sum
from .schedules import Round
from .simulator import Links, Simulator
from .threads import run_threads
from .world import world

__all__ = ["ALGORITHMS", "Alone", "Communicator", "Counts", "DataParallel", "Links", "Round", "Simulator", "agree", "all_gather",
           "all_reduce", "broadcast", "exact_sum", "reduce_scatter", "run_threads", "stragglers", "world"]
