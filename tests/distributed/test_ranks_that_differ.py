"""Ranks that train otherwise than the others are told so at the end of the epoch, on every rank; ranks that do not are left alone."""

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.distributed import DataParallel, run_threads
from adjoint.errors import CommunicationError

X = np.random.default_rng(0).standard_normal((32, 4))
Y = np.argmax(X, axis=1)


def fitted(c, rule):
    model = nn.mlp(4, 5, 4, activation=nn.relu, rng=np.random.default_rng(0), dtype=np.float64)
    return train.fit(model, (X, Y), optimizer=rule, epochs=2, batch=16, parallel=DataParallel(c), compiled=False)


@pytest.mark.parametrize("make", [optim.sgd, optim.adam])
def test_another_rate_on_a_rank_is_told_after_the_epoch(make):
    def program(c):
        with pytest.raises(CommunicationError, match=r"the ranks hold different models: the sum of \|model\."):
            fitted(c, make(1e-3 * (1 + (c.rank == 2))))
        return True
    assert run_threads(3, program, seconds=20) == [True] * 3
    assert [done.steps for done in run_threads(3, lambda c: fitted(c, make(1e-3)), seconds=20)] == [4] * 3


def test_how_far_ranks_may_be_apart():
    def program(c, step):
        return DataParallel(c).settle({"w": np.array([1.0, -1.0 - step * c.rank])}, {"count": 3}, 0.5)[2]
    assert run_threads(2, lambda c: program(c, 1e-6), seconds=20) == [0.5, 0.5]
    with pytest.raises(CommunicationError, match=r"\|model\.w\| is from 2 to 2\.001"):
        run_threads(2, lambda c: program(c, 1e-3), seconds=20)
    with pytest.raises(CommunicationError, match=r"\|optimizer\.count\| is from 3 to 4"):
        run_threads(2, lambda c: DataParallel(c).settle(np.ones(2), {"count": 3 + c.rank}), seconds=20)


@pytest.mark.parametrize("bad", [np.nan, np.inf, np.finfo(np.float64).max])
def test_a_model_that_is_not_finite_on_some_ranks(bad):
    """The largest number twice: a sum beyond it. What is so on every rank passes: ranks that all have it do not differ."""
    def program(c, where):
        return DataParallel(c).settle({"w": np.full(2, bad if c.rank in where else 1.0)}, ())[2]
    for where in ((0,), (1,), (0, 2)):
        with pytest.raises(CommunicationError, match=r"\|model\.w\| is from 2 to inf or NaN"):
            run_threads(3, lambda c, where=where: program(c, where), seconds=20)
    assert run_threads(3, lambda c: program(c, (0, 1, 2)), seconds=20) == [0.0] * 3
