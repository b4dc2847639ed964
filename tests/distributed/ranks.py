"""What each rank runs under mpiexec in test_mpi.py: python ranks.py NAME; the last line it prints is compared."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from adjoint.distributed import ALGORITHMS, all_gather_in_place, all_reduce_in_place, broadcast_in_place, reduce_scatter_in_place, world
from adjoint.distributed.schedules import bounds
from adjoint.errors import CommunicationError


def buffers(n, size):
    return np.random.default_rng(size).integers(-50, 50, (n, size)).astype(np.float64)


def contract(c):
    """Every collective, every algorithm, several sizes; the counts of a ring."""
    n = c.size
    for size in (0, 1, 3, 8, 1001):
        total = buffers(n, size).sum(axis=0)
        for algorithm in ALGORITHMS:
            assert np.array_equal(all_reduce_in_place(buffers(n, size)[c.rank].copy(), c, algorithm=algorithm), total), (algorithm, size)
        assert np.array_equal(broadcast_in_place(buffers(n, size)[c.rank].copy(), c), buffers(n, size)[0])
        limits, chunk, whole = bounds(size, n), (c.rank + 1) % n, np.zeros(size)
        part = reduce_scatter_in_place(buffers(n, size)[c.rank].copy(), c)
        whole[limits[chunk]:limits[chunk + 1]] = part
        assert np.array_equal(all_gather_in_place(whole, c), total)
    before = c.counts.rounds, c.counts.bytes_sent
    all_reduce_in_place(np.ones(840), c, algorithm="ring")
    assert (c.counts.rounds - before[0], c.counts.bytes_sent - before[1]) == (2 * (n - 1), 2 * (n - 1) * 8 * 840 // n)
    return "right"


def lonely(c):
    """A rank that waits for another that does not come."""
    if c.rank == 0:
        c.seconds = 0.3
        all_reduce_in_place(np.ones(4), c)
    return "not reached by rank 0"


def absent(c):
    """The last of three does not come: the first, which also sends to the second, waits for the last alone."""
    c.seconds = 0.3 if c.rank == 0 else 20.0
    if c.rank < 2:
        c.exchange(np.ones(4), (c.rank + 1) % 3, np.empty(4), (c.rank - 1) % 3)
    time.sleep(20.0 * (c.rank > 0))
    return "not reached by rank 0"


def dies(c):
    """A rank is killed while the other waits for it."""
    if c.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        all_reduce_in_place(np.ones(4), c)
    except CommunicationError as error:
        return f"told: {error}"
    return "not reached"


def pieces(c):
    """Messages longer than the largest piece arrive whole, also where the last piece is short."""
    sys.modules["adjoint.distributed.mpi_mail"].PIECE, other = 1000, 1 - c.rank
    sent, received = np.arange(1001.0) + c.rank, np.zeros(1001)
    c.exchange(sent, other, received, other)
    assert np.array_equal(received, np.arange(1001.0) + other)
    return "right"


def interfaces():
    return [line.partition(":")[0].strip() for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]]


def waits(c):
    """Writes down the interfaces and the shared memory there are, and does not end."""
    if c.rank == 0:
        subprocess.run(["ip", "link", "add", "adjtest0", "type", "veth", "peer", "name", "adjtest1"], check=False)
    all_reduce_in_place(np.ones(1), c)
    part = Path(sys.argv[2], f"part-{c.rank}")
    part.write_text(f"{' '.join(interfaces())}\n{' '.join(os.listdir('/dev/shm'))}")
    part.rename(Path(sys.argv[2], f"rank-{c.rank}.txt"))
    time.sleep(60)


if __name__ == "__main__":
    communicator = world()
    print(f"rank {communicator.rank} of {communicator.size}: {globals()[sys.argv[1]](communicator)}", flush=True)
