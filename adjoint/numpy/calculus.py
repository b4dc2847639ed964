"""Differences, convolutions and interpolation.

Invariant: positions (x of interp) are read as numbers where they are known, by comparisons where they are traced.
May import: L0-L2, registry, elementwise, joining. Read next: sorting.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.primitive import TABLE
from ..errors import ShapeError, explain
from ..primitives.arithmetic import where as where_row
from .joining import concatenate, pad, take
from .registry import UNSET, axis_of, convert, implements, refuse, reshaped, strong, value_of


@implements()
def diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = UNSET, append: Any = UNSET) -> Any:
    """n-th difference: y[i] = a[i + 1] - a[i]."""
    a = strong(value_of(a))
    axis = axis_of(axis, aval_of(a).ndim)
    ends = []
    for end in (prepend, append):
        if end is not UNSET:
            end = value_of(end)
            shape = tuple(1 if i == axis else m for i, m in enumerate(aval_of(a).shape))
            end = np.broadcast_to(end, shape) if aval_of(end).ndim == 0 else end
        ends.append(end)
    parts = [p for p in (ends[0], a, ends[1]) if p is not UNSET]
    a = concatenate(parts, axis) if len(parts) > 1 else a
    lead = (slice(None),) * axis
    for _ in range(n):
        high, low = a[(*lead, slice(1, None))], a[(*lead, slice(None, -1))]
        a = high != low if aval_of(a).dtype == np.bool_ else high - low
    return a


@implements()
def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Any:
    """Differences of the flattened array, with values added at the ends."""
    ary = np.ravel(value_of(ary))
    parts = [p if p is ary else np.ravel(convert(value_of(p), aval_of(ary).dtype)) for p in (to_begin, ary, to_end) if p is not None]
    parts = [diff(p) if p is ary else p for p in parts]
    return concatenate(parts, 0) if len(parts) > 1 else parts[0]


@implements()
def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """Central differences inside, one-sided at the ends, with a spacing or coordinates for each axis."""
    f = strong(value_of(f))
    f = f if aval_of(f).dtype.kind == "f" else convert(f, np.float64)
    ndim = aval_of(f).ndim
    axes = tuple(range(ndim)) if axis is None else tuple(axis_of(a, ndim) for a in (axis if isinstance(axis, tuple) else (axis,)))
    steps = list(varargs) or [1.0]
    steps = steps * len(axes) if len(steps) == 1 else steps
    if len(steps) != len(axes):
        raise ShapeError(explain(f"gradient: {len(steps)} spacings for {len(axes)} axes.",
                                 remedy="Give one spacing for all axes, or one per axis."))
    found = [_gradient_along(f, value_of(step), a, edge_order) for step, a in zip(steps, axes, strict=True)]
    return found[0] if len(axes) == 1 else tuple(found)


def _gradient_along(f: Any, step: Any, axis: int, edge_order: int) -> Any:
    f = np.moveaxis(f, axis, -1)
    count = aval_of(f).shape[-1]
    if count < edge_order + 1:
        raise ShapeError(explain(f"gradient: an axis of {count} elements is too short, {edge_order + 1} are needed.",
                                 remedy="Give more points, or edge_order=1."))
    h = np.diff(step) if aval_of(step).ndim else step
    if aval_of(step).ndim and aval_of(step).size != count:
        raise ShapeError(explain(f"gradient: {aval_of(step).size} coordinates for an axis of {count} elements.",
                                 remedy="Give as many coordinates as the axis has elements, or one spacing."))
    if aval_of(step).ndim:
        a, b = h[:-1], h[1:]
        inside = (f[..., 2:] * a * a + f[..., 1:-1] * (b * b - a * a) - f[..., :-2] * b * b) / (a * b * (a + b))
    else:
        a = b = h
        inside = (f[..., 2:] - f[..., :-2]) / (2.0 * h)
    first, last = (h[0], h[-1]) if aval_of(step).ndim else (h, h)
    if edge_order == 1:
        start, end = (f[..., 1] - f[..., 0]) / first, (f[..., -1] - f[..., -2]) / last
    else:
        second, before = (h[1], h[-2]) if aval_of(step).ndim else (h, h)
        start = _one_sided(f[..., 0], f[..., 1], f[..., 2], first, second)
        end = -1.0 * _one_sided(f[..., -1], f[..., -2], f[..., -3], last, before)
    y = concatenate([start[..., None], inside, end[..., None]], -1)
    return np.moveaxis(convert(y, aval_of(f).dtype), -1, axis)


def _one_sided(f0: Any, f1: Any, f2: Any, a: Any, b: Any) -> Any:
    """The derivative at the first of three points with spacings a and b, of second order."""
    return f0 * (-(2.0 * a + b) / (a * (a + b))) + f1 * ((a + b) / (a * b)) - f2 * (a / (b * (a + b)))


# ------------------------------------------------------------------------------------------------ convolution


@implements()
def convolve(a: Any, v: Any, mode: str = "full") -> Any:
    """y[k] = sum over i of a[i] v[k - i]; mode full, same or valid."""
    a, v = np.atleast_1d(strong(value_of(a))), np.atleast_1d(strong(value_of(v)))
    if aval_of(v).size > aval_of(a).size:
        a, v = v, a
    return _sliding(a, np.flip(v), mode)


@implements()
def correlate(a: Any, v: Any, mode: str = "valid") -> Any:
    """y[k] = sum over i of a[i + k] v[i]; mode full, same or valid."""
    a, v = np.atleast_1d(strong(value_of(a))), np.atleast_1d(strong(value_of(v)))
    if aval_of(v).size > aval_of(a).size:
        return np.flip(_sliding(v, a, mode))
    return _sliding(a, v, mode)


def _sliding(a: Any, v: Any, mode: str) -> Any:
    """Inner products of v with every window of a, a being the longer."""
    n, m = aval_of(a).size, aval_of(v).size
    if aval_of(a).ndim != 1 or aval_of(v).ndim != 1 or not n or not m:
        raise ShapeError(explain(f"convolve: two arrays of one axis that are not empty are needed, found {aval_of(a)} and {aval_of(v)}.",
                                 remedy="Flatten the arrays: x.reshape(-1)."))
    if mode not in ("full", "same", "valid"):
        raise ShapeError(explain(f"convolve: mode {mode!r} is not one of full, same, valid.",
                                 remedy="Leave mode out for 'full'."))
    before, after = {"full": (m - 1, m - 1), "same": (m // 2, (m - 1) // 2), "valid": (0, 0)}[mode]
    if mode == "same":
        before, after = m - 1 - (m - 1) // 2, (m - 1) // 2
    a = pad(a, (before, after))
    count = n + before + after - m + 1
    windows = a[np.arange(count)[:, None] + np.arange(m)]
    return windows @ v


# ------------------------------------------------------------------------------------------------ interpolation


@implements()
def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Any:
    """Piecewise linear function through (xp, fp) at x, constant outside; at a knot the derivative is that of the piece on its right."""
    if period is not None:
        raise refuse("np.interp(period=...)", "Reduce x by x % period first.")
    x, xp, fp = strong(value_of(x)), strong(value_of(xp)), strong(value_of(fp))
    x, xp, fp = (convert(v, np.float64) for v in (x, xp, fp))           # NumPy interpolates in float64 whatever is given
    n = aval_of(xp).size
    if aval_of(xp).shape != aval_of(fp).shape or aval_of(xp).ndim != 1 or not n:
        raise ShapeError(explain(f"interp: xp {aval_of(xp)} and fp {aval_of(fp)} must be arrays of one axis of the same size.",
                                 remedy="Give one value fp for every point xp."))
    low, high = fp[0] if left is None else left, fp[n - 1] if right is None else right
    if n == 1:
        y = where_row(x >= xp[0], fp[0], low) + 0.0 * x
        return where_row(x > xp[n - 1], high, y)
    below = reshaped(x, (*aval_of(x).shape, 1)) >= xp                       # pieces by comparison: works for traced x and xp alike
    k = np.clip(np.sum(below, axis=-1) - 1, 0, n - 2)
    x0, x1, f0, f1 = take(xp, k), take(xp, k + 1), take(fp, k), take(fp, k + 1)
    width = x1 - x0
    slope = (f1 - f0) / where_row(TABLE["equal"](width, 0.0), 1.0, width)
    y = f0 + slope * (x - x0)
    y = where_row(TABLE["isnan"](x), x, y)
    return where_row(x < xp[0], low, where_row(x > xp[n - 1], high, where_row(TABLE["equal"](x, xp[n - 1]), fp[n - 1], y)))
