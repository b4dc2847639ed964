"""Constructors: what NumPy's protocols cannot intercept. Inside a trace they return cells, which can be written and differentiated.

Invariant: outside of a trace, and without traced arguments, each is NumPy's own. May import: L0-L2, registry, cells, joining.
Read next: special.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.aval import aval_of, result_dtype
from ..core.interpreter import EVALUATION, Tracer, current
from ..dtypes import check_dtype
from .cells import fresh, in_c_order
from .joining import concatenate
from .registry import axis_of, broadcasted, convert, implements, refuse, reshaped, shape_of, strong, value_of
from .shaping import copy_of, size_of


def holds_traced(x: Any) -> bool:
    """True if x is a traced value or a list or tuple that holds one."""
    return isinstance(x, Tracer) or (isinstance(x, (list, tuple)) and any(map(holds_traced, x)))


def filled(value: Any, shape: Any, dtype: Any, ordered: bool = True) -> Any:
    """A cell of a shape in which every element is `value`."""
    shape = tuple(map(size_of, shape)) if isinstance(shape, (tuple, list, np.ndarray)) else (size_of(shape),)
    value = convert(value, dtype)
    return fresh(broadcasted(value, shape), ordered)


def _constructor(name: str, value: Any) -> Callable:
    numpy_function = getattr(np, name)

    def construct(shape: Any, dtype: Any = None, order: str = "C", *, device: str | None = None) -> Any:
        if current() is EVALUATION:
            return numpy_function(shape, dtype or float, order)
        return filled(value, shape, check_dtype(np.dtype(dtype or float)), order == "C")
    construct.__name__ = construct.__qualname__ = name
    construct.__doc__ = f"np.{name}: a new array, inside a trace a cell that can be written."
    return construct


zeros, ones, empty = _constructor("zeros", 0), _constructor("ones", 1), _constructor("empty", 0)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C", *, device: str | None = None) -> Any:
    """np.full, also of a traced number."""
    if current() is EVALUATION and not isinstance(fill_value, Tracer):
        return np.full(shape, fill_value, dtype)
    fill_value = value_of(fill_value)
    return filled(fill_value, shape, dtype or aval_of(fill_value).dtype)


def asarray(a: Any, dtype: Any = None, order: Any = None, *, device: str | None = None, copy: bool | None = None) -> Any:
    """np.asarray: a traced value as it is, a list of traced values stacked, a plain array inside a trace as a cell."""
    if current() is EVALUATION and not holds_traced(a):
        return np.asarray(a, dtype=dtype, copy=copy)
    y = a if isinstance(a, Tracer) else _joined(a)
    y = y if dtype is None else convert(y, dtype)
    return y if isinstance(y, Tracer) and y.owner is current() and not (copy and y is a) else fresh(y)


def array(object: Any, dtype: Any = None, *, copy: bool | None = True, order: str = "K", ndmin: int = 0) -> Any:
    """np.array: a copy; a list may hold traced values."""
    if current() is EVALUATION and not holds_traced(object):
        return np.array(object, dtype=dtype, copy=copy, ndmin=ndmin)
    y = asarray(object, dtype, copy=bool(copy))
    return reshaped(y, (1,) * (ndmin - aval_of(y).ndim) + aval_of(y).shape) if aval_of(y).ndim < ndmin else y


def _joined(x: Any) -> Any:
    """Nested lists as one array, traced values stacked."""
    if not holds_traced(x):
        found = np.asarray(x)
        check_dtype(found.dtype)
        return found
    if isinstance(x, Tracer):
        return x
    return np.stack([_joined(item) for item in x])


def _like(name: str, value: Any) -> None:
    def function(a: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None, *, device: Any = None) -> Any:
        return filled(value, shape_of(a) if shape is None else shape, aval_of(a).dtype if dtype is None else dtype, in_c_order(a))
    implements(name)(function)


_like("zeros_like", 0)
_like("ones_like", 1)
_like("empty_like", 0)


@implements()
def full_like(a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None, *,
              device: Any = None) -> Any:
    """An array like a in which every element is fill_value."""
    shape, dtype = shape_of(a) if shape is None else shape, aval_of(a).dtype if dtype is None else dtype
    return filled(value_of(fill_value), shape, dtype, in_c_order(a))


# ------------------------------------------------------------------------------------------------ ranges


def _lifted(name: str) -> Callable:
    """NumPy's constructor from known numbers; inside a trace the result is a cell."""
    numpy_function = getattr(np, name)

    def construct(*args: Any, **kwargs: Any) -> Any:
        y = numpy_function(*args, **kwargs)
        return y if current() is EVALUATION else fresh(y)
    construct.__name__ = construct.__qualname__ = name
    construct.__doc__ = f"np.{name} of known numbers; inside a trace a cell that can be written."
    return construct


