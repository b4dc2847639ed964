"""The tables of NumPy's names: which of our functions stands in when NumPy's meets a traced value; and how their arguments are read.

Invariant: an entry takes NumPy's arguments, by NumPy's names, and gives NumPy's shape, dtype and values. May import: L0-L2.
Read next: cells.py, dispatch.py.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.interpreter import Tracer, known
from ..core.primitive import TABLE, bind
from ..dtypes import check_dtype
from ..errors import DtypeError, EscapedTracerError, ShapeError, TracerError, explain
from ..primitives.operators import operand

FUNCTIONS: dict[Any, Callable] = {}          # NumPy's function -> ours
UFUNCS: dict[str, Callable] = {}             # name of NumPy's ufunc -> ours, where it is not the row of the same name
REFUSED: dict[str, str] = {}                 # NumPy's name -> what to write instead
UNSET: Any = np._NoValue


def implements(*names: str) -> Callable[[Callable], Callable]:
    """Enter a function under NumPy's names ("linalg.norm"), or under its own; names that this NumPy lacks are left out."""
    def decorate(function: Callable) -> Callable:
        for name in names or (function.__name__.rstrip("_"),):
            found: Any = np
            for part in name.split("."):
                found = getattr(found, part, None)
            if found is not None:
                FUNCTIONS[found] = function
        return function
    return decorate


def refuse(what: str, remedy: str) -> TracerError:
    """The error for a NumPy form that a traced value cannot reproduce."""
    return TracerError(explain(f"{what} cannot be reproduced on a traced value.", remedy=remedy))


def only(function: str, **options: Any) -> None:
    """Refuse options that are set: they have no meaning in a trace."""
    for name, value in options.items():
        if value is None or value is UNSET or (name in ("where", "subok") and value is True):
            continue
        remedies = {"where": f"Select first: np.{function}(np.where(mask, x, neutral value)).", "out": "Use the returned value.",
                    "like": "Leave out like=.", "order": "Traced arrays are in C order: leave out order=."}
        raise refuse(f"np.{function}({name}=...)", remedies.get(name, f"Leave out {name}=."))


def value_of(x: Any) -> Any:
    """x as rows take it: a traced value, an array or a number; lists become arrays, with np.stack where they hold traced values."""
    y = operand(x)
    if y is not NotImplemented:
        return y
    array = np.asarray(x)
    check_dtype(array.dtype)
    return array


def shape_of(x: Any) -> tuple[int, ...]:
    return x.shape if isinstance(x, (Tracer, np.ndarray)) else np.shape(x)


def dtype_of(x: Any) -> np.dtype:
    """The dtype of x, Python scalars as NumPy would store them."""
    return aval_of(x).dtype


def strong(x: Any) -> Any:
    """x with a dtype of its own: a Python scalar becomes NumPy's, a weak traced value a strong one."""
    if isinstance(x, Tracer):
        return bind(TABLE["convert"], x, dtype=x.aval.dtype) if x.aval.weak else x
    return x if isinstance(x, (np.ndarray, np.generic)) else np.asarray(x)[()]


def axis_of(axis: Any, ndim: int, name: str = "axis") -> int:
    """One axis, counted from the front."""
    axis = operator.index(axis)
    if not -ndim <= axis < ndim:
        raise ShapeError(explain(f"{name} {axis} does not exist in an array of {ndim} axes.",
                                 remedy=f"Axes go from {-ndim} to {ndim - 1}." if ndim else "A single number has no axes to work along."))
    return axis % ndim


def axes_of(axis: Any, ndim: int) -> tuple[int, ...]:
    """Axes as a tuple in the order given, None meaning all."""
    if axis is None:
        return tuple(range(ndim))
    axes = tuple([axis_of(a, ndim) for a in axis]) if isinstance(axis, (tuple, list)) else (axis_of(axis, ndim),)
    if len(set(axes)) != len(axes):
        raise ShapeError(explain(f"axis {axis} names an axis twice.",
                                 remedy="Name each axis once."))
    return axes


def convert(x: Any, dtype: Any) -> Any:
    """x in this dtype; itself if it already has it."""
    dtype = check_dtype(np.dtype(dtype))
    aval = aval_of(x)
    return x if aval.dtype == dtype and not aval.weak else bind(TABLE["convert"], x, dtype=dtype)


def cast(x: Any, dtype: Any, casting: str = "same_kind") -> Any:
    """x in this dtype, or DtypeError where NumPy's casting rule forbids it."""
    found = aval_of(x)
    if not found.weak and not np.can_cast(found.dtype, dtype, casting):
        raise DtypeError(explain(f"{found} cannot become {np.dtype(dtype)} by casting={casting!r}.", remedy="Convert it: x.astype(dtype)."))
    return convert(x, dtype)


def floating(x: Any) -> Any:
    """x as an array of floats: integers become float64."""
    x = strong(value_of(x))
    return x if aval_of(x).dtype.kind == "f" else convert(x, np.float64)


def reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    """x under another shape; itself if it already has it."""
    return x if aval_of(x).shape == tuple(shape) else bind(TABLE["reshape"], x, shape=tuple(shape))


def permuted(x: Any, axes: tuple[int, ...]) -> Any:
    """x with its axes in another order; itself if that is the order they are in."""
    return x if tuple(axes) == tuple(range(len(axes))) else bind(TABLE["permute"], x, axes=tuple(axes))


def broadcasted(x: Any, shape: tuple[int, ...]) -> Any:
    """x repeated to a shape; itself if it already has it."""
    return x if aval_of(x).shape == tuple(shape) else bind(TABLE["broadcast"], x, shape=tuple(shape))


def number_or_none(x: Any) -> Any:
    """The NumPy value behind x where it is known while the function runs (under grad, not under compile), else None."""
    try:
        return known(x)
    except EscapedTracerError:
        raise
    except TracerError:
        return None


def elements(aval: Aval, axes: tuple[int, ...]) -> int:
    """How many elements one value of a reduction over these axes combines."""
    count = 1
    for a in axes:
        count *= aval.shape[a]
    return count
