"""Several servers, one of which is slow: rank 0 waits for its part of every version."""

import threading
import time

import numpy as np
from server_ranks import distance, examples, network, one_process

from adjoint import nn, optim
from adjoint.distributed import ParameterServer, run_threads
from adjoint.tree import flatten


def test_rank_0_has_every_servers_part_after_every_step():
    rule = optim.adam(1e-2)

    def update(gradients, state, parameters):
        if threading.current_thread().name == "rank 1":
            time.sleep(0.05)
        return rule.update(gradients, state, parameters)
    slow, steps = optim.Optimizer(rule.init, update), 3

    def program(c):
        (x, y), parallel, found = examples(steps, np.float64), ParameterServer(c, servers=2), []
        model = network(np.float64, seed=c.rank)
        model, state = parallel.agree(model, slow.init(model))
        step = parallel.make_step(nn.cross_entropy, slow, compiled=False)
        for k in range(steps):
            model, state, *_ = step(model, state, *parallel.share(x[k], y[k]))
            found.append([a.copy() for a in flatten(model)[0]])
        parallel.settle(model, state)
        return found
    found = run_threads(4, program, seconds=30)[0]
    assert max(distance(found[k], one_process(k + 1)) for k in range(steps)) <= 1e-10
