"""Reductions with NumPy's arguments (axis, keepdims, dtype, initial, ddof) on the rows that reduce.

Invariant: sums and products of booleans and small integers are int64, means of integers float64, as in NumPy.
May import: L0-L2, registry. Read next: shaping.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import TABLE, bind
from ..dtypes import FLOAT64, INT64, check_dtype
from ..errors import ShapeError, explain
from ..primitives.arithmetic import where as where_row
from .registry import UNSET, axes_of, axis_of, broadcasted, convert, elements, implements, only, reshaped, shape_of, strong, value_of


def prepared(a: Any, axis: Any, dtype: Any = None) -> tuple[Any, tuple[int, ...]]:
    """The array in the dtype asked for, and its axes, sorted."""
    a = strong(value_of(a))
    if dtype is not None:
        a = convert(a, dtype)
    return a, tuple(sorted(axes_of(axis, aval_of(a).ndim)))


def along(a: Any, axis: Any) -> Any:
    """The axis argument, where a value without axes counts as one of axis 0 or -1: NumPy's ufuncs read it so, its mean and var do not."""
    alone = isinstance(axis, (int, np.integer)) and axis in (0, -1) and not isinstance(a, (list, tuple)) and shape_of(a) == ()
    return None if alone else axis


def reduced(row: str, a: Any, axes: tuple, keepdims: Any, **params: Any) -> Any:
    """A reducing row along axes; with keepdims they stay as axes of one element."""
    shape = aval_of(a).shape
    y = bind(TABLE[row], a, axes=axes, **params)
    return kept(y, shape, axes) if keepdims is True or keepdims == 1 else y


def kept(y: Any, shape: tuple, axes: tuple) -> Any:
    """y with the reduced axes as axes of one element."""
    return reshaped(y, tuple(1 if i in axes else n for i, n in enumerate(shape)))


def _accumulator(a: Any) -> Any:
    """The dtype in which NumPy sums: int64 for booleans and integers."""
    dtype = aval_of(a).dtype
    if dtype == np.uint8:
        check_dtype(np.dtype(np.uint64))
    return INT64 if dtype.kind in "bi" else dtype


@implements("sum")
def sum_(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, initial: Any = UNSET,
         where: Any = True) -> Any:
    """Sum over axes; booleans and integers in int64."""
    only("sum", where=where)
    a, axes = prepared(a, along(a, axis), dtype)
    y = reduced("sum", a if dtype is not None else convert(a, _accumulator(a)), axes, keepdims)
    return y if initial is UNSET else y + convert(value_of(initial), aval_of(y).dtype)


@implements("prod")
def prod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, initial: Any = UNSET,
         where: Any = True) -> Any:
    """Product over axes; exact derivatives also where elements are 0."""
    only("prod", where=where)
    a, axes = prepared(a, along(a, axis), dtype)
    y = reduced("prod", a if dtype is not None else convert(a, _accumulator(a)), axes, keepdims)
    return y if initial is UNSET else y * convert(value_of(initial), aval_of(y).dtype)


@implements()
def mean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = True) -> Any:
    """Sum / count; integers in float64."""
    only("mean", where=where, dtype=None if dtype is None or np.dtype(dtype).kind == "f" else dtype)
    a, axes = prepared(a, axis, dtype)
    a = a if aval_of(a).dtype.kind == "f" else convert(a, FLOAT64)
    return reduced("sum", a, axes, keepdims) / float(_counted("np.mean", aval_of(a), axes))


def _counted(name: str, a: Aval, axes: tuple) -> int:
    """How many elements each mean is of. None: NumPy warns and gives NaN; here that is an error, since a compiled NaN would not warn."""
    count = elements(a, axes)
    if count == 0 and all(n for i, n in enumerate(a.shape) if i not in axes):
        raise ShapeError(explain(f"{name}: there is nothing to take the mean of: {a} along axes {axes}.",
                                 remedy="Check that the batch and its axes are not empty."))
    return count


@implements()
def average(a: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: Any = False) -> Any:
    """Mean, weighted if weights are given (of the shape of a, or of one axis)."""
    a = strong(value_of(a))
    if weights is None:
        y = mean(a, axis, keepdims=keepdims)
        return (y, np.full(aval_of(y).shape, elements(aval_of(a), axes_of(axis, aval_of(a).ndim)) * 1.0)[()]) if returned else y
    weights = value_of(weights)
    if aval_of(weights).shape != aval_of(a).shape:
        if axis is None or isinstance(axis, tuple) or aval_of(weights).ndim != 1:
            raise ShapeError(explain(f"np.average: weights {aval_of(weights)} do not fit {aval_of(a)}.",
                                     remedy="Give them the shape of a, or axis=."))
        k = axis_of(axis, aval_of(a).ndim)
        weights = reshaped(weights, tuple(aval_of(weights).size if i == k else 1 for i in range(aval_of(a).ndim)))
    weights = broadcasted(convert(weights, np.result_type(aval_of(a).dtype, aval_of(weights).dtype, FLOAT64
                                                          if aval_of(a).dtype.kind != "f" else aval_of(a).dtype)), aval_of(a).shape)
    total = sum_(weights, axis, keepdims=keepdims)
    y = sum_(a * weights, axis, keepdims=keepdims) / total
    return (y, total) if returned else y


