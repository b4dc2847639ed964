"""A parameter server over several trainings and epochs: it begins again, workers without a turn wait, and all ranks end together."""

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.distributed import ParameterServer, run_threads

F64 = np.float64
X = np.linspace(-1, 1, 8)[:, None]
POLICIES = [{}, {"wait_for": 1}, {"staleness": 1}, {"servers": 2}]


def line():
    return nn.Linear(1, 1, rng=np.random.default_rng(0), dtype=F64)


def deep():
    return nn.mlp(1, 3, 1, activation=np.tanh, rng=np.random.default_rng(1), dtype=F64)


def fit(parallel, model, y, **options):
    return train.fit(model, (X, y), **{"optimizer": optim.sgd(0.3), "loss": nn.squared_error, "parallel": parallel, "compiled": False,
                                       "epochs": 5, "batch": 4, **options})


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("other", [False, True])
def test_a_second_training_is_as_by_a_fresh_server(policy, other):
    def program(world, fresh):
        parallel = ParameterServer(world, **policy)
        first = fit(parallel, line(), 2 * X).model
        second = fit(ParameterServer(world, **policy) if fresh else parallel, deep() if other else first, -2 * X)
        assert second.steps == 10
        return second.model(X)
    again, fresh = (run_threads(4, lambda world, fresh=fresh: program(world, fresh), seconds=20) for fresh in (False, True))
    for found in again:
        assert np.array_equal(found, again[0])
    if "staleness" not in policy and "wait_for" not in policy:         # the others' order is that of arrival
        assert np.array_equal(again[0], fresh[0])
    assert np.isfinite(again[0]).all()


@pytest.mark.parametrize("workers", [3, 4])
def test_a_worker_without_a_turn_in_an_epoch_waits_for_its_end(workers):
    """Two batches an epoch: the others have none."""
    def program(world):
        done = fit(ParameterServer(world, staleness=1), line(), 2 * X, epochs=8, validation=(X, 2 * X))
        return done.steps, [row["validation_loss"] for row in done.history], done.model.weight.tolist()
    found = run_threads(workers + 1, program, seconds=20)
    assert all(each == found[0] for each in found)
    steps, losses, _ = found[0]
    assert steps == 16 and losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_ranks_end_together_when_stop_is_true_on_one(policy):
    def program(world):
        done = fit(ParameterServer(world, **policy), line(), 2 * X, epochs=9, stop=lambda history: world.rank == 2 and len(history) == 3)
        return done.steps, len(done.history)
    assert run_threads(4, program, seconds=20) == [(6, 3)] * 4
