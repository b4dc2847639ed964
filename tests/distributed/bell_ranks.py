"""What ranks run in the tests of the bell under mpiexec: python bell_ranks.py."""

import statistics
import time

import numpy as np

from adjoint.distributed import world
from adjoint.distributed.mpi_mail import RUNG

TURNS = 100


def turns(c, size):
    """Seconds of each of some letters to the other rank and back."""
    found = []
    for _ in range(TURNS):
        begin = time.perf_counter()
        if c.rank == 0:
            c.post(np.ones(size), 1)
        assert c.collect(1 - c.rank).size == 8 * size
        if c.rank == 1:
            c.post(np.ones(size), 0)
        found.append(time.perf_counter() - begin)
    c.flush()
    return found


if __name__ == "__main__":
    communicator = world()
    # Who looks only every RUNG seconds needs that long for each letter.
    quick = [statistics.median(turns(communicator, size)) for size in (8, 5_000, 50_000)]
    communicator._bell.ring(communicator._bell.port)         # for nothing
    assert communicator.arrived([1 - communicator.rank], 0.0) is None
    print(f"rank {communicator.rank} of {communicator.size}: {'right' if max(quick[:2]) < RUNG else quick}", flush=True)
