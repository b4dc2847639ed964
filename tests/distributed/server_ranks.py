"""What ranks run in the tests of letters and of the parameter server, in threads or under mpiexec: python server_ranks.py NAME."""

import sys
import threading
import time

import numpy as np

from adjoint import nn, optim, train
from adjoint.distributed import ParameterServer, all_reduce_in_place, world
from adjoint.tree import flatten

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
        found = c.collect(source).view(np.float64)
        assert found.size == size and (found == source + size / 7).all()
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
            c.collect(1)                                        # rank 1 asks for each
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
        assert c.collect(0).size == 8
        with c.watching(0, lambda count=count: count.append(1)):
            pass
        assert len(count) == 2
    return "right"



# ------------------------------------------------------------------------------------------------ training

BATCH = 24


def network(dtype=np.float64, seed=0):
    """A small network."""
    rng = np.random.default_rng(seed)
    return nn.Sequential(nn.Linear(6, 16, rng=rng, dtype=dtype), np.tanh, nn.Linear(16, 3, rng=rng, dtype=dtype))


def examples(steps, dtype=np.float64):
    """x [steps, BATCH, 6], labels."""
    x = np.random.default_rng(1).standard_normal((steps, BATCH, 6)).astype(dtype)
    return x, np.argmax(x[..., :3] + x[..., 3:] ** 2, axis=-1)


def one_process(steps, dtype=np.float64):
    """The parameters after so many steps of one process."""
    x, y = examples(steps, dtype)
    rule, model = optim.adam(1e-2), network(dtype)
    step, state = train.make_step(nn.cross_entropy, rule, compiled=False), rule.init(model)
    for k in range(steps):
        model, state, *_ = step(model, state, x[k], y[k])
    return flatten(model)[0]


def trained(c, steps, *, dtype=np.float64, compiled=False, loss=nn.cross_entropy, **options):
    """(parameters, state, losses) of this rank after so many steps through parameter servers."""
    (x, y), rule = examples(steps, dtype), optim.adam(1e-2)
    parallel = ParameterServer(c, **options)
    model, losses = network(dtype, seed=c.rank), []             # every rank begins differently: rank 0's model is handed round
    model, state = parallel.agree(model, rule.init(model))
    step = parallel.make_step(loss, rule, compiled=compiled)
    for k in range(steps):
        model, state, value, _, _ = step(model, state, *parallel.share(x[k], y[k]))
        losses.append(float(value))
    model, state, _ = parallel.settle(model, state)
    return flatten(model)[0], flatten(state)[0], losses


def distance(found, expected):
    """The largest difference between two lists of arrays."""
    return max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))


def as_one(c):
    """All workers waited for: one process. Also with two servers, and compiled."""
    for options in ({}, {"servers": 2, "compiled": True}):
        parameters, _, _ = trained(c, 20, **options)
        assert distance(parameters, one_process(20)) < 1e-10, options
    return "right"


def policies(c):
    """Backup workers, with cancellation and without; asynchronous: all ranks end with the same model and state, and it has learned."""
    for options in ({"wait_for": 2}, {"wait_for": 2, "cancel": False}, {"wait_for": 2, "servers": 2}, {"staleness": 1},
                    {"staleness": 1, "servers": 2}, {"wait_for": 1, "compiled": True}):
        parameters, state, losses = trained(c, 40, **options)
        mine = sum(float(np.abs(a).sum()) for a in (*parameters, *state))
        sums = np.array([mine, -mine])
        assert tuple(c_maximum(c, sums)) == (mine, -mine), options
        assert losses[-1] < losses[0] or c.rank, options
    return "right"


def c_maximum(c, buffer):
    """The elementwise maximum over all ranks."""
    return all_reduce_in_place(buffer, c, combine=np.maximum)


def raises(c):
    """A worker raises in the middle of training."""
    def loss(outputs, y):
        if c.rank == c.size - 1:
            raise ValueError("out of coffee")
        return nn.cross_entropy(outputs, y)
    trained(c, 3, loss=loss)
    return "not reached"


def too_many(c):
    """More gradients wanted than there are workers: an error on every rank, before anybody waits."""
    try:
        ParameterServer(c, wait_for=c.size)
    except ValueError as error:
        return str(error).splitlines()[0]


def fewer_steps(c):
    """Workers that take fewer steps than the server."""
    trained(c, 3 if c.rank else 5)
    return "not reached by rank 0"


def other_model(c):
    """A rank with another model."""
    rule, model = optim.sgd(0.1), nn.Linear(3, 2 + (c.rank == 1), rng=np.random.default_rng(0))
    try:
        ParameterServer(c).agree(model, rule.init(model))
    except RuntimeError as error:
        return str(error).splitlines()[0]


if __name__ == "__main__":
    communicator = world()
    print(f"rank {communicator.rank} of {communicator.size}: {globals()[sys.argv[1]](communicator)}", flush=True)
