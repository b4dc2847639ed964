"""Stages with batch norm and dropout train as the whole model does: its random numbers, its running statistics, and no rule moves those."""

import functools

import numpy as np
import pytest

from adjoint import nn, optim
from adjoint.distributed import Alone, DataParallel, Pipeline, run_threads
from adjoint.errors import CommunicationError

MICRO, STEPS = 3, 4
RULE = optim.sgd(0.02, momentum=0.9)


def layers():
    """Four stages; every one but the last has layers with modes, two of them draw random numbers."""
    rng, dtype = np.random.default_rng(1), np.float64
    return [nn.Sequential(nn.Linear(3, 7, rng=rng, dtype=dtype), nn.BatchNorm1d(7, dtype=dtype), np.tanh),
            nn.Sequential(nn.Dropout(0.3), nn.Linear(7, 6, rng=rng, dtype=dtype)),
            nn.Sequential(nn.BatchNorm1d(6, momentum=None, dtype=dtype), nn.Dropout(0.5)),
            nn.Linear(6, 1, rng=rng, dtype=dtype)]


def data(examples=20):
    """In three micro-batches: 6, 7 and 7 examples."""
    x = np.random.default_rng(5).standard_normal((examples, 3)) + 2.0
    return x, x[:, :1] ** 2


@functools.cache
def trained(micro, examples):
    model, (x, y) = nn.Sequential(*layers()), data(examples)
    step, state, losses = DataParallel(Alone(), accumulate=micro).make_step(nn.squared_error, RULE, compiled=False), RULE.init(model), []
    for t in range(STEPS):
        model, state, loss, *_ = step(model, state, x, y, np.array([7, t]))
        losses.append(loss)
    return list(nn.named_parameters(model).values()), losses


def in_stages(c, micro, examples, compiled):
    cuts = [round(k * 4 / c.size) for k in (c.rank, c.rank + 1)]
    stage, (x, y), losses = nn.Sequential(*layers()[slice(*cuts)]), data(examples), []
    line, state = Pipeline(nn.squared_error, RULE, c, micro_batches=micro, compiled=compiled), RULE.init(stage)
    for t in range(STEPS):
        stage, state, loss = line.step(stage, state, x, y, np.array([7, t]))
        losses.append(loss)
    return list(nn.named_parameters(stage).values()), losses


@pytest.mark.parametrize(("n", "micro", "examples", "compiled"),
                         [(1, MICRO, 20, False), (2, 1, 20, False), (2, MICRO, 21, True), (4, MICRO, 20, False)])
def test_stages_with_modes_train_as_the_whole_model(n, micro, examples, compiled):
    expected, losses = trained(micro, examples)
    results = run_threads(n, lambda c: in_stages(c, micro, examples, compiled), seconds=30)
    for found, value in zip([p for parameters, _ in results for p in parameters], expected, strict=True):
        assert found.dtype == value.dtype
        np.testing.assert_allclose(found, value, rtol=1e-10, atol=1e-10)
    for _, found in results:
        np.testing.assert_allclose(found, losses, rtol=1e-10)
    assert len(set(losses)) == STEPS


def test_one_micro_batch_is_the_whole_batch_to_batch_norm():
    """The running mean after a step of rate 0: 0.1 of the batch's."""
    rule = optim.sgd(0.0)

    def program(c):
        stage = [nn.BatchNorm1d(3, dtype=np.float64), nn.Linear(3, 1, rng=np.random.default_rng(0), dtype=np.float64)][c.rank]
        return Pipeline(nn.squared_error, rule, c, micro_batches=1, compiled=False).step(stage, rule.init(stage), *data())[0]
    norm = run_threads(2, program, seconds=20)[0]
    np.testing.assert_allclose(norm.running_mean, 0.1 * data()[0].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(norm.running_var, 0.9 + 0.1 * data()[0].var(axis=0, ddof=1), rtol=1e-12)
    assert norm.num_batches_tracked == 1


def test_dropout_without_a_key_is_refused():
    def program(c):
        stage = layers()[c.rank]
        Pipeline(nn.squared_error, RULE, c, micro_batches=MICRO, compiled=False).step(stage, RULE.init(stage), *data())
    with pytest.raises(CommunicationError, match=r"Dropout \(0\): training needs a key of random numbers"):
        run_threads(4, program, seconds=20)
