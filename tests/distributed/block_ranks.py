"""What each rank runs under mpiexec in test_blocks.py: python block_ranks.py NAME."""

import os
import sys
from pathlib import Path

import msgspec
import numpy as np

from adjoint.distributed import ALGORITHMS, profile, world
from adjoint.distributed.collectives import all_gather_in_place, all_reduce_in_place, broadcast_in_place, reduce_scatter_in_place
from adjoint.distributed.probe import probe
from adjoint.errors import CommunicationError, ConfigError


def buffers(n, size):
    return np.random.default_rng(size).integers(-50, 50, (n, size)).astype(np.float64)


def blocks(c):
    """Messages of many blocks, of one, of a part of one and of none: right sums, and the counts of whole messages."""
    own = sys.modules["adjoint.distributed.mpi_blocks"]
    own.BLOCK, c._arriving = 64, np.empty((own.DEPTH, 64), np.uint8)
    for size in (0, 1, 7, 8, 9, 16, 100, 1001):
        total = buffers(c.size, size).sum(axis=0)
        for algorithm in ALGORITHMS:
            found = all_reduce_in_place(buffers(c.size, size)[c.rank].copy(), c, algorithm=algorithm)
            assert np.array_equal(found, total), (algorithm, size)
        halves = buffers(c.size, size)[c.rank].copy()
        reduce_scatter_in_place(halves, c)
        assert np.array_equal(all_gather_in_place(halves, c), total), size
    for combine, expected in ((np.maximum, c.size), (np.minimum, 1), (np.multiply, np.prod(np.arange(1, c.size + 1)))):
        assert (all_reduce_in_place(np.full(100, c.rank + 1.0), c, algorithm="ring", combine=combine) == expected).all()
    before = c.counts.rounds, c.counts.bytes_sent
    all_reduce_in_place(np.ones(840), c, algorithm="ring")
    assert (c.counts.rounds - before[0], c.counts.bytes_sent - before[1]) == (2 * (c.size - 1), 2 * (c.size - 1) * 8 * 840 // c.size)
    return "right"


def other_sizes(c):
    """Arrays of other sizes on rank 1, whose blocks are too short, or as large and fewer, or more: no silent sum, on no rank."""
    own, mpi = sys.modules["adjoint.distributed.mpi_blocks"], sys.modules["mpi4py"].MPI
    own.BLOCK, c._arriving, c.seconds = 64, np.empty((own.DEPTH, 64), np.uint8), 2.0
    for algorithm in ("ring", "halving_doubling"):
        for size in (16, 31, 48, 160):
            c._comm = mpi.COMM_WORLD.Dup()                  # what is left of the last case is not found here
            try:
                all_reduce_in_place(np.ones(32 if c.rank == 0 else size), c, algorithm=algorithm)
            except CommunicationError as error:
                said = str(error).splitlines()[0]
                # Where halves are as large, one rank alone sees it: the other waits for it in the next round.
                assert f"rank {c.rank} of 2 {'expected' if algorithm == 'ring' else ''}" in said, (algorithm, size, said)
            else:
                raise AssertionError(f"{size} elements were added to 32 by {algorithm}")
    print(f"rank {c.rank} of {c.size}: right", flush=True)
    mpi.COMM_WORLD.Barrier()
    os._exit(0)                                             # messages are left: MPI might wait for them


def other_kinds(c):
    """Arrays of as many bytes and another dtype on the last rank; to MPI's own sum also other sizes and another operation: all refuse."""
    mpi, c.seconds = sys.modules["mpi4py"].MPI, 2.0
    cases = [(algorithm, dtype, 32 // dtype.itemsize, np.add) for dtype in map(np.dtype, (np.int64, np.float32, np.uint8))
             for algorithm in ("ring", "recursive_doubling", "mpi")]
    cases += [("mpi", np.dtype(float), 1, np.add), ("mpi", np.dtype(float), 9, np.add), ("mpi", np.dtype(float), 4, np.maximum)]
    for algorithm, dtype, size, combine in cases:
        c._comm = mpi.COMM_WORLD.Dup()                      # what is left of the last case is not found here
        last = c.rank == c.size - 1
        given, by = (np.ones(size, dtype), combine) if last else (np.ones(4), np.add)
        try:
            all_reduce_in_place(given, c, algorithm=algorithm, combine=by)
        except CommunicationError as error:
            said = str(error).splitlines()[0]
            assert f"rank {c.rank} of {c.size} " in said, said
            if algorithm == "mpi":
                assert f"expected all ranks to combine {given.nbytes} bytes of {given.dtype} by {by.__name__}" in said, said
            elif algorithm == "recursive_doubling" and last and c.size == 2:
                assert f"expected {dtype} from rank 0, found float64" in said, said
        else:
            raise AssertionError(f"{size} of {dtype} were combined with float64 by {algorithm}")
    print(f"rank {c.rank} of {c.size}: right", flush=True)
    mpi.COMM_WORLD.Barrier()
    os._exit(0)                                             # messages are left: MPI might wait for them


def natively(c):
    """MPI's own all-reduce, by name and by a probe's table; what it has no operation for is refused on all ranks."""
    given = buffers(c.size, 1001)
    assert np.array_equal(all_reduce_in_place(given[c.rank].copy(), c, algorithm="mpi"), given.sum(axis=0))
    assert all_reduce_in_place(np.array([c.rank]), c, algorithm="mpi", combine=np.maximum)[0] == c.size - 1
    try:
        all_reduce_in_place(np.ones(2), c, algorithm="mpi", combine=np.hypot)
    except ConfigError as error:
        assert "another algorithm" in str(error)
    else:
        raise AssertionError("hypot was taken")
    found = probe(c, seconds=0.5)
    assert found.kind.startswith(("MPICH", "Open MPI")) and "mpi" in found.timings and len(found.ladder) > 1
    assert profile.chosen(8, c) == found.table()[0][1]
    assert (all_reduce_in_place(np.ones(2), c) == c.size).all()
    if c.rank == 0:
        kept, = [name for name in os.listdir(os.environ["ADJOINT_CACHE_DIR"]) if name.startswith("world-")]
        assert kept.startswith(f"world-{c.size}-")
        profile.save(msgspec.structs.replace(found, timings={"mpi": [(8, 1e-9)], "tree": [(8, 1.0)]}),
                     Path(os.environ["ADJOINT_CACHE_DIR"]) / kept)
    broadcast_in_place(np.ones(1), c)                       # rank 0 has written it
    profile.forget(c)
    assert profile.chosen(8, c) == "mpi" and profile.chosen(8, c, natively=False) == "tree"
    for combine, dtype in ((np.logical_or, bool), (np.maximum, np.complex128), (np.hypot, np.float64), (np.maximum, bool)):
        given = (np.arange(c.size) % 2).astype(dtype)       # MPI has no operation for these
        assert np.allclose(all_reduce_in_place(given[c.rank:c.rank + 1].copy(), c, combine=combine), combine.reduce(given)), combine
    return "right"


if __name__ == "__main__":
    communicator = world()
    print(f"rank {communicator.rank} of {communicator.size}: {globals()[sys.argv[1]](communicator)}", flush=True)