@implements()
def var(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False, *, where: Any = True,
        mean: Any = UNSET, correction: Any = UNSET) -> Any:
    """Mean square distance from the mean; the count is reduced by ddof."""
    only("var", where=where, dtype=None if dtype is None or np.dtype(dtype).kind == "f" else dtype)
    a, axes = prepared(a, axis, dtype)
    a = a if aval_of(a).dtype.kind == "f" else convert(a, FLOAT64)
    count = _counted("np.var", aval_of(a), axes)
    center = reduced("sum", a, axes, True) / float(count) if mean is UNSET else mean
    distance = a - center
    left = count - (ddof if correction is UNSET else correction)
    return reduced("sum", distance * distance, axes, keepdims) / float(max(left, 0))


@implements()
def std(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False, *, where: Any = True,
        mean: Any = UNSET, correction: Any = UNSET) -> Any:
    """Square root of var; where all elements are equal it has no derivative: NaN."""
    return TABLE["sqrt"](var(a, axis, dtype, out, ddof, keepdims, where=where, mean=mean, correction=correction))


def _extreme(name: str, row: str, pair: str, a: Any, axis: Any, keepdims: Any, initial: Any, where: Any) -> Any:
    only(name, where=where)
    a, axes = prepared(a, along(a, axis))
    if initial is not UNSET and elements(aval_of(a), axes) == 0:
        shape = tuple((1 if keepdims else 0) if i in axes else n for i, n in enumerate(aval_of(a).shape))
        return broadcasted(convert(initial, aval_of(a).dtype), tuple(n for i, n in enumerate(shape) if keepdims or i not in axes))
    y = reduced(row, a, axes, keepdims)
    return y if initial is UNSET else TABLE[pair](y, convert(value_of(initial), aval_of(y).dtype))


@implements("max", "amax")
def max_(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = UNSET,
         where: Any = True) -> Any:
    """Largest element; ties share the derivative equally."""
    return _extreme("max", "max", "maximum", a, axis, keepdims, initial, where)


@implements("min", "amin")
def min_(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = UNSET,
         where: Any = True) -> Any:
    """Smallest element; ties share the derivative equally."""
    return _extreme("min", "min", "minimum", a, axis, keepdims, initial, where)


