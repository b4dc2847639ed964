"""Rearrangements that sink: the same values, fewer copies, and what is wanted as it is stays so."""

from __future__ import annotations

import numpy as np
import pytest

from adjoint.compiler.layout import Arrangement, laid_out, sink
from adjoint.compiler.loops import Convolution
from adjoint.compiler.pipeline import build
from adjoint.core.aval import aval_of
from adjoint.core.primitive import bind
from adjoint.core.trace import trace_graph
from adjoint.nn import conv, relu
from adjoint.primitives.kinds import Reduce, Scalar
from adjoint.testing.lowering import run_lowered
from adjoint.transforms.reverse import vjp


def residual(x, w, v, scale):
    """Two convolutions around a shortcut, normalized by channel: everything between them sinks."""
    y = conv(x, w, padding=1)
    y = relu((y - y.mean(axis=(0, 2, 3), keepdims=True)) * scale[:, None, None])
    return relu(conv(y, v, padding=1) + y).sum(axis=(2, 3))


def grouped(x, w, v, scale):
    y = np.tanh(conv(x, w, padding=1, groups=2)) * scale[:, None, None]
    return conv(y, v, groups=1).max(axis=1)


def mixed(x, w, v, scale):
    """The weight of every element comes channels first."""
    weights = np.exp(-np.arange(2.0 * 8 * 5 * 6).reshape(2, 8, 5, 6) / 480.0)
    y = relu(conv(x, w, padding=1) * scale[:, None, None]) * weights
    return conv(y, v, stride=2).reshape(2, -1)


def columns(x, w, v, scale):
    """The mask repeats one number per column of the images."""
    y = conv(x, w, padding=1) * np.arange(6.0)
    return np.where(y > 0, y, 0.1 * y)[:, ::2].mean(axis=3) + scale[::2, None]


CASES = [(residual, (8, 4, 3, 3), (8, 8, 3, 3)), (grouped, (8, 2, 3, 3), (3, 8, 1, 1)), (mixed, (8, 4, 3, 3), (3, 8, 2, 2)),
         (columns, (8, 4, 3, 3), (1,))]


def arguments(rng, case):
    function, *shapes = case
    return function, [rng.standard_normal(shape) for shape in ((2, 4, 5, 6), *shapes, (8,))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_values_and_gradients_stay(case, rng):
    function, xs = arguments(rng, case)

    def all_of(*xs):
        y, back = vjp(function, *xs)
        return [y, *back(y)]
    found, failure = run_lowered(all_of, xs)
    assert failure is None
    for a, b in zip(found, all_of(*xs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_every_pass_leaves_a_graph_that_checks_with_its_values(case, rng):
    function, xs = arguments(rng, case)
    graph = trace_graph(lambda *xs: [function(*xs)], list(map(aval_of, xs)))
    sunk = sink(graph).check()
    np.testing.assert_allclose(sunk.evaluate(bind, *xs)[0], function(*xs), rtol=1e-12)


def test_between_convolutions_arrays_lie_channels_last(rng):
    """In the block with a shortcut no elementwise node and no reduction works on [batch, channels, height, width] any more."""
    function, xs = arguments(rng, CASES[0])
    graph = build(trace_graph(lambda *xs: [function(*xs)], list(map(aval_of, xs))), None).graph
    worked = [n for n in graph.nodes if isinstance(n.primitive.lowering, Scalar | Reduce)]
    assert worked and not any(a.aval.shape == (2, 8, 5, 6) for n in worked for a in n.inputs)


def test_updates_of_weights_stay_as_the_weights_lie(rng):
    """A gradient that lies otherwise is one large argument among three: the update works as the weights and its state do."""
    x, w, m = rng.standard_normal((2, 4, 5, 6)), rng.standard_normal((8, 4, 3, 3)), rng.standard_normal((8, 4, 3, 3))

    def update(x, w, m):
        y, back = vjp(lambda w: conv(x, w), w)
        bar, = back(y)
        m = 0.9 * m + bar
        return [w - 0.1 * m, m]
    built = build(trace_graph(update, list(map(aval_of, (x, w, m)))), {1: 0, 2: 1})
    updates = [n for n in built.graph.nodes if isinstance(n.primitive.lowering, Scalar)]
    assert updates and all(n.outs[0].aval.shape == w.shape for n in updates)
    assert len([step for step in built.program.steps if isinstance(step, Convolution)]) == 2


def test_arrangements():
    turned = Arrangement.of((2, 3, 5), (15, 1, 3))                       # [2, 5, 3] with its last axes exchanged
    assert turned.whole and not turned.plain and turned.order == (0, 2, 1)
    assert not Arrangement.of((2, 3), (1, 1)).whole
    assert laid_out((3, 1), turned, (2, 5, 1, 3)) == (1, 1, 1, 3)
    assert laid_out((2, 1, 5), turned, (10, 3)) == (10, 1) and laid_out((5,), turned, (10, 3)) is None