arange, eye, identity, tri = _lifted("arange"), _lifted("eye"), _lifted("identity"), _lifted("tri")


@implements("linspace")
def linspace_traced(start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False, dtype: Any = None, axis: int = 0, *,
                    device: Any = None) -> Any:
    """num numbers from start to stop, both of which may be traced."""
    start, stop = value_of(start), value_of(stop)
    common = result_dtype(start, stop)
    start, stop = (convert(v, common if common.kind == "f" else np.float64) for v in (start, stop))
    parts = max(num - 1, 1) if endpoint else max(num, 1)
    step = (stop - start) / float(parts)
    ndim = len(np.broadcast_shapes(aval_of(start).shape, aval_of(stop).shape))
    along = np.arange(num, dtype=aval_of(step).dtype).reshape(-1, *(1,) * ndim)
    y = start + along * step
    if endpoint and num > 1:
        y = concatenate([y[:-1], broadcasted(stop, aval_of(step).shape)[None]], 0)
    y = np.moveaxis(y, 0, axis_of(axis, ndim + 1)) if axis else y
    y = y if dtype is None else convert(np.floor(y) if np.dtype(dtype).kind in "iu" else y, dtype)
    return (y, step) if retstep else y


def linspace(start: Any, stop: Any, num: int = 50, **options: Any) -> Any:
    """np.linspace; inside a trace a cell."""
    y = np.linspace(start, stop, num, **options)
    return y if current() is EVALUATION or isinstance(y, (Tracer, tuple)) else fresh(y)


@implements()
def meshgrid(*xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy") -> tuple:
    """Coordinates of a grid from the coordinates of its axes."""
    if indexing not in ("xy", "ij"):
        raise refuse(f"np.meshgrid(indexing={indexing!r})", "Use indexing='xy' or 'ij'.")
    parts = [np.ravel(value_of(x)) for x in xi]
    count = len(parts)
    places = [1, 0, *range(2, count)] if indexing == "xy" and count > 1 else list(range(count))
    lines = [reshaped(p, tuple(aval_of(p).size if k == place else 1 for k in range(count))) for p, place in zip(parts, places, strict=True)]
    if sparse:
        return tuple(lines)
    shape = np.broadcast_shapes(*[aval_of(line).shape for line in lines])
    return tuple(copy_of(broadcasted(line, shape)) for line in lines)


@implements("astype")
def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    """The same numbers in another dtype."""
    y = convert(strong(x), dtype)
    return fresh(y, in_c_order(x)) if y is x and copy else y


@implements("vander")
def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    """Columns of powers of x."""
    x = value_of(x)
    x = convert(x, np.promote_types(aval_of(x).dtype, int))
    count = aval_of(x).size if N is None else N
    powers = range(count) if increasing else reversed(range(count))
    return np.stack([x ** k if k else np.ones_like(x) for k in powers], axis=1)


@implements("polyval")
def polyval(p: Any, x: Any) -> Any:
    """Value of the polynomial with coefficients p (highest power first) by Horner's rule."""
    coefficients: Sequence = list(value_of(p)) if not isinstance(p, (list, tuple)) else p
    x = value_of(x)
    y = np.zeros(shape_of(x), result_dtype(x, *map(value_of, coefficients)))[()]
    for c in coefficients:
        y = y * x + c
    return y
