"""Graphs are not limited to functions of mathematics: branches and loops are differentiated, written in Python or as control flow rows."""

import numpy as np
import pytest

import adjoint as ad


def horner(coefficients, x, loop):
    """A polynomial, highest power first."""
    if not loop:
        total = 0.0
        for c in coefficients:
            total = total * x + c
        return total
    return ad.fori_loop(0, len(coefficients), lambda i, total: total * x + coefficients[i], x * 0.0)


def root(a, loop):
    """The square root by Heron's iteration, until a step changes nothing much: the number of steps depends on a."""
    if not loop:
        y = 1.0 + a * 0.0
        while abs(y * y - a) > 1e-14 * a:
            y = 0.5 * (y + a / y)
        return y
    return ad.while_loop(lambda y: np.abs(y * y - a) > 1e-14 * a, lambda y: 0.5 * (y + a / y), 1.0 + a * 0.0)


def huber(x, loop):
    """x^2 / 2 within 1, |x| - 1/2 outside: the branch that was taken gives the derivative."""
    if not loop:
        return 0.5 * x * x if abs(x) <= 1.0 else abs(x) - 0.5
    return ad.cond(np.abs(x) <= 1.0, lambda x: 0.5 * x * x, lambda x: np.abs(x) - 0.5, x)


@pytest.mark.mission(161)
@pytest.mark.parametrize("how", ["Python", "rows", "compiled"])
def test_backpropagation_through_loops_and_branches(how, figure):
    loop, made = how != "Python", ad.compile if how == "compiled" else lambda f: f
    c = np.array([2.0, -3.0, 0.5, 4.0])
    slopes = made(ad.grad(lambda c, x: horner(c, x, loop), argnums=(0, 1)))(c, np.float64(1.5))
    figure.equal(slopes[0], [1.5**3, 1.5**2, 1.5, 1.0])
    figure.equal(slopes[1], 3 * 2.0 * 1.5**2 - 2 * 3.0 * 1.5 + 0.5)
    forward = lambda a: ad.jvp(lambda a: root(a, loop), (a,), (np.float64(1.0),))[1]
    newton = made(forward) if how == "compiled" else ad.grad(lambda a: root(a, loop))           # a trace cannot count the steps first
    figure.equal([newton(np.float64(a)) for a in (2.0, 0.3, 1000.0)], [0.5 / np.sqrt(a) for a in (2.0, 0.3, 1000.0)], rel=1e-9)
    branch = made(ad.grad(lambda x: huber(x, loop)))
    figure.equal([branch(np.float64(x)) for x in (-3.0, -0.25, 0.5, 7.0)], [-1.0, -0.25, 0.5, 1.0])
