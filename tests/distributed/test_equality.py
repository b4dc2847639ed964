"""Training on n ranks is training in one process, on real digits: every strategy, n = 1, 2, 3, 4, and a world over MPI.

| after 200 steps, against one process   | data | split | stages | server | exact_reduce |
|----------------------------------------|------|-------|--------|--------|--------------|
| float32 within 1e-6 after one step     | n    | n     | n      | n      | n            |
| float32 accuracy within 0.3 points     | n    | n     | n      | n      | n            |
| the same bits for every n              |      |       |        |        | n            |
| float64 within 1e-10, three MPI ranks  | here | here  | here   | here   | bits, here   |
| float64 within 1e-10, other examples   | n    | n     | n      | n      |              |

n: by threads; what it counts is said in equality_ranks.py. The last row is held in test_data_parallel.py, test_split.py, test_stages.py
and test_parameter_server.py. Only data parallelism has sums that do not round, so only its bits do not depend on n.
"""

import functools
import re

import equality_ranks
import numpy as np
import pytest
import worlds
from equality_ranks import STEPS, accuracy, distance

from adjoint.distributed import run_threads

every_strategy = pytest.mark.parametrize("strategy", equality_ranks.STRATEGIES)
every_n = pytest.mark.parametrize("n", [1, 2, 3, 4])


@functools.cache
def one_process(strategy):
    """What one process has after the first step, and after the last."""
    return equality_ranks.trained(strategy, None, np.float32)


@functools.cache
def on_threads(strategy, n):
    """What every rank has after the first step, and after the last."""
    return run_threads(n + (strategy == "server"), lambda c: equality_ranks.trained(strategy, c, np.float32), seconds=60)


@every_n
@every_strategy
def test_a_step_is_the_same_and_the_accuracy_at_the_end(strategy, n):
    first, last = one_process(strategy)
    right = accuracy(last)
    assert right > 93
    for found_first, found_last in on_threads(strategy, n):
        assert all(a.dtype == np.float32 for a in found_last)
        assert distance(found_first, first) <= 1e-6
        assert abs(accuracy(found_last) - right) <= 0.3, f"{accuracy(found_last):.2f} % against {right:.2f} %"


def test_exact_sums_end_with_the_same_bits_for_every_n():
    ends = [found for n in (1, 2, 3, 4) for _, found in on_threads("exact", n)]
    assert len(ends) == 10 and len({b"".join(a.tobytes() for a in arrays) for arrays in ends}) == 1


def test_without_exact_sums_the_bits_differ():
    two, three = (on_threads("data", n)[0][1] for n in (2, 3))
    assert any(a.tobytes() != b.tobytes() for a, b in zip(two, three, strict=True))


@worlds.one_runtime
def test_over_mpi(runtime):
    status, output = worlds.run(runtime.ranks(3, equality_ranks.__file__), seconds=150)
    found = re.findall(r"rank \d: (data|split|stages|server) (\S+)$", output, re.MULTILINE)
    assert status == 0 and len(found) == 12 and output.count("exact same bits") == 3, output
    assert all(float(far) <= 1e-10 for _, far in found), f"after {STEPS} steps: {output}"
