"""Elementwise functions made of rows: the ufuncs that have no row of their own, and NumPy's elementwise functions.

Invariant: dtypes are NumPy's, but where NumPy would choose half precision (bool and uint8 into float functions) the result is float64.
May import: L0-L2, registry. Read next: reductions.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.aval import result_dtype
from ..core.primitive import TABLE, bind
from ..errors import ShapeError, explain
from ..primitives.arithmetic import where as where_row
from ..primitives.operators import difference, opposite
from ..primitives.transcendental import raise_to
from .registry import FUNCTIONS, REFUSED, UFUNCS, convert, dtype_of, implements, number_or_none, only, refuse, shape_of, strong, value_of


def _floating(x: Any) -> Any:
    """x, integers as float64."""
    return x if dtype_of(x).kind == "f" else convert(x, np.float64)


def _truth(x: Any) -> Any:
    x = strong(x)
    return x if dtype_of(x) == np.bool_ else x != 0


def ufunc(function: Callable) -> Callable:
    """Enter a function as the rule of NumPy's ufunc of this name."""
    UFUNCS[function.__name__.rstrip("_")] = function
    return function


# ------------------------------------------------------------------------------------------------ ufuncs


UFUNCS.update(power=raise_to, negative=opposite, subtract=difference)


@ufunc
def square(x: Any) -> Any:
    """x^2."""
    return raise_to(x, 2)


@ufunc
def reciprocal(x: Any) -> Any:
    """1 / x."""
    if dtype_of(x).kind != "f":
        raise refuse("np.reciprocal of integers, which rounds to 0,", "Write 1 / x, or np.reciprocal(x.astype(float)).")
    return 1.0 / x


@ufunc
def positive(x: Any) -> Any:
    """+x, a copy."""
    return bind(TABLE["reshape"], strong(x), shape=shape_of(x))


@ufunc
def fabs(x: Any) -> Any:
    """|x|, floating."""
    return TABLE["absolute"](_floating(x))


@ufunc
def float_power(x: Any, y: Any) -> Any:
    """x^y in float64."""
    return raise_to(convert(x, np.float64), y if isinstance(y, (int, float)) else convert(y, np.float64))


@ufunc
def logical_and(x: Any, y: Any) -> Any:
    return TABLE["bitwise_and"](_truth(x), _truth(y))


@ufunc
def logical_or(x: Any, y: Any) -> Any:
    return TABLE["bitwise_or"](_truth(x), _truth(y))


@ufunc
def logical_xor(x: Any, y: Any) -> Any:
    return TABLE["bitwise_xor"](_truth(x), _truth(y))


@ufunc
def logical_not(x: Any) -> Any:
    return TABLE["invert"](_truth(x))


@ufunc
def fmax(x: Any, y: Any) -> Any:
    """The larger of x and y; a NaN loses."""
    return _without_nan(TABLE["maximum"], x, y)


@ufunc
def fmin(x: Any, y: Any) -> Any:
    """The smaller of x and y; a NaN loses."""
    return _without_nan(TABLE["minimum"], x, y)


def _without_nan(row: Callable, x: Any, y: Any) -> Any:
    if result_dtype(x, y).kind != "f":
        return row(x, y)
    x_is_nan, y_is_nan = (TABLE["isnan"](_floating(v)) for v in (x, y))
    return where_row(x_is_nan, y, where_row(y_is_nan, x, row(x, y)))


@ufunc
def deg2rad(x: Any) -> Any:
    """x in radians."""
    return _floating(x) * (math.pi / 180)


@ufunc
def rad2deg(x: Any) -> Any:
    """x in degrees."""
    return _floating(x) * (180 / math.pi)


UFUNCS.update(radians=deg2rad, degrees=rad2deg)


@ufunc
def logaddexp2(x: Any, y: Any) -> Any:
    """log2(2^x + 2^y)."""
    return TABLE["logaddexp"](x * math.log(2), y * math.log(2)) * (1 / math.log(2))


@ufunc
def heaviside(x: Any, y: Any) -> Any:
    """0 for x < 0, 1 for x > 0, y at 0; the derivative in x is 0."""
    x, y = _floating(x), _floating(y)
    step = where_row(x < 0, 0.0, where_row(x > 0, 1.0, y))
    return where_row(TABLE["isnan"](x), math.nan, convert(step, result_dtype(x, y)))


@ufunc
def divmod_(x: Any, y: Any) -> tuple:
    """(x // y, x % y)."""
    return TABLE["floor_divide"](x, y), TABLE["remainder"](x, y)


