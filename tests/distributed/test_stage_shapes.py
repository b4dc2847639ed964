"""What passes between stages may have another shape in every step; within a step it depends on the number of examples alone."""

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.distributed import Pipeline, run_threads
from adjoint.errors import CommunicationError

RULE = optim.sgd(0.1)
SHAPES = ((4, 5, 3), (4, 2, 3), (4, 2, 3), (6, 5, 3), (4, 5, 3), (4, 3, 2, 3), (4, 2, 3, 3))      # the last two hold as many numbers


def layers():
    rng = np.random.default_rng(0)
    return [nn.Sequential(nn.Linear(3, 3, rng=rng, dtype=np.float64), np.tanh) for _ in range(3)]


def by_position(outputs, y):
    """A loss that knows axes apart."""
    weights = np.arange(1.0, 1 + outputs.shape[1]).reshape(-1, *[1] * (outputs.ndim - 2))
    return np.mean((outputs * weights).reshape(outputs.shape[0], -1).sum(axis=1) * y)


def batches(shapes):
    rng = np.random.default_rng(1)
    return [(rng.standard_normal(shape), rng.standard_normal(shape[0])) for shape in shapes]


@pytest.mark.parametrize(("compiled", "shapes"), [(False, SHAPES), (True, SHAPES[:2])])
def test_shapes_change_from_step_to_step(compiled, shapes):
    model, step, expected = nn.Sequential(*layers()), train.make_step(by_position, RULE, compiled=False), []
    state = RULE.init(model)
    for x, y in batches(shapes):
        model, state, loss, *_ = step(model, state, x, y)
        expected.append(loss)

    def program(c):
        stage, state, losses = layers()[c.rank], (), []
        line, state = Pipeline(by_position, RULE, c, micro_batches=2, compiled=compiled), RULE.init(stage)
        for x, y in batches(shapes):
            stage, state, loss = line.step(stage, state, x, y)
            losses.append(loss)
        return losses, stage[0].weight
    for (losses, weight), layer in zip(run_threads(3, program, seconds=20), model.layers, strict=True):
        np.testing.assert_allclose(losses, expected, rtol=1e-11)
        np.testing.assert_allclose(weight, layer[0].weight, rtol=1e-11, atol=1e-13)


def test_a_shape_that_depends_on_what_examples_hold_is_refused():
    def program(c):
        stage = [lambda x: x[:, :int(x[0, 0])], lambda h: h][c.rank]
        line = Pipeline(lambda outputs, y: np.mean(outputs) + 0.0 * np.sum(y), RULE, c, micro_batches=2, compiled=False)
        line.step(stage, (), np.repeat([[2.0] * 4, [3.0] * 4], 2, axis=0), np.ones(4))
    with pytest.raises(CommunicationError, match=r"rank 0 hands float64\[2, 3\] to rank 1, and float64\[2, 2\] in the same step"):
        run_threads(2, program, seconds=20)
