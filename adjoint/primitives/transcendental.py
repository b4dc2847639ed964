"""Powers, exponentials, logarithms, trigonometric and hyperbolic functions: partials from the output where that avoids overflow.

Invariant: every lowering is vector math of at most 1 ulp, or a libm call of at most 2; `bound` also covers NumPy's own body (its vector
functions allow 4). May import: L0, core, kinds, arithmetic, piecewise. Read next: special.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DtypeError, explain
from .arithmetic import add, divide, multiply, negative, number, subtract, where
from .comparison import bitwise_and, equal
from .kinds import elementwise, elementwise_samples

LARGEST_PRODUCT = 16            # integer powers up to this are products, above they are pow
SMALL = 4.0                     # ulps that NumPy's vector functions allow themselves


def _libm(name: str) -> Callable:
    return lambda e, *xs: e.call(name, *xs)


# ------------------------------------------------------------------------------------------------ roots and powers


@elementwise(partials=(lambda y, x: divide(0.5, y),), lower=lambda e, x: e.sqrt(x), domain=(0.5, 3.0), floating=True, bound=0.5,
             kinks=(((0.0,), (math.inf,)),))
def sqrt(x):
    """Square root: y = x^(1/2), dy/dx = 1/(2y), infinite at 0."""
    return np.sqrt(x)


@elementwise(partials=(lambda y, x: divide(1 / 3, multiply(y, y)),), lower=_libm("cbrt"), domain=(0.5, 3.0), floating=True, bound=2.0,
             kinks=(((0.0,), (math.inf,)),))
def cbrt(x):
    """Cube root of any real number: y = x^(1/3), dy/dx = 1/(3y^2), infinite at 0."""
    return np.cbrt(x)


def _power_of_positive(n: int, x: Any, product: Callable) -> Any:
    """x^n for n >= 1 by repeated squaring: the same products in NumPy and in native code."""
    result = None
    while True:
        if n & 1:
            result = x if result is None else product(result, x)
        n >>= 1
        if not n:
            return result
        x = product(x, x)


def _emit_integer_power(e: Any, x: Any, n: int) -> Any:
    if n == 0:
        return e.const(1, x)
    y = _power_of_positive(abs(n), x, e.mul)
    return y if n > 0 else e.div(e.const(1.0, x), y)


def _integer_power_partial(x: Any, n: int) -> Any:
    """n x^(n-1), without a power where there is none."""
    if n in (0, 1):
        return float(n)
    return multiply(x, float(n)) if n == 2 else multiply(integer_power(x, n=n - 1), float(n))


def _integer_power_samples(rng: np.random.Generator) -> list:
    return [case for n in (2, 3, -1, -2, 0, 1, 7) for case in elementwise_samples(rng, 1, (0.5, 2.0), n=n)[:3 if n in (2, -1) else 1]]


@elementwise(partials=(lambda y, x, *, n: _integer_power_partial(x, n),),
             lower=lambda e, x, *, n: _emit_integer_power(e, x, n), samples=_integer_power_samples, domain=(0.5, 2.0), bound=8.0,
             accepts="iuf", operator=True)
def integer_power(x, *, n):
    """y = x^n for a fixed integer n, |n| <= 16, as a product: dy/dx = n x^(n-1), exact at 0. Rounding: at most 8 ulp (0.5 for x^2)."""
    if n == 0:
        return x * 0 + 1 if type(x) in (int, float) else np.ones_like(x)[()]
    y = _power_of_positive(abs(n), x, lambda a, b: a * b)
    return y if n > 0 else number(np.true_divide, 1.0, y)


def _power_x(z: Any, x: Any, y: Any) -> Any:
    """y x^(y-1); where x = y = 0 the exponent is replaced, since x^0 is 1 for every x and 0 times infinity is no derivative."""
    return multiply(y, power(x, where(bitwise_and(equal(x, 0.0), equal(y, 0.0)), 1.0, subtract(y, 1.0))))


@elementwise(partials=(_power_x, lambda z, x, y: multiply(z, log(where(equal(x, 0.0), 1.0, x)))),
             lower=lambda e, x, y: _emit_power(e, x, y), domain=((0.5, 2.0), (-2.0, 3.0)), accepts="iuf", operator=True, bound=SMALL,
             kinks=(((0.0, 0.0), (0.0, 0.0)), ((0.0, 1.0), (1.0, 0.0)), ((0.0, 2.0), (0.0, 0.0)), ((0.0, 3.0), (0.0, 0.0)),
                    ((0.0, 0.5), (math.inf, 0.0))))
def power(x, y):
    """z = x^y, 0^0 = 1: dz/dx = y x^(y-1), exact at x = 0 for every y; dz/dy = z ln x, and 0 at x = 0 (z is 0 nearby for y > 0).

    For negative x, z is real only for integer y: dz/dx is right there, dz/dy is NaN. Integers: products modulo 2^bits, y >= 0.
    """
    if np.result_type(x, y).kind in "iu" and np.any(np.less(y, 0)):
        raise DtypeError(explain("power: an integer to a negative integer power is not an integer.",
                                 remedy="Convert the base: x.astype(float)."))
    return number(np.power, x, y)


def _emit_power(e: Any, x: Any, y: Any) -> Any:
    """pow of floats; of integers a product over the bits of the exponent."""
    if x.dtype.kind == "f":
        return e.call("power", x, y)
    z = e.const(1, x)
    bits = 8 * x.dtype.itemsize
    for bit in range(bits):
        amount = e.const(bit, y)
        odd = e.ne(e.and_(e.lshr(y, amount) if y.dtype.kind == "u" else e.ashr(y, amount), 1), 0)
        z = e.select(odd, e.mul(z, x), z)
        if bit + 1 < bits:
            x = e.mul(x, x)
    return z


def raise_to(x: Any, y: Any) -> Any:
    """x ** y as NumPy's operator: a small whole exponent gives a product (x ** 2 is x * x), 0.5 a square root, else `power`."""
    if type(y) in (int, float) and y == int(y if math.isfinite(y) else 0) and abs(y) <= LARGEST_PRODUCT:
        kind = np.dtype(getattr(x, "dtype", float)).kind
        if kind == "f" or (kind in "iu" and type(y) is int and y >= 0):
            return integer_power(x, n=int(y))
    if type(y) is float and y == 0.5 and np.dtype(getattr(x, "dtype", float)).kind == "f":
        return sqrt(x)
    return power(x, y)