@ufunc
def modf(x: Any) -> tuple:
    """(fraction, whole part), both with the sign of x."""
    x = _floating(x)
    whole = TABLE["trunc"](x)
    fraction = where_row(TABLE["isinf"](x), 0.0, x - whole)
    return TABLE["copysign"](fraction, x), whole


@ufunc
def conjugate(x: Any) -> Any:
    """x: everything here is real."""
    return positive(x)


@ufunc
def clip_ufunc(x: Any, low: Any, high: Any) -> Any:
    return TABLE["minimum"](TABLE["maximum"](x, low), high)


UFUNCS["clip"] = UFUNCS.pop("clip_ufunc")

REFUSED.update(
    frexp="Use np.log2 and np.floor to find exponents.", ldexp="Write x * 2.0 ** n.", nextafter="It has no derivative: compute it outside.",
    spacing="It has no derivative: compute it outside.", gcd="Compute it outside of the function.",
    lcm="Compute it outside of the function.",
    bitwise_count="Count with shifts and masks.", isnat="Dates are not supported.",
    piecewise="Write np.where(condition, f(x), g(x)), or np.select.", apply_along_axis="Use adjoint.vmap along the axis.",
    apply_over_axes="Use the axis argument with a tuple.", unwrap="Add the multiples of 2 pi by hand.",
    lexsort="Use np.argsort.", unique="The size of its result depends on values: compute it outside.",
    histogram="It has no derivative: compute it outside.", bincount="Write np.add.at(zeros, i, weights), zeros a traced np.zeros_like.",
    save="Return the value and save the result.", i0="It has no rule: give its derivative by adjoint.custom_vjp.",
    resize="Use np.tile and a slice, or np.pad.",
    asarray="Leave out like=: adjoint.numpy.asarray.", einsum_path="It needs shapes only: pass arrays of these shapes.")


# ------------------------------------------------------------------------------------------------ functions


@implements()
def clip(a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None, **options: Any) -> Any:
    """a limited to [a_min, a_max]; at a limit the derivative is shared, 1/2."""
    only("clip", **options)
    low, high = (a_min if a_min is not None else min), (a_max if a_max is not None else max)
    y = value_of(a)
    y = y if low is None else TABLE["maximum"](y, value_of(low))
    y = y if high is None else TABLE["minimum"](y, value_of(high))
    return positive(y) if y is a else y


@implements("round", "around")
def round_(a: Any, decimals: int = 0, out: Any = None) -> Any:
    """a rounded to even; its derivative is 0."""
    if dtype_of(a).kind != "f":
        if decimals < 0:
            return convert(TABLE["rint"](a / 10.0 ** -decimals) * 10.0 ** -decimals, dtype_of(a))
        return positive(a)
    if decimals == 0:
        return TABLE["rint"](a)
    scale = 10.0 ** abs(decimals)
    return TABLE["rint"](a * scale) / scale if decimals > 0 else TABLE["rint"](a / scale) * scale


@implements()
def fix(x: Any, out: Any = None) -> Any:
    """x rounded towards 0."""
    return TABLE["trunc"](x) if dtype_of(x).kind == "f" else positive(x)


@implements()
def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """x where the condition holds, else y; the branch not taken gets exactly no gradient."""
    if x is None and y is None:
        return FUNCTIONS[np.nonzero](condition)
    return where_row(value_of(condition), value_of(x), value_of(y))


def _concrete(function: Callable, remedy: str) -> Callable:
    """A function whose shape depends on values: possible only where these are known."""
    def evaluated(a: Any, *args: Any, **kwargs: Any) -> Any:
        found = number_or_none(a)
        if found is None:
            raise refuse(f"np.{function.__name__}, whose result has a size that depends on values,", remedy)
        return function(found, *args, **kwargs)
    return evaluated


for _name in ("nonzero", "argwhere", "flatnonzero"):
    FUNCTIONS[getattr(np, _name)] = _concrete(getattr(np, _name), "Keep the shape: np.where(mask, x, y); the count is np.sum(mask).")


