"""Shapes and dtypes of operands brought together, and cotangents taken apart again: broadcasting, unbroadcasting, promotion.

Invariant: a cotangent leaves here with exactly the shape and dtype of its primal; only Python's scalars are weak (NEP 50).
May import: L0, core. Read next: kinds.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of, is_weak_scalar, result_dtype
from ..core.interpreter import EVALUATION, Tracer, current
from ..core.primitive import TABLE, bind
from ..dtypes import FLOAT64, check_dtype
from ..errors import ShapeError, explain

_PROTOTYPE = {"b": False, "i": 0, "u": 0, "f": 0.0}


# ------------------------------------------------------------------------------------------------ shapes


def broadcast_shape(name: str, avals: tuple[Aval, ...]) -> tuple[int, ...]:
    """NumPy's broadcast shape, or ShapeError in the user's terms."""
    first = avals[0].shape
    for aval in avals:
        if aval.shape != first:
            break
    else:
        return first
    try:
        return np.broadcast_shapes(*[a.shape for a in avals])
    except ValueError:
        raise ShapeError(explain(f"{name}: shapes do not broadcast: {' and '.join(map(str, avals))}.",
                                 remedy="Axes are aligned from the last; sizes must be equal or 1. Reshape one operand.")) from None


def unbroadcast(x: Any, aval: Aval) -> Any:
    """Sum over the axes that broadcasting added or stretched, so that the result has the shape and dtype of `aval`."""
    found = aval_of(x)
    if found is aval:
        return x
    if found.shape != aval.shape:
        extra = found.ndim - aval.ndim
        axes = tuple(i for i, n in enumerate(found.shape) if i < extra or (aval.shape[i - extra] == 1 and n != 1))
        if axes:
            x = bind(TABLE["sum"], x, axes=axes)
        if aval_of(x).shape != aval.shape:
            x = bind(TABLE["reshape"], x, shape=aval.shape)
    return x if found.dtype is aval.dtype or found.dtype == aval.dtype else bind(TABLE["convert"], x, dtype=aval.dtype)


def fill_out(x: Any, aval: Aval) -> Any:
    """Broadcast and convert x to the shape and dtype of `aval`."""
    found = aval_of(x)
    if found.shape != aval.shape:
        x = bind(TABLE["broadcast"], x, shape=aval.shape)
    return x if found.dtype == aval.dtype else bind(TABLE["convert"], x, dtype=aval.dtype)


def full(value: float, aval: Aval) -> Any:
    """An array of one value without its memory: a broadcast scalar, and in a trace the node that says so (no captured array)."""
    scalar = np.asarray(value, aval.dtype)
    if current() is EVALUATION:
        return np.broadcast_to(scalar, aval.shape)
    return bind(TABLE["broadcast"], scalar, shape=aval.shape)


def zeros_of(aval: Aval) -> Any:
    """Zeros of a shape and dtype without their memory."""
    return full(0, aval)


def move_front(x: Any, axis: int) -> Any:
    """The same array with one axis moved to the front."""
    return move_axis(x, axis, 0)


def move_axis(x: Any, axis: int, to: int) -> Any:
    """The same array with one axis moved to another place."""
    if axis == to:
        return x
    rest = [i for i in range(aval_of(x).ndim) if i != axis]
    return bind(TABLE["permute"], x, axes=(*rest[:to], axis, *rest[to:]))


def align(args: tuple, axes: tuple) -> list:
    """Batch axes to the front, ranks padded behind them, so that broadcasting is still per example."""
    rank = max([aval_of(a).ndim - (ax is not None) for a, ax in zip(args, axes, strict=True)])
    out = []
    for a, ax in zip(args, axes, strict=True):
        if ax is not None:
            a = move_front(a, ax)
            shape = aval_of(a).shape
            if len(shape) - 1 < rank:
                a = bind(TABLE["reshape"], a, shape=(shape[0], *(1,) * (rank - len(shape) + 1), *shape[1:]))
        out.append(a)
    return out


def spread(y: Any, aval: Aval, axes: tuple) -> Any:
    """A reduced value repeated along the axes it was reduced over."""
    return bind(TABLE["broadcast"], keep_axes(y, aval, axes), shape=aval.shape)


def keep_axes(y: Any, aval: Aval, axes: tuple) -> Any:
    """A reduced value with the axes it was reduced over put back as 1."""
    return bind(TABLE["reshape"], y, shape=tuple(1 if i in axes else n for i, n in enumerate(aval.shape)))


def batch_together(args: tuple, axes: tuple) -> tuple[list, int]:
    """All arguments with the batch axis in front, those without one repeated; and the size of the batch."""
    size = next(aval_of(a).shape[ax] for a, ax in zip(args, axes, strict=True) if ax is not None)
    return [move_front(a, ax) if ax is not None else bind(TABLE["broadcast"], a, shape=(size, *aval_of(a).shape))
            for a, ax in zip(args, axes, strict=True)], size


# ------------------------------------------------------------------------------------------------ dtypes


def operand_of(aval: Aval) -> Any:
    """What np.result_type needs to see of an aval: its dtype, or a Python scalar if it is weak."""
    return _PROTOTYPE[aval.dtype.kind] if aval.weak else aval.dtype


def common_dtype(avals: tuple[Aval, ...], floating: bool = False) -> np.dtype:
    """NumPy's promotion of these avals; with floating, integers become float64 as in np.sin."""
    first = avals[0]
    for aval in avals:
        if aval.dtype is not first.dtype or aval.weak:
            break
    else:
        return first.dtype if not floating or first.dtype.kind == "f" else FLOAT64
    dtype = check_dtype(np.result_type(*map(operand_of, avals)))
    return dtype if not floating or dtype.kind == "f" else FLOAT64


