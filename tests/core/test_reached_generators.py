"""Which generators of random numbers a traced function reaches: users' wherever they hang, none of the package's own."""

import functools
import random
import sys

import numpy as np
import pytest

import adjoint as ad
from adjoint import distributed, insight, nn, optim, train  # noqa: F401  (all of the package's modules)
from adjoint.errors import EffectError

RNG = np.random.default_rng(3)


def noisy(outputs, y):
    return nn.squared_error(outputs + RNG.standard_normal(), y)


class Noise:
    """A layer of a user's."""

    def __call__(self, x):
        return x + RNG.standard_normal()


def test_no_module_of_the_package_holds_a_generator_that_would_have_to_be_watched():
    kinds = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random)
    names = [name for name in sys.modules if name.partition(".")[0] == "adjoint"]
    assert len(names) > 150
    assert not [(name, key) for name in names for key, value in vars(sys.modules[name]).items() if isinstance(value, kinds)]


@pytest.mark.parametrize("model, loss", [(nn.Linear(2, 1, rng=np.random.default_rng(0)), noisy),
                                         (nn.Sequential(nn.Linear(2, 1, rng=np.random.default_rng(0)), Noise()), nn.squared_error)],
                         ids=["loss", "layer"])
@pytest.mark.parametrize("make", [train.make_step, lambda loss, rule: distributed.DataParallel(distributed.Alone()).make_step(loss, rule)],
                         ids=["train", "data parallel"])
def test_what_the_package_calls_is_watched(model, loss, make):
    rule = optim.sgd(0.1)
    before = RNG.bit_generator.state
    with pytest.raises(EffectError, match="RNG"):
        make(loss, rule)(model, rule.init(model), np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))
    assert RNG.bit_generator.state == before


def test_partial_functions_are_followed():
    with pytest.raises(EffectError, match="RNG"):
        ad.compile(functools.partial(noisy, np.zeros(3)))(np.ones(3))