@implements()
def nan_to_num(x: Any, copy: bool = True, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    """x with NaN and infinities replaced, where its derivative is 0."""
    if copy is not True:
        raise refuse("np.nan_to_num(copy=False)", "Write x = np.nan_to_num(x).")
    if dtype_of(x).kind != "f":
        return positive(x)
    limits = np.finfo(dtype_of(x))
    x = strong(x)
    y = where_row(x == math.inf, float(limits.max) if posinf is None else posinf, x)
    y = where_row(x == -math.inf, float(limits.min) if neginf is None else neginf, y)
    return where_row(TABLE["isnan"](x), nan, y)


@implements()
def isposinf(x: Any, out: Any = None) -> Any:
    return TABLE["equal"](x, math.inf)


@implements()
def isneginf(x: Any, out: Any = None) -> Any:
    return TABLE["equal"](x, -math.inf)


@implements()
def isclose(a: Any, b: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Any:
    """|a - b| <= atol + rtol |b|, or equal infinities."""
    a, b = value_of(a), value_of(b)
    x, y = (_floating(v) for v in (a, b))
    tolerance = TABLE["add"](TABLE["multiply"](TABLE["absolute"](y), rtol), atol)
    near = TABLE["less_equal"](TABLE["absolute"](TABLE["subtract"](x, y)), tolerance)
    close = TABLE["bitwise_or"](TABLE["bitwise_and"](near, TABLE["isfinite"](y)), TABLE["equal"](x, y))
    if equal_nan:
        close = TABLE["bitwise_or"](close, TABLE["bitwise_and"](TABLE["isnan"](x), TABLE["isnan"](y)))
    return close


@implements()
def allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    """Every pair of elements is close."""
    return FUNCTIONS[np.all](isclose(a, b, rtol, atol, equal_nan))


@implements()
def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    """The same shape and the same elements."""
    a1, a2 = value_of(a1), value_of(a2)
    if shape_of(a1) != shape_of(a2):
        return False
    same = TABLE["equal"](a1, a2)
    if equal_nan:
        same = TABLE["bitwise_or"](same, TABLE["bitwise_and"](*[TABLE["isnan"](_floating(v)) for v in (a1, a2)]))
    return FUNCTIONS[np.all](same)


@implements()
def real(val: Any) -> Any:
    return val


@implements("real_if_close")
def real_if_close(a: Any, tol: float = 100) -> Any:
    return a


@implements()
def imag(val: Any) -> Any:
    return FUNCTIONS[np.zeros_like](val)


@implements()
def angle(z: Any, deg: bool = False) -> Any:
    """0 for positive numbers, pi (180) for negative ones."""
    y = where_row(value_of(z) < 0, 180.0 if deg else math.pi, 0.0)
    return convert(y, dtype_of(z) if dtype_of(z).kind == "f" else np.float64)


@implements()
def iscomplexobj(x: Any) -> bool:
    return False


@implements()
def isrealobj(x: Any) -> bool:
    return True


@implements()
def isreal(x: Any) -> Any:
    return np.ones(shape_of(x), bool)


@implements()
def iscomplex(x: Any) -> Any:
    return np.zeros(shape_of(x), bool)


@implements()
def sinc(x: Any) -> Any:
    """sin(pi x) / (pi x), 1 at 0."""
    return TABLE["sinc"](_floating(x))


@implements()
def select(condlist: Sequence, choicelist: Sequence, default: Any = 0) -> Any:
    """The first choice whose condition holds, else the default."""
    if len(condlist) != len(choicelist):
        raise ShapeError(explain(f"np.select: {len(condlist)} conditions, {len(choicelist)} choices.",
                                 remedy="Give one choice for every condition."))
    dtype = result_dtype(*map(value_of, choicelist), value_of(default))
    y = value_of(default)
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        y = where_row(value_of(condition), value_of(choice), y)
    return convert(y, dtype)


@implements()
def choose(a: Any, choices: Sequence, out: Any = None, mode: str = "raise") -> Any:
    """choices[a], element by element; mode "raise" reads an index outside as an error where it is known."""
    count = len(choices)
    a = value_of(a)
    if mode == "clip":
        a = clip(a, 0, count - 1) if hasattr(a, "aval") else np.clip(a, 0, count - 1)
    elif mode == "wrap":
        a = a % count
    elif (found := number_or_none(a)) is None:
        raise refuse("np.choose(mode='raise') with an index that is not known", "Pass mode='clip' or mode='wrap'.")
    elif np.any((np.asarray(found) < 0) | (np.asarray(found) >= count)):
        raise ShapeError(explain(f"np.choose: an index is outside of the {count} choices.",
                                 remedy="Choose by numbers from 0, or set mode='clip'."))
    y = value_of(choices[count - 1])
    for k in reversed(range(count - 1)):
        y = where_row(TABLE["equal"](a, k), value_of(choices[k]), y)
    return y
