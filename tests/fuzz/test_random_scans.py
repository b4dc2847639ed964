"""Random bodies of scans, with branches and loops inside: the program of values, gradients and second derivatives against eager NumPy."""

import numpy as np
import pytest

import adjoint as ad
from adjoint.compiler.loops_check import check
from adjoint.compiler.pipeline import build
from adjoint.core.aval import aval_of
from adjoint.core.trace import trace_graph
from adjoint.testing.lowering import run_lowered

SIZE = 3
OPERATIONS = [
    lambda a, b: np.tanh(a @ b), lambda a, b: a + b, lambda a, b: np.sin(a) * b, lambda a, b: np.concatenate([a[:1], b[1:]]),
    lambda a, b: (a.T @ b) * 0.3, lambda a, b: a * b.sum() * 0.1, lambda a, b: np.maximum(a, b)[::-1],
    lambda a, b: ad.cond(a.sum() > 0, lambda: np.cos(a), lambda: b * 0.5),
    lambda a, b: ad.fori_loop(0, 2, lambda i, r: np.sin(r) + b * 0.1 * (i + 1), a)]


def random_scan(seed):
    """A function of (constants w, v; sequence x; carried c, d), with arguments: sums, products and passed values are carried."""
    rng = np.random.default_rng(seed)
    steps, reverse, extra, passes = int(rng.integers(1, 5)), bool(rng.integers(2)), bool(rng.integers(2)), bool(rng.integers(2))
    plan = rng.integers(0, 100, (int(rng.integers(3, 10)), 3)).tolist()
    picks = rng.integers(0, 6, 7).tolist()

    def body(w, v, carry, x):
        c, d, total = carry
        pool = [c, d, x, w, v, np.sin(v)]
        for op, i, j in plan:
            pool.append(OPERATIONS[op % len(OPERATIONS)](pool[i % len(pool)], pool[j % len(pool)]))
        p = [pool[-1 - k] for k in picks]
        carry = np.tanh(p[0]), c if passes else np.tanh(p[1]), total + p[2].T @ p[3] + (p[4] if extra else 0.0 * w)
        return carry, (p[5], p[6] @ w, p[4].sum(axis=0), pool[picks[0]])

    def function(w, v, x, c, d):
        carry, ys = ad.scan(lambda carry, x: body(w, v, carry, x), (c, d, 0.0 * w), x, reverse=reverse)
        return [*carry, *ys]
    shape = (SIZE, SIZE)
    return function, [rng.normal(size=s) * 0.5 for s in (shape, shape, (steps, *shape), shape, shape)]


def agree(function, args):
    check(build(trace_graph(lambda *xs: list(function(*xs)), list(map(aval_of, args))).check(), None).program)
    found, failure = run_lowered(function, args)
    assert failure is None
    for a, b in zip(found, function(*args), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_random_scans(seed):
    function, args = random_scan(seed)
    gradient = lambda *xs: list(ad.grad(lambda *xs: sum(np.sin(y).sum() for y in function(*xs)), (0, 1, 2, 3, 4))(*xs))
    agree(function, args)
    agree(gradient, args)
    if seed < 3:
        agree(lambda *xs: list(ad.jvp(lambda *xs: gradient(*xs)[:2], xs, xs)[1]), args)
        agree(lambda *xs: list(ad.vmap(lambda w, v: function(w, v, *xs[2:]))(np.stack([xs[0], xs[1]]), np.stack([xs[1], xs[0]]))), args)