# ------------------------------------------------------------------------------------------------ exponentials and logarithms


@elementwise(partials=(lambda y, x: y,), lower=_libm("exp"), floating=True, bound=SMALL)
def exp(x):
    """Exponential: y = e^x, dy/dx = y."""
    return np.exp(x)


@elementwise(partials=(lambda y, x: multiply(y, math.log(2.0)),), lower=_libm("exp2"), floating=True, bound=SMALL)
def exp2(x):
    """Power of two: y = 2^x, dy/dx = y ln 2."""
    return np.exp2(x)


@elementwise(partials=(lambda y, x: add(y, 1.0),), lower=_libm("expm1"), floating=True, bound=SMALL)
def expm1(x):
    """e^x - 1, accurate near 0: dy/dx = y + 1."""
    return np.expm1(x)


@elementwise(partials=(lambda y, x: divide(1.0, x),), lower=_libm("log"), domain=(0.5, 3.0), floating=True, bound=SMALL,
             kinks=(((0.0,), (math.inf,)),))
def log(x):
    """Natural logarithm: y = ln x, dy/dx = 1/x."""
    return np.log(x)


@elementwise(partials=(lambda y, x: divide(1.0, add(x, 1.0)),), lower=_libm("log1p"), domain=(-0.5, 3.0), floating=True, bound=SMALL)
def log1p(x):
    """ln(1 + x), accurate near 0: dy/dx = 1/(1 + x)."""
    return np.log1p(x)


@elementwise(partials=(lambda y, x: divide(1 / math.log(2.0), x),), lower=_libm("log2"), domain=(0.5, 3.0), floating=True, bound=SMALL)
def log2(x):
    """Logarithm to base 2: dy/dx = 1/(x ln 2)."""
    return np.log2(x)


@elementwise(partials=(lambda y, x: divide(1 / math.log(10.0), x),), lower=_libm("log10"), domain=(0.5, 3.0), floating=True, bound=SMALL)
def log10(x):
    """Logarithm to base 10: dy/dx = 1/(x ln 10)."""
    return np.log10(x)


# ------------------------------------------------------------------------------------------------ trigonometric


@elementwise(partials=(lambda y, x: cos(x),), lower=_libm("sin"), floating=True, bound=SMALL)
def sin(x):
    """Sine: dy/dx = cos x."""
    return np.sin(x)


@elementwise(partials=(lambda y, x: negative(sin(x)),), lower=_libm("cos"), floating=True, bound=SMALL)
def cos(x):
    """Cosine: dy/dx = -sin x."""
    return np.cos(x)


@elementwise(partials=(lambda y, x: add(multiply(y, y), 1.0),), lower=_libm("tan"), domain=(-1.2, 1.2), floating=True, bound=SMALL)
def tan(x):
    """Tangent: y = sin x / cos x, dy/dx = 1 + y^2."""
    return np.tan(x)


