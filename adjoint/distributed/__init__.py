"""Distributed optimization: communicators, the collectives written above them, and the laws of waiting for many workers.

Invariant: algorithms are schedules of rounds, written once; a communicator only moves bytes and counts them. Nothing here imports an MPI
binding by itself. May import: L0-L5, data, train. Read next: schedules.py.
"""

from . import stragglers
from .collectives import ALGORITHMS, all_gather_in_place, all_reduce_in_place, broadcast_in_place, reduce_scatter_in_place
from .communicator import Alone, Communicator, Counts
from .data_parallel import DataParallel, agree
from .fixed_point import exact_sum
from .parameter_server import ParameterServer
from .pipeline import Pipeline, bubble
from .schedules import Round
from .simulator import Links, Simulator
from .split import ColumnLinear, RowLinear, make_split_step, varying_leaves
from .sync_norm import SyncBatchNorm, synchronized
from .threads import run_threads
from .values import (
    all_gather,
    all_reduce,
    broadcast,
    is_varying,
    own_chunk,
    per_rank,
    reduce_scatter,
    replicate_to_varying,
    send_receive,
)
from .world import world

__all__ = ["ALGORITHMS", "Alone", "ColumnLinear", "Communicator", "Counts", "DataParallel", "Links", "ParameterServer", "Pipeline", "Round",
           "RowLinear", "Simulator", "SyncBatchNorm", "agree", "all_gather", "all_gather_in_place", "all_reduce", "all_reduce_in_place",
           "broadcast", "broadcast_in_place", "bubble", "exact_sum", "is_varying", "make_split_step", "own_chunk", "per_rank",
           "reduce_scatter", "reduce_scatter_in_place", "replicate_to_varying", "run_threads", "send_receive", "stragglers", "synchronized",
           "varying_leaves", "world"]
