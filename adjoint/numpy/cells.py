"""Cells and views: what `x[...] = v`, `x += v` and views of views mean for traced values (design: aliases see writes, as in NumPy).

Invariant: a view shares writes exactly where NumPy's would; where NumPy's answer depends on the memory layout, a write is an error.
May import: L0-L2, registry. Read next: indexing.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import EVALUATION, Tracer, current, install, view_of
from ..core.primitive import TABLE, bind
from ..core.trace import freeze
from ..errors import DtypeError, MutationError, ShapeError, explain
from ..primitives.operators import BINARY, operand, overflow, too_large
from ..primitives.structure import reshape_view
from .registry import broadcasted, convert, permuted, reshaped, strong

C_ORDER = "C order"              # origin of cells whose memory NumPy would certainly lay out in C order


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of an array in C order."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def layout_of(x: Any) -> tuple | None:
    """(offset, shape, strides) in elements as NumPy would lay x out, or None where that depends on how x was computed."""
    if not isinstance(x, Tracer):
        return None
    if x.view_on is not None:
        return x.view_on.layout
    shape = x.aval.shape
    return (0, shape, strides_of(shape)) if len(shape) <= 1 or x.origin == C_ORDER else None


def in_c_order(x: Any) -> bool:
    """True if NumPy's functions that keep the order of x in memory (order="K") would certainly choose C order."""
    layout = layout_of(x) if isinstance(x, Tracer) else (0, x.shape, x.strides) if isinstance(x, np.ndarray) else (0, (), ())
    if layout is None:
        return False
    strides = [abs(s) for n, s in zip(layout[1], layout[2], strict=True) if n != 1]
    return strides == sorted(strides, reverse=True)


def fresh(x: Any, ordered: bool = True) -> Any:
    """A cell of its own holding the value of x: what a constructor or x.copy() returns. ordered: certainly in C order."""
    interpreter = current()
    if interpreter is EVALUATION and not isinstance(x, Tracer):
        return np.array(x)
    cell = freeze(x) if isinstance(x, Tracer) and x.owner is interpreter else bind(TABLE["reshape"], x, shape=aval_of(x).shape)
    if cell.aval.ndim:
        cell.origin = C_ORDER if ordered else None
        return cell
    base = bind(TABLE["reshape"], cell, shape=(1,))          # a 0-d array, unlike a scalar, can be written: a view of one element
    return reshape_cell(base, ())


# ------------------------------------------------------------------------------------------------ views


def reshape_cell(x: Any, shape: tuple[int, ...]) -> Any:
    """x under another shape: a view where NumPy gives a view, else a copy."""
    old = aval_of(x).shape
    if old == shape:
        return x
    y = bind(TABLE["reshape"], x, shape=shape)
    back = lambda base, new: reshaped(new, old)
    layout = layout_of(x)
    squeezed = tuple(n for n in old if n != 1) == tuple(n for n in shape if n != 1)
    if layout is not None:
        found = reshape_view(*layout, new=shape)
        return y if found is None else view_of(x, y, back, found)
    return view_of(x, y, back if squeezed else None)


def permute_cell(x: Any, axes: tuple[int, ...]) -> Any:
    """x with its axes in another order: a view."""
    if axes == tuple(range(len(axes))):
        return x
    layout, inverse = layout_of(x), tuple(int(a) for a in np.argsort(axes))
    if layout is not None:
        layout = layout[0], tuple(layout[1][a] for a in axes), tuple(layout[2][a] for a in axes)
    return view_of(x, bind(TABLE["permute"], x, axes=axes), lambda base, new: permuted(new, inverse), layout)


def slice_cell(x: Any, bounds: tuple, shape: tuple[int, ...]) -> Any:
    """The slice of x with these (start, stop, step), under the shape of the result (axes of one element dropped or added): a view."""
    aval = aval_of(x)
    whole = all(b == (0, n, 1) for b, n in zip(bounds, aval.shape, strict=True))
    sliced = tuple(len(range(*b)) for b in bounds)
    y = reshaped(x if whole else bind(TABLE["slice"], x, bounds=bounds), shape)
    if y is x:
        y = bind(TABLE["reshape"], x, shape=shape)
    write = lambda base, new: reshaped(new, sliced) if whole else bind(TABLE["assign_slice"], base, reshaped(new, sliced), bounds=bounds)
    layout = layout_of(x)
    if layout is not None:
        offset, _, strides = layout
        offset += sum(b[0] * s for b, s in zip(bounds, strides, strict=True))
        layout = reshape_view(offset, sliced, tuple(s * b[2] for s, b in zip(strides, bounds, strict=True)), new=shape)
    return view_of(x, y, write, layout)


