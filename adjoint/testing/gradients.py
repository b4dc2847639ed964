"""Are these derivatives right? Forward mode against differences, reverse against forward, and both again for the second order.

Invariant: directions are random, never ones (a wrong permutation passes with ones); differences are taken in float64 only.
May import: L0-L3. Read next: rows.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..transforms.forward import jvp
from ..transforms.reverse import vjp
from ..tree import flatten, unflatten

STEP = 1e-4                    # of the five-point difference: its truncation is STEP^4 / 30 of the fifth derivative
ADJOINT_TOLERANCE = 1e-12      # of |w| |Jv| + |J'w| |v|
DIFFERENCE_TOLERANCE = 1e-7    # of |Jv|, and a hundredth of it of 1 + |y| for rounding


def check_grads(function: Callable, *args: Any, order: int = 2, rng: np.random.Generator | None = None) -> None:
    """Raise AssertionError unless the derivatives of function(*args) are right up to `order`, in forward and reverse mode.

    args: trees; every floating leaf is a variable, taken in float64; the other leaves stay as they are. Keep away from kinks: a step
    of 2e-4 must not cross one. Cost: some ten evaluations for order 1, some hundred for order 2.

    >>> check_grads(lambda x, w: np.tanh(x @ w).sum(), np.full((2, 3), 0.5), np.full((3, 4), 0.1))
    """
    leaves, structure = flatten(tuple(args))
    floating = [i for i, x in enumerate(leaves) if aval_of(x).dtype.kind == "f"]
    assert floating, "check_grads: no argument holds a floating number"

    def on_leaves(*xs: Any) -> list:
        filled = list(leaves)
        for i, x in zip(floating, xs, strict=True):
            filled[i] = x
        return float_leaves(function(*unflatten(structure, filled)))
    check_variables(on_leaves, [np.asarray(leaves[i], np.float64) for i in floating], order, rng or np.random.default_rng(0))


def float_leaves(tree: Any) -> list:
    """The floating leaves of a result."""
    return [y for y in flatten(tree)[0] if aval_of(y).dtype.kind == "f"]


def check_variables(function: Callable, xs: Sequence[np.ndarray], order: int, rng: np.random.Generator, route: str = "f") -> None:
    """check_grads for a function of float64 arrays that returns a list of floating arrays. `route` names the function in messages."""
    vs = [rng.standard_normal(x.shape) for x in xs]
    ys, y_dots = jvp(function, tuple(xs), tuple(vs))
    expected = difference(function, xs, vs)
    for y, y_dot, d in zip(ys, y_dots, expected, strict=True):
        error, allowed = norm([y_dot - d]), DIFFERENCE_TOLERANCE * (norm([y_dot]) + 0.01 * (1 + norm([y])))
        assert error <= allowed, f"jvp of {route} differs from differences by {error:.3g}, more than {allowed:.3g}"
    ws = [rng.standard_normal(np.shape(y)) for y in ys]
    check_adjoint(function, xs, vs, ws, y_dots, route)
    if order > 1:
        n = len(xs)
        check_variables(lambda *zs: jvp(function, zs[:n], zs[n:])[1], [*xs, *vs], order - 1, rng, f"the jvp of {route}")
        check_variables(lambda *zs: list(vjp(function, *zs[:n])[1](list(zs[n:]))), [*xs, *ws], order - 1, rng, f"the vjp of {route}")


def check_adjoint(function: Callable, xs: Sequence[Any], vs: Sequence[Any], ws: Sequence[Any], y_dots: Sequence[Any], route: str) -> None:
    """The dot-product test: <w, Jv> = <J'w, v>."""
    _, pullback = vjp(function, *xs)
    bars = pullback(list(ws))
    forward, backward = inner(ws, y_dots), inner(bars, vs)
    allowed = ADJOINT_TOLERANCE * (norm(ws) * norm(y_dots) + norm(bars) * norm(vs))
    assert abs(forward - backward) <= allowed, \
        f"vjp of {route} is not the transpose of its jvp: <w, Jv> = {forward:.17g}, <J'w, v> = {backward:.17g}"


def difference(function: Callable, xs: Sequence[np.ndarray], vs: Sequence[np.ndarray]) -> list:
    """J v by the five-point central difference."""
    at = lambda s: function(*[x + s * STEP * v for x, v in zip(xs, vs, strict=True)])
    return [(8.0 * (b - c) - (a - d)) / (12.0 * STEP) for a, b, c, d in zip(at(2), at(1), at(-1), at(-2), strict=True)]


def inner(xs: Sequence[Any], ys: Sequence[Any]) -> float:
    """The inner product of two lists of arrays, in extended precision."""
    return float(sum(np.sum(np.multiply(x, y, dtype=np.longdouble)) for x, y in zip(xs, ys, strict=True)))


def norm(xs: Sequence[Any]) -> float:
    """The Euclidean norm of a list of arrays."""
    return float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in xs)))
