"""Shapes: NumPy's functions that rearrange, join, split and repeat; those that give views in NumPy give view cells.

Invariant: no arithmetic happens here. May import: L0-L2, registry, cells, indexing. Read next: joining.py.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import Tracer
from ..core.primitive import TABLE, bind
from ..errors import ShapeError, explain
from .cells import C_ORDER, in_c_order, permute_cell, read_only, reshape_cell, slice_cell
from .indexing import getitem
from .registry import UNSET, axes_of, axis_of, broadcasted, implements, only, refuse, reshaped, shape_of, strong, value_of


def size_of(n: Any) -> int:
    """An extent; a traced one is an error that says what to do."""
    return operator.index(n)


def full_shape(shape: Any, size: int) -> tuple[int, ...]:
    """A shape as a tuple, its -1 filled in."""
    shape = tuple([size_of(n) for n in shape]) if isinstance(shape, (tuple, list, np.ndarray)) else (size_of(shape),)
    if shape.count(-1) == 0:
        return shape
    rest = 1
    for n in shape:
        rest *= n if n != -1 else 1
    if shape.count(-1) > 1 or rest == 0 or size % rest:
        raise ShapeError(explain(f"reshape: {size} elements do not fit the shape {shape}.",
                                 remedy="Sizes multiply to the number of elements; one of them may be -1."))
    return tuple([size // rest if n == -1 else n for n in shape])


@implements()
def reshape(a: Any, /, shape: Any = None, order: str = "C", *, newshape: Any = UNSET, copy: Any = None) -> Any:
    """The elements in C order under another shape; a view where NumPy gives one."""
    a = value_of(a)
    aval = aval_of(a)
    shape = full_shape(shape if newshape is UNSET else newshape, aval.size)
    if copy is False:
        raise refuse("np.reshape(copy=False)", "Leave out copy=: a view is made where NumPy makes one.")
    if order == "F":
        return _reversed(bind(TABLE["reshape"], _reversed(a), shape=shape[::-1]))
    if order not in ("C", "K", "A"):
        raise refuse(f"np.reshape(order={order!r})", "Use order='C'.")
    if copy is True:
        return bind(TABLE["reshape"], a, shape=shape)
    return reshape_cell(a, shape)


def _reversed(a: Any) -> Any:
    ndim = aval_of(a).ndim
    return a if ndim < 2 else bind(TABLE["permute"], a, axes=tuple(reversed(range(ndim))))


@implements()
def ravel(a: Any, order: str = "C") -> Any:
    """The elements in one axis; a view where NumPy gives one."""
    return reshape(a, -1, order)


@implements()
def transpose(a: Any, axes: Any = None) -> Any:
    """Axes in another order (reversed if none is given): a view."""
    a = value_of(a)
    ndim = aval_of(a).ndim
    order = tuple(reversed(range(ndim))) if axes is None else axes_of(tuple(axes), ndim)
    if len(order) != ndim:
        raise ShapeError(explain(f"transpose: axes {axes} for an array of {ndim} axes.",
                                 remedy="Name each axis once, from 0."))
    return permute_cell(a, order)


@implements("matrix_transpose", "linalg.matrix_transpose")
def matrix_transpose(x: Any, /) -> Any:
    """The last two axes exchanged: a view."""
    if aval_of(value_of(x)).ndim < 2:
        raise ShapeError(explain("matrix_transpose needs at least two axes.",
                                 remedy="A vector becomes a matrix by x[None] or x[:, None]."))
    return swapaxes(x, -1, -2)


@implements()
def swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    """Two axes exchanged: a view."""
    a = value_of(a)
    order = list(range(aval_of(a).ndim))
    i, j = axis_of(axis1, len(order)), axis_of(axis2, len(order))
    order[i], order[j] = j, i
    return permute_cell(a, tuple(order))


@implements()
def moveaxis(a: Any, source: Any, destination: Any) -> Any:
    """Axes moved to new places, the others keeping their order: a view."""
    a = value_of(a)
    ndim = aval_of(a).ndim
    source, destination = axes_of(source, ndim), axes_of(destination, ndim)
    if len(source) != len(destination):
        raise ShapeError(explain("moveaxis: source and destination differ in length.",
                                 remedy="Give one destination for every source."))
    order = [i for i in range(ndim) if i not in source]
    for to, axis in sorted(zip(destination, source, strict=True)):
        order.insert(to, axis)
    return permute_cell(a, tuple(order))


@implements()
def rollaxis(a: Any, axis: int, start: int = 0) -> Any:
    """The axis moved before position start: a view."""
    ndim = aval_of(value_of(a)).ndim
    axis, start = axis_of(axis, ndim), start + ndim if start < 0 else start
    return moveaxis(a, axis, start - 1 if axis < start else start)


@implements()
def expand_dims(a: Any, axis: Any) -> Any:
    """New axes of one element: a view."""
    a = value_of(a)
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    ndim = aval_of(a).ndim + count
    new, rest = axes_of(axis, ndim), iter(aval_of(a).shape)
    return reshape_cell(a, tuple(1 if i in new else next(rest) for i in range(ndim)))


@implements()
def squeeze(a: Any, axis: Any = None) -> Any:
    """Without axes of one element: a view."""
    a = value_of(a)
    shape = aval_of(a).shape
    if axis is None:
        return reshape_cell(a, tuple(n for n in shape if n != 1))
    gone = axes_of(axis, len(shape))
    if any(shape[i] != 1 for i in gone):
        raise ShapeError(explain(f"squeeze: an axis of {gone} in the shape {shape} has more than one element.",
                                 remedy="Name axes of one element, or leave axis out."))
    return reshape_cell(a, tuple(n for i, n in enumerate(shape) if i not in gone))


def _at_least(a: Any, ndim: int) -> Any:
    a = value_of(a)
    shape = shape_of(a)
    if len(shape) >= ndim:
        return a
    if ndim == 3:
        shape = {0: (1, 1, 1), 1: (1, *shape, 1), 2: (*shape, 1)}[len(shape)]
    else:
        shape = (1,) * (ndim - len(shape)) + shape
    return reshape_cell(a, shape) if isinstance(a, Tracer) else np.reshape(a, shape)


def _each(ndim: int) -> Any:
    def function(*arys: Any) -> Any:
        found = tuple(_at_least(a, ndim) for a in arys)
        return found[0] if len(found) == 1 else found
    return function


for _ndim in (1, 2, 3):
    implements(f"atleast_{_ndim}d")(_each(_ndim))


@implements()
def broadcast_to(array: Any, shape: Any, subok: bool = False) -> Any:
    """Repeated to a shape: a read-only view."""
    a = value_of(array)
    shape = tuple(map(size_of, shape)) if isinstance(shape, (tuple, list)) else (size_of(shape),)
    return a if aval_of(a).shape == shape else read_only(a, broadcasted(a, shape))


@implements()
def broadcast_arrays(*args: Any, subok: bool = False) -> tuple:
    """All arrays repeated to their common shape."""
    values = list(map(value_of, args))
    shape = np.broadcast_shapes(*map(shape_of, values))
    return tuple([broadcast_to(v, shape) if isinstance(v, Tracer) else np.broadcast_to(v, shape) for v in values])


# ------------------------------------------------------------------------------------------------ order along axes


@implements()
def flip(m: Any, axis: Any = None) -> Any:
    """The order along axes reversed: a view."""
    m = value_of(m)
    shape = aval_of(m).shape
    axes = axes_of(axis, len(shape))
    return slice_cell(m, tuple((n - 1, -1, -1) if i in axes and n else (0, n, 1) for i, n in enumerate(shape)), shape)


@implements()
def fliplr(m: Any) -> Any:
    return flip(m, 1)


@implements()
def flipud(m: Any) -> Any:
    return flip(m, 0)


@implements()
def rot90(m: Any, k: int = 1, axes: Any = (0, 1)) -> Any:
    """Turned by k quarter turns from the first axis to the second."""
    ndim = aval_of(value_of(m)).ndim
    first, second = axes_of(tuple(axes), ndim)
    k %= 4
    if k == 0:
        return getitem(m, ...)
    if k == 2:
        return flip(flip(m, first), second)
    return swapaxes(flip(m, second), first, second) if k == 1 else flip(swapaxes(m, first, second), second)


@implements()
def roll(a: Any, shift: Any, axis: Any = None) -> Any:
    """Elements moved along axes, those beyond the end brought back to the front."""
    a = value_of(a)
    shape = aval_of(a).shape
    if axis is None:
        return reshaped(roll(reshaped(a, (aval_of(a).size,)), sum(np.ravel(shift).tolist()), 0), shape)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    for amount, one in np.broadcast(shift, axes):
        one = axis_of(one, len(shape))
        amount = int(amount) % shape[one] if shape[one] else 0
        if amount:
            parts = [slice(None)] * one
            a = np.concatenate([a[(*parts, slice(-amount, None))], a[(*parts, slice(None, -amount))]], one)
    return a if a is not value_of(a) else copy_of(a)


def copy_of(a: Any) -> Any:
    """A cell of its own with the value of a."""
    y = bind(TABLE["reshape"], strong(a), shape=shape_of(a))
    if isinstance(y, Tracer) and y.aval.ndim and in_c_order(a):
        y.origin = C_ORDER
    return y


# ------------------------------------------------------------------------------------------------ repeating


@implements()
def tile(A: Any, reps: Any) -> Any:
    """A repeated along each axis."""
    a = value_of(A)
    reps = tuple(map(size_of, reps)) if isinstance(reps, (tuple, list, np.ndarray)) else (size_of(reps),)
    _refuse_negative("tile", "reps", reps)
    shape = aval_of(a).shape
    ndim = max(len(reps), len(shape))
    reps, shape = (1,) * (ndim - len(reps)) + reps, (1,) * (ndim - len(shape)) + shape
    y = reshaped(strong(a), tuple(n for size in shape for n in (1, size)))
    y = broadcasted(y, tuple(n for count, size in zip(reps, shape, strict=True) for n in (count, size)))
    return bind(TABLE["reshape"], y, shape=tuple(count * size for count, size in zip(reps, shape, strict=True)))


def _refuse_negative(name: str, what: str, counts: Any) -> None:
    if np.any(np.asarray(counts) < 0):
        raise ShapeError(explain(f"{name}: {what} is {counts!r:.60}, expected numbers of at least 0.", remedy="0 leaves an empty axis."))


@implements()
def repeat(a: Any, repeats: Any, axis: Any = None) -> Any:
    """Each element repeated; `repeats` is a number, or concrete numbers, one for each element."""
    a = value_of(a)
    if axis is None:
        a, axis = reshaped(a, (aval_of(a).size,)), 0
    shape = aval_of(a).shape
    axis = axis_of(axis, len(shape))
    counts = np.asarray(repeats)
    _refuse_negative("repeat", "repeats", repeats)
    if counts.size not in (1, shape[axis]):
        raise ShapeError(explain(f"repeat: {counts.size} counts for an axis of {shape[axis]} elements.",
                                 remedy="Give one number for all elements, or one for each."))
    if counts.size != 1:
        return np.take(a, np.repeat(np.arange(shape[axis]), counts), axis=axis)
    count = int(counts.reshape(()))
    y = reshaped(a, (*shape[:axis + 1], 1, *shape[axis + 1:]))
    y = broadcasted(y, (*shape[:axis + 1], count, *shape[axis + 1:]))
    return bind(TABLE["reshape"], y, shape=(*shape[:axis], shape[axis] * count, *shape[axis + 1:]))


# ------------------------------------------------------------------------------------------------ what NumPy asks of an array


@implements()
def ndim(a: Any) -> int:
    return len(shape_of(value_of(a)))


@implements()
def shape(a: Any) -> tuple:
    return shape_of(value_of(a))


@implements()
def size(a: Any, axis: Any = None) -> int:
    found = shape_of(value_of(a))
    count = 1
    for i in axes_of(axis, len(found)):
        count *= found[i]
    return count


@implements("result_type")
def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    from_aval = lambda x: np.empty(0, x.aval.dtype) if isinstance(x, Tracer) else x
    return np.result_type(*map(from_aval, arrays_and_dtypes))


@implements("may_share_memory", "shares_memory")
def may_share_memory(a: Any, b: Any, max_work: Any = None) -> Any:
    raise refuse("np.shares_memory", "Traced values have no memory of their own.")


@implements()
def copy(a: Any, order: str = "K", subok: bool = False) -> Any:
    """A copy that later writes to a do not reach."""
    only("copy", order=None if order in ("K", "C", "A") else order)
    return copy_of(a)