def promote_args(args: tuple, floating: bool = False) -> tuple:
    """The arguments in their common dtype; Python scalars stay weak. floating: integers become float64, as in np.sin.

    NumPy's own ufuncs promote on evaluation, but for small integers they would choose half precision, which the table has not.
    """
    if current() is EVALUATION:
        return tuple(map(_no_half, args)) if floating else args
    x, y = args[0], args[-1]
    if type(x) is Tracer:
        dtype = x.aval.dtype
        if dtype.kind == "f" and len(args) <= 2 and (type(y) is float or (type(y) is Tracer and y.aval.dtype is dtype)):
            return args
    elif type(x) is float and type(y) is Tracer and len(args) == 2 and y.aval.dtype.kind == "f":
        return args
    dtype = result_dtype(*args)
    if floating and dtype.kind != "f":
        dtype = FLOAT64
    return tuple(_in_dtype(a, dtype) for a in args)


def promote_arrays(args: tuple) -> tuple:
    """promote_args for rows that take arrays only: weak values become arrays of the common dtype."""
    if current() is EVALUATION:
        return args
    dtype = result_dtype(*args)
    return tuple(bind(TABLE["convert"], a, dtype=dtype) if aval_of(a).dtype != dtype or aval_of(a).weak else a for a in args)


def promote_floating(args: tuple) -> tuple:
    """promote_args for functions whose values are floating for every dtype."""
    return promote_args(args, True)


def _no_half(x: Any) -> Any:
    kind = x.dtype.kind if isinstance(x, (np.ndarray, np.generic)) else "b" if x is True or x is False else "f"
    return x if kind in "fi" else np.asarray(x).astype(FLOAT64)[()]


def _in_dtype(x: Any, dtype: np.dtype) -> Any:
    """x in a dtype; a weak value stays as it is (a Python integer among floats becomes a float): it follows whatever it meets."""
    if is_weak_scalar(x):
        return float(x) if dtype.kind == "f" else x
    aval = aval_of(x)
    if aval.dtype == dtype or aval.weak:
        return x
    if not isinstance(x, Tracer):
        return np.asarray(x).astype(dtype)
    return bind(TABLE["convert"], x, dtype=dtype)
