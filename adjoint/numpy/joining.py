"""Joining, splitting, padding, taking along axes, triangles and diagonals.

Invariant: no arithmetic happens here. May import: L0-L2, registry, cells, indexing, shaping. Read next: sorting.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import Tracer
from ..core.primitive import TABLE, bind
from ..dtypes import INT64
from ..errors import ShapeError, explain
from ..primitives.arithmetic import where as where_row
from .cells import no_write_into_array, read_only
from .gathering import gather
from .indexing import getitem
from .registry import axis_of, broadcasted, cast, convert, implements, number_or_none, refuse, reshaped, shape_of, strong, value_of
from .shaping import copy_of, size_of

# ------------------------------------------------------------------------------------------------ joining


def _parts(arrays: Any) -> list:
    if isinstance(arrays, Tracer):
        return list(arrays)
    return [strong(value_of(a)) for a in arrays]


@implements("concatenate", "concat")
def concatenate(arrays: Sequence, /, axis: int | None = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind") -> Any:
    """Arrays joined along an existing axis."""
    parts = _parts(arrays)
    if axis is None:
        parts, axis = [reshaped(p, (aval_of(p).size,)) for p in parts], 0
    if not parts or not aval_of(parts[0]).ndim:
        raise ShapeError(explain("concatenate: arrays without axes cannot be joined.", remedy="Use np.stack for numbers."))
    if dtype is not None:
        parts = [cast(p, dtype, casting) for p in parts]
    return TABLE["concatenate"](*parts, axis=axis_of(axis, aval_of(parts[0]).ndim))


@implements()
def stack(arrays: Sequence, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind") -> Any:
    """Arrays of one shape joined along a new axis."""
    parts = _parts(arrays)
    shapes = {aval_of(p).shape for p in parts}
    if len(shapes) != 1:
        raise ShapeError(explain(f"stack: all arrays must have the same shape, found {sorted(shapes)}.",
                                 remedy="Reshape or broadcast them to one shape, or use np.concatenate."))
    (shape,) = shapes
    axis = axis_of(axis, len(shape) + 1)
    return concatenate([reshaped(p, (*shape[:axis], 1, *shape[axis:])) for p in parts], axis, dtype=dtype, casting=casting)


@implements("vstack")
def vstack(tup: Sequence, *, dtype: Any = None, casting: str = "same_kind") -> Any:
    return concatenate([np.atleast_2d(p) for p in _parts(tup)], 0, dtype=dtype, casting=casting)


@implements()
def hstack(tup: Sequence, *, dtype: Any = None, casting: str = "same_kind") -> Any:
    parts = [np.atleast_1d(p) for p in _parts(tup)]
    return concatenate(parts, 0 if aval_of(parts[0]).ndim == 1 else 1, dtype=dtype, casting=casting)


@implements()
def dstack(tup: Sequence) -> Any:
    return concatenate([np.atleast_3d(p) for p in _parts(tup)], 2)


@implements()
def column_stack(tup: Sequence) -> Any:
    parts = _parts(tup)
    return concatenate([reshaped(p, (aval_of(p).size, 1)) if aval_of(p).ndim < 2 else p for p in parts], 1)


@implements()
def append(arr: Any, values: Any, axis: int | None = None) -> Any:
    """A new array with the values behind."""
    return concatenate([arr, values], axis)


@implements()
def block(arrays: Any) -> Any:
    """An array from nested lists of blocks."""
    def depth(x: Any) -> int:
        return 1 + max(map(depth, x)) if isinstance(x, list) else 0

    def join(x: Any, level: int, ndim: int) -> Any:
        if isinstance(x, list):
            return concatenate([join(part, level - 1, ndim) for part in x], -level)
        x = strong(value_of(x))
        return reshaped(x, (1,) * (ndim - aval_of(x).ndim) + aval_of(x).shape)

    def rank(x: Any) -> int:
        return max(map(rank, x)) if isinstance(x, list) else len(shape_of(value_of(x)))
    levels = depth(arrays)
    return join(arrays, levels, max(levels, rank(arrays)))


@implements()
def insert(arr: Any, obj: Any, values: Any, axis: int | None = None) -> Any:
    """Values inserted before one concrete position along an axis."""
    arr = value_of(arr)
    if not isinstance(obj, (int, np.integer)):
        raise refuse("np.insert at several positions", "Use np.concatenate of slices.")
    if axis is None:
        arr, axis = reshaped(arr, (aval_of(arr).size,)), 0
    axis = axis_of(axis, aval_of(arr).ndim)
    values = convert(value_of(values), aval_of(arr).dtype)
    at = int(obj) + (aval_of(arr).shape[axis] if obj < 0 else 0)
    shape = tuple(1 if i == axis else n for i, n in enumerate(aval_of(arr).shape))
    if aval_of(values).ndim == len(shape):
        shape = tuple(aval_of(values).shape[axis] if i == axis else n for i, n in enumerate(shape))
    elif aval_of(values).ndim == 1 and len(shape) == 1:
        shape = aval_of(values).shape
    lead = (slice(None),) * axis
    return concatenate([arr[(*lead, slice(None, at))], broadcasted(values, shape), arr[(*lead, slice(at, None))]], axis)


@implements()
def delete(arr: Any, obj: Any, axis: int | None = None) -> Any:
    """Without the elements at concrete positions along an axis."""
    arr = value_of(arr)
    if axis is None:
        arr, axis = reshaped(arr, (aval_of(arr).size,)), 0
    axis = axis_of(axis, aval_of(arr).ndim)
    return take(arr, np.delete(np.arange(aval_of(arr).shape[axis]), obj), axis)


# ------------------------------------------------------------------------------------------------ splitting


@implements()
def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list:
    """Slices along an axis: at positions, or a number of nearly equal parts; views."""
    ary = value_of(ary)
    axis = axis_of(axis, aval_of(ary).ndim)
    total = aval_of(ary).shape[axis]
    if isinstance(indices_or_sections, (int, np.integer)):
        count = int(indices_or_sections)
        small, more = divmod(total, count)
        ends = np.cumsum([small + 1] * more + [small] * (count - more)).tolist()
        points = [0, *ends]
    else:
        points = [0, *[size_of(i) for i in indices_or_sections], total]
    return [getitem(ary, (*(slice(None),) * axis, slice(a, b))) for a, b in itertools.pairwise(points)]


@implements()
def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list:
    """Slices along an axis: at positions, or a number of equal parts; views."""
    ary = value_of(ary)
    total = aval_of(ary).shape[axis_of(axis, aval_of(ary).ndim)]
    if isinstance(indices_or_sections, (int, np.integer)) and total % indices_or_sections:
        raise ShapeError(explain(f"split: an axis of {total} does not divide into {indices_or_sections} equal parts.",
                                 remedy="Use np.array_split, or give the places to cut at."))
    return array_split(ary, indices_or_sections, axis)


@implements()
def vsplit(ary: Any, indices_or_sections: Any) -> list:
    return split(ary, indices_or_sections, 0)


@implements()
def hsplit(ary: Any, indices_or_sections: Any) -> list:
    return split(ary, indices_or_sections, 0 if aval_of(value_of(ary)).ndim == 1 else 1)


@implements()
def dsplit(ary: Any, indices_or_sections: Any) -> list:
    return split(ary, indices_or_sections, 2)


@implements()
def unstack(x: Any, /, *, axis: int = 0) -> tuple:
    """The slices along an axis, without it."""
    return tuple(np.moveaxis(x, axis, 0))


# ------------------------------------------------------------------------------------------------ padding


@implements()
def pad(array: Any, pad_width: Any, mode: str = "constant", **options: Any) -> Any:
    """Elements added at the ends of axes: constant, edge, reflect, symmetric, wrap."""
    x = strong(value_of(array))
    ndim = aval_of(x).ndim
    if isinstance(pad_width, dict):
        named = {axis_of(a, ndim): w for a, w in pad_width.items()}
        pad_width = [named.get(a, (0, 0)) for a in range(ndim)]
    widths = _pairs(pad_width, ndim, "pad_width")
    if mode == "constant":
        return _pad_constant(x, widths, options.get("constant_values", 0))
    if mode not in ("edge", "reflect", "symmetric", "wrap"):
        raise refuse(f"np.pad(mode={mode!r})", "The modes constant, edge, reflect, symmetric and wrap have a rule.")
    if options.get("reflect_type", "even") != "even":
        raise refuse("np.pad(reflect_type='odd')", "Use reflect_type='even'.")
    for axis, (before, after) in enumerate(widths):
        if before or after:
            x = take(x, np.pad(np.arange(aval_of(x).shape[axis]), (before, after), mode), axis)
    return x if x is not array else copy_of(x)


def _pairs(widths: Any, ndim: int, name: str) -> list[tuple]:
    found = np.asarray(widths)
    if found.dtype.kind not in "iu" or np.any(found < 0):
        raise ShapeError(explain(f"pad: {name} must be non-negative integers.",
                                 remedy="Give (before, after) of every axis; cut with slices."))
    if found.shape not in ((), (1,), (2,), (1, 2), (ndim, 1), (ndim, 2)):
        raise ShapeError(explain(f"pad: {name} has shape {found.shape}, the array {ndim} axes.",
                                 remedy="Give (before, after) for all axes, or one pair for every axis."))
    return [tuple(int(n) for n in row) for row in np.broadcast_to(found, (ndim, 2))]


def _pad_constant(x: Any, widths: list, values: Any) -> Any:
    dtype = aval_of(x).dtype
    if not isinstance(values, (Tracer, tuple, list, np.ndarray)) or np.ndim(values) == 0:
        shape = tuple(n + before + after for n, (before, after) in zip(aval_of(x).shape, widths, strict=True))
        bounds = tuple((before, before + n, 1) for n, (before, _) in zip(aval_of(x).shape, widths, strict=True))
        return bind(TABLE["assign_slice"], broadcasted(convert(values, dtype), shape), x, bounds=bounds)
    for axis, ((before, after), ends) in enumerate(zip(widths, np.broadcast_to(values, (len(widths), 2)), strict=True)):
        shape = aval_of(x).shape
        side = lambda count, value, shape=shape, axis=axis: np.full((*shape[:axis], count, *shape[axis + 1:]), value, dtype)
        x = concatenate([side(before, ends[0]), x, side(after, ends[1])], axis)
    return x


# ------------------------------------------------------------------------------------------------ taking


def _positions(indices: Any, size: int, mode: str) -> Any:
    """Indices as the gather row reads them, mode applied."""
    empty = isinstance(indices, (list, tuple)) and not indices                  # no element says what it is an array of
    i = np.zeros(0, INT64) if empty else value_of(indices)
    if aval_of(i).dtype.kind not in "iu":
        raise ShapeError(explain(f"take: indices must be integers, found {aval_of(i)}.",
                                 remedy="Convert them first: indices.astype(np.int64)."))
    if mode == "clip":
        return np.clip(i, 0, size - 1)
    return i % size if mode == "wrap" else i


@implements()
def take(a: Any, indices: Any, axis: int | None = None, out: Any = None, mode: str = "raise") -> Any:
    """Elements at integer positions along an axis (of the flattened array if none is given)."""
    a = strong(value_of(a))
    if axis is None:
        a, axis = reshaped(a, (aval_of(a).size,)), 0
    a = a if aval_of(a).ndim else reshaped(a, (1,))
    axis = axis_of(axis, aval_of(a).ndim)
    return gather(a, (axis,), (_positions(indices, aval_of(a).shape[axis], mode),), axis)


@implements()
def take_along_axis(arr: Any, indices: Any, axis: int | None = -1) -> Any:
    """y[..., j, ...] = arr[..., indices[..., j, ...], ...]: one position for each element of the other axes."""
    arr, indices = strong(value_of(arr)), value_of(indices)
    if axis is None:
        arr, axis = reshaped(arr, (aval_of(arr).size,)), 0
    ndim = aval_of(arr).ndim
    axis = axis_of(axis, ndim)
    if aval_of(indices).ndim != ndim:
        raise ShapeError(explain(f"take_along_axis: {aval_of(indices)} and {aval_of(arr)} must have the same number of axes.",
                                 remedy="Insert axes of one element: np.expand_dims(indices, axis)."))
    return TABLE["gather"](arr, *_along(indices, aval_of(arr).shape, axis))


def _along(indices: Any, shape: tuple, axis: int) -> list:
    ndim = len(shape)
    return [indices if i == axis else np.arange(n, dtype=INT64).reshape([-1 if j == i else 1 for j in range(ndim)])
            for i, n in enumerate(shape)]


@implements()
def put_along_axis(arr: Any, indices: Any, values: Any, axis: int | None) -> None:
    """arr[..., indices[..., j, ...], ...] = values[..., j, ...]."""
    if not isinstance(arr, Tracer) or axis is None:
        raise refuse("np.put_along_axis into a plain array or without axis", "Write to a copy made inside the function: np.copy(x).")
    axis = axis_of(axis, arr.aval.ndim)
    arr[tuple(_along(value_of(indices), arr.aval.shape, axis))] = values


@implements()
def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    """dst[...] = src, where the mask holds."""
    if not isinstance(dst, Tracer):
        raise no_write_into_array("np.copyto, np.full or np.full_like")
    dst[...] = src if where is True else where_row(value_of(where), value_of(src), dst)


@implements()
def putmask(a: Any, /, mask: Any, values: Any) -> None:
    """a[mask] = values, for one value or an array like a."""
    if not isinstance(a, Tracer):
        raise no_write_into_array("np.putmask")
    a[...] = where_row(value_of(mask), np.broadcast_to(value_of(values), a.shape), a)


@implements()
def put(a: Any, ind: Any, v: Any, mode: str = "raise") -> None:
    """a.ravel()[ind] = v, the values repeated if there are too few."""
    if not isinstance(a, Tracer):
        raise no_write_into_array("np.put")
    i = np.ravel(_positions(ind, a.aval.size, mode))
    count, values = aval_of(i).size, np.ravel(value_of(v))
    values = take(values, np.arange(count) % max(aval_of(values).size, 1), 0)
    flat = TABLE["scatter"](reshaped(a, (a.aval.size,)), convert(values, a.aval.dtype), i)
    a[...] = reshaped(flat, a.aval.shape)


@implements()
def compress(condition: Any, a: Any, axis: int | None = None, out: Any = None) -> Any:
    """Elements along an axis where a concrete condition holds."""
    found = number_or_none(condition)
    if found is None:
        raise refuse("np.compress with a condition that is not known", "Keep the shape: np.where(mask, x, 0).")
    return take(a, np.flatnonzero(found), axis)


@implements()
def extract(condition: Any, arr: Any) -> Any:
    return compress(np.ravel(number_or_none(condition)) if number_or_none(condition) is not None else condition, arr)


# ------------------------------------------------------------------------------------------------ triangles and diagonals


def _triangle(m: Any, mask: np.ndarray) -> Any:
    return where_row(mask, m, np.zeros((), aval_of(m).dtype)[()])


@implements()
def tril(m: Any, k: int = 0) -> Any:
    """Elements on and below the k-th diagonal, others 0."""
    m = value_of(m)
    return _triangle(m, np.tri(*aval_of(m).shape[-2:], k=k, dtype=bool))


@implements()
def triu(m: Any, k: int = 0) -> Any:
    """Elements on and above the k-th diagonal, others 0."""
    m = value_of(m)
    return _triangle(m, ~np.tri(*aval_of(m).shape[-2:], k=k - 1, dtype=bool))


@implements()
def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """Elements a[i, i + offset] of two axes, as the last axis: a read-only view."""
    a = value_of(a)
    i, j = axis_of(axis1, aval_of(a).ndim), axis_of(axis2, aval_of(a).ndim)
    rows, columns = aval_of(a).shape[i], aval_of(a).shape[j]
    count = max(0, min(rows - max(-offset, 0), columns - max(offset, 0)))
    along = np.arange(count)
    y = gather(a, (i, j), (along + max(-offset, 0), along + max(offset, 0)), aval_of(a).ndim - 2)
    return read_only(a, y)


@implements("linalg.diagonal")
def linalg_diagonal(x: Any, /, *, offset: int = 0) -> Any:
    return diagonal(x, offset, -2, -1)


@implements()
def trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None) -> Any:
    """Sum of a diagonal."""
    return np.sum(diagonal(a, offset, axis1, axis2), axis=-1, dtype=dtype)


@implements("linalg.trace")
def linalg_trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    return trace(x, offset, -2, -1, dtype)


@implements()
def diag(v: Any, k: int = 0) -> Any:
    """The diagonal of a matrix, or the matrix with a diagonal."""
    v = value_of(v)
    if aval_of(v).ndim == 2:
        return diagonal(v, k)
    if aval_of(v).ndim != 1:
        raise ShapeError(explain(f"diag needs one or two axes, found {aval_of(v)}.",
                                 remedy="np.diagonal takes arrays of more axes."))
    n = aval_of(v).size
    along = np.arange(n)
    zeros = broadcasted(np.zeros((), aval_of(v).dtype), (n + abs(k), n + abs(k)))
    return TABLE["scatter"](zeros, v, along + max(-k, 0), along + max(k, 0))


@implements()
def diagflat(v: Any, k: int = 0) -> Any:
    v = value_of(v)
    return diag(reshaped(v, (aval_of(v).size,)), k)


@implements()
def fill_diagonal(a: Any, val: Any, wrap: bool = False) -> None:
    """a[i, i] = val."""
    if not isinstance(a, Tracer) or wrap or len(set(a.aval.shape)) > 1 < a.aval.ndim - 1:
        raise refuse("np.fill_diagonal of a plain array, with wrap, or of unequal axes", "Write x[i, i] = v with i = np.arange(n).")
    along = np.arange(min(a.aval.shape))
    a[(along,) * a.aval.ndim] = val


@implements()
def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    """Integral by the trapezoidal rule."""
    y = np.moveaxis(value_of(y), axis, -1)
    if x is not None:
        x = value_of(x)
        dx = np.diff(x) if aval_of(x).ndim == 1 else np.diff(np.moveaxis(x, axis, -1))
    return np.sum(dx * (y[..., 1:] + y[..., :-1]) / 2.0, axis=-1)

