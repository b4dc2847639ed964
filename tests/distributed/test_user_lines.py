"""What goes wrong on the communication thread names the line of the user who waits for it; other programs are refused on every path."""

import re
import sys

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.distributed import DataParallel, run_threads
from adjoint.distributed.engine import Engine
from adjoint.errors import CommunicationError, ShapeError

X, Y = np.ones((24, 6)), np.zeros((24, 1))


def line():
    return sys._getframe(1).f_lineno


def network():
    return nn.Linear(6, 1, rng=np.random.default_rng(0), dtype=np.float64)


class Failing:
    """A communicator that cannot send messages of some sizes."""

    def __init__(self, inner, *sizes):
        self.inner, self.sizes, self.rank, self.size, self.counts = inner, sizes, inner.rank, inner.size, inner.counts

    def exchange(self, sent, *others):
        if sent is not None and sent.nbytes in self.sizes:
            raise CommunicationError("the cable is broken\n  Mend it.")
        self.inner.exchange(sent, *others)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_failing_sum_names_the_line_of_the_step(compiled):
    def program(c):
        rule, model = optim.sgd(0.1), network()
        step = DataParallel(Failing(c, 28, 56)).make_step(nn.squared_error, rule, compiled=compiled)          # the bucket, or half of it
        with pytest.raises(CommunicationError) as caught:
            here = line() + 1
            step(model, rule.init(model), X, Y)
        first, place, remedy = str(caught.value).split("\n")
        assert first.endswith(f"rank {c.rank} of 2, all_reduce of bucket 1 of 1 (weight..bias): the cable is broken")
        assert place == f"  at {__file__}:{here}" and remedy == "  Mend it."
    run_threads(2, program, seconds=30)


def test_who_waits_in_vain_in_fit_is_told_where_fit_was_called():
    def program(c):
        if c.rank == 1:
            return
        said = r"rank 0 of 2, .*: rank 0 has waited 0.3 s for rank 1.*\n  at .*\n  Let every"
        with pytest.raises(CommunicationError, match=said) as caught:
            here = line() + 1
            train.fit(network(), (X, Y), optimizer=optim.sgd(0.1), loss=nn.squared_error, epochs=1, parallel=DataParallel(c, timeout=0.3))
        assert f"  at {__file__}:{here}" in str(caught.value).split("\n")
    run_threads(2, program, seconds=30)


def test_every_error_of_the_package_gets_one_place_and_others_stay_as_they_are():
    def fails(error):
        raise error

    def program(c):
        engine = Engine(c)
        job = engine.start("a sum", fails, ShapeError("wrong size"))
        for _ in range(2):
            with pytest.raises(ShapeError, match=rf"^wrong size\n  at {re.escape(__file__)}:\d+$"):
                job.wait()
        with pytest.raises(ShapeError, match=r"^wrong size\n  at here:3\n  Cut it\.$"):
            engine.call("a sum", fails, ShapeError("wrong size\n  at here:3\n  Cut it."))
        with pytest.raises(ValueError, match=r"^mine$"):
            engine.call("a sum", fails, ValueError("mine"))
    run_threads(2, program, seconds=30)


def other(outputs, y):
    return nn.squared_error(np.tanh(outputs), y)


@pytest.mark.parametrize(("exact", "rows"), [(False, (12, 12)), (False, (11, 13)), (True, (12, 12))])
@pytest.mark.parametrize("compiled", [False, True])
def test_ranks_with_other_losses_are_refused_however_they_add_up(compiled, exact, rows):
    def program(c):
        rule, model = optim.sgd(0.1), network()
        step = DataParallel(c, exact_reduce=exact).make_step(other if c.rank else nn.squared_error, rule, compiled=compiled)
        with pytest.raises(CommunicationError, match="comparing the programs of all ranks: the ranks trace different programs"):
            step(model, rule.init(model), X[:rows[c.rank]], Y[:rows[c.rank]])
        return True
    assert run_threads(2, program, seconds=30) == [True, True]