def view_cell(x: Tracer) -> Any:
    """All of x: a view."""
    return view_of(x, bind(TABLE["reshape"], x, shape=x.aval.shape), lambda base, new: new, layout_of(x))


def read_only(base: Any, y: Any) -> Any:
    """y marked as a view of base that NumPy would not let be written."""
    return view_of(base, y, None)


# ------------------------------------------------------------------------------------------------ writes


def fitted(value: Any, cell: Tracer) -> Any:
    """The value with the shape and dtype of the cell: NumPy's assignment, which broadcasts and converts."""
    if type(value) is int and too_large(cell, value):
        raise overflow(cell, value)
    value = strong(value)
    shape, target = aval_of(value).shape, cell.aval.shape
    while len(shape) > len(target) and shape[0] == 1:        # assignment, unlike broadcasting, drops leading axes of one element
        shape = shape[1:]
    if len(shape) > len(target) or any(n not in (1, m) for n, m in zip(reversed(shape), reversed(target), strict=False)):
        raise ShapeError(explain(f"a value of shape {aval_of(value).shape} does not fit into {cell.aval}.",
                                 remedy="Broadcasting goes from the value to the place: reshape the value, or choose other indices."))
    return broadcasted(reshaped(convert(value, cell.aval.dtype), shape), target)


def write(cell: Tracer, value: Any) -> None:
    """cell[...] = value."""
    if not cell.aval.shape and cell.view_on is None and not cell.argument:
        raise MutationError(explain("a write to a result without axes, which in NumPy is a scalar and cannot be written.",
                                    remedy="Bind the name again: x = v; or make an array first: x = x.copy().reshape(1)."))
    value = fitted(value, cell)
    if not isinstance(value, Tracer) or value.owner is not current():
        value = bind(TABLE["reshape"], value, shape=cell.aval.shape)
    cell.rebind(value)


def in_place(operation: Callable, sign: int = 0) -> Callable:
    """The operator `x op= v`: arrays are written, NumPy's scalars are replaced. sign: +1 for +=, -1 for -=, else 0."""
    def operator(x: Tracer, v: Any) -> Any:
        v = operand(v)
        if v is NotImplemented:
            return v
        y = operation(x, v)
        found, expected = aval_of(y), x.aval
        if expected.shape == () and x.view_on is None:
            return remember(y, x, v, sign) if found.shape == () else y
        if not np.can_cast(found.dtype, expected.dtype, "same_kind"):
            raise DtypeError(explain(f"an in-place operation on {expected} cannot hold a result of {found.dtype}.",
                                     remedy="Write x = x + v, or convert first: x = x.astype(...)."))
        if found.shape != expected.shape:
            raise ShapeError(explain(f"an in-place operation on {expected} gave the shape {found.shape}.",
                                     remedy="Write it without the in-place form: x = x + y."))
        origin, fixed = x.origin, x.view_on is not None
        x.rebind(convert(y, expected.dtype))
        if not fixed:
            x.origin = origin
            remember(x, x, v, sign)
        return x
    return operator


def remember(y: Any, x: Tracer, v: Any, sign: int) -> Any:
    """Note on y that it is x, taken from an array at an index, plus v: then `a[i] += v` is one scatter-add."""
    origin = x.origin
    y_is_cell = isinstance(y, Tracer)
    if y_is_cell:
        y.origin = C_ORDER if origin == C_ORDER and y is x else None
        if isinstance(origin, tuple) and len(origin) == 3 and sign:
            y.origin = (*origin, v if sign > 0 else -v)
    return y


def no_write_into_array(form: str) -> MutationError:
    """The error for a traced value written into a plain array."""
    return MutationError(explain(
        f"{form} would write a traced value into a plain NumPy array, which cannot hold it.",
        remedy="Make the array inside the function: buf = np.zeros_like(x), or buf = adjoint.numpy.zeros(shape); or use np.stack."))


_MARKS = {"iadd": ("add", 1), "isub": ("sub", -1)}
for _name, _operation in BINARY.items():
    install(**{f"__i{_name}__": in_place(_operation, _MARKS.get(f"i{_name}", ("", 0))[1])})
