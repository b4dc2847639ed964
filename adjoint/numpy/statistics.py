"""Covariances, running sums without NaN, windows, memberships: small functions made of those in the other modules.

Invariant: as in registry.py. May import: L0-L2, the other modules of this package. Read next: constructors.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.primitive import TABLE, bind
from ..errors import ShapeError, explain
from ..primitives.arithmetic import where as where_row
from .gathering import gather
from .reductions import argmax, argmin, cumprod, cumsum
from .registry import axes_of, axis_of, convert, floating, implements, refuse, reshaped, strong, value_of
from .shaping import size_of
from .sorting import argsort, sort


@implements()
def cov(m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: int | None = None, fweights: Any = None,
        aweights: Any = None, *, dtype: Any = None) -> Any:
    """Covariance matrix of variables (rows; columns with rowvar=False): products of distances from the means over count - ddof."""
    if fweights is not None or aweights is not None:
        raise refuse("np.cov with weights", "Weigh the distances from np.average(x, weights=w) by hand.")
    parts = [_variables(x, rowvar, dtype) for x in (m, y) if x is not None]
    x = np.concatenate(parts, axis=0) if len(parts) > 1 else parts[0]
    count = aval_of(x).shape[1] - (ddof if ddof is not None else 0 if bias else 1)
    distance = x - np.mean(x, axis=1, keepdims=True)
    return np.squeeze(distance @ distance.T / float(max(count, 0)))


def _variables(x: Any, rowvar: bool, dtype: Any) -> Any:
    x = floating(x) if dtype is None else convert(strong(value_of(x)), dtype)
    if aval_of(x).ndim > 2:
        raise ShapeError(explain(f"cov: {aval_of(x)} has more than two axes.",
                                 remedy="Reshape it to [variables, observations]."))
    x = np.atleast_2d(x) if aval_of(x).ndim < 2 or rowvar else x.T
    return convert(x, np.result_type(aval_of(x).dtype, np.float64))        # NumPy computes in float64 at least


@implements()
def corrcoef(x: Any, y: Any = None, rowvar: bool = True, *, dtype: Any = None) -> Any:
    """Covariances divided by both standard deviations, limited to [-1, 1]."""
    c = cov(x, y, rowvar, dtype=dtype)
    if not aval_of(c).ndim:
        return c / c
    deviation = np.sqrt(np.diagonal(c))
    return np.clip(c / deviation[:, None] / deviation[None, :], -1, 1)


@implements()
def nancumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    """Running sum, NaN counting as 0."""
    return cumsum(_without(a, 0.0), axis, dtype)


@implements()
def nancumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    """Running product, NaN counting as 1."""
    return cumprod(_without(a, 1.0), axis, dtype)


@implements()
def nanargmax(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """Where the largest element that is not NaN is."""
    return argmax(_without(a, -math.inf), axis, keepdims=keepdims)


@implements()
def nanargmin(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """Where the smallest element that is not NaN is."""
    return argmin(_without(a, math.inf), axis, keepdims=keepdims)


def _without(a: Any, value: float) -> Any:
    """a with NaN replaced."""
    a = strong(value_of(a))
    return where_row(TABLE["isnan"](a), value, a) if aval_of(a).dtype.kind == "f" else a


@implements()
def isin(element: Any, test_elements: Any, assume_unique: bool = False, invert: bool = False, *, kind: Any = None) -> Any:
    """Whether each element is among test_elements, by comparing with each of them."""
    element, others = strong(value_of(element)), np.ravel(value_of(test_elements))
    found = bind(TABLE["any"], reshaped(element, (*aval_of(element).shape, 1)) == others, axes=(aval_of(element).ndim,))
    return TABLE["invert"](found) if invert else found


@implements()
def partition(a: Any, kth: Any, axis: Any = -1, kind: str = "introselect", order: Any = None) -> Any:
    """Sorted along an axis, which puts every kth element in its place."""
    return sort(a, axis)


@implements()
def argpartition(a: Any, kth: Any, axis: Any = -1, kind: str = "introselect", order: Any = None) -> Any:
    """Positions in sorted order, which puts every kth element in its place."""
    return argsort(a, axis)


@implements("lib.stride_tricks.sliding_window_view")
def sliding_window_view(x: Any, window_shape: Any, axis: Any = None, *, subok: bool = False, writeable: bool = False) -> Any:
    """All windows along axes, their elements in new last axes; here a copy."""
    x = strong(value_of(x))
    windows = tuple(map(size_of, window_shape)) if isinstance(window_shape, (tuple, list)) else (size_of(window_shape),)
    axes = axes_of(None, aval_of(x).ndim) if axis is None else \
        tuple(axis_of(a, aval_of(x).ndim) for a in (axis if isinstance(axis, (tuple, list)) else (axis,)))
    if len(windows) != len(axes):
        raise ShapeError(explain(f"sliding_window_view: {len(windows)} window sizes for {len(axes)} axes.",
                                 remedy="Give one window size for every axis."))
    for window, a in zip(windows, axes, strict=True):
        count = aval_of(x).shape[a] - window + 1
        if window < 0 or count <= 0:
            raise ShapeError(explain(f"sliding_window_view: a window of {window} does not fit an axis of {aval_of(x).shape[a]}.",
                                     remedy="Use a smaller window, or pad the array first."))
        x = np.moveaxis(gather(x, (a,), (np.arange(count)[:, None] + np.arange(window),), a), a + 1, -1)
    return x
