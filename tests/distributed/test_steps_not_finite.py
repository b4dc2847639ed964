"""A step that is not finite changes nothing: split layers and stages, where it is born on one rank or on all."""

import numpy as np
import pytest

from adjoint import nn, optim
from adjoint.distributed import ColumnLinear, Pipeline, RowLinear, make_split_step, run_threads
from adjoint.tree import flatten, map_tree

F64 = np.float64
X = np.linspace(-1, 1, 8)[:, None]


def layers():
    """The first has weights so small that examples of 1e160 give a finite loss, and a gradient whose norm is none."""
    first, last = (nn.Linear(*sizes, rng=np.random.default_rng(0), dtype=F64) for sizes in ((1, 6), (6, 1)))
    return map_tree(lambda a: 1e-160 * a, first), last


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(flatten(a)[0], flatten(b)[0], strict=True))


def steps(step, model, rule, bad):
    """A step that is not finite, and a good one: whether they moved anything, and their losses."""
    state, found, losses = rule.init(model), [], []
    for x, y in (bad, (X, X)):
        before = map_tree(np.array, (model, state))
        with np.errstate(over="ignore"):
            model, state, loss = step(model, state, x, y)
        found.append(not same(before, (model, state)))
        losses.append(float(loss))
    return found, losses


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bad", [(X, np.where(X > 0, np.nan, X)), (np.full_like(X, 1e160), X)], ids=["nan", "norm"])
def test_split_step(compiled, bad):
    def program(world):
        first, last = layers()
        model = nn.Sequential(ColumnLinear(first, world), nn.relu, RowLinear(last, world))
        return steps(make_split_step(nn.squared_error, optim.adam(0.05), world, compiled=compiled), model, optim.adam(0.05), bad)
    found = run_threads(2, program)
    for moved, losses in found:
        assert moved == [False, True] and np.isfinite(losses[1]) and np.isnan(losses[0]) == np.isnan(bad[1]).any()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("where", ["loss", "first stage"])
def test_pipeline(compiled, where):
    bad = (X, np.where(X > 0, np.nan, X)) if where == "loss" else (np.full_like(X, 1e160), X)

    def program(world):
        pipeline = Pipeline(nn.squared_error, optim.adam(0.05), world, micro_batches=2, compiled=compiled)
        stage = nn.Sequential(layers()[0], nn.relu) if world.rank == 0 else layers()[1]
        return steps(pipeline.step, stage, optim.adam(0.05), bad)
    (first, losses), (second, others) = run_threads(2, program)
    assert first == second == [False, True] and np.array_equal(losses, others, equal_nan=True)
    assert np.isfinite(losses[1]) and np.isfinite(losses[0]) == (where == "first stage")
