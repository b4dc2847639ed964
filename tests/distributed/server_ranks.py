"""What ranks run in the tests of letters and of the parameter server, in threads or under mpiexec: python server_ranks.py NAME."""

import sys
import threading
import time

import numpy as np

from adjoint.distributed import world
from adjoint.distributed.schedules import NOBODY

SIZES = (0, 1, 1000, 300_000)                   # elements: the last is larger than what MPI sends before it is asked for


def letters(c):
    """Everybody writes to everybody; letters are taken from whoever's are there, in the order in which each was sent."""
    others = [rank for rank in range(c.size) if rank != c.rank]
    for size in SIZES:
        for other in others:
            mine = np.full(size, c.rank + size / 7)
            c.post(mine, other)
            mine[:] = -1.0                                      # it was copied
    left = {other: list(SIZES) for other in others}
    while left:
        source = c.arrived(left)
        size = left[source].pop(0)
        found = np.zeros(size)
        c.exchange(None, NOBODY, found, source)
        assert (found == source + size / 7).all()
        if not left[source]:
            del left[source]
    c.flush()
    return "right"


def nothing(c):
    """A look finds nothing, waits as long as it was told, and the communicator's own limit is an error."""
    began = time.monotonic()
    assert c.arrived([1 - c.rank], 0.0) is None and c.arrived([1 - c.rank], 0.05) is None
    assert 0.05 <= time.monotonic() - began < 5.0
    return "right"


def watched(c):
    """A callback while this rank is busy; none after the context; at once if the letter was there."""
    if c.rank == 0:
        for _ in range(3):
            c.exchange(None, NOBODY, np.zeros(1), c.arrived([1]))          # rank 1 asks for each
            time.sleep(0.02)
            c.post(np.ones(1), 1)
        c.flush()
        return "right"
    for _ in range(3):
        called, count = threading.Event(), []
        c.post(np.ones(1), 0)
        with c.watching(0, lambda called=called, count=count: (count.append(1), called.set())):
            assert called.wait(10.0)
        with c.watching(0, lambda count=count: count.append(1)):            # it lies there still
            for _ in range(1000):
                if len(count) == 2:
                    break
                time.sleep(0.005)
        c.exchange(None, NOBODY, np.zeros(1), 0)
        with c.watching(0, lambda count=count: count.append(1)):
            pass
        assert len(count) == 2
    return "right"


if __name__ == "__main__":
    communicator = world()
    print(f"rank {communicator.rank} of {communicator.size}: {globals()[sys.argv[1]](communicator)}", flush=True)
