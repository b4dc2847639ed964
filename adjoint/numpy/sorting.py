"""Order: sort, argsort, median, quantiles, searchsorted.

Invariant: derivatives follow the elements; positions have none. May import: L0-L2, registry, reductions, joining.
Read next: norms.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.primitive import TABLE, bind
from ..errors import ShapeError, explain
from ..primitives.arithmetic import where as where_row
from .joining import take
from .reductions import kept
from .registry import (
    UNSET,
    axes_of,
    axis_of,
    convert,
    elements,
    floating,
    implements,
    number_or_none,
    only,
    refuse,
    reshaped,
    strong,
    value_of,
)


def _along(a: Any, axis: Any) -> tuple[Any, int]:
    a = strong(value_of(a))
    if axis is None:
        return reshaped(a, (aval_of(a).size,)), 0
    return a, axis_of(axis, aval_of(a).ndim)


@implements()
def sort(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Any:
    """Elements in ascending order along an axis, NaN last."""
    a, axis = _along(a, axis)
    return bind(TABLE["sort"], a, axis=axis)


@implements()
def argsort(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Any:
    """Positions of the elements in ascending order; equal elements keep their order."""
    a, axis = _along(a, axis)
    return bind(TABLE["argsort"], a, axis=axis)


@implements()
def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Any:
    """Positions where v would keep a sorted: the count of smaller elements (side left), or of smaller and equal ones."""
    if sorter is not None:
        raise refuse("np.searchsorted(sorter=...)", "Sort first: np.sort(a).")
    a, v = strong(value_of(a)), value_of(v)
    spread = reshaped(strong(v), (*aval_of(v).shape, 1))
    found = np.less(a, spread) if side == "left" else np.less_equal(a, spread)
    return np.sum(found, axis=-1)


@implements()
def digitize(x: Any, bins: Any, right: bool = False) -> Any:
    """The bin of each element; bins are concrete and increasing."""
    edges = number_or_none(bins)
    if edges is None or np.any(np.diff(edges) < 0):
        raise refuse("np.digitize with traced or decreasing bins", "Use np.searchsorted on increasing bins.")
    return searchsorted(bins, x, "left" if right else "right")


# ------------------------------------------------------------------------------------------------ quantiles


def _joined(a: Any, axis: Any) -> tuple[Any, tuple, tuple]:
    """The axes to reduce joined into the last one: (array, its former shape, the axes)."""
    a = strong(value_of(a))
    shape, axes = aval_of(a).shape, tuple(sorted(axes_of(axis, aval_of(a).ndim)))
    rest = tuple(i for i in range(len(shape)) if i not in axes)
    a = np.transpose(a, (*rest, *axes))
    return reshaped(a, (*(shape[i] for i in rest), elements(aval_of(value_of(a)), tuple(range(len(rest), len(shape)))))), shape, axes


@implements()
def median(a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: bool = False) -> Any:
    """The middle element, or the mean of the two middle ones; NaN if any element is NaN."""
    x, shape, axes = _joined(floating(a), axis)
    count = aval_of(x).shape[-1]
    if not count:
        raise ShapeError(explain("median of an empty axis has no value.",
                                 remedy="Check the selection in front of it."))
    ordered = bind(TABLE["sort"], x, axis=aval_of(x).ndim - 1)
    low, high = (count - 1) // 2, count // 2
    y = ordered[..., low] if low == high else (ordered[..., low] + ordered[..., high]) / 2.0
    y = where_row(TABLE["isnan"](ordered[..., count - 1]), math.nan, y)
    return kept(y, shape, axes) if keepdims else y


@implements()
def quantile(a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
             keepdims: bool = False, *, weights: Any = None, interpolation: Any = UNSET) -> Any:
    """Quantiles of a share q in [0, 1], between two elements by linear interpolation; q may be traced."""
    if method not in ("linear", "lower", "higher", "nearest", "midpoint") or weights is not None:
        raise refuse(f"np.quantile(method={method!r}) or with weights",
                     "Use method linear, lower, higher, nearest or midpoint, and no weights.")
    only("quantile", interpolation=interpolation)
    discrete = method in ("lower", "higher", "nearest")
    x, shape, axes = _joined(value_of(a) if discrete else floating(a), axis)
    dtype = aval_of(x).dtype if aval_of(x).dtype.kind == "f" else np.dtype(np.float64)
    q = convert(q, dtype) if isinstance(q, (int, float)) else floating(q)
    spot = q * float(aval_of(x).shape[-1] - 1)
    ordered = bind(TABLE["sort"], x, axis=aval_of(x).ndim - 1)
    if discrete:
        y = _at(ordered, {"lower": np.floor, "higher": np.ceil, "nearest": np.rint}[method](spot))
    else:
        low = np.floor(spot)
        lower, upper = _at(ordered, low), _at(ordered, np.ceil(spot))
        share = spot - low if method == "linear" else 0.0 * spot + 0.5
        y = lower + (upper - lower) * reshaped(strong(share), (*aval_of(q).shape, *(1,) * (aval_of(x).ndim - 1)))
    if dtype == aval_of(x).dtype:
        y = where_row(TABLE["isnan"](ordered[..., -1]), math.nan, y)
    if keepdims:
        y = reshaped(y, (*aval_of(q).shape, *(1 if i in axes else n for i, n in enumerate(shape))))
    return y


def _at(ordered: Any, position: Any) -> Any:
    """Elements at positions along the last axis, the axes of the positions in front."""
    y = take(ordered, convert(position, np.int64), -1, mode="clip")
    rank = aval_of(value_of(position)).ndim
    return np.moveaxis(y, tuple(range(-rank, 0)), tuple(range(rank))) if rank else y


@implements()
def percentile(a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
               keepdims: bool = False, *, weights: Any = None, interpolation: Any = UNSET) -> Any:
    """Quantiles of a share given in hundredths."""
    hundred = aval_of(value_of(a)).dtype.type(100) if aval_of(value_of(a)).dtype.kind == "f" else 100
    return quantile(a, np.true_divide(value_of(q), hundred), axis, None, False, method, keepdims, weights=weights,
                    interpolation=interpolation)
