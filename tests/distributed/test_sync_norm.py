"""Synchronized batch norm: n ranks with parts of a batch are one process with all of it, forward, backward and in training."""

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.distributed import Alone, DataParallel, per_rank, run_threads
from adjoint.distributed.sync_norm import SyncBatchNorm, synchronized, synchronizes
from adjoint.errors import CommunicationError, ConfigError
from adjoint.transforms.reverse import grad
from adjoint.tree import flatten

SIZES = {2: (5, 7), 3: (3, 4, 5)}


def parts(n, c):
    ends = np.cumsum(SIZES[n])
    return slice(int(ends[c.rank] - SIZES[n][c.rank]), int(ends[c.rank]))


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("shape", [(12, 3), (12, 3, 4, 5)])
def test_forward_and_backward_of_the_whole_batch(n, shape, rng):
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    x, weights, layer = 2.0 + rng.standard_normal(shape), rng.standard_normal(shape), kind(3, dtype=np.float64)
    whole = lambda x: (np.sin(nn.training(layer)(x)) * weights).sum()
    slope = grad(whole)(x)

    def program(c):
        own, sync = parts(n, c), SyncBatchNorm(layer, c)
        loss = lambda x: (np.sin(nn.training(sync)(x)) * weights[own]).sum()
        return per_rank(lambda x: (nn.training(sync)(x), grad(loss)(x)), c)(x[own])
    found = run_threads(n, program, seconds=60)
    assert np.abs(np.concatenate([y for y, _ in found]) - nn.training(layer)(x)).max() < 1e-12
    assert np.abs(np.concatenate([g for _, g in found]) - slope).max() < 1e-12


def test_one_example_a_rank_is_a_batch_and_one_in_all_is_none():
    x, layer = np.array([[1.0, 4.0], [3.0, -2.0]]), nn.BatchNorm1d(2, dtype=np.float64)

    def program(c):
        sync = SyncBatchNorm(layer, c)
        return per_rank(lambda x: nn.training(sync)(x), c)(x[c.rank:c.rank + 1])
    assert np.abs(np.concatenate(run_threads(2, program, seconds=20)) - nn.training(layer)(x)).max() < 1e-12
    with pytest.raises(CommunicationError, match="training with one value per channel: it has no variance"):
        run_threads(1, program, seconds=20)


def network():
    rng = np.random.default_rng(0)
    return nn.Sequential(nn.Linear(4, 6, rng=rng, dtype=np.float64), nn.BatchNorm1d(6, dtype=np.float64), np.tanh,
                         nn.Linear(6, 3, rng=rng, dtype=np.float64))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("n", [2, 3])
def test_ranks_with_other_numbers_of_examples_train_as_one_process(n, compiled):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((12, 4)), rng.integers(0, 3, 12)
    rule, model = optim.adam(1e-2), network()
    step, state = train.make_step(nn.cross_entropy, rule, compiled=False), rule.init(model)
    for _ in range(5):
        model, state, *_ = step(model, state, x, y)

    def program(c):
        own, mine = parts(n, c), synchronized(network(), c)
        assert synchronizes(mine)
        step, state = DataParallel(c).make_step(nn.cross_entropy, rule, compiled=compiled), rule.init(mine)
        for _ in range(5):
            mine, state, *_ = step(mine, state, x[own], y[own])
        return [a.copy() for a in flatten(mine)[0]], nn.Sequential(*mine.layers)(x)
    for found, outputs in run_threads(n, program, seconds=60):
        assert all(np.abs(a - b).max() < 1e-10 for a, b in zip(found, flatten(model)[0], strict=True))
        assert np.abs(outputs - model(x)).max() < 1e-10                       # with running statistics: they are the same too


def test_plain_batch_norm_on_ranks_differs():
    """Without synchronization every rank has statistics of its own: that is what synchronizing is for."""
    x = np.random.default_rng(1).standard_normal((12, 4))
    layer = nn.BatchNorm1d(4, dtype=np.float64)
    own = np.concatenate([nn.training(layer)(x[:5]), nn.training(layer)(x[5:])])
    assert np.abs(own - nn.training(layer)(x)).max() > 0.01


def test_conversion_keeps_names_options_and_everything_else():
    layers = {"a": nn.BatchNorm2d(2, momentum=None, eps=0.1), "b": (nn.Flatten(), 3.0)}
    made = synchronized(layers, Alone())
    assert (made["a"].momentum, made["a"].eps, made["a"].weight is layers["a"].weight) == (None, 0.1, True)
    assert made["b"][1] == 3.0 and not synchronizes(layers) and synchronizes(made)
    x = np.ones((2, 2, 3, 3), np.float32)
    assert np.array_equal(made["a"](x), layers["a"](x))
    with pytest.raises(ConfigError, match="SyncBatchNorm: found Flatten"):
        SyncBatchNorm(nn.Flatten(), Alone())

    def program(c):
        mine, rule = synchronized(network(), c), optim.sgd(0.1)
        DataParallel(c, exact_reduce=True).make_step(nn.cross_entropy, rule)(mine, rule.init(mine), np.ones((6, 4)), np.zeros(6, int))
    with pytest.raises(CommunicationError, match="exact_reduce: the model synchronizes its batch norm"):
        run_threads(2, program, seconds=30)
