"""A split model with batch norm and dropout trains as the whole one does: its random numbers, its running statistics."""

import functools

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.distributed import Alone, ColumnLinear, RowLinear, make_split_step, per_rank, run_threads
from adjoint.distributed.split import _objective, varying_leaves
from adjoint.errors import CommunicationError, ConfigError

STEPS, RULE = 4, optim.sgd(0.02, momentum=0.9)


def layers():
    rng, dtype = np.random.default_rng(1), np.float64
    return [nn.BatchNorm1d(3, dtype=dtype), nn.Dropout(0.3), nn.Linear(3, 5, rng=rng, dtype=dtype), np.tanh,
            nn.Linear(5, 4, rng=rng, dtype=dtype), nn.BatchNorm1d(4, momentum=None, dtype=dtype), nn.Dropout(0.5),
            nn.Linear(4, 1, rng=rng, dtype=dtype)]


def data():
    x = np.random.default_rng(5).standard_normal((20, 3)) + 2.0
    return x, x[:, :1] ** 2


def steps(step, model):
    (x, y), state, losses = data(), RULE.init(model), []
    for t in range(STEPS):
        model, state, loss, *_ = step(model, state, x, y, np.array([7, t]))
        losses.append(loss)
    return model, losses


@functools.cache
def trained():
    model, losses = steps(train.make_step(nn.squared_error, RULE, compiled=False), nn.Sequential(*layers()))
    return list(nn.named_parameters(model).values()), losses


def trained_split(c, compiled):
    first, last, own = 2, 4, layers()
    own[first], own[last] = ColumnLinear(own[first], c), RowLinear(own[last], c)
    model, losses = steps(make_split_step(nn.squared_error, RULE, c, compiled=compiled), nn.Sequential(*own))
    whole = nn.Sequential(*(layer.whole() if i in (first, last) else layer for i, layer in enumerate(model.layers)))
    return list(nn.named_parameters(whole).values()), losses


@pytest.mark.parametrize(("n", "compiled"), [(1, False), (2, True), (3, False)])
def test_a_split_model_with_modes_trains_as_the_whole_one(n, compiled):
    expected, losses = trained()
    for found, found_losses in run_threads(n, lambda c: trained_split(c, compiled), seconds=30):
        np.testing.assert_allclose(found_losses, losses, rtol=1e-10)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    assert len(set(losses)) == STEPS


def between(c, layer):
    rng = np.random.default_rng(0)
    first, last = (nn.Linear(*sizes, rng=rng, dtype=np.float64) for sizes in ((3, 8), (8, 1)))
    return nn.Sequential(ColumnLinear(first, c), layer, RowLinear(last, c))


def test_dropout_of_own_features_leaves_out_others_on_every_rank():
    """Units that are left out have no gradient of their bias, for one example."""
    x, y = (a[:1] for a in data())

    def program(c):
        model = between(c, nn.Dropout(0.5))
        types = (varying_leaves(model), False, False, False)
        gradients = per_rank(functools.partial(_objective, nn.squared_error, c), c, varying=types)(model, x, y, np.array([3, 1]))[1]
        return (gradients[0].bias == 0).tolist()
    halves = run_threads(2, program, seconds=20)
    assert halves[0] != halves[1]
    assert all(0 < sum(half) < 4 for half in halves)


def test_what_is_refused():
    x, y = data()
    step = make_split_step(nn.squared_error, RULE, Alone(), compiled=False)
    model = between(Alone(), nn.Dropout(0.5))
    with pytest.raises(ConfigError, match=r"Dropout \(1\): training needs a key of random numbers"):
        step(model, RULE.init(model), x, y)

    def program(c):
        model = between(c, nn.BatchNorm1d(4, dtype=np.float64))
        make_split_step(nn.squared_error, RULE, c, compiled=False)(model, RULE.init(model), x, y)
    with pytest.raises(CommunicationError, match=r"1.running_mean would differ from rank to rank"):
        run_threads(2, program, seconds=20)
