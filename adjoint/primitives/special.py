"""Smooth functions of statistics and signals: logistic, softplus, logaddexp, erf, erfc, sinc.

Invariant: no value overflows where the function is finite. May import: L0, core, kinds, arithmetic, transcendental.
Read next: structure.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .arithmetic import multiply, negative, subtract, where
from .comparison import bitwise_and, equal, isinf
from .kinds import elementwise, elementwise_samples
from .transcendental import SMALL, exp

# ------------------------------------------------------------------------------------------------ logistic and its integral


@elementwise(partials=(lambda y, x: multiply(y, subtract(1.0, y)),), lower=lambda e, x: e.call("logistic", x), floating=True, bound=SMALL)
def logistic(x):
    """Logistic function: y = 1/(1 + e^-x), dy/dx = y (1 - y); the exponential is always of -|x|, so nothing overflows."""
    small = np.exp(-np.abs(x))
    return np.where(np.greater_equal(x, 0), 1, small)[()] / (1 + small)


@elementwise(partials=(lambda y, x: logistic(x),), lower=lambda e, x: _emit_softplus(e, x), floating=True, bound=SMALL)
def softplus(x):
    """Softplus: y = ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|), dy/dx = logistic x."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _emit_softplus(e: Any, x: Any) -> Any:
    return e.add(e.maximum(x, 0.0), e.call("log1p", e.call("exp", e.neg(e.abs(x)))))


def _difference(x: Any, y: Any) -> Any:
    """x - y, and 0 where both are the same infinity."""
    same = bitwise_and(equal(x, y), isinf(x))
    return subtract(where(same, 0.0, x), where(same, 0.0, y))


@elementwise(partials=(lambda z, x, y: logistic(_difference(x, y)), lambda z, x, y: logistic(_difference(y, x))),
             lower=lambda e, x, y: _emit_logaddexp(e, x, y), floating=True, bound=SMALL, absolute=True,
             kinks=(((-math.inf, -math.inf), (0.5, 0.5)), ((-math.inf, 1.0), (0.0, 1.0)), ((math.inf, math.inf), (0.5, 0.5))))
def logaddexp(x, y):
    """z = ln(e^x + e^y) without overflow: dz/dx = logistic(x - y), dz/dy = logistic(y - x); equal infinities share equally.

    Rounding: relative to the greater of 1 and the value, which can be near 0."""
    return np.logaddexp(x, y)


def _emit_logaddexp(e: Any, x: Any, y: Any) -> Any:
    greater = e.maximum(x, y)
    apart = e.add(greater, e.call("log1p", e.call("exp", e.neg(e.abs(e.sub(x, y))))))
    return e.select(e.eq(x, y), e.add(x, e.const(math.log(2.0), x)), apart)


# ------------------------------------------------------------------------------------------------ error function


def _by_libm(function: Callable) -> Callable:
    """A function of the C library on every element: the same numbers as native code, at some 60 ns an element."""
    def body(x: Any) -> Any:
        x = np.asarray(x)
        dtype = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
        return np.fromiter(map(function, x.ravel().tolist()), np.float64, x.size).astype(dtype).reshape(x.shape)[()]
    return body


_erf, _erfc = _by_libm(math.erf), _by_libm(math.erfc)


def _bell(x: Any) -> Any:
    return multiply(exp(negative(multiply(x, x))), 2 / math.sqrt(math.pi))


@elementwise(partials=(lambda y, x: _bell(x),), lower=lambda e, x: e.call("erf", x), floating=True, bound=2.0)
def erf(x):
    """Error function: y = 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x; dy/dx = 2/sqrt(pi) e^(-x^2)."""
    return _erf(x)


@elementwise(partials=(lambda y, x: negative(_bell(x)),), lower=lambda e, x: e.call("erfc", x), floating=True, bound=4.0)
def erfc(x):
    """Complementary error function: y = 1 - erf x without cancellation; dy/dx = -2/sqrt(pi) e^(-x^2)."""
    return _erfc(x)


# ------------------------------------------------------------------------------------------------ sinc


