"""Masks of what max pooling chose: done on the pooled array, with the same bits; left alone where that would not be the same."""

from __future__ import annotations

import numpy as np
import pytest
from programs import reference_outputs, traced

from adjoint import nn
from adjoint.compiler import simplify as passes
from adjoint.compiler.masks import early_masks
from adjoint.compiler.simplify import drop_unused, identities, share
from adjoint.core.primitive import TABLE
from adjoint.primitives.pooling import max_pool, pool_put
from adjoint.primitives.windows import Window
from adjoint.transforms.reverse import grad, vjp

WINDOWS = (Window(1, 6, 3, 2, 2), Window(2, 8, 4, 2, 2))


def masks_of(function, *args) -> list[tuple[int, ...]]:
    """The shapes of the comparisons that a graph has after the pass."""
    graph = drop_unused(early_masks(share(identities(traced(function, args)))))
    graph.check()
    return [n.outs[0].aval.shape for n in graph.nodes if n.outs[0].aval.dtype.kind == "b"]


@pytest.mark.parametrize("pool", [lambda x: nn.max_pool(x, 2), lambda x: nn.max_pool(x, 3, stride=2, padding=1)], ids=["tiles", "overlap"])
@pytest.mark.parametrize("batch, channels", [(2, 3), (1, 3), (2, 1)])
def test_the_mask_of_a_relu_before_pooling(pool, batch, channels, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng.integers(-2, 3, (batch, channels, 6, 8)).astype(np.float64)     # many ties, many zeros
    x[0, 0, 0, :3] = np.nan, np.inf, -0.0
    w = rng.standard_normal(np.shape(pool(x)))
    both = lambda x: [pool(nn.relu(x)), vjp(lambda x: pool(nn.relu(x)), x)[1](w)[0]]
    assert masks_of(both, x) == [(batch, *w.shape[2:], channels)]                     # of the pooled array, channels last
    early = reference_outputs(both, [x])
    monkeypatch.setattr(passes, "early_masks", lambda graph: graph)
    for a, b, c in zip(early, reference_outputs(both, [x]), both(x), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_masks_of_anything_else_stay(rng: np.random.Generator) -> None:
    x, z, t = rng.standard_normal((2, 6, 8, 3)), rng.standard_normal((2, 6, 8, 3)), rng.standard_normal((2, 3, 4, 3))
    whole = (2, 6, 8, 3)
    put = lambda x, t: pool_put(t, max_pool(x, windows=WINDOWS)[1], windows=WINDOWS)
    choose = TABLE["where"]
    assert masks_of(lambda x, t: [choose(x > 0.0, put(x, t), 0.0)], x, t) == [(2, 3, 4, 3)]
    assert masks_of(lambda x, z, t: [choose(z > 0.0, put(x, t), 0.0)], x, z, t) == [whole]                 # of another array
    assert masks_of(lambda x, z, t: [choose(x > z, put(x, t), 0.0)], x, z, t) == [whole]                   # of two
    assert masks_of(lambda x, t: [choose(x > 0.0, put(x, t), 1.0)], x, t) == [whole]                       # not 0 elsewhere
    assert masks_of(lambda x, t: [choose(x[:, ::-1] > 0.0, put(x, t), 0.0)], x, t) == [whole]              # at other places
    assert masks_of(lambda x, t: [choose(x > 0.0, (g := put(x, t)), 0.0), g], x, t) == [whole]             # the sum itself is wanted
    last, first = lambda x: np.transpose(x, (0, 2, 3, 1)), lambda x: np.transpose(x, (0, 3, 1, 2))         # of channels
    z = first(x).copy()
    assert masks_of(lambda z, t: [choose(z > 0.0, first(put(last(z), t)), 0.0)], z, t) == [(2, 3, 4, 3)]
    seen = lambda z, t: [choose(z > 0.0, (g := first(put(last(z), t))), 0.0), g]
    assert masks_of(seen, z, t) == [z.shape]                                                               # so is a view of it
    wider = (Window(1, 6, 3, 3, 1), Window(2, 8, 4, 2, 2))
    other = lambda x, t: pool_put(t, max_pool(x, windows=wider)[1], windows=WINDOWS)
    assert masks_of(lambda x, t: [choose(x > 0.0, other(x, t), 0.0)], x, t) == [whole]                     # chosen from other windows
    square = rng.standard_normal((2, 6, 6, 3))
    windows = (Window(1, 6, 3, 2, 2), Window(2, 6, 3, 2, 2))
    turned = lambda x: np.transpose(x, (0, 2, 1, 3))
    both = lambda x, t: [choose(turned(x) > 0.0, pool_put(t, max_pool(x, windows=windows)[1], windows=windows), 0.0)]
    assert masks_of(both, square, rng.standard_normal((2, 3, 3, 3))) == [(2, 6, 6, 3)]                     # turned against it


def test_second_derivatives_keep_it(rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 2, 4, 6))
    f = lambda x: np.sum(np.sin(nn.max_pool(nn.relu(x * x - 0.5), 2)))
    second = lambda x: [grad(lambda x: np.sum(grad(f)(x) ** 2))(x)]
    np.testing.assert_allclose(reference_outputs(second, [x])[0], second(x)[0], rtol=1e-12, atol=1e-14)
