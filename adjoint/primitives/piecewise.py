"""Functions with kinks, and division that rounds: absolute, sign, maximum, minimum, relu, floor_divide, remainder, fmod, rounding.

Invariant: at every kink the derivative is decided, written at the row and tested. May import: L0, core, kinds, arithmetic.
Read next: transcendental.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DivisionError, explain
from .arithmetic import divide, multiply, negative, number, where
from .comparison import equal, greater, less
from .kinds import along, elementwise, stepwise

# ------------------------------------------------------------------------------------------------ absolute value, extremes


@stepwise(arity=1, reason="piecewise constant; at 0 the subgradient 0", accepts="iuf", selects=True,
          lower=lambda e, x: _emit_sign(e, x))
def sign(x):
    """Sign: 1, 0 or -1; NaN for NaN, 0 for -0."""
    return np.sign(x)


def _emit_sign(e: Any, x: Any) -> Any:
    zero = e.const(0, x)
    if x.dtype.kind == "u":
        return e.select(e.gt(x, zero), 1, zero)
    rest = zero if x.dtype.kind == "i" else e.select(e.ne(x, x), x, zero)
    return e.select(e.gt(x, zero), 1, e.select(e.lt(x, zero), -1, rest))


@elementwise(partials=(lambda y, x: sign(x),), lower=lambda e, x: e.abs(x), operator=True, selects=True, bound=0.0,
             kinks=(((0.0,), (0.0,)),))
def absolute(x):
    """Absolute value: y = |x|, dy/dx = sign x, and 0 at the kink."""
    return abs(x)


@elementwise(partials=(along(lambda t, z, x, y: where(equal(z, x), t, negative(t))), None), lower=lambda e, x, y: e.copysign(x, y),
             floating=True, selects=True, bound=0.0)
def copysign(x, y):
    """|x| with the sign of y: dz/dx = sign x sign y; piecewise constant in y."""
    return np.copysign(x, y)


def _chosen(t: Any, better: Any, x: Any, y: Any) -> Any:
    """The cotangent's share of x: all where x is chosen, half at a tie, else none."""
    return where(better, t, where(equal(x, y), multiply(t, 0.5), 0.0))


@elementwise(partials=(along(lambda t, z, x, y: _chosen(t, greater(x, y), x, y)),
                       along(lambda t, z, x, y: _chosen(t, greater(y, x), x, y))),
             lower=lambda e, x, y: e.maximum(x, y) if x.dtype.kind != "b" else e.or_(x, y), selects=True, bound=0.0,
             kinks=(((1.0, 1.0), (0.5, 0.5)),))
def maximum(x, y):
    """The greater of two, NaN if either is: the gradient goes to the greater; a tie is shared equally, a subgradient."""
    return np.maximum(x, y)


@elementwise(partials=(along(lambda t, z, x, y: _chosen(t, less(x, y), x, y)),
                       along(lambda t, z, x, y: _chosen(t, less(y, x), x, y))),
             lower=lambda e, x, y: e.minimum(x, y) if x.dtype.kind != "b" else e.and_(x, y), selects=True, bound=0.0,
             kinks=(((1.0, 1.0), (0.5, 0.5)),))
def minimum(x, y):
    """The lesser of two, NaN if either is: the gradient goes to the lesser; a tie is shared equally, a subgradient."""
    return np.minimum(x, y)


@elementwise(partials=(along(lambda t, y, x: where(greater(y, 0.0), t, 0.0)),), accepts="iuf",
             lower=lambda e, x: e.select(e.le(x, 0), e.const(0, x), x), selects=True, bound=0.0, kinks=(((0.0,), (0.0,)),))
def relu(x):
    """Rectified linear unit: y = max(x, 0), dy/dx = 1 for x > 0, else 0 (0 at the kink; `maximum(x, 0)` gives 1/2 there).

    The derivative is read from y, which the next layer keeps anyway: nothing else is stored for it.
    """
    return np.maximum(x, 0)


# ------------------------------------------------------------------------------------------------ division that rounds