def _sinc_terms(order: int) -> list[tuple[int, float]]:
    """(power of u, coefficient) of the Taylor series of the order-th derivative of sin u / u, enough of them for |u| <= order + 1."""
    terms, k, scale = [], (order + 1) // 2, float(order + 2)
    while True:
        coefficient = (-1) ** k / ((2 * k + 1) * math.factorial(2 * k - order))
        if terms and abs(coefficient) * scale ** (2 * k - order) < 1e-19:
            return terms
        terms.append((2 * k - order, coefficient))
        k += 1


def _sinc_series(u: Any, order: int, const: Callable, mul: Callable, plus: Callable) -> Any:
    """The series by Horner's rule in u^2."""
    terms, square = _sinc_terms(order), mul(u, u)
    total = const(terms[-1][1])
    for _, coefficient in reversed(terms[:-1]):
        total = plus(mul(total, square), const(coefficient))
    return mul(total, u) if order % 2 else total


def _sinc(x: Any, order: int) -> Any:
    u = np.asarray(np.asarray(x) * math.pi)
    if order == 0:
        return np.where(u == 0, 1, np.sin(u) / np.where(u == 0, 1, u)).astype(u.dtype)[()]
    inside = np.abs(u) <= order + 1
    with np.errstate(under="ignore"):           # near 0 the higher powers vanish, as they should
        series = _sinc_series(np.where(inside, u, 0), order, lambda c: u.dtype.type(c), np.multiply, np.add)
    far = np.where(inside, 1, u)
    return (np.where(inside, series, _sinc_far(far, order, np.sin(far), np.cos(far))) * math.pi ** order).astype(u.dtype)[()]


def _sinc_far(u: Any, order: int, sine: Any, cosine: Any) -> Any:
    """g_n = (sin^(n)(u) - n g_(n-1)) / u, stable for |u| > n."""
    g = sine / u
    for n in range(1, order + 1):
        g = ((cosine, -sine, -cosine, sine)[(n - 1) % 4] - n * g) / u
    return g


def _emit_sinc(e: Any, x: Any, order: int) -> Any:
    u = e.mul(x, e.const(math.pi, x))
    sine, one = e.call("sin", u), e.const(1.0, u)
    if order == 0:
        zero = e.eq(u, e.const(0.0, u))
        return e.select(zero, one, e.div(sine, e.select(zero, one, u)))
    inside = e.le(e.abs(u), e.const(order + 1.0, u))
    cosine, far = e.call("cos", u), e.select(inside, one, u)
    g = e.div(sine, far)
    for n in range(1, order + 1):
        turned = (cosine, e.neg(sine), e.neg(cosine), sine)[(n - 1) % 4]
        g = e.div(e.sub(turned, e.mul(e.const(float(n), u), g)), far)
    return e.mul(e.select(inside, _sinc_series(u, order, lambda c: e.const(c, u), e.mul, e.add), g), e.const(math.pi ** order, u))


def _sinc_samples(rng: np.random.Generator) -> list:
    cases = [case for order in (0, 1, 2) for case in elementwise_samples(rng, 1, (-3.0, 3.0), order=order)[:3 if order == 0 else 1]]
    return [*cases, ((np.array([0.0, 1e-9, -0.01, 0.3]),), {"order": 0}), ((np.array([0.0, 0.31, 0.7]),), {"order": 1})]


@elementwise(partials=(lambda y, x, *, order=0: sinc(x, order=order + 1),), lower=lambda e, x, *, order=0: _emit_sinc(e, x, order),
             domain=(-3.0, 3.0), floating=True, samples=_sinc_samples, bound=64.0, absolute=True)
def sinc(x, *, order=0):
    """The order-th derivative of sin(pi x) / (pi x): its partial is the next order, so every derivative at 0 is exact.

    Near 0 the Taylor series, elsewhere g_n = (sin^(n)(u) - n g_(n-1)) / u with u = pi x. Rounding: relative to pi^order, not to the value.
    """
    return _sinc(x, order)