@implements()
def ptp(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    """Largest minus smallest."""
    return max_(a, axis, keepdims=keepdims) - min_(a, axis, keepdims=keepdims)


@implements("all")
def all_(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = True) -> Any:
    """Every element is true (not 0)."""
    only("all", where=where)
    a, axes = prepared(a, along(a, axis))
    return reduced("all", a if aval_of(a).dtype == np.bool_ else a != 0, axes, keepdims)


@implements("any")
def any_(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = True) -> Any:
    """Some element is true (not 0)."""
    only("any", where=where)
    a, axes = prepared(a, along(a, axis))
    return reduced("any", a if aval_of(a).dtype == np.bool_ else a != 0, axes, keepdims)


@implements()
def count_nonzero(a: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    """The number of elements that are not 0."""
    a = strong(value_of(a))
    return sum_(a if aval_of(a).dtype == np.bool_ else a != 0, axis, keepdims=keepdims)


def _position(row: str, a: Any, axis: Any, keepdims: Any) -> Any:
    a = strong(value_of(a))
    shape, axis = aval_of(a).shape, along(a, axis)
    if axis is None:
        y = bind(TABLE[row], reshaped(a, (aval_of(a).size,)), axis=0)
        return reshaped(y, (1,) * len(shape)) if keepdims is True else y
    axis = axis_of(axis, len(shape))
    y = bind(TABLE[row], a, axis=axis)
    return kept(y, shape, (axis,)) if keepdims is True else y


@implements()
def argmax(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """Where the largest element is, the first of equals."""
    return _position("argmax", a, axis, keepdims)


@implements()
def argmin(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """Where the smallest element is, the first of equals."""
    return _position("argmin", a, axis, keepdims)


# ------------------------------------------------------------------------------------------------ running sums and products


def _running(row: str, a: Any, axis: Any, dtype: Any) -> Any:
    a = strong(value_of(a))
    a = convert(a, dtype) if dtype is not None else convert(a, _accumulator(a))
    if along(a, axis) is None:
        a, axis = reshaped(a, (aval_of(a).size,)), 0
    return bind(TABLE[row], a, axis=axis_of(axis, aval_of(a).ndim), reverse=False)


@implements()
def cumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    """y[i] = x[0] + ... + x[i]."""
    return _running("cumsum", a, axis, dtype)


@implements()
def cumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    """y[i] = x[0] ... x[i]."""
    return _running("cumprod", a, axis, dtype)


@implements("cumulative_sum")
def cumulative_sum(x: Any, /, *, axis: Any = None, dtype: Any = None, out: Any = None, include_initial: bool = False) -> Any:
    return _with_initial(cumsum(x, axis, dtype), axis, 0, include_initial)


@implements("cumulative_prod")
def cumulative_prod(x: Any, /, *, axis: Any = None, dtype: Any = None, out: Any = None, include_initial: bool = False) -> Any:
    return _with_initial(cumprod(x, axis, dtype), axis, 1, include_initial)


def _with_initial(y: Any, axis: Any, first: int, include: bool) -> Any:
    if not include:
        return y
    axis = 0 if axis is None else axis_of(axis, aval_of(y).ndim)
    shape = tuple(1 if i == axis else n for i, n in enumerate(aval_of(y).shape))
    return np.concatenate([np.full(shape, first, aval_of(y).dtype), y], axis)


# ------------------------------------------------------------------------------------------------ NaN left out


def _replaced(a: Any, value: float) -> tuple[Any, Any]:
    """(a with NaN replaced, where the numbers are), or (a, None) for integers."""
    a = strong(value_of(a))
    if aval_of(a).dtype.kind != "f":
        return a, None
    missing = TABLE["isnan"](a)
    return where_row(missing, value, a), TABLE["invert"](missing)


@implements()
def nansum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, initial: Any = UNSET,
           where: Any = True) -> Any:
    """Sum of the numbers that are not NaN."""
    return sum_(_replaced(a, 0.0)[0], axis, dtype, out, keepdims, initial, where)


@implements()
def nanprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, initial: Any = UNSET,
            where: Any = True) -> Any:
    """Product of the numbers that are not NaN."""
    return prod(_replaced(a, 1.0)[0], axis, dtype, out, keepdims, initial, where)


@implements()
def nanmean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = True) -> Any:
    """Mean of the numbers that are not NaN; NaN if there is none."""
    numbers, present = _replaced(a, 0.0)
    if present is None:
        return mean(a, axis, dtype, out, keepdims, where=where)
    only("nanmean", where=where)
    count = sum_(convert(present, aval_of(numbers).dtype), axis, keepdims=keepdims)
    return sum_(numbers, axis, dtype, keepdims=keepdims) / count


@implements()
def nanvar(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False, *, where: Any = True,
           mean: Any = UNSET, correction: Any = UNSET) -> Any:
    """Variance of the numbers that are not NaN."""
    numbers, present = _replaced(a, 0.0)
    if present is None:
        return var(a, axis, dtype, out, ddof, keepdims, where=where, mean=mean, correction=correction)
    only("nanvar", where=where)
    numbers = numbers if dtype is None else convert(numbers, dtype)
    count = sum_(convert(present, aval_of(numbers).dtype), axis, keepdims=True)
    center = sum_(numbers, axis, keepdims=True) / count if mean is UNSET else mean
    distance = where_row(present, numbers - center, 0.0)
    left = count - float(ddof if correction is UNSET else correction)
    left = where_row(left <= 0, math.nan, left)
    y = sum_(distance * distance, axis, keepdims=True) / left
    return y if keepdims is True else reshaped(y, aval_of(sum_(numbers, axis)).shape)


@implements()
def nanstd(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False, *, where: Any = True,
           mean: Any = UNSET, correction: Any = UNSET) -> Any:
    """Square root of nanvar."""
    return TABLE["sqrt"](nanvar(a, axis, dtype, out, ddof, keepdims, where=where, mean=mean, correction=correction))


def _nan_extreme(pick: Any, worst: float, a: Any, axis: Any, keepdims: Any, initial: Any, where: Any) -> Any:
    numbers, present = _replaced(a, worst)
    y = pick(numbers, axis, None, keepdims, initial, where)
    return y if present is None else where_row(any_(present, axis, keepdims=keepdims), y, math.nan if initial is UNSET else initial)


@implements()
def nanmax(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = UNSET,
           where: Any = True) -> Any:
    """Largest of the numbers that are not NaN; NaN if there is none."""
    return _nan_extreme(max_, -math.inf, a, axis, keepdims, initial, where)


@implements()
def nanmin(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = UNSET,
           where: Any = True) -> Any:
    """Smallest of the numbers that are not NaN; NaN if there is none."""
    return _nan_extreme(min_, math.inf, a, axis, keepdims, initial, where)
