"""What each rank runs under mpiexec in test_overlap.py: python overlap_ranks.py NAME; what it prints is compared."""

import itertools
import sys
import time

import numpy as np

from adjoint import nn, optim, train
from adjoint.distributed import Alone, DataParallel, Links, agree, synchronized, world
from adjoint.distributed.collectives import all_reduce_in_place
from adjoint.distributed.engine import Engine
from adjoint.distributed.linked import Linked
from adjoint.errors import CommunicationError
from adjoint.tree import flatten

SIZES = (12, 24, 24, 5)


def network(normalized):
    rng = np.random.default_rng(0)
    layers = [nn.Linear(a, b, rng=rng, dtype=np.float64) for a, b in itertools.pairwise(SIZES)]
    between = [nn.BatchNorm1d(SIZES[1], dtype=np.float64)] if normalized else []
    return nn.Sequential(layers[0], *between, np.tanh, layers[1], np.tanh, layers[2])


def train_on(c, model, **options):
    """10 steps on this rank's share of 20 examples: the parameters."""
    rule, rng = optim.adam(1e-2), np.random.default_rng(1)
    x, y = rng.standard_normal((20, SIZES[0])), rng.integers(0, SIZES[-1], 20)
    model, state = agree(c, model, rule.init(model))
    parallel = DataParallel(c, bucket_bytes=2000, **options)
    step = parallel.make_step(nn.cross_entropy, rule) if c.size > 1 else train.make_step(nn.cross_entropy, rule)
    for _ in range(10):
        model, state, *_ = step(model, state, *parallel.share(x, y))
    return [a.copy() for a in flatten(model)[0]]


def trains(c):
    """Compiled steps whose sums run beside them end as one process does; so do those with synchronized batch norm."""
    worst = 0.0
    for normalized in (False, True):
        found = train_on(c, synchronized(network(normalized), c))
        worst = max(worst, *(np.abs(a - b).max() for a, b in zip(found, train_on(Alone(), network(normalized)), strict=True)))
    return f"worst {worst:.3e}"


def overlaps(c):
    """4 slices of 50 ms slept, a sum of 40 ms on a link behind each: together they take less than one after the other."""
    engine, arrays, times = Engine(Linked(c, Links(0.0, 1e8))), [np.ones(500_000) for _ in range(4)], []
    for hidden in (True, True, False):                  # twice, since the machine may have other things to do
        engine.call("a barrier", all_reduce_in_place, np.ones(1), c)
        begin, jobs = time.perf_counter(), []
        for array in arrays:
            time.sleep(0.05)
            jobs.append(engine.sum_of(array, "a bucket"))
            if not hidden:
                jobs[-1].wait()
        for job in jobs:
            job.wait()
        times.append(time.perf_counter() - begin)
    assert all((array == c.size ** 3).all() for array in arrays)
    return "right" if min(times[:2]) < 0.85 * times[2] else f"{times}"


def late(c):
    """Rank 1 does not come: rank 0 says for whom it waits, in which bucket of which parameters."""
    model, rule = network(False), optim.sgd(0.1)
    parallel = DataParallel(c, bucket_bytes=2000)
    step, state = parallel.make_step(nn.cross_entropy, rule), rule.init(model)
    x, y = np.ones((4, SIZES[0])), np.zeros(4, int)
    model, state, *_ = step(model, state, x, y)
    c.seconds = 1.0
    if c.rank == 1:
        time.sleep(15.0)
        return "late"
    try:
        step(model, state, x, y)
    except CommunicationError as error:
        return "".join(str(error).splitlines()[:2])
    return "nothing was raised"


if __name__ == "__main__":
    communicator = world()
    print(f"rank {communicator.rank} of {communicator.size}: {globals()[sys.argv[1]](communicator)}", flush=True)
    if sys.argv[1] == "late":
        communicator.abort(3)