def _checked(ufunc: Callable, name: str) -> Callable:
    """The ufunc, raising where integers have no quotient: NumPy would warn and return 0, the machine would trap."""
    def divide_integers(x: Any, y: Any) -> Any:
        dtype = np.result_type(x, y)
        if dtype.kind in "iub":
            if np.any(np.equal(y, 0)):
                raise DivisionError(explain(f"{name}: integer division by zero.", remedy="Mask the divisor: np.where(y == 0, 1, y)."))
            if dtype.kind == "i" and np.any(np.equal(y, -1) & np.equal(x, np.iinfo(dtype).min)):
                raise DivisionError(explain(f"{name}: the smallest {dtype} divided by -1 does not fit.",
                                            remedy="Convert to float64 first."))
        return number(ufunc, x, y)
    return divide_integers


_floor_divide, _remainder, _fmod = (_checked(f, f.__name__) for f in (np.floor_divide, np.remainder, np.fmod))
_DIVISION = {"domain": ((-6.0, 6.0), (0.5, 2.0)), "accepts": "iuf"}


def _emit_division(division: Callable) -> Callable:
    """The division after the check that integers have a quotient."""
    def emit(e: Any, x: Any, y: Any) -> Any:
        if x.dtype.kind != "f":
            e.require(e.division_is_defined(x, y), "division")
        return division(e, x, y)
    return emit


@stepwise(arity=2, reason="piecewise constant; at the steps the derivative of either side, 0",
          lower=_emit_division(lambda e, x, y: e.floor_divide(x, y)),
          operator=True, **_DIVISION)
def floor_divide(x, y):
    """z = floor(x / y), as NumPy rounds it. Raises: DivisionError for integers without a quotient."""
    return _floor_divide(x, y)


@elementwise(partials=(along(lambda t, z, x, y: t), lambda z, x, y: negative(floor_divide(x, y))),
             lower=_emit_division(lambda e, x, y: e.remainder(x, y)),
             operator=True, bound=0.0, kinks=(((4.0, 2.0), (1.0, -2.0)),), **_DIVISION)
def remainder(x, y):
    """z = x - y floor(x / y), with the sign of y: dz/dx = 1, dz/dy = -floor(x / y); at the steps the derivative from the right in x."""
    return _remainder(x, y)


@elementwise(partials=(along(lambda t, z, x, y: t), lambda z, x, y: negative(trunc(divide(x, y)))),
             lower=_emit_division(lambda e, x, y: _emit_fmod(e, x, y)),
             bound=0.0, kinks=(((4.0, 2.0), (1.0, -2.0)),), **_DIVISION)
def fmod(x, y):
    """z = x - y trunc(x / y), with the sign of x: dz/dx = 1, dz/dy = -trunc(x / y)."""
    return _fmod(x, y)


def _emit_fmod(e: Any, x: Any, y: Any) -> Any:
    return e.call("fmod", x, y) if x.dtype.kind == "f" else e.let("srem", (x, e.safe_divisor(x, y)), x.dtype)


# ------------------------------------------------------------------------------------------------ rounding


def _rounded(ufunc: Callable) -> Callable:
    return lambda x: ufunc(x) if np.result_type(x).kind == "f" else x      # NumPy before 2.1 would turn integers into floats


_ROUNDING = {"arity": 1, "reason": "piecewise constant; at the steps the derivative of either side, 0", "selects": True}
_floor, _ceil, _trunc = map(_rounded, (np.floor, np.ceil, np.trunc))


@stepwise(lower=lambda e, x: e.floor(x) if x.dtype.kind == "f" else x, **_ROUNDING)
def floor(x):
    """The greatest integer not above x."""
    return _floor(x)


@stepwise(lower=lambda e, x: e.ceil(x) if x.dtype.kind == "f" else x, **_ROUNDING)
def ceil(x):
    """The least integer not below x."""
    return _ceil(x)


@stepwise(lower=lambda e, x: e.trunc(x) if x.dtype.kind == "f" else x, **_ROUNDING)
def trunc(x):
    """x without its fraction."""
    return _trunc(x)


@stepwise(lower=lambda e, x: e.rint(x), floating=True, **_ROUNDING)
def rint(x):
    """The nearest integer, halves to the even one."""
    return np.rint(x)
