"""Comparison, classification and bits: rows without a derivative, each with the reason.

Invariant: comparisons with NaN are false, != is true, as in NumPy and IEEE 754. May import: L0, core, kinds. Read next: piecewise.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtypes import BOOL
from .kinds import stepwise
from .samples import BINARY, UNARY

_BOOLEAN = "a boolean: piecewise constant"
_INTEGER = "integers and booleans have no derivative"


def _few_values(rng: np.random.Generator) -> list:
    """Pairs of which some are equal and some are NaN."""
    values = np.array([-1.0, 0.0, 1.0, np.nan])
    return [((rng.choice(values, s), rng.choice(values, t)), {}) for s, t in (*BINARY, ((50,), (50,)))]


_COMPARES = {"arity": 2, "out": BOOL, "reason": _BOOLEAN, "samples": _few_values}


@stepwise(lower=lambda e, x, y: e.eq(x, y), **_COMPARES)
def equal(x, y):
    """x = y."""
    return np.equal(x, y)


@stepwise(lower=lambda e, x, y: e.ne(x, y), **_COMPARES)
def not_equal(x, y):
    """x differs from y; true if either is NaN."""
    return np.not_equal(x, y)


@stepwise(lower=lambda e, x, y: e.lt(x, y), **_COMPARES)
def less(x, y):
    """x < y."""
    return np.less(x, y)


@stepwise(lower=lambda e, x, y: e.le(x, y), **_COMPARES)
def less_equal(x, y):
    """x <= y."""
    return np.less_equal(x, y)


@stepwise(lower=lambda e, x, y: e.gt(x, y), **_COMPARES)
def greater(x, y):
    """x > y."""
    return np.greater(x, y)


@stepwise(lower=lambda e, x, y: e.ge(x, y), **_COMPARES)
def greater_equal(x, y):
    """x >= y."""
    return np.greater_equal(x, y)


# ------------------------------------------------------------------------------------------------ classification


def _kinds_of_number(rng: np.random.Generator) -> list:
    values = np.array([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan])
    return [((rng.choice(values, s),), {}) for s in (*UNARY, (50,))]


_CLASSIFIES = {"arity": 1, "out": BOOL, "floating": True, "reason": _BOOLEAN, "samples": _kinds_of_number}


@stepwise(lower=lambda e, x: e.ne(x, x), **_CLASSIFIES)
def isnan(x):
    """x is not a number."""
    return np.isnan(x)


@stepwise(lower=lambda e, x: e.lt(e.abs(x), e.const(np.inf, x)), **_CLASSIFIES)
def isfinite(x):
    """x is neither infinite nor NaN."""
    return np.isfinite(x)


@stepwise(lower=lambda e, x: e.eq(e.abs(x), e.const(np.inf, x)), **_CLASSIFIES)
def isinf(x):
    """x is infinite."""
    return np.isinf(x)


@stepwise(lower=lambda e, x: e.lt(e.copysign(e.const(1.0, x), x), e.const(0.0, x)), **_CLASSIFIES)
def signbit(x):
    """The sign of x is negative; true for -0.0."""
    return np.signbit(x)


# ------------------------------------------------------------------------------------------------ bits

_BITS = {"arity": 2, "accepts": "biu", "reason": _INTEGER, "domain": (-9, 9), "operator": True}


def _python(z: Any, *xs: Any) -> Any:
    """Python's own number if all operands are Python's, as the operator gives."""
    return z.item() if all(type(x) in (int, bool) for x in xs) else z


@stepwise(lower=lambda e, x, y: e.and_(x, y), **_BITS)
def bitwise_and(x, y):
    """Both, bit by bit; of booleans the logical and."""
    return _python(np.bitwise_and(x, y), x, y)


@stepwise(lower=lambda e, x, y: e.or_(x, y), **_BITS)
def bitwise_or(x, y):
    """Either, bit by bit; of booleans the logical or."""
    return _python(np.bitwise_or(x, y), x, y)


@stepwise(lower=lambda e, x, y: e.xor(x, y), **_BITS)
def bitwise_xor(x, y):
    """One of both, bit by bit; of booleans the exclusive or."""
    return _python(np.bitwise_xor(x, y), x, y)


@stepwise(lower=lambda e, x: e.not_(x), **{**_BITS, "arity": 1, "operator": False})
def invert(x):
    """The opposite, bit by bit; of booleans the logical not."""
    return np.invert(x)


def _emit_shift(e: Any, x: Any, amount: Any, left: bool) -> Any:
    """NumPy's clamped shift: an amount outside the width gives 0, or -1 where a negative number is shifted right."""
    width = 8 * x.dtype.itemsize
    fits = e.lt(amount, width) if x.dtype.kind == "u" else e.and_(e.ge(amount, 0), e.lt(amount, width))
    safe = e.select(fits, amount, 0)
    if left:
        return e.select(fits, e.shl(x, safe), 0)
    if x.dtype.kind == "u":
        return e.select(fits, e.lshr(x, safe), 0)
    return e.ashr(x, e.select(fits, amount, width - 1))


_SHIFTS = {**_BITS, "accepts": "iu", "domain": ((-9, 9), (0, 70))}


@stepwise(lower=lambda e, x, y: _emit_shift(e, x, y, True), **_SHIFTS)
def left_shift(x, y):
    """x times 2 to the y; an amount outside the width gives 0, as in NumPy."""
    return _python(np.left_shift(x, y), x, y)


@stepwise(lower=lambda e, x, y: _emit_shift(e, x, y, False), **_SHIFTS)
def right_shift(x, y):
    """floor(x / 2 to the y); an amount outside the width gives 0, or -1 for negative x, as in NumPy."""
    return _python(np.right_shift(x, y), x, y)