def _one_minus_square(x: Any) -> Any:
    """1 - x^2 as a product, which keeps its digits where |x| is near 1."""
    return multiply(subtract(1.0, x), add(x, 1.0))


@elementwise(partials=(lambda y, x: divide(1.0, sqrt(_one_minus_square(x))),), lower=_libm("arcsin"), domain=(-0.9, 0.9), floating=True,
             bound=SMALL)
def arcsin(x):
    """Inverse sine: dy/dx = (1 - x^2)^(-1/2), infinite at both ends."""
    return np.arcsin(x)


@elementwise(partials=(lambda y, x: divide(-1.0, sqrt(_one_minus_square(x))),), lower=_libm("arccos"), domain=(-0.9, 0.9), floating=True,
             bound=SMALL)
def arccos(x):
    """Inverse cosine: dy/dx = -(1 - x^2)^(-1/2), infinite at both ends."""
    return np.arccos(x)


@elementwise(partials=(lambda y, x: divide(1.0, add(multiply(x, x), 1.0)),), lower=_libm("arctan"), floating=True, bound=SMALL)
def arctan(x):
    """Inverse tangent: dy/dx = 1/(1 + x^2)."""
    return np.arctan(x)


def _over_radius(x: Any, r: Any) -> Any:
    """x / r, and 0 at the origin."""
    return divide(x, where(equal(r, 0.0), 1.0, r))


@elementwise(partials=(lambda z, y, x: _over_radius(_over_radius(x, hypot(y, x)), hypot(y, x)),
                       lambda z, y, x: negative(_over_radius(_over_radius(y, hypot(y, x)), hypot(y, x)))),
             lower=_libm("arctan2"), domain=((0.3, 2.0), (-2.0, 2.0)), floating=True, bound=SMALL, kinks=(((0.0, 0.0), (0.0, 0.0)),))
def arctan2(y, x):
    """The angle of the point (x, y): dz/dy = x/r^2, dz/dx = -y/r^2 with r^2 = x^2 + y^2, divided twice by r; 0 at the origin."""
    return np.arctan2(y, x)


@elementwise(partials=(lambda z, x, y: _over_radius(x, z), lambda z, x, y: _over_radius(y, z)), lower=_libm("hypot"), floating=True,
             domain=((0.3, 2.0), (-2.0, 2.0)), bound=2.0, kinks=(((0.0, 0.0), (0.0, 0.0)),))
def hypot(x, y):
    """Length of (x, y): z = (x^2 + y^2)^(1/2) without overflow, dz/dx = x/z, dz/dy = y/z, and 0 at the origin (a subgradient)."""
    return np.hypot(x, y)


# ------------------------------------------------------------------------------------------------ hyperbolic


@elementwise(partials=(lambda y, x: cosh(x),), lower=_libm("sinh"), floating=True, bound=SMALL)
def sinh(x):
    """Hyperbolic sine: dy/dx = cosh x."""
    return np.sinh(x)


@elementwise(partials=(lambda y, x: sinh(x),), lower=_libm("cosh"), floating=True, bound=SMALL)
def cosh(x):
    """Hyperbolic cosine: dy/dx = sinh x."""
    return np.cosh(x)


@elementwise(partials=(lambda y, x: subtract(1.0, multiply(y, y)),), lower=_libm("tanh"), floating=True, bound=SMALL)
def tanh(x):
    """Hyperbolic tangent: y = tanh x, dy/dx = 1 - y^2 (taken from y: no overflow)."""
    return np.tanh(x)


@elementwise(partials=(lambda y, x: divide(1.0, hypot(x, 1.0)),), lower=_libm("arcsinh"), floating=True, bound=SMALL)
def arcsinh(x):
    """Inverse hyperbolic sine: dy/dx = (1 + x^2)^(-1/2)."""
    return np.arcsinh(x)


@elementwise(partials=(lambda y, x: divide(1.0, multiply(sqrt(subtract(x, 1.0)), sqrt(add(x, 1.0)))),), lower=_libm("arccosh"),
             domain=(1.3, 4.0), floating=True, bound=SMALL)
def arccosh(x):
    """Inverse hyperbolic cosine of x >= 1: dy/dx = ((x - 1)(x + 1))^(-1/2), infinite at 1."""
    return np.arccosh(x)


@elementwise(partials=(lambda y, x: divide(1.0, _one_minus_square(x)),), lower=_libm("arctanh"), domain=(-0.9, 0.9), floating=True,
             bound=SMALL)
def arctanh(x):
    """Inverse hyperbolic tangent of |x| < 1: dy/dx = 1/(1 - x^2)."""
    return np.arctanh(x)
